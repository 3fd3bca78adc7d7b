"""Nothing a planner is given at time t comes from after t.

To put a new loader under these tests, write a function here with `@inference_loader("its name")`. It gets the moment
in ns, what becomes of later records, and a list to which it adds the stamp of every record it opens, and returns all
numbers a planner would be given at that moment.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparseoccvla_ros.camera_sync.config import SyncConfig
from sparseoccvla_ros.camera_sync.ego_motion import EgoMotion
from sparseoccvla_ros.core.geometry import inverse, planar, transform
from sparseoccvla_ros.core.tf_buffer import TransformBuffer
from sparseoccvla_ros.core.types import WAYPOINT_TIMES, Command
from sparseoccvla_ros.data.bags.playback import Playback
from sparseoccvla_ros.data.bags.reader import BagMessage, BagReader
from sparseoccvla_ros.data.nuscenes.prepare import moments
from sparseoccvla_ros.data.synthetic.drives import STEP, Drive, record
from sparseoccvla_ros.data.synthetic.to_bag import COMMAND_TOPIC, ODOMETRY_TOPIC, START
from sparseoccvla_ros.eval.tasks.baselines import BASELINES, coast
from sparseoccvla_ros.eval.tasks.ego_mlp import EgoMlp
from sparseoccvla_ros.eval.tasks.planning_samples import AgentBoxes, Sample
from sparseoccvla_ros.eval.world.drives import command_at, history_before
from sparseoccvla_ros.planning.ego_history import FEATURE_NAMES, EgoHistory
from sparseoccvla_ros.planning.route_command import RouteCommand
from sparseoccvla_ros.world.agents.traffic import Mover
from sparseoccvla_ros.world.scene import Scene

S = 1_000_000_000
TICK = S // 50
BAG = Path(__file__).parents[2] / "bags" / "world_demo"
MOMENTS = (1.5, 9.26, 14.5)
"""Seconds into the drive."""


class Later(Enum):
    """What becomes of the records after the moment."""

    KEPT = "kept"
    DELETED = "deleted"
    ALTERED = "altered"


Loader = Callable[[int, Later, list[int]], np.ndarray]
LOADERS: dict[str, Loader] = {}


def inference_loader(name: str) -> Callable[[Loader], Loader]:
    """Put a loader under the leak tests."""

    def register(loader: Loader) -> Loader:
        assert name not in LOADERS
        LOADERS[name] = loader
        return loader

    return register


def everything(history: EgoHistory, now: int) -> np.ndarray:
    """All that planning.ego_history says about a moment."""
    parts = [history.features(now), *(history.paper_features(now, command) for command in Command)]
    for age in (0, S // 2, S):
        pose = history.pose_at(now - age, now)
        parts.append(np.full(16, np.nan) if pose is None else pose.ravel())
    return np.concatenate(parts).astype(np.float64)


def choice_of(route: RouteCommand, now: int, pose: np.ndarray, speed: float) -> np.ndarray:
    """The command and its source as numbers."""
    choice = route.choose(now, pose, speed)
    return np.array([list(Command).index(choice.command), list(type(choice.source)).index(choice.source)], float)


class GuardedBag(BagReader):
    """The bundled bag; records of which message content is read, and spoils or drops what comes after a moment."""

    def __init__(self, now: int, later: Later, opened: list[int]) -> None:
        super().__init__(BAG)
        self._now, self._later, self._opened = now, later, opened
        self._stamps: dict[int, tuple[int, bytes]] = {}

    def messages(
        self, topics: Collection[str] | None = None, start: int | None = None, stop: int | None = None
    ) -> Iterator[BagMessage]:
        for message in super().messages(topics, start, stop):
            if message.stamp > self._now and self._later is Later.DELETED:
                return
            if message.stamp > self._now and self._later is Later.ALTERED:
                message = BagMessage(message.topic, message.type, message.stamp, b"\0\1\0\0 of another drive")
            # the bytes are kept, so that their identity stays theirs
            self._stamps[id(message.raw)] = message.stamp, message.raw
            yield message

    def decode(self, raw: bytes | memoryview, msgtype: str) -> Any:
        self._opened.append(self._stamps[id(raw)][0])
        return super().decode(raw, msgtype)


def matrix(pose: Any) -> np.ndarray:
    p, q = pose.position, pose.orientation
    return transform(np.array([p.x, p.y, p.z]), np.array([q.x, q.y, q.z, q.w]))


@inference_loader("bag")
def from_bag(now: int, later: Later, opened: list[int]) -> np.ndarray:
    """Odometry and commands of the bundled bag, played up to the moment as the nodes get them."""
    history, route = EgoHistory(), RouteCommand()
    with GuardedBag(now, later, opened) as bag:
        start = now - 3 * S
        playback = Playback(
            bag, start_offset=max(start - bag.start, 0) / S, clock_hz=0, topics=(ODOMETRY_TOPIC, COMMAND_TOPIC)
        )
        begun = max(start, bag.start)
        playback.start(0.0)
        speed = 0.0
        pose = np.eye(4)
        for event in playback.due((now - begun) / S):
            assert isinstance(event, BagMessage)
            content = bag.decode(event.raw, event.type)
            if event.topic == COMMAND_TOPIC:
                route.set_command(event.stamp, content.data)
                continue
            linear, angular = content.twist.twist.linear, content.twist.twist.angular
            twist = np.array([linear.x, linear.y, linear.z, angular.x, angular.y, angular.z])
            pose, speed = matrix(content.pose.pose), float(twist[0])
            history.add(event.stamp, pose, twist)
    return np.concatenate([everything(history, now), choice_of(route, now, pose, speed)])


@cache
def world(seed: int) -> Scene:
    return Scene.generate(seed)


class GuardedMover(Mover):
    """The ego of a world; records the moments asked for, in seconds."""

    asked: list[float]

    def motion(self, time: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.asked.append(float(np.max(time)))
        return super().motion(time)


def guarded(scene: Scene, now: float, later: Later) -> tuple[GuardedMover, Any]:
    """The scene's ego motion with everything the simulation did after `now` kept, gone (NaN) or altered."""
    mover = GuardedMover(**vars(scene.ego.mover))
    mover.asked = []
    after = mover.times > now
    for name in ("travelled", "speeds", "forces"):
        values = getattr(mover, name).copy()
        if later is not Later.KEPT:
            values[after] = np.nan if later is Later.DELETED else 17.0
        setattr(mover, name, values)
    return mover, type(scene.ego)(mover, scene.ego.duration)


@inference_loader("world")
def from_world(now: int, later: Later, opened: list[int]) -> np.ndarray:
    """The world's ego motion and its own route command."""
    seconds = (now - START) / S
    mover, ego = guarded(world(11), seconds, later)
    history = EgoHistory()
    for age in range(3 * S, -1, -TICK):
        time = (now - age - START) / S
        if time >= -2.0:
            history.add(now - age, *ego.at(time))
    command = list(Command).index(ego.command(seconds))
    opened.extend(START + round(time * S) for time in mover.asked)
    return np.append(everything(history, now), command)


@inference_loader("recorded drive")
def from_drive(now: int, later: Later, opened: list[int]) -> np.ndarray:
    """Ego features and command of a recorded drive, as planners are trained and validated on."""
    seconds = (now - START) / S
    drive = recorded(11)
    asked: list[float] = []

    class Guarded(Drive):
        def at(self, time: float) -> tuple[np.ndarray, np.ndarray]:
            asked.append(time)
            return super().at(time)

    changed = {}
    # The record at the moment's end brackets it: it lies at or before the next half of a record's step.
    after = drive.time > seconds + STEP
    for name in ("pose", "motion", "command"):
        values = getattr(drive, name).copy()
        if later is not Later.KEPT:
            values[after] = 1 if later is Later.DELETED else 2
        changed[name] = values
    guard = Guarded(drive.seed, drive.time, **changed, route=drive.route)
    features = guard.features(seconds)
    opened.extend(START + round(time * S) for time in asked)
    return np.append(features.astype(np.float64), guard.commanded(seconds))


@cache
def recorded(seed: int) -> Drive:
    return record(world(seed))


def odometry(now: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """A world's odometry at 50 Hz from 3 s before to 1 s after a moment."""
    for stamp in range(now - 3 * S, now + S + 1, TICK):
        time = (stamp - START) / S
        if time >= -2.0:
            yield stamp, *world(11).ego.at(time)


def altered(stamp: int, now: int, later: Later) -> bool | None:
    """Whether a record is to be altered, None when it is deleted."""
    if stamp <= now or later is Later.KEPT:
        return False
    return None if later is Later.DELETED else True


@inference_loader("history that runs ahead")
def from_full_history(now: int, later: Later, opened: list[int]) -> np.ndarray:
    """The history already holds a second of the future when it is asked: it must not look."""
    history = EgoHistory()
    for stamp, pose, twist in odometry(now):
        change = altered(stamp, now, later)
        if change is not None:
            history.add(stamp, pose @ planar(200.0, 3.0, 1.0) if change else pose, twist * (-3 if change else 1))
    # being fed is not opening: that the feed makes no difference is test_what_comes_later_changes_nothing
    opened.append(now)
    return everything(history, now)


@inference_loader("camera_sync twist")
def from_camera_sync(now: int, later: Later, opened: list[int]) -> np.ndarray:
    """The twist that camera_sync puts into a frame set, reported and differentiated, with later odometry at hand.

    Not the pose: at the stamp it is interpolated between the transforms on both sides, as tf2 does.
    """
    reported = EgoMotion(SyncConfig(), TransformBuffer())
    silent = EgoMotion(SyncConfig(), TransformBuffer())
    for stamp, pose, twist in odometry(now):
        change = altered(stamp, now, later)
        if change is not None:
            pose = pose @ planar(0.4, 0.1, 0.2) if change else pose
            reported.add_odometry(stamp, pose, tuple(twist * (5 if change else 1)), "odom")
            silent.add_odometry(stamp, pose, None, "odom")
    opened.append(now)
    found = []
    for motion in (reported, silent):
        source, _ = motion.poses([now - 2 * TICK], expired=True)
        found.append(motion.twist(source, now))
    return np.concatenate(found)


@inference_loader("route")
def from_route(now: int, later: Later, opened: list[int]) -> np.ndarray:
    """A route in the map and the pose at the moment; a route is known beforehand and holds no times."""
    scene = world(11)
    mover, ego = guarded(scene, (now - START) / S, later)
    route = RouteCommand()
    route.set_route(mover.path.at(np.linspace(0, mover.path.length, 400))[:, :2])
    pose, twist = ego.at((now - START) / S)
    opened.extend(START + round(time * S) for time in mover.asked)
    return np.concatenate([choice_of(route, now, pose, float(twist[0])), pose.ravel()])


class Opened(tuple):
    """An odometry record; notes when more of it is read than its stamp."""

    opened: list[int]

    def __getitem__(self, key: Any) -> Any:
        if key != 0:
            self.opened.append(super().__getitem__(0))
        return super().__getitem__(key)

    def __iter__(self) -> Iterator[Any]:
        self.opened.append(super().__getitem__(0))
        return super().__iter__()


@inference_loader("nuScenes index")
def from_nuscenes(now: int, later: Later, opened: list[int]) -> np.ndarray:
    """What ./run data prepare stores of a keyframe, with a CAN bus and poses that go on after it, and a route."""
    odometries = []
    for stamp, pose, twist in odometry(now):
        change = altered(stamp, now, later)
        if change is not None:
            pose = pose @ planar(200.0, 3.0, 1.0) if change else pose
            record = Opened((stamp, pose, twist * (-3 if change else 1)))
            record.opened = opened
            odometries.append(record)
    pose, _ = world(11).ego.at((now - START) / S)
    route = world(11).ego.mover.path.at(np.linspace(0, world(11).ego.mover.path.length, 400))[:, :2]
    found = [moments([(now, pose)], odometries, known)[0] for known in (None, route)]
    parts = [(m.twist, m.features, m.paper, [list(Command).index(m.command), m.source]) for m in found]
    return np.concatenate([np.asarray(a, np.float64) for part in parts for a in part])


@inference_loader("world evaluation")
def from_world_evaluation(now: int, later: Later, opened: list[int]) -> np.ndarray:
    """History and command that the evaluation on the world hands to the planner and to the baselines."""
    mover, ego = guarded(world(11), (now - START) / S, later)
    history, command = history_before(ego, now), command_at(ego, now)
    opened.extend(START + round(time * S) for time in mover.asked)
    return np.append(everything(history, now), list(Command).index(command))


@cache
def kept(name: str, seconds: float) -> tuple[np.ndarray, tuple[int, ...]]:
    """What a loader gives at a moment with nothing taken away, and the stamps that it opened."""
    opened: list[int] = []
    found = LOADERS[name](START + round(seconds * S), Later.KEPT, opened)
    return found, tuple(opened)


each_loader = pytest.mark.parametrize("name", list(LOADERS))
each_moment = pytest.mark.parametrize("seconds", MOMENTS)


@each_loader
@each_moment
def test_no_record_later_than_the_moment_is_opened(name, seconds):
    _, opened = kept(name, seconds)
    assert opened
    assert max(opened) <= START + round(seconds * S)


@each_loader
@each_moment
@pytest.mark.parametrize("later", [Later.DELETED, Later.ALTERED])
def test_what_comes_later_changes_nothing(name, seconds, later):
    whole, _ = kept(name, seconds)
    without = LOADERS[name](START + round(seconds * S), later, [])
    assert np.isfinite(whole).any()
    assert whole.tobytes() == without.tobytes()


@each_loader
def test_what_came_before_matters(name):
    """A loader that always answers the same would pass the tests above."""
    answers = {kept(name, seconds)[0].tobytes() for seconds in MOMENTS}
    assert len(answers) > 1


def test_a_loader_that_looks_ahead_is_found_out():
    def greedy(now: int, later: Later, opened: list[int]) -> np.ndarray:
        mover, ego = guarded(world(11), (now - START) / S, later)
        pose, _ = ego.at((now - START) / S + 0.5)
        opened.extend(START + round(time * S) for time in mover.asked)
        return pose

    now = START + 4 * S
    opened: list[int] = []
    whole = greedy(now, Later.KEPT, opened)
    assert max(opened) > now
    assert whole.tobytes() != greedy(now, Later.ALTERED, []).tobytes()


@pytest.fixture(scope="module")
def drives() -> tuple[np.ndarray, np.ndarray]:
    """Features float64 [N, F] and future waypoints [N, 12] at every half second of three worlds."""
    features, futures = [], []
    for seed in (11, 4, 5):
        ego = world(seed).ego
        history = EgoHistory()
        for tick in range(-100, 50 * 20 + 1):
            now = START + tick * TICK
            pose, twist = ego.at(tick / 50)
            history.add(now, pose, twist)
            if tick > 0 and tick % 25 == 0:
                ahead = [(inverse(pose) @ ego.at(tick / 50 + t)[0])[:2, 3] for t in WAYPOINT_TIMES]
                features.append(history.features(now))
                futures.append(np.ravel(ahead))
    return np.array(features, np.float64), np.array(futures)


def leaking(features: np.ndarray, futures: np.ndarray) -> list[str]:
    """Features that equal a future coordinate, or explain what coasting on the present velocity does not.

    The plain correlation would accuse the velocity itself: half a second ahead a vehicle is nearly where it coasts.
    """
    vx, vy, rate = (features[:, FEATURE_NAMES.index(name)] for name in ("vx", "vy", "yaw_rate"))
    coasting = np.array([coast(np.array([x, y]), w).ravel() for x, y, w in zip(vx, vy, rate, strict=True)])
    surprise = futures - coasting
    found = []
    for name, column in zip(FEATURE_NAMES, features.T, strict=True):
        if column.std() < 1e-6:
            continue
        equal = any(np.allclose(column, future, rtol=1e-6, atol=1e-6) for future in futures.T)
        moving = [part for part in surprise.T if part.std() > 1e-6]
        if equal or max(abs(np.corrcoef(column, part)[0, 1]) for part in moving) > 0.999:
            found.append(name)
    return found


@pytest.mark.slow
def test_no_feature_is_a_future_coordinate(drives):
    features, futures = drives
    assert len(features) > 100
    assert leaking(features, futures) == []


@pytest.mark.slow
@pytest.mark.parametrize("step", [0, 5, 6, 11])
def test_a_planted_future_coordinate_is_found(drives, step):
    """As in the pickle of AD-MLP, whose acceleration held a future waypoint."""
    features, futures = (array.copy() for array in drives)
    features[:, FEATURE_NAMES.index("ax")] = futures[:, step]
    assert leaking(features, futures) == ["ax"]


@pytest.mark.slow
def test_baselines_do_not_look_at_the_truth(drives):
    features, futures = drives
    sample = Sample(
        "a", "s", futures[20].reshape(6, 2), np.ones(6, bool), AgentBoxes.none(), features[20].astype(np.float32)
    )
    other = replace(sample, truth=sample.truth + 50.0, mask=np.zeros(6, bool), token="b", command=Command.LEFT)
    model = EgoMlp()
    model.fit(features.astype(np.float32), futures.reshape(-1, 6, 2), np.ones((len(features), 6), bool), epochs=1)
    for method in (*BASELINES, model.method()):
        assert not method.oracle
        answers = [method.predict(s).waypoints for s in (sample, other)]
        np.testing.assert_array_equal(answers[0], answers[1])
