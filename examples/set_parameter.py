#!/usr/bin/env python3
"""Changes a parameter of a running node, as `ros2 param set` does.

    ./run env python examples/set_parameter.py /sparseoccvla/planning max_age 1.0

Without a ROS 2 install this takes the place of the ros2 command; with one, python3 runs it as well.
"""

from __future__ import annotations

import sys

import rclpy
import yaml
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.parameter_client import AsyncParameterClient

PATIENCE = 10.0
"""Seconds to wait for the node and its answer."""


def set_parameter(node: Node, target: str, name: str, value: object) -> str:
    """Empty where the node took the value, else why not."""
    client = AsyncParameterClient(node, target)
    if not client.wait_for_services(timeout_sec=PATIENCE):
        return f"{target} is not running"
    future = client.set_parameters([Parameter(name, value=value)])
    rclpy.spin_until_future_complete(node, future, timeout_sec=PATIENCE)
    if not future.done():
        return f"{target} did not answer"
    (result,) = future.result().results
    return "" if result.successful else str(result.reason)


def main() -> int:
    """Sets what the command line says; a value is read as in a parameter file."""
    if len(sys.argv) != 4:
        print(__doc__)
        return 2
    target, name, text = sys.argv[1:]
    rclpy.init()
    refused = set_parameter(rclpy.create_node("set_parameter"), target, name, yaml.safe_load(text))
    print(refused or f"{name} of {target} is {text}")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
