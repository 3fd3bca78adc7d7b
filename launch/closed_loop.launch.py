"""The stack in closed loop with the simulator: ros2 launch sparseoccvla_ros closed_loop.launch.py [--show-args]."""

from sparseoccvla_ros.bringup.launch_config import CLOSED_LOOP
from sparseoccvla_ros.bringup.launch_description import description


def generate_launch_description():
    """Nodes and arguments come from sparseoccvla_ros/bringup/launch_config.py, as for ./run drive."""
    return description(with_bag=False, defaults=CLOSED_LOOP)
