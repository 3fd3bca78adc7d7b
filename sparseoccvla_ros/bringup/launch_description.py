"""The graph as a ROS launch description; needs launch_ros."""

from __future__ import annotations

from collections.abc import Mapping

from launch.actions import DeclareLaunchArgument, OpaqueFunction, Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node

from launch import LaunchContext, LaunchDescription
from sparseoccvla_ros.core.paths import share

from . import launch_config
from .supervisor import big_message_environment

SIGTERM_SECONDS = "10"
"""Seconds from SIGINT to SIGTERM when launch stops a node: more than the longest `end_seconds` of
ros/lifecycle_base.py."""


def description(with_bag: bool, defaults: Mapping[str, str] | None = None) -> LaunchDescription:
    """Returns the launch description: every argument of bringup/launch_config.py and the nodes selected by them.

    defaults: values that replace the arguments' own defaults.
    """
    arguments = launch_config.ARGUMENTS + (launch_config.BAG_ARGUMENTS if with_bag else ())
    values = launch_config.resolve(defaults or {}, with_bag)
    declared = [
        DeclareLaunchArgument(a.name, default_value=values[a.name], description=a.what, choices=list(a.choices) or None)
        for a in arguments
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=lambda context: _nodes(context, with_bag))])


def _nodes(context: LaunchContext, with_bag: bool) -> list:
    """Returns the actions of one launch. Raises InvalidInput, before any action runs, when a requirement is missing."""
    arguments = launch_config.ARGUMENTS + (launch_config.BAG_ARGUMENTS if with_bag else ())
    values = launch_config.resolve_checked(
        {a.name: LaunchConfiguration(a.name).perform(context) for a in arguments}, with_bag
    )
    rviz = [_rviz(values)] if values["rviz"] == "true" else []
    return [*(_node(entry, values) for entry in launch_config.process_entries(values, with_bag)), *rviz]


def _node(entry: launch_config.NodeEntry, values: dict[str, str]) -> Node:
    common = {
        "package": "sparseoccvla_ros",
        "executable": entry.name,
        "namespace": values["namespace"],
        "parameters": [
            values["params_file"] or str(share("config", "params.yaml")),
            {k: launch_config.typed(v) for k, v in launch_config.parameters_of(entry, values).items()},
        ],
        "ros_arguments": ["--log-level", values["log_level"]],
        "output": "screen",
        "sigterm_timeout": SIGTERM_SECONDS,
        "additional_env": big_message_environment() if entry.big_messages else {},
        "respawn": values["respawn"] == "true" and entry not in launch_config.SOURCES,
        "respawn_delay": 1.0,
    }
    if entry in launch_config.SOURCES:
        common["on_exit"] = _end_of_source
    if entry is launch_config.COMPOSED:
        return Node(**common)  # four nodes, each with its own name
    return LifecycleNode(name=entry.name, **common)


def _end_of_source(event: object, context: LaunchContext) -> list[Shutdown] | None:
    """Shut the launch down when its bag or drive ends; does nothing after Ctrl-C: a second shutdown is an error."""
    return None if context.is_shutdown else [Shutdown(reason="end of bag or drive")]


def _rviz(values: dict[str, str]) -> Node:
    return Node(
        package="rviz2",
        executable="rviz2",
        arguments=["-d", str(share("rviz", "sparseoccvla.rviz"))],
        output="screen",
        **launch_config.rviz_settings(values),
    )
