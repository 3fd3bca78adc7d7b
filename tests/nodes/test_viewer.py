"""The viewer beside a running stack: a page in a browser, a recording, a bag of outputs, a picture."""

import socket
import struct
import time
import urllib.request

import cv2
import numpy as np
import pytest
from rclpy.serialization import deserialize_message
from rosgraph_msgs.msg import Clock
from sparseoccvla_msgs.msg import Plan
from std_msgs.msg import String
from tf2_msgs.msg import TFMessage

from sparseoccvla_ros.core.voxels import SparseVoxels
from sparseoccvla_ros.data.bags.reader import BagReader
from sparseoccvla_ros.nodes.occupancy import OccupancyNode
from sparseoccvla_ros.nodes.planning import PlanningNode
from sparseoccvla_ros.nodes.viewer import ViewerNode
from sparseoccvla_ros.ros import messages
from sparseoccvla_ros.ros.qos import PROFILES
from sparseoccvla_ros.ros.vehicle_messages import transforms_to_msg
from tests.websocket_client import WebSocketClient

pytestmark = pytest.mark.ros
START = 1_700_000_000 * 10**9


def two_free_ports() -> int:
    """A port whose successor is free too: the page takes one, the data the next."""
    for port in range(19090, 19990, 10):
        try:
            for number in (port, port + 1):
                with socket.socket() as probe:
                    probe.bind(("0.0.0.0", number))
            return port
        except OSError:
            continue
    raise AssertionError("no free port")


def test_viewer_serves_and_writes(graph, preset, frames, until, tmp_path):
    port = two_free_ports()
    graph.add(OccupancyNode, preset=preset)
    graph.add(PlanningNode, preset=preset, stale_after=60.0)
    viewer = graph.add(ViewerNode, preset=preset, out=str(tmp_path / "out"), serve=True, port=port, picture_at=0.5)
    plans = graph.probe.listen("planning/plan")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as page:
        assert page.status == 200
        assert b"rerun" in page.read().lower()
    labels = SparseVoxels(np.array([[120, 100, 4]], np.int16), np.array([4], np.uint8), np.ones(1, np.float32))
    for i in range(4):
        made = frames(i)
        graph.probe.send("/world/occupancy", messages.cloud_to_msg([(0.0, labels)], made.stamp), "output")
        graph.probe.send("reasoning/text", String(data="a car is ahead"))
        graph.probe.send("frames", messages.frames_to_msg(made), receivers=2)
        assert until(lambda i=i: len(plans) > i, 20)
    assert until(lambda: viewer.monitor._counts.get("published", 0) >= 3, 20), viewer.monitor.state(9)
    assert until(lambda: (tmp_path / "out" / "scene.png").exists(), 10)
    viewer.trigger_deactivate()
    viewer.trigger_cleanup()
    assert cv2.imread(str(tmp_path / "out" / "scene.png")).shape[1] == 1920
    assert (tmp_path / "out" / "recording.rrd").stat().st_size > 10_000
    with BagReader(tmp_path / "out" / "outputs") as bag:
        assert bag.topics["/sparseoccvla/planning/path"].count == 4
        assert "/sparseoccvla/frames" not in bag.topics


def test_viewer_without_a_place_to_write_writes_nothing(graph, preset, frames, until, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    graph.add(OccupancyNode, preset=preset)
    graph.add(PlanningNode, preset=preset)
    viewer = graph.add(ViewerNode, preset=preset)
    graph.probe.send("frames", messages.frames_to_msg(frames(0)), receivers=2)
    assert until(lambda: viewer.monitor._counts.get("published", 0) >= 1, 20)
    viewer.trigger_deactivate()
    viewer.trigger_cleanup()
    assert list(tmp_path.iterdir()) == []


def test_a_message_without_a_header_is_refused(graph, preset, until):
    """Of a damaged or hostile participant; a node that decodes its input in Fast CDR ends here, see SECURITY.md."""
    viewer = graph.add(ViewerNode, preset=preset)
    publisher = graph.probe.create_publisher(Plan, "planning/plan", PROFILES["output"])
    assert until(lambda: publisher.get_subscription_count() == 1, 10)
    publisher.publish(bytes.fromhex("00010001"))
    assert until(lambda: viewer.monitor._counts.get("refused", 0) == 1, 10)
    assert viewer.active


def test_nothing_is_recorded_before_the_first_clock(graph, preset, until, tmp_path):
    """A record at time 0 makes a bag of fifty years, which nobody can play."""
    viewer = graph.add(ViewerNode, preset=preset, out=str(tmp_path / "out"), use_sim_time=True, diagnostics_period=0.1)
    clock = graph.probe.create_publisher(Clock, "/clock", PROFILES["output"])
    time.sleep(0.5)  # five rounds of its own diagnostics
    clock.publish(Clock(clock=messages.time_msg(START)))
    assert until(lambda: viewer.get_clock().now().nanoseconds >= START, 10)
    time.sleep(0.5)
    viewer.trigger_deactivate()
    viewer.trigger_cleanup()
    with BagReader(tmp_path / "out" / "outputs") as bag:
        assert bag.topics["/diagnostics"].count > 0
        assert bag.start >= START


def test_foxglove_gets_messages_as_they_are(graph, preset, until, free_port):
    """Also the transforms of the cameras, which came before it asked; a page of the layout finds its topics so."""
    pytest.importorskip("foxglove", reason="requirements/foxglove.txt is not installed")
    graph.add(ViewerNode, preset=preset, foxglove=True, foxglove_port=free_port)
    mount = transforms_to_msg(START, [("base_link", "CAM_FRONT", np.eye(4))])
    graph.probe.send("/tf_static", mount, "latched")
    client = WebSocketClient(free_port, "foxglove.sdk.v1")
    assert client.receive()["op"] == "serverInfo"
    channels = {}

    def newest(topic: str) -> bytes:
        """CDR of the first message that comes after a subscription."""
        while topic not in channels:
            channels.update({c["topic"]: c for c in client.receive()["channels"]})
        time.sleep(0.2)  # its advertisement may be a moment ahead of it
        client.send({"op": "subscribe", "subscriptions": [{"id": 7, "channelId": channels[topic]["id"]}]})
        while isinstance(message := client.receive(), dict):
            channels.update({c["topic"]: c for c in message["channels"]})
        client.send({"op": "unsubscribe", "subscriptionIds": [7]})
        assert message[:5] == struct.pack("<BI", 1, 7)
        return message[13:]

    assert deserialize_message(newest("/tf_static"), TFMessage) == mount
    graph.probe.send("reasoning/text", String(data="a car is ahead"))
    assert deserialize_message(newest("/sparseoccvla/reasoning/text"), String).data == "a car is ahead"
    kinds = {(c["encoding"], c["schemaEncoding"]) for c in channels.values()}
    assert kinds == {("cdr", "ros2msg")}
    assert channels["/tf_static"]["schemaName"] == "tf2_msgs/msg/TFMessage"
    client.close()
