"""The message overlay is what upstream's nodes speak."""

import json
from pathlib import Path

import tf2_msgs.msg
from rosbags.typesys import Stores, get_typestore

UPSTREAM = "RIHS01_e369d0f05a23ae52508854b66f6aa0437f3449d652e8cbf22d5abe85d020f087"


def test_tf_message_has_upstreams_type_hash() -> None:
    package = Path(tf2_msgs.msg.__file__)
    prefix = next(p for p in package.parents if (p / "share" / "tf2_msgs").is_dir())
    description = json.loads((prefix / "share" / "tf2_msgs" / "msg" / "TFMessage.json").read_text())
    hashes = {e["type_name"]: e["hash_string"] for e in description["type_hashes"]}
    assert hashes["tf2_msgs/msg/TFMessage"] == UPSTREAM
    for store in (Stores.ROS2_JAZZY, Stores.ROS2_KILTED):
        assert get_typestore(store).hash_rihs01("tf2_msgs/msg/TFMessage") == UPSTREAM
