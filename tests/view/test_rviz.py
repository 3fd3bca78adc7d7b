"""The RViz configuration: every display has a topic that exists, a type it can draw, and a QoS that connects.

What it holds RViz to was seen with RViz 14.3 on recorded and live topics, under Xvfb.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import yaml
from rclpy.qos import DurabilityPolicy

from sparseoccvla_ros.core.paths import share
from sparseoccvla_ros.core.voxels import OCC3D_GRID
from sparseoccvla_ros.ros import markers
from sparseoccvla_ros.ros.qos import PROFILES
from sparseoccvla_ros.ros.topics import INPUTS, NAMESPACE, TOPICS

DRAWS = {
    "Image": "sensor_msgs/msg/Image",
    "PointCloud2": "sensor_msgs/msg/PointCloud2",
    "MarkerArray": "visualization_msgs/msg/MarkerArray",
    "Marker": "visualization_msgs/msg/Marker",
    "Map": "nav_msgs/msg/OccupancyGrid",
    "Path": "nav_msgs/msg/Path",
    "Odometry": "nav_msgs/msg/Odometry",
    "Pose": "geometry_msgs/msg/PoseStamped",
    "SetGoal": "geometry_msgs/msg/PoseStamped",
}
"""Message type of each display and tool of rviz_default_plugins that has a topic."""
WITHOUT_TOPIC = {"Grid", "TF"}
BY_FULL_NAME = {topic.full_name: topic for topic in TOPICS}
RECORDED = {
    "/markers/annotations": "visualization_msgs/msg/MarkerArray",
    "/drivable_area": "nav_msgs/msg/OccupancyGrid",
    "/world/occupancy": "sensor_msgs/msg/PointCloud2",
}
"""What converted nuScenes bags and bags of the world hold; nobody publishes it live."""


@pytest.fixture(scope="module")
def config() -> dict:
    return yaml.safe_load(share("rviz", "sparseoccvla.rviz").read_text())


@pytest.fixture(scope="module")
def manager(config) -> dict:
    return config["Visualization Manager"]


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
        name = entry["Topic"]["Value"]
        kind = RECORDED.get(name) or BY_FULL_NAME[name].type
        assert DRAWS[entry["Class"].split("/")[1]] == kind, entry["Class"]


def test_all_that_can_be_drawn_is_drawn(manager):
    drawable = {t.full_name for t in TOPICS if t.type in DRAWS.values()} | set(RECORDED)
    shown = [d["Topic"]["Value"] for d in displays_of(manager["Displays"]) if "Topic" in d]
    assert set(shown) == drawable
    assert len(shown) == len(set(shown))


def test_qos_connects(manager):
    """A subscriber must not ask for more than the publisher offers: outputs are reliable and volatile."""
    for entry in listeners(manager):
        qos = entry["Topic"]
        topic = BY_FULL_NAME.get(qos["Value"])
        assert qos["Durability Policy"] == "Volatile", qos
        best_effort = topic in INPUTS and topic.qos == "sensor"
        assert qos["Reliability Policy"] == ("Best Effort" if best_effort else "Reliable"), qos
        assert qos["History Policy"] == "Keep Last"


def test_the_goal_tool_reaches_the_planner(manager):
    """The tool makes its publisher before it reads the durability, so it is volatile whatever the file says."""
    (tool,) = (t for t in manager["Tools"] if t["Class"].endswith("/SetGoal"))
    wanted = PROFILES[BY_FULL_NAME[tool["Topic"]["Value"]].qos]
    assert wanted.durability == DurabilityPolicy.VOLATILE


def test_docks_of_the_window_are_those_of_panels_and_images(config, manager):
    """The state that RViz saved names each dock; one without a place would land on the left and shrink the view."""
    state = bytes.fromhex(config["Window Geometry"]["QMainWindow State"])
    docks = {p["Class"].split("/")[1] for p in config["Panels"]}
    docks |= {d["Name"] for d in displays_of(manager["Displays"]) if d["Class"].endswith("/Image")}
    assert docks == {"Displays", "Views", "Cameras"}
    for name in docks:
        assert name.encode("utf-16-be") in state, name


def test_the_path_lies_above_the_road_and_on_its_candidate(manager):
    (path,) = (d for d in displays_of(manager["Displays"]) if d["Name"].startswith("Path"))
    top_of_the_road = OCC3D_GRID.size / 2
    assert path["Offset"]["Z"] > markers.PATH_HEIGHT > top_of_the_road
    assert path["Line Style"] == "Billboards"
    assert path["Line Width"] >= 0.8
    assert path["Topic"]["Value"] == f"{NAMESPACE}/planning/path"


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
    grids = {d["Topic"]["Value"]: d for d in displays_of(manager["Displays"]) if d["Class"].endswith("/Map")}
    grid = grids[f"{NAMESPACE}/occupancy/grid"]
    assert grid["Update Topic"]["Value"] == grid["Topic"]["Value"] + "_updates"
    assert grid["Use Timestamp"], "the grid is in base_link: drawn at another time it would lie elsewhere"


DEFECTS = {
    "goal tool never reached the planner": "test_goal_of_an_ordinary_and_of_a_latched_publisher_arrives",
    "plan buried in the road": "test_the_path_lies_above_the_road_and_on_its_candidate",
    "RViz on wall time": "test_rviz_follows_time_and_namespace_and_is_refused_where_it_is_missing",
    "path and candidates apart": "test_vehicle_and_readout_travel_with_the_view_and_the_plan_does_not",
    "3-D view a third of the window": "test_docks_of_the_window_are_those_of_panels_and_images",
    "Ctrl-C of ros2 launch an error": "test_only_the_first_end_of_a_launch_asks_for_its_shutdown",
    "orphans without rviz2": "test_rviz_follows_time_and_namespace_and_is_refused_where_it_is_missing",
    "entry point cli": "test_the_cli_entry_point_starts",
    "bag of fifty years": "test_nothing_is_recorded_before_the_first_clock",
    "missing bag or parameter file": "test_a_launch_refuses_a_missing_file",
    "slow end and tracebacks": "test_ctrl_c_ends_every_launch",
    "no reason for no answer": "test_a_question_before_the_first_scene_says_so",
    "silent while a model loads": "test_services_answer_while_a_node_loads",
    "another namespace": "test_rviz_follows_time_and_namespace_and_is_refused_where_it_is_missing",
}
"""What the first look through RViz and `ros2 launch` found, and what keeps it from coming back."""


@pytest.mark.parametrize("defect", DEFECTS)
def test_every_defect_of_the_first_look_has_a_test(defect):
    assert any(f"def {DEFECTS[defect]}(" in file.read_text() for file in share("tests").rglob("test_*.py"))
