"""The Foxglove layout: every topic in it exists and has a type that its panel takes; every panel has a place."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from sparseoccvla_ros.core.paths import share
from sparseoccvla_ros.ros.topics import TOPICS

TYPES = {topic.full_name: topic.type for topic in TOPICS}
RECORDED = {"/markers/annotations", "/drivable_area", "/world/occupancy"}
"""What converted nuScenes bags and bags of the world hold; nobody publishes it live."""
DRAWN = {"PointCloud2", "Marker", "MarkerArray", "OccupancyGrid", "Path", "PoseStamped"}


@pytest.fixture(scope="module")
def layout() -> dict:
    return json.loads(share("config", "foxglove_layout.json").read_text())


def panels(place: dict | str) -> Iterator[str]:
    if isinstance(place, str):
        yield place
    else:
        assert place["direction"] in ("row", "column")
        assert 0 < place["splitPercentage"] < 100
        yield from panels(place["first"])
        yield from panels(place["second"])


def test_every_panel_has_one_place(layout):
    assert sorted(panels(layout["layout"])) == sorted(layout["configById"])


def test_the_scene_draws_what_can_be_drawn(layout):
    shown = layout["configById"]["3D!scene"]["topics"]
    drawable = {name for name, kind in TYPES.items() if kind.split("/")[-1] in DRAWN}
    assert set(shown) == drawable | RECORDED
    assert layout["configById"]["3D!scene"]["publish"]["poseTopic"] in TYPES


def test_other_panels_name_topics_of_their_type(layout):
    by_id = layout["configById"]
    assert TYPES[by_id["Image!cameras"]["imageMode"]["imageTopic"]].endswith("/Image")
    assert TYPES[by_id["DiagnosticSummary!nodes"]["topicToRender"]].endswith("/DiagnosticArray")
    assert TYPES[by_id["Publish!ask"]["topicName"]] == by_id["Publish!ask"]["datatype"]
    paths = [by_id["RawMessages!says"]["topicPath"], *(p["value"] for p in by_id["Plot!speed"]["paths"])]
    for path in paths:
        assert re.match(r"[/\w]+", path).group() in TYPES, path
