"""The graph as a launch description, where launch_ros is installed."""

from __future__ import annotations

from launch.actions import DeclareLaunchArgument, OpaqueFunction, Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node

from launch import LaunchContext, LaunchDescription
from sparseoccvla_ros.core.paths import bundled_bag, share

from . import graph
from .supervisor import big_message_environment


def description(with_bag: bool) -> LaunchDescription:
    """Every argument of ros/graph.py with description and choices, and the nodes they ask for."""
    arguments = graph.ARGUMENTS + (graph.BAG_ARGUMENTS if with_bag else ())
    defaults = graph.resolve({}, with_bag)
    declared = [
        DeclareLaunchArgument(
            a.name, default_value=defaults[a.name], description=a.what, choices=list(a.choices) or None
        )
        for a in arguments
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=lambda context: _nodes(context, with_bag))])


def _nodes(context: LaunchContext, with_bag: bool) -> list:
    arguments = graph.ARGUMENTS + (graph.BAG_ARGUMENTS if with_bag else ())
    values = graph.resolve({a.name: LaunchConfiguration(a.name).perform(context) for a in arguments}, with_bag)
    if with_bag and not values["bag"]:
        values["bag"] = str(bundled_bag())
    actions: list = []
    for entry in graph.process_entries(values, with_bag):
        common = {
            "package": "sparseoccvla_ros",
            "executable": entry.name,
            "namespace": values["namespace"],
            "parameters": [
                values["params_file"] or str(share("config", "params.yaml")),
                {k: graph.typed(v) for k, v in graph.parameters_of(entry, values).items()},
            ],
            "ros_arguments": ["--log-level", values["log_level"]],
            "output": "screen",
            "additional_env": big_message_environment() if entry.big_messages else {},
            "respawn": values["respawn"] == "true" and entry is not graph.BAG_PLAYER,
            "respawn_delay": 1.0,
        }
        if entry is graph.BAG_PLAYER:
            common["on_exit"] = [Shutdown(reason="end of the bag")]
        if entry is graph.COMPOSED:
            actions.append(Node(**common))  # four nodes, each with its own name
        else:
            actions.append(LifecycleNode(name=entry.name, **common))
    if values["rviz"] == "true":
        config = str(share("rviz", "sparseoccvla.rviz"))
        actions.append(Node(package="rviz2", executable="rviz2", arguments=["-d", config], output="screen"))
    return actions
