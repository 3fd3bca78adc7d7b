"""The stack as Autoware's planner: ros2 launch sparseoccvla_ros autoware.launch.py [--show-args].

Reads cameras, tf and odometry under Autoware's names, publishes trajectory, candidates and turn indicators under the
names Autoware expects, and takes goals from its mission planning.
"""

from launch.actions import GroupAction
from launch_ros.actions import SetRemap

from launch import LaunchDescription
from sparseoccvla_ros.bringup.launch_description import description

REMAPPINGS = {
    "planning/autoware_trajectory": "/planning/scenario_planning/trajectory",
    "planning/autoware_candidates": "/planning/generator/sparseoccvla/candidate_trajectories",
    "planning/turn_indicators": "/planning/turn_indicators_cmd",
    "planning/goal": "/planning/mission_planning/goal",
}


def generate_launch_description():
    """Nodes and arguments come from sparseoccvla_ros/bringup/launch_config.py, as for ./run launch."""
    arguments = description(with_bag=False, defaults={"profile": "autoware"})
    remaps = [SetRemap(src=ours, dst=theirs) for ours, theirs in REMAPPINGS.items()]
    return LaunchDescription([GroupAction([*remaps, *arguments.entities], scoped=True)])
