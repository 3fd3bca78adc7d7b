"""Nav2 follows this stack's plans: ros2 launch sparseoccvla_ros nav2.launch.py [fixed_frame:=odom] [--show-args].

Starts the stack and the node that sends its paths to Nav2's controller. Nav2 is started by its own bringup; the
settings of its costmaps are in config/nav2_costmaps.yaml.
"""

from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchDescription
from sparseoccvla_ros.bringup.launch_description import description


def generate_launch_description():
    """Nodes and arguments come from sparseoccvla_ros/bringup/launch_config.py, as for ./run launch."""
    stack = description(with_bag=False)
    follow = Node(
        package="sparseoccvla_ros",
        executable="nav2_follow_path",
        namespace=LaunchConfiguration("namespace"),
        parameters=[{
            "fixed_frame": LaunchConfiguration("fixed_frame"), "controller_id": LaunchConfiguration("controller_id"),
            "use_sim_time": LaunchConfiguration("use_sim_time"),
        }],
    )  # fmt: skip
    return LaunchDescription([
        DeclareLaunchArgument("fixed_frame", default_value="odom", description="frame of Nav2's local costmap"),
        DeclareLaunchArgument("controller_id", default_value="FollowPath", description="controller plugin of Nav2"),
        *stack.entities, follow,
    ])  # fmt: skip
