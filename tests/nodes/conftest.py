"""Real nodes over real DDS: each test gets its own domain, nodes and probes spin in threads."""

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import rclpy
from rclpy.action import ActionClient
from rclpy.context import Context
from rclpy.node import Node

from sparseoccvla_ros.core import geometry
from sparseoccvla_ros.core.classes import CAMERAS
from sparseoccvla_ros.core.types import CameraFrames, EgoState
from sparseoccvla_ros.ros.intra_process import Handover
from sparseoccvla_ros.ros.lifecycle_base import StageNode, message_class
from sparseoccvla_ros.ros.process import spin
from sparseoccvla_ros.ros.qos import PROFILES
from sparseoccvla_ros.ros.topics import BY_NAME, NAMESPACE

START = 1_700_000_000 * 10**9


class Probe(Node):
    """Publishes into and listens to the graph under test."""

    def __init__(self, context: Context) -> None:
        super().__init__("probe", context=context, namespace=NAMESPACE)
        self.seen: dict[str, list] = {}
        self._outputs: dict[str, object] = {}

    def listen(self, name: str, kind: type | None = None, qos: str | None = None) -> list:
        entry = BY_NAME.get(name)
        got = self.seen.setdefault(name, [])
        kind = kind or message_class(entry.type)
        self.create_subscription(kind, name, got.append, PROFILES[qos or entry.qos])
        return got

    def send(self, name: str, message: object, qos: str | None = None, receivers: int = 1) -> None:
        if name not in self._outputs:
            entry = BY_NAME.get(name)
            profile = PROFILES[qos or ("output" if entry is None or entry.qos == "sensor" else entry.qos)]
            self._outputs[name] = self.create_publisher(type(message), name, profile)
            assert wait(lambda: self._outputs[name].get_subscription_count() >= receivers), f"nobody listens to {name}"
        self._outputs[name].publish(message)


def wait(condition: Callable[[], object], timeout: float = 60.0) -> bool:
    """Poll until the condition holds; the last look counts."""
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.01)
    return bool(condition())


class Graph:
    """Nodes and a probe in one domain."""

    def __init__(self, domain_id: int) -> None:
        self.domain_id = domain_id
        self.context = Context()
        rclpy.init(context=self.context, domain_id=domain_id)
        self.probe = Probe(self.context)
        self.ended = threading.Event()
        self.nodes: list[StageNode] = []
        self._askers: list[Node] = []
        self._threads: list[threading.Thread] = []
        self._spin(self.probe)

    def _spin(self, node: Node) -> None:
        thread = threading.Thread(target=spin, args=([node], self.context, self.ended), daemon=True)
        thread.start()
        self._threads.append(thread)

    def add(
        self, kind: type[StageNode], autostart: bool = True, handover: Handover | None = None, **parameters: object
    ) -> StageNode:
        """Start a node in a thread of its own, as its process would; with `handover` as one of a composed process."""
        node = kind(context=self.context, handover=handover, parameters={"diagnostics_period": 0.2, **parameters})
        self.nodes.append(node)
        if autostart:
            node.autostart()
        self._spin(node)
        return node

    def action_client(self, kind: type, name: str) -> ActionClient:
        """A client on a node that does not spin yet: rclpy looks at a client before it is whole."""
        node = Node("asker", context=self.context, namespace=NAMESPACE)
        client = ActionClient(node, kind, name)
        self._askers.append(node)
        self._spin(node)
        return client

    def close(self) -> None:
        """Spinning ends before nodes do, so that no callback meets a destroyed handle."""
        self.ended.set()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()
        for node in self.nodes:
            node.close()
        for asker in (*self._askers, self.probe):
            asker.destroy_node()
        self.context.try_shutdown()


@pytest.fixture
def graph(domain: int) -> Iterator[Graph]:
    graph = Graph(domain)
    yield graph
    graph.close()


def make_frames(index: int = 0, epoch: int = 0, speed: float = 5.0, step: float = 0.4, seed: int = 0) -> CameraFrames:
    """A frame set of a plausible rig: six cameras around the vehicle, random pixels, driving straight on."""
    stamp = START + round(index * step * 1e9)
    pose = geometry.planar(speed * index * step, 0.0, 0.0)
    matrices = []
    for yaw in np.radians((0, -55, 55, 180, 110, -110)):
        camera2ego = np.eye(4)
        camera2ego[:3, 0] = np.sin(yaw), -np.cos(yaw), 0
        camera2ego[:3, 1] = 0, 0, -1
        camera2ego[:3, 2] = np.cos(yaw), np.sin(yaw), 0
        camera2ego[:3, 3] = 1.0, 0.0, 1.5
        intrinsics = np.array([[280.0, 0, 176], [0, 280.0, 40], [0, 0, 1]])
        matrices.append(geometry.camera_matrix(intrinsics, geometry.inverse(camera2ego)))
    images = np.random.default_rng(seed + index).integers(0, 255, (6, 128, 352, 3), dtype=np.uint8)
    ego = EgoState(pose, np.array([speed, 0, 0, 0, 0, 0.0]), "map")
    stamps = np.full(6, stamp, np.int64)
    return CameraFrames(stamp, epoch, CAMERAS, stamps, np.ones(6, bool), images, np.stack(matrices), ego)


@pytest.fixture
def frames() -> Callable[..., CameraFrames]:
    return make_frames


@pytest.fixture
def until() -> Callable[..., bool]:
    return wait
