"""The stack on a bag: ros2 launch sparseoccvla_ros nuscenes_bag.launch.py bag:=FOLDER [--show-args]."""

from sparseoccvla_ros.bringup.launch_description import description


def generate_launch_description():
    """Nodes and arguments come from sparseoccvla_ros/bringup/launch_config.py, as for ./run launch."""
    return description(with_bag=True)
