"""The RViz configuration: every display has a topic that exists, a type it can draw, and a QoS that connects."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import yaml

from sparseoccvla_ros.core.paths import share
from sparseoccvla_ros.ros.topics import INPUTS, NAMESPACE, TOPICS

DRAWS = {
    "Image": "sensor_msgs/msg/Image",
    "PointCloud2": "sensor_msgs/msg/PointCloud2",
    "MarkerArray": "visualization_msgs/msg/MarkerArray",
    "Marker": "visualization_msgs/msg/Marker",
    "Map": "nav_msgs/msg/OccupancyGrid",
    "Path": "nav_msgs/msg/Path",
    "Odometry": "nav_msgs/msg/Odometry",
    "SetGoal": "geometry_msgs/msg/PoseStamped",
}
"""Message type of each display and tool of rviz_default_plugins that has a topic."""
WITHOUT_TOPIC = {"Grid", "TF"}
BY_FULL_NAME = {topic.full_name: topic for topic in TOPICS}


@pytest.fixture(scope="module")
def manager() -> dict:
    return yaml.safe_load(share("rviz", "sparseoccvla.rviz").read_text())["Visualization Manager"]


def displays_of(entries: list[dict]) -> Iterator[dict]:
    for entry in entries:
        if entry["Class"] == "rviz_common/Group":
            yield from displays_of(entry["Displays"])
        else:
            yield entry


def listeners(manager: dict) -> list[dict]:
    """Displays and tools that have a topic."""
    return [d for d in (*displays_of(manager["Displays"]), *manager["Tools"]) if "Topic" in d]


def test_every_display_is_known_and_has_the_right_type(manager):
    for entry in displays_of(manager["Displays"]):
        package, kind = entry["Class"].split("/")
        assert package == "rviz_default_plugins"
        assert ("Topic" in entry) == (kind not in WITHOUT_TOPIC), entry["Name"]
    for entry in listeners(manager):
        topic = BY_FULL_NAME[entry["Topic"]["Value"]]
        assert DRAWS[entry["Class"].split("/")[1]] == topic.type, entry["Class"]


def test_all_that_can_be_drawn_is_drawn(manager):
    drawable = {t.full_name for t in TOPICS if t.type in DRAWS.values() and not t.name.endswith(("route", "goal"))}
    shown = [d["Topic"]["Value"] for d in displays_of(manager["Displays"]) if "Topic" in d]
    assert set(shown) == drawable
    assert len(shown) == len(set(shown))


def test_qos_connects(manager):
    """A subscriber must not ask for more than the publisher offers: outputs are reliable and volatile."""
    for entry in listeners(manager):
        qos = entry["Topic"]
        topic = BY_FULL_NAME[qos["Value"]]
        is_tool = entry["Class"].endswith("SetGoal")
        if is_tool:
            # The other way round: RViz publishes, and the planner asks for a latched goal.
            assert topic.qos == "latched"
            assert qos["Durability Policy"] == "Transient Local"
        else:
            assert qos["Durability Policy"] == "Volatile", qos
        best_effort = topic in INPUTS and topic.qos == "sensor"
        assert qos["Reliability Policy"] == ("Best Effort" if best_effort else "Reliable"), qos
        assert qos["History Policy"] == "Keep Last"


def test_voxels_are_cubes_of_the_grid_in_their_colours(manager):
    (voxels,) = (
        d for d in displays_of(manager["Displays"]) if d.get("Topic", {}).get("Value", "").endswith("occupancy/points")
    )
    assert (voxels["Style"], voxels["Size (m)"], voxels["Color Transformer"]) == ("Boxes", 0.4, "RGB8")
    assert voxels["Enabled"]
    heavy = [d for d in displays_of(manager["Displays"]) if d.get("Topic", {}).get("Value", "").endswith("y/markers")]
    assert heavy
    assert not any(d["Enabled"] for d in heavy)


def test_frames_and_views(manager):
    assert manager["Global Options"]["Fixed Frame"] == "map"
    views = [manager["Views"]["Current"], *manager["Views"]["Saved"]]
    assert {v["Class"].split("/")[1] for v in views} >= {"Orbit", "TopDownOrtho"}
    assert all(v["Target Frame"] == "base_link" for v in views)
    assert len({v["Name"] for v in views}) == len(views)


def test_the_update_topic_of_the_map_lies_beside_it(manager):
    (grid,) = (d for d in displays_of(manager["Displays"]) if d["Class"].endswith("/Map"))
    assert grid["Topic"]["Value"] == f"{NAMESPACE}/occupancy/grid"
    assert grid["Update Topic"]["Value"] == grid["Topic"]["Value"] + "_updates"
    assert grid["Use Timestamp"], "the grid is in base_link: drawn at another time it would lie elsewhere"
