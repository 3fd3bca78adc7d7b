"""SROS 2 policy of what each node may do in the graph (ROS 2 design article "Access Control Policies").

`python -m sparseoccvla_ros.bringup.security_policy [PROFILE] > config/sros2_policy.xml` writes it from the topic table,
for the topics of a profile (name or path); `ros2 security create_permission` creates the permissions of each enclave.
With security enforced, a node can publish and subscribe to nothing else.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable

from ..camera_sync.profiles import profile
from ..ros.parameters import STAGES
from ..ros.topics import ACTION, BY_NAME, NAMESPACE, OUTPUTS, READERS

NODES = (*STAGES, "follower")
"""Nodes that run in a vehicle, each in its own enclave of the same name."""
_HEARD = {
    "camera_sync": ("occupancy/ready",),
    "occupancy": ("frames",),
    "reasoning": ("occupancy/queries", "planning/plan"),
    "planning": ("occupancy/queries", "reasoning/state"),
    "follower": ("planning/path", "/odom"),
}
"""Outputs of other nodes that a node subscribes to, besides the external inputs (topics.READERS)."""
_PARAMETER_SERVICES = (
    "describe_parameters", "get_parameter_types", "get_parameters", "list_parameters", "set_parameters",
    "set_parameters_atomically", "get_type_description",
)  # fmt: skip
_LIFECYCLE_SERVICES = (
    "change_state", "get_state", "get_available_states", "get_available_transitions", "get_transition_graph",
)  # fmt: skip


def published(node: str) -> set[str]:
    """Full names of the topics that a node may publish."""
    own = {topic.full_name for topic in OUTPUTS if topic.node in (node, "every")}
    return own | {"/rosout", "/parameter_events", f"{NAMESPACE}/{node}/transition_event"}


def heard(node: str, profile_name: str = "nuscenes") -> set[str]:
    """Full names of the topics that a node may subscribe to; for camera_sync including those of an input profile."""
    names = [*_HEARD[node], *(name for name, reader in READERS.items() if reader == node)]
    found = {BY_NAME[name].full_name for name in names} | {"/diagnostics", "/clock", "/parameter_events"}
    if node == "camera_sync":
        chosen = profile(profile_name)
        found = found - {"/odom"} | {chosen.odometry_topic} - {""}
        for camera in chosen.cameras.values():
            found |= {camera.image_topic, camera.info_topic} - {""}
    return found


def served(node: str) -> set[str]:
    """Full names of the services that a node serves."""
    return {f"{NAMESPACE}/{node}/{name}" for name in (*_PARAMETER_SERVICES, *_LIFECYCLE_SERVICES)}


def policy(profile_name: str = "nuscenes") -> str:
    """Returns the policy of NODES as XML."""
    root = ElementTree.Element("policy", version="0.2.0")
    enclaves = ElementTree.SubElement(root, "enclaves")
    for node in NODES:
        enclave = ElementTree.SubElement(enclaves, "enclave", path=f"{NAMESPACE}/{node}")
        profiles = ElementTree.SubElement(enclave, "profiles")
        rules = ElementTree.SubElement(profiles, "profile", ns=NAMESPACE, node=node)
        _allow(rules, "topic", "publish", published(node))
        _allow(rules, "topic", "subscribe", heard(node, profile_name))
        _allow(rules, "service", "reply", served(node))
        if node == "reasoning":
            _allow(rules, "action", "execute", (f"{NAMESPACE}/{ACTION}",))
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _allow(rules: ElementTree.Element, kind: str, verb: str, names: Iterable[str]) -> None:
    group = ElementTree.SubElement(rules, f"{kind}s", {verb: "ALLOW"})
    for name in sorted(names):
        ElementTree.SubElement(group, kind).text = name


if __name__ == "__main__":
    sys.stdout.write(policy(*sys.argv[1:2]))
