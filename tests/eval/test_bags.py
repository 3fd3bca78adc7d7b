"""./run eval bag: any recording, any of the three kinds of plans, and the stack itself."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from rosbags.rosbag2 import Writer
from rosbags.typesys import Stores, get_typestore
from typer.testing import CliRunner

from sparseoccvla_ros.camera_sync.profiles import profile
from sparseoccvla_ros.cli.bag import app as bag_app
from sparseoccvla_ros.core import geometry
from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.paths import bundled_bag
from sparseoccvla_ros.core.types import WAYPOINT_TIMES
from sparseoccvla_ros.core.vehicle import NUSCENES_CAR
from sparseoccvla_ros.data.bags.annotations import Cube, write_cubes
from sparseoccvla_ros.data.bags.drive import read_drive
from sparseoccvla_ros.data.bags.offline_sync import bag_frames
from sparseoccvla_ros.data.bags.reader import BagReader
from sparseoccvla_ros.data.bags.writer import BagWriter
from sparseoccvla_ros.data.synthetic.drives import START
from sparseoccvla_ros.eval.bags import film
from sparseoccvla_ros.eval.bags.evaluation import (
    COAST,
    Request,
    evaluate_bag,
    page,
    table,
    write_result_bag,
)
from sparseoccvla_ros.eval.bags.recording import (
    Planned,
    Track,
    read_tracks,
    times_by_speed,
    watched,
)
from sparseoccvla_ros.eval.bags.scores import known_for_driving, score_plan
from sparseoccvla_ros.eval.bags.surroundings import read_motion
from sparseoccvla_ros.eval.closed_loop.policies import BlindLaneKeeping
from sparseoccvla_ros.eval.closed_loop.rollout import drive
from sparseoccvla_ros.eval.closed_loop.scores import planned_scores
from sparseoccvla_ros.eval.closed_loop.to_bag import PLAN_TOPIC, REFERENCE_TOPIC, write_drive
from sparseoccvla_ros.eval.metrics.driving import vehicle as driving
from sparseoccvla_ros.eval.metrics.driving.traffic_scene import Surface
from sparseoccvla_ros.pipeline import SparseOccVLA

RADIUS, SPEED = 40.0, 8.0
STORE = get_typestore(Stores.ROS2_JAZZY)


def where(seconds: float) -> np.ndarray:
    """On a circle to the left at a steady speed."""
    turn = SPEED * seconds / RADIUS
    return np.array([RADIUS * np.sin(turn), RADIUS * (1 - np.cos(turn)), turn])


def ns(seconds: float) -> int:
    return START + round(1e9 * seconds)


class Foreign:
    """Messages as another stack writes them, with rosbags alone."""

    def __init__(self, writer: Writer) -> None:
        self.writer, self.topics, self.t = writer, {}, STORE.types

    def new(self, kind: str, **fields: object) -> object:
        return self.t[kind](**fields)

    def header(self, seconds: float, frame: str) -> object:
        sec, nanosec = divmod(ns(seconds), 10**9)
        stamp = self.new("builtin_interfaces/msg/Time", sec=sec, nanosec=nanosec)
        return self.new("std_msgs/msg/Header", stamp=stamp, frame_id=frame)

    def pose(self, pose: np.ndarray) -> tuple[object, object]:
        x, y, z, w = geometry.quaternion(geometry.planar(*pose)).tolist()
        rotation = self.new("geometry_msgs/msg/Quaternion", x=x, y=y, z=z, w=w)
        return (float(pose[0]), float(pose[1]), 0.0), rotation

    def write(self, topic: str, seconds: float, message: object) -> None:
        kind = message.__msgtype__
        if topic not in self.topics:
            self.topics[topic] = self.writer.add_connection(topic, kind, typestore=STORE)
        self.writer.write(self.topics[topic], ns(seconds), STORE.serialize_cdr(message, kind))

    def odometry(self, seconds: float) -> None:
        (x, y, z), rotation = self.pose(where(seconds))
        zero = self.new("geometry_msgs/msg/Vector3", x=0.0, y=0.0, z=0.0)
        pose = self.new("geometry_msgs/msg/Pose", position=self.new("geometry_msgs/msg/Point", x=x, y=y, z=z),
                        orientation=rotation)  # fmt: skip
        message = self.new(
            "nav_msgs/msg/Odometry", header=self.header(seconds, "odom"), child_frame_id="base_link",
            pose=self.new("geometry_msgs/msg/PoseWithCovariance", pose=pose, covariance=np.zeros(36)),
            twist=self.new("geometry_msgs/msg/TwistWithCovariance", covariance=np.zeros(36),
                           twist=self.new("geometry_msgs/msg/Twist", linear=zero, angular=zero)),
        )  # fmt: skip
        self.write("/odom", seconds, message)

    def path(self, seconds: float, poses: list[tuple[float, np.ndarray]], frame: str) -> None:
        stamped = []
        for t, pose in poses:
            (x, y, z), rotation = self.pose(pose)
            position = self.new("geometry_msgs/msg/Point", x=x, y=y, z=z)
            made = self.new("geometry_msgs/msg/Pose", position=position, orientation=rotation)
            stamped.append(self.new("geometry_msgs/msg/PoseStamped", header=self.header(t, frame), pose=made))
        message = self.new("nav_msgs/msg/Path", header=self.header(seconds, frame), poses=stamped)
        self.write("/their/path", seconds, message)

    def trajectory(self, seconds: float, poses: list[tuple[float, np.ndarray]]) -> None:
        points = []
        for t, pose in poses:
            (x, y, z), rotation = self.pose(pose)
            place = self.new("geometry_msgs/msg/Vector3", x=x, y=y, z=z)
            sec, nanosec = divmod(round(1e9 * (t - seconds)), 10**9)
            points.append(self.new(
                "trajectory_msgs/msg/MultiDOFJointTrajectoryPoint", velocities=[], accelerations=[],
                transforms=[self.new("geometry_msgs/msg/Transform", translation=place, rotation=rotation)],
                time_from_start=self.new("builtin_interfaces/msg/Duration", sec=sec, nanosec=nanosec),
            ))  # fmt: skip
        header = self.header(seconds, "base_link")
        message = self.new(
            "trajectory_msgs/msg/MultiDOFJointTrajectory", header=header, joint_names=["base_link"], points=points
        )
        self.write("/their/trajectory", seconds, message)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """Ten seconds on a circle; a Path in odom that is right, a trajectory in base_link that is 1 m to the left."""
    path = tmp_path_factory.mktemp("foreign") / "bag"
    with Writer(path, version=9) as writer:
        made = Foreign(writer)
        for t in np.arange(0.0, 10.01, 0.05):
            made.odometry(float(t))
        for t in np.arange(1.0, 9.0, 0.5):
            ahead = [float(t + d) for d in np.arange(0.0, 4.01, 0.25)]
            made.path(float(t), [(a, where(a)) for a in ahead], "odom")
            back = geometry.inverse(geometry.planar(*where(t)))
            local = []
            for a in ahead:
                x, y, yaw = where(a)
                moved = back @ geometry.planar(x - np.sin(yaw), y + np.cos(yaw), yaw)
                local.append((a, np.array([moved[0, 3], moved[1, 3], geometry.yaw_of(moved)])))
            made.trajectory(float(t), local)
        made.path(9.5, [], "odom")
        made.path(9.6, [(9.6, where(9.6)), (9.6, where(10.0))], "odom")
        made.path(9.7, [(9.8, where(9.8)), (9.9, where(9.9))], "moon")
    return path


def test_a_perfect_path_of_a_foreign_bag_has_no_error(foreign):
    report = evaluate_bag(Request(foreign, topic="/their/path"))
    rows = report.rows["/their/path"]
    assert len(rows) == 13  # of 16 plans three end after the drive does
    for row in rows:
        assert row.ade_m < 2e-3  # where a circle leaves its chords
        assert row.heading_deg < 0.05
        assert row.lateral == pytest.approx(SPEED**2 / RADIUS, rel=0.03)
        assert (row.no_collision, row.ttc) == (None, None)
    assert sum(report.refused.values()) == 6
    assert report.missing == 0
    assert not evaluate_bag(replace(report.request, seconds=4.0)).refused, "those are at the end"
    assert {why.split(" ")[0] for why in report.refused} == {"less", "is", "its"}
    coast = report.rows[COAST]
    # Straight on while the road bends: after 3 s the arc is off its tangent by R (1 - cos) and R sin - v t.
    turn = 3 * SPEED / RADIUS
    off = np.hypot(RADIUS * np.sin(turn) - 3 * SPEED, RADIUS * (1 - np.cos(turn)))
    assert coast[0].fde_3s_m == pytest.approx(off, abs=0.02)
    assert coast[0].heading_deg == pytest.approx(np.degrees(turn), abs=0.1)


def test_a_metre_beside_is_a_metre(foreign):
    rows = evaluate_bag(Request(foreign, topic="/their/trajectory")).rows["/their/trajectory"]
    assert len(rows) == 13
    np.testing.assert_allclose([r.ade_m for r in rows], 1.0, atol=2e-3)
    np.testing.assert_allclose([r.fde_1s_m for r in rows], 1.0, atol=2e-3)


def test_scores_become_a_page_and_a_bag(foreign, tmp_path):
    report = evaluate_bag(Request(foreign, topic="/their/path", seconds=4.0))
    write_result_bag(report, tmp_path / "scores")
    with BagReader(tmp_path / "scores") as reader:
        assert reader.topics["/evaluation/ade_m"].count == len(report.plans) == 7
        assert reader.topics["/evaluation/plan"].count == 7
        first = next(iter(reader.messages(["/evaluation/ade_m"])))
        assert reader.decode(first.raw, first.type).data == report.rows["/their/path"][0].ade_m
        assert first.stamp == ns(1.0)
    text = page(report, "./run eval bag foreign")
    assert "/their/path" in text
    assert "no boxes" in text


@pytest.mark.parametrize(
    ("topic", "reason"), [("/odom", "carries nav_msgs/msg/Odometry; plans are on: /their/path"), ("/no", "is not in")]
)
def test_other_topics_are_refused(foreign, topic, reason):
    with pytest.raises(InvalidInput, match=reason):
        evaluate_bag(Request(foreign, topic=topic))


def test_a_bag_without_cameras_says_which_plans_it_has(foreign):
    with pytest.raises(InvalidInput, match=r"no image of a camera.*/their/path, /their/trajectory \(--topic\)"):
        evaluate_bag(Request(foreign))


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A drive at 10 m/s along x."""
    path = tmp_path_factory.mktemp("straight") / "bag"
    with BagWriter(path) as bag:
        for t in np.arange(0.0, 8.01, 0.1):
            bag.transforms(ns(t), [("map", "base_link", geometry.planar(10.0 * t, 0.0, 0.0))])
        for t in np.arange(0.0, 8.01, 0.5):
            parked = Cube("car", 1, geometry.planar(60.0, 0.0, 0.0), (4.0, 2.0, 1.5), (1.0, 0.0, 0.0))
            write_cubes(bag, "/markers/annotations", ns(t), "map", [parked], 1.0)
    return path


def ahead(stamp: float, speed: float) -> Planned:
    times = np.asarray(WAYPOINT_TIMES)
    return Planned(ns(stamp), times, np.column_stack([10.0 * stamp + speed * times, np.zeros((len(times), 2))]))


@pytest.mark.parametrize(
    ("stamp", "speed", "free", "ttc"),
    [
        (1.0, 10.0, 1, 1),  # the bumper, 3.53 m ahead of the axle, is at 43.5 after 3 s: 14.5 m before the car
        (2.0, 10.0, 1, 0),  # at 53.5 after 3 s: 4.5 m before it, and 9 m further within 0.9 s
        (3.0, 10.0, 0, 0),
        (2.0, 6.0, 1, 1),  # at 41.5, and 5.4 m further
    ],
)
def test_collision_and_time_to_collision_with_a_parked_car(straight, stamp, speed, free, ttc):
    with BagReader(straight) as reader:
        drive = read_drive(reader, profile())
        tracks, seen, _ = read_tracks(reader, "/markers/annotations", drive)
    assert len(tracks) == 1
    scores = score_plan(ahead(stamp, speed), drive, tracks, NUSCENES_CAR)
    assert (scores.no_collision, scores.ttc) == (free, ttc)
    assert scores.fde_3s_m == pytest.approx(abs(10.0 - speed) * 3, abs=1e-6)
    assert watched(seen, ns(stamp), 3.0)
    assert not watched(seen, ns(6.0), 3.0), "the boxes end at 8 s"
    assert not watched(seen[[0, 1, -2, -1]], ns(stamp), 3.0), "none for 6.5 s"


def test_a_planner_that_publishes_nothing_scores_nothing(tmp_path):
    with Writer(tmp_path / "bag", version=9) as writer:
        made = Foreign(writer)
        for t in np.arange(0.0, 10.01, 0.05):
            made.odometry(float(t))
        writer.add_connection("/their/path", "nav_msgs/msg/Path", typestore=STORE)
    report = evaluate_bag(Request(tmp_path / "bag", topic="/their/path"))
    block = table(report)
    assert block.rows[0][:3] == ["/their/path", "0", "6"], "one a second from 2 s on, up to 3 s before the end"
    assert block.rows[0][block.head.index("comfortable")] == "0.00"
    assert "6 moments" in page(report, "")


def test_one_empty_path_for_many_rejected_sets_is_many_moments_without_a_plan(tmp_path):
    with Writer(tmp_path / "bag", version=9) as writer:
        made = Foreign(writer)
        for t in np.arange(0.0, 10.01, 0.05):
            made.odometry(float(t))
        for t in np.arange(0.5, 3.01, 0.5):
            made.path(float(t), [(a, where(a)) for a in np.arange(t, t + 3.01, 0.25)], "odom")
        made.path(3.5, [], "odom")
    report = evaluate_bag(Request(tmp_path / "bag", topic="/their/path"))
    block = table(report)
    assert block.rows[0][1:3] == ["6", "8"], "3.5 s to 7.0 s"
    assert block.rows[0][block.head.index("comfortable")] == f"{6 / 14:.2f}"
    assert block.rows[1][block.head.index("comfortable")] == "1.00"


def test_odometry_without_a_twist_stands_for_no_standstill(foreign):
    with BagReader(foreign) as reader:
        drive = read_drive(reader, profile())
        motion = read_motion(reader, profile(), drive, driving.Vehicle.of(NUSCENES_CAR))
    speed, acceleration, steering, rate = motion.at(np.array(ns(5.0)))
    assert speed == pytest.approx(SPEED, rel=0.01)
    assert (acceleration, rate) == pytest.approx((0.0, SPEED / RADIUS), abs=0.01)
    assert steering > 0


def test_what_was_not_recorded_is_no_drive_to_be_judged_by(straight):
    with BagReader(straight) as reader:
        drive = read_drive(reader, profile())
    assert score_plan(ahead(2.0, 10.0), drive, [], NUSCENES_CAR) is not None
    times = (drive.stamps - drive.stamps[0]) / 1e9
    silent = (times < 3.05) | (times > 4.45)
    moved = drive.poses + np.array([0.0, 300.0, 0.0]) * (times > 3.05)[:, None]
    for broken in (
        replace(drive, stamps=drive.stamps[silent], poses=drive.poses[silent]),
        replace(drive, poses=moved),
    ):
        assert score_plan(ahead(2.0, 10.0), broken, [], NUSCENES_CAR) is None
        assert not known_for_driving(ns(2.0), broken)
        assert score_plan(ahead(4.97, 10.0), broken, [], NUSCENES_CAR) is not None


def test_the_way_behind_the_vehicle_takes_no_time():
    """Autoware's trajectories begin some metres behind it."""
    places = np.column_stack([np.arange(-5.0, 50.0, 1.0), np.full(55, 0.2)])
    times = times_by_speed(places, np.full(55, 10.0), np.zeros(2))
    np.testing.assert_allclose(times, places[:, 0] / 10.0, atol=1e-9)


def test_boxes_are_bridged_between_sightings_only():
    track = Track(np.array([0, 1, 4]) * 10**9, np.array([[0.0, 0, 0], [2, 0, 0], [8, 0, 0]]), (4.0, 2.0))
    got = track.at(np.array([500, 3000, 4000, 5000]) * 10**6)
    assert got[0, 0] == 1.0
    assert np.isnan(got[1]).all(), "three seconds unseen"
    assert got[2, 0] == 8.0
    assert np.isnan(got[3]).all()


@pytest.mark.slow
def test_a_film_shows_the_drive(tmp_path):
    """Of the verb, with the shipped encoder and planner for a second and a half of the bundled bag."""
    words = ["film", str(bundled_bag()), "--seconds", "1.5", "--out", str(tmp_path / "film.webp")]
    done = CliRunner().invoke(bag_app, words)
    assert done.exit_code == 0, done.output
    with Image.open(tmp_path / "film.webp") as film:
        assert film.format == "WEBP"
        assert film.width == 900
        assert 3 <= film.n_frames <= 5
        first = np.asarray(film.convert("RGB"), np.int16)
        film.seek(film.n_frames - 1)
        assert np.abs(np.asarray(film.convert("RGB"), np.int16) - first).mean() > 1.0
    assert f"{tmp_path / 'film.webp'}:" in "".join(done.output.split("\n"))


@pytest.mark.slow
def test_a_refused_frame_set_costs_the_film_one_picture(preset, tmp_path, monkeypatch):
    """The encoder refuses a set in which every camera is black, as before a driver's first image."""
    dark = {0, 2}

    def frame_sets(*words):
        for k, frames in enumerate(itertools.islice(bag_frames(*words), 6)):
            yield replace(frames, images=np.zeros_like(frames.images)) if k in dark else frames

    build = SparseOccVLA.from_preset
    monkeypatch.setattr(film, "bag_frames", frame_sets)
    monkeypatch.setattr(SparseOccVLA, "from_preset", lambda name: build(name, untrained=True))
    out, sets = tmp_path / "film.webp", []
    words = (bundled_bag(), out, preset, "nuscenes", 0.0, 50, sets.append)
    assert film.save_film(*words) >= 2
    assert sets == [2, 4, 5, 6]
    dark |= set(range(6))
    with pytest.raises(InvalidInput, match=r"gives no frame set.*every camera is missing or black"):
        film.save_film(*words)


@pytest.mark.slow
def test_the_stack_plans_from_the_bundled_bag(preset):
    report = evaluate_bag(Request(bundled_bag(), preset=preset, seconds=1.5, untrained=True))
    assert report.judged == f"stack ({preset})"
    assert len(report.plans) + sum(report.refused.values()) >= 4
    assert len(report.rows[COAST]) == len(report.plans)
    for row in report.rows[COAST]:
        assert row.ade_m < 3.0


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """Ten seconds of a drive by one who keeps the lane and sees nobody, and its bag."""
    rollout = drive(BlindLaneKeeping(), 70_001, longest=10.0)
    path = tmp_path_factory.mktemp("simulated") / "bag"
    write_drive(rollout, path)
    return rollout, path


@pytest.mark.slow
def test_epdms_of_a_bag_is_that_of_the_same_drive_in_the_simulator(simulated):
    rollout, path = simulated
    pdms, epdms = planned_scores(rollout)
    report = evaluate_bag(Request(path, topic=PLAN_TOPIC, reference=REFERENCE_TOPIC))
    rows = [row for row in report.rows[PLAN_TOPIC] if row.epdms is not None]
    assert len(rows) == sum(plan.step + 51 <= len(rollout.states) for plan in rollout.planned) > 3
    assert not report.failed
    assert np.mean([row.pdms for row in rows]) == pytest.approx(pdms, abs=1e-6)
    assert np.mean([row.epdms for row in rows]) == pytest.approx(epdms, abs=1e-6)
    assert len({round(row.epdms, 3) for row in rows}) > 1, "scores that do not differ could agree by chance"
    assert all(row.epdms_filtered >= row.epdms for row in rows)
    text = page(report, "./run eval bag")
    assert "epdms_filtered" in text


@pytest.mark.slow
def test_moments_without_a_plan_count_zero(simulated, tmp_path):
    rollout, path = simulated
    silent = tmp_path / "silent"
    with BagReader(path) as reader, BagWriter(silent) as bag:
        for record in reader.messages(reader.topics):
            if record.topic == PLAN_TOPIC:
                message = reader.decode(record.raw, record.type)
                empty = bag.construct("nav_msgs/msg/Path", header=bag.header(record.stamp, "map"), poses=[])
                if record.stamp <= START + 2 * 10**9:
                    bag.write(PLAN_TOPIC, message, record.stamp)
                bag.write(PLAN_TOPIC, empty, record.stamp)  # to stop a follower, with the stamp of the plan before
            elif record.topic != REFERENCE_TOPIC:
                bag.write(record.topic, reader.decode(record.raw, record.type), record.stamp)
    report = evaluate_bag(Request(silent, topic=PLAN_TOPIC))
    scored = [row.epdms for row in report.rows[PLAN_TOPIC] if row.epdms is not None]
    known = sum(plan.step + 51 <= len(rollout.states) for plan in rollout.planned)
    assert len(scored) == 3
    assert report.failed["epdms"] == known - 3 > 0
    block = table(report)
    shown = float(block.rows[0][block.head.index("epdms")])
    assert shown == pytest.approx(sum(scored) / known, abs=0.006)


@pytest.mark.slow
def test_a_lanelet_map_gives_scores_too(simulated, tmp_path):
    lanelet2 = pytest.importorskip("lanelet2", reason="simple-lanelet2 is not installed")
    core, origin = lanelet2.core, lanelet2.io.Origin(49.0, 8.4)
    rollout, path = simulated
    lanes = []
    for kind, polygon, _ in rollout.world.road.surfaces:
        if kind in (Surface.LANE, Surface.LANE_CONNECTOR):
            half = len(polygon) // 2
            sides = [
                core.LineString3d(core.getId(), [core.Point3d(core.getId(), x, y, 0.0) for x, y in side.tolist()])
                for side in (polygon[:half], polygon[half:][::-1])
            ]
            lane = core.Lanelet(core.getId(), *sides)
            lane.attributes["subtype"] = "road"
            if kind is Surface.LANE_CONNECTOR:
                lane.attributes["turn_direction"] = "straight"
            lanes.append(lane)
    file = tmp_path / "lanelet2.osm"
    lanelet2.io.write(str(file), core.createMapFromLanelets(lanes), lanelet2.projection.UtmProjector(origin))
    report = evaluate_bag(Request(path, topic=PLAN_TOPIC, map_file=file, map_origin="49.0,8.4"))
    rows = [row.epdms for row in report.rows[PLAN_TOPIC] if row.epdms is not None]
    assert rows
    with pytest.raises(InvalidInput, match="--map-origin"):
        evaluate_bag(Request(path, topic=PLAN_TOPIC, map_file=file))
