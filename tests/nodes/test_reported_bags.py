"""Bags that people had trouble with, in the graph: what must arrive arrives, under the names it must have."""

from collections import Counter

import pytest

from sparseoccvla_ros.nodes.bag_player import BagPlayerNode
from sparseoccvla_ros.ros.lifecycle_base import message_class
from sparseoccvla_ros.ros.qos import PROFILES
from tests.reported import bags

pytestmark = pytest.mark.ros
IMAGE = "sensor_msgs/msg/CompressedImage"
TYPES = {"tf": "tf2_msgs/msg/TFMessage", "tf_static": "tf2_msgs/msg/TFMessage", "odom": "nav_msgs/msg/Odometry"}


@pytest.mark.parametrize(("path", "entry"), bags("seventh", "relative.mcap", "badnames", "mixed_json.mcap"))
def test_plays_into_the_graph(graph, until, path, entry):
    heard: Counter[str] = Counter()
    unheard = "/CAM_TELE/image_rect_compressed"  # nobody reads it, and nobody waits for that
    for topic in set(entry["topics"]) - {unheard}:
        leaf = topic.rsplit("/", 1)[-1]
        kind = message_class(TYPES.get(leaf, "sensor_msgs/msg/CameraInfo" if leaf == "camera_info" else IMAGE))
        graph.probe.create_subscription(
            kind, topic, lambda _, topic=topic: heard.update([topic]), PROFILES["output"], raw=True
        )
    node = graph.add(BagPlayerNode, bag=str(path), rate=5.0, settle=0.5)
    assert until(node.finished.is_set, 30)
    assert node.exit_code == 0
    # Every message was sent; that a loaded machine passes each of them on at five times the speed is not promised.
    sent = {v.key: v.value for v in node.monitor.status(9).values}["published"]
    assert int(sent) == sum(entry["topics"].values())
    assert until(lambda: set(heard) == set(entry["topics"]) - {unheard}, 5)
