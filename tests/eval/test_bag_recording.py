"""What ./run eval bag takes from a recording: moments without a plan, boxes as tracks, clocks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sparseoccvla_ros.camera_sync.profiles import profile
from sparseoccvla_ros.core import geometry
from sparseoccvla_ros.core.types import Command
from sparseoccvla_ros.data.bags.annotations import Area, Cube, write_areas, write_cubes
from sparseoccvla_ros.data.bags.drive import COMMAND_TOPIC, read_commands, read_drive
from sparseoccvla_ros.data.bags.reader import BagReader
from sparseoccvla_ros.data.bags.writer import BagWriter
from sparseoccvla_ros.data.synthetic.drives import START
from sparseoccvla_ros.eval.bags.evaluation import Request, read_record
from sparseoccvla_ros.eval.bags.recording import AREAS, RED_LIGHTS, Planned, read_tracks, without_plan
from sparseoccvla_ros.eval.bags.surroundings import read_road


def ns(seconds: float) -> int:
    return START + round(1e9 * seconds)


@pytest.mark.parametrize(
    ("planned", "refused", "missing"),
    [
        ([1, 1.5, 2, 2.5, 3], [], []),
        ([0.5, 1, 1.5, 2.5, 3], [], []),  # one late: the plan before is followed meanwhile
        ([0, 0.5, 1], [], [2.5]),  # more than a second old: the follower stops
        ([0, 0.5, 1], [1.5], [2, 2.5]),  # one empty path for all that is rejected after it
        ([0, 0.5, 1], [1], [1.5, 2, 2.5]),  # empty with the stamp of the plan before: the node was switched off
        ([], [], [2]),  # no planner takes longer to begin
        ([0], [], [2]),
    ],
)
def test_moments_without_a_plan_are_found(planned, refused, missing):
    got = without_plan([ns(t) for t in planned], [ns(t) for t in refused], ns(0.0), ns(3.0))
    assert [(stamp - START) / 1e9 for stamp in got] == missing


def test_a_burst_of_plans_is_no_period():
    burst = [ns(0.0) + k for k in range(4)]
    assert len(without_plan(burst, [], ns(0.0), ns(3.0))) == 199, "one every 10 ms from a second on"


def parked(path: Path, number: Callable[[int, int], int], every: float = 0.5) -> Path:
    """A drive at 10 m/s along x past eight cars parked 9 m apart, of which a detector sees those within 25 m, nearest
    first; number: an id from place in the message and car."""
    with BagWriter(path) as bag:
        for t in np.arange(0.0, 8.01, 0.1):
            bag.transforms(ns(t), [("map", "base_link", geometry.planar(10.0 * t, 0.0, 0.0))])
        for t in np.arange(0.0, 8.01, every):
            places = 15.0 + 9.0 * np.arange(8)
            near = sorted((abs(x - 10.0 * t), car) for car, x in enumerate(places) if abs(x - 10.0 * t) < 25.0)
            cubes = [
                Cube("car", number(k, car), geometry.planar(places[car], 3.0, 0.0), (4.0, 2.0, 1.5), (1.0, 0.0, 0.0))
                for k, (_, car) in enumerate(near)
            ]
            write_cubes(bag, "/markers/annotations", ns(t), "map", cubes, 1.0)
    return path


def test_ids_that_number_the_boxes_of_a_message_are_no_tracks(tmp_path):
    with BagReader(parked(tmp_path / "own", lambda place, car: car)) as reader:
        tracks, seen, problem = read_tracks(reader, "/markers/annotations", read_drive(reader, profile()))
    assert (len(tracks), problem) == (8, "")
    assert all(np.ptp(track.states[:, 0]) == 0 for track in tracks)
    per_frame = parked(tmp_path / "places", lambda place, car: place)
    with BagReader(per_frame) as reader:
        tracks, seen, problem = read_tracks(reader, "/markers/annotations", read_drive(reader, profile()))
        record = read_record(reader, Request(per_frame))
    assert (tracks, len(seen)) == ([], 0)
    assert "they follow no object" in problem
    straight_on = Planned(ns(2.0), np.arange(1.0, 4.0), np.array([[20.0 + 10.0 * t, 0.0, 0.0] for t in (1, 2, 3)]))
    assert record.score(straight_on).no_collision is None


def test_an_id_that_passes_to_another_object_begins_another_track(tmp_path):
    def number(_place: int, car: int) -> int:
        return {5: 0}.get(car, car)  # given anew within a second of its last sighting

    with BagReader(parked(tmp_path / "bag", number, 0.1)) as reader:
        tracks, _, problem = read_tracks(reader, "/markers/annotations", read_drive(reader, profile()))
    assert not problem
    assert len(tracks) == 8
    assert all(np.ptp(track.states[:, 0]) == 0 for track in tracks)


def test_a_recorder_with_another_clock_moves_nothing(tmp_path):
    """Simulated time at half speed: an empty list of boxes or lights, and a command, carry no stamp of their own."""
    square = np.array([[0.0, -5], [100, -5], [100, 5], [0, 5]])
    with BagWriter(tmp_path / "same") as bag:
        for t in np.arange(0.0, 10.01, 0.1):
            bag.transforms(ns(t), [("map", "base_link", geometry.planar(10.0 * t, 0.0, 0.0))])
        write_areas(bag, AREAS, ns(0.0), "map", [Area("lane", 1, square, True), Area("roadblock", 2, square)])
        for t in np.arange(0.0, 10.01, 0.5):
            seen = [Cube("car", 1, geometry.planar(200.0, 0.0, 0.0), (4.0, 2.0, 1.5), (1.0, 0.0, 0.0))] if t < 3 else []
            write_cubes(bag, "/markers/annotations", ns(t), "map", seen, 1.0)
            write_areas(bag, RED_LIGHTS, ns(t), "map", [Area("lane_connector", 1, square)] if t < 4 else [])
        bag.write(COMMAND_TOPIC, bag.construct("std_msgs/msg/String", data="left"), ns(5.0))
    with BagReader(tmp_path / "same") as reader, BagWriter(tmp_path / "other") as bag:
        for record in reader.messages():
            bag.write_cdr(record.topic, record.type, record.raw, 10**15 + 2 * (record.stamp - START))
    found = []
    for name in ("same", "other"):
        with BagReader(tmp_path / name) as reader:
            drive = read_drive(reader, profile())
            commands, road = read_commands(reader, drive.clock), read_road(reader, drive, None)
            found.append((commands.stamps, road.stamps, read_tracks(reader, "/markers/annotations", drive)[1]))
            assert commands.at(ns(6.0)) is Command.LEFT
            assert commands.at(ns(4.0)) is None
    for same, other in zip(*found, strict=True):
        assert len(same) == len(other)
        np.testing.assert_allclose((other - same) / 1e9, 0.0, atol=0.06)
