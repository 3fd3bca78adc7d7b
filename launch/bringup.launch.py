"""The stack live on a vehicle: ros2 launch sparseoccvla_ros bringup.launch.py [--show-args]."""

from sparseoccvla_ros.ros.launching import description


def generate_launch_description():
    """Nodes and arguments come from sparseoccvla_ros/ros/graph.py, as for ./run launch."""
    return description(with_bag=False)
