"""Nodes must not overwrite attributes of rclpy's own classes: the effect is silent and far away."""

import ast
from pathlib import Path

import rclpy
from rclpy.context import Context
from rclpy.lifecycle import LifecycleNode

PACKAGE = Path(__file__).resolve().parents[2] / "sparseoccvla_ros"


def test_no_attribute_shadows_rclpy(domain: int) -> None:
    context = Context()
    rclpy.init(context=context, domain_id=domain)
    node = LifecycleNode("bare", context=context)
    taken = set(dir(node)) | set(vars(node))
    node.destroy_node()
    context.try_shutdown()
    for file in [*(PACKAGE / "nodes").glob("*.py"), PACKAGE / "ros" / "lifecycle_base.py"]:
        for found in ast.walk(ast.parse(file.read_text())):
            if isinstance(found, ast.Attribute) and isinstance(found.ctx, ast.Store):
                owner = found.value
                if isinstance(owner, ast.Name) and owner.id == "self":
                    assert found.attr not in taken, f"{file.name} overwrites {found.attr} of rclpy"
