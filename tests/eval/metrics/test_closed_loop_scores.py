"""HUGSIM's, AlpaSim's and nuPlan's rules, one hand-made case each."""

from __future__ import annotations

import numpy as np
import pytest

from sparseoccvla_ros.eval.metrics.driving import alpasim, hugsim, nuplan
from sparseoccvla_ros.eval.metrics.driving.polygons import Areas
from sparseoccvla_ros.eval.metrics.driving.traffic_scene import ObjectKind, Objects
from sparseoccvla_ros.eval.metrics.driving.vehicle import PACIFICA, VX, corners

GROUND = np.stack(np.meshgrid(np.arange(-10, 60, 0.2), np.arange(-2, 2.1, 0.2)), -1).reshape(-1, 2)
CLEAR = hugsim.Surroundings(np.zeros((0, 2)), GROUND)
NOBODY = np.zeros((0, 4, 2))


def box(x: float, y: float, yaw: float = 0.0, length: float = 4.0, width: float = 2.0) -> np.ndarray:
    return corners(np.array([[x, y, yaw, length, width]]))


def straight(speed: float, count: int = 7) -> np.ndarray:
    plan = np.zeros((count, 3))
    plan[:, 0] = 0.5 * speed * np.arange(count)
    return plan


def rated(plan: np.ndarray, cars: list | None = None, around: hugsim.Surroundings = CLEAR) -> hugsim.FrameScore:
    return hugsim.rate_plan(plan, cars or [NOBODY] * len(plan), around)


def test_hugsim_clean_plan():
    assert rated(straight(8.0)) == hugsim.FrameScore(1.0, 1.0, 1.0, 1.0)


def test_hugsim_contact_is_timed():
    cars = [NOBODY] * 7
    assert rated(straight(8.0), [*cars[:6], box(24, 0)]).NC == 0.0
    assert rated(straight(8.0), [box(24, 0), *cars[1:]]).NC == 1.0


def test_hugsim_time_to_collision_moves_the_plan_only():
    got = rated(straight(8.0), [NOBODY] * 6 + [box(24 + 8 + 3.4, 0)])
    assert (got.NC, got.TTC) == (1.0, 0.0)
    assert rated(straight(8.0), [NOBODY] * 6 + [box(24 + 8 + 3.6, 0)]).TTC == 1.0


def test_hugsim_background_needs_more_than_100_points():
    inside = np.random.default_rng(0).uniform([3.5, -0.5], [4.5, 0.5], (101, 2))
    assert rated(straight(8.0), around=hugsim.Surroundings(inside, GROUND)).NC == 0.0
    assert rated(straight(8.0), around=hugsim.Surroundings(inside[:100], GROUND)).NC == 1.0


@pytest.mark.parametrize(("quarters", "want"), [(4, 1.0), (3, 1.0), (2, 1.0), (1, 0.0), (0, 0.0)])
def test_hugsim_drivable_quarters(quarters, want):
    # Shares make steps of 0.25, so that the official 0.5 for less than half cannot occur.
    ground = np.array([[0.5, -0.3], [-0.5, -0.3], [0.5, 0.3], [-0.5, 0.3]])[:quarters]
    score = rated(np.zeros((2, 3)), around=hugsim.Surroundings(np.zeros((0, 2)), ground)).DAC
    assert score == want


def test_hugsim_comfort():
    braking = straight(8.0)
    braking[:, 0] = np.cumsum([0, 4, 4, 1.9, 0.5, 0, 0])
    assert rated(braking).C == 0.0
    assert rated(braking[:3]).C == 1.0  # fewer than 4 points
    short = np.zeros((7, 3))
    short[:, 2] = np.arange(7)
    assert rated(short).C == 1.0  # under a metre: headings are set to the first


def test_hugsim_completion_and_score():
    recorded = np.stack([np.arange(100.0), np.zeros(100)], -1)
    driven = recorded[:45] + np.array([0.1, 0.0])
    assert hugsim.route_completion(driven, recorded) == pytest.approx(0.5)
    assert hugsim.route_completion(recorded[:95], recorded) == 1.0
    frames = [hugsim.FrameScore(1, 1, 1, 0), hugsim.FrameScore(0, 1, 1, 1)]
    assert hugsim.hd_score(0.5, frames) == pytest.approx(0.5 * 0.5 * 5 / 7)
    assert hugsim.hd_score(1.0, []) == 0.0


RECORDED = np.stack([np.arange(101.0), np.zeros(101)], -1)


def alpa(ends: float, others: dict[int, np.ndarray] | None = None, offroad: int | None = None) -> alpasim.SceneScore:
    boxes = corners(np.stack([np.array([x, 0, 0, 4, 2]) for x in np.linspace(0, ends, 11)]))
    away = np.zeros(11, bool)
    if offroad is not None:
        away[offroad] = True
    return alpasim.scene_score(boxes, [(others or {}).get(i, NOBODY) for i in range(11)], away, RECORDED)


def test_alpasim_progress():
    assert alpa(40.0).score == pytest.approx(0.5)
    assert alpa(90.0).score == 1.0


def test_alpasim_faults():
    assert alpa(90.0, {5: box(45 + 3.9, 0)}) == alpasim.SceneScore("front", False, 0.45, 0.0)
    assert alpa(90.0, {5: box(45, 1.9, length=2.0)}).contact == "lateral"
    rear = alpa(90.0, {5: box(45 - 3.9, 0)})
    assert (rear.contact, rear.score) == ("rear", pytest.approx(0.45 / 0.8))  # excused, but progress stays
    both = np.concatenate([box(45 + 3.9, 0), box(45 - 3.9, 0)])
    assert alpa(90.0, {5: both}).contact == "rear"  # the last one examined
    assert alpa(90.0, offroad=5).score == 0.0


def test_alpasim_short_recording():
    boxes = corners(np.array([[0.0, 0, 0, 4, 2]]))
    assert alpasim.scene_score(boxes, [NOBODY], np.zeros(1, bool), RECORDED[:5]).score == 1.0


def test_alpasim_offroad():
    lane = np.array([[-10.0, -2], [50, -2], [50, 2], [-10, 2]])
    edge = np.array([[[-10.0, 2], [50, 2]]])
    inside, over, beyond = (corners(np.array([0.0, y, 0, 4, 2])) for y in (0.0, 1.5, 5.0))
    assert not alpasim.is_offroad(inside, Areas([lane]), False, edge)
    assert alpasim.is_offroad(over, Areas([lane]), False, edge)
    assert not alpasim.is_offroad(over, Areas([lane]), True, edge)
    assert not alpasim.is_offroad(beyond, Areas([lane]), False, edge)  # touches no edge
    assert not alpasim.is_offroad(over, Areas([lane]), False, np.zeros((0, 2, 2)))  # no map


LANE = Areas([np.array([[-20.0, -2], [120, -2], [120, 2], [-20, 2]])])


def drive(speed: float, count: int = 21) -> np.ndarray:
    states = np.zeros((count, 11))
    states[:, 0], states[:, VX] = 0.1 * speed * np.arange(count), speed
    return states


def objects(kind: ObjectKind, x: float, y: float = 0.0, speed: float = 0.0, count: int = 21) -> Objects:
    state = np.zeros((1, count, 5))
    state[0, :, 0], state[0, :, 1], state[0, :, 3] = x + 0.1 * speed * np.arange(count), y, speed
    return Objects(np.array([kind]), np.array([[4.0, 2.0]]), state, np.ones((1, count), bool))


def cls(states: np.ndarray, other: Objects, common: bool = True) -> tuple[dict[int, bool], float, float]:
    boxes = PACIFICA.corners(states[:, :3])
    situation = nuplan.Situation(np.full(len(states), common), np.zeros(len(states), bool))
    hit = nuplan.faults(states, boxes, other, situation)
    ttc = nuplan.time_to_collision(states, boxes, other, situation, hit)
    return hit, nuplan.no_collision(hit, other), ttc


@pytest.mark.parametrize(
    ("kind", "want"),
    [(ObjectKind.VEHICLE, 0.0), (ObjectKind.PEDESTRIAN, 0.0), (ObjectKind.BICYCLE, 0.0), (ObjectKind.GENERIC, 0.5)],
)
def test_nuplan_collisions(kind, want):
    hit, nc, ttc = cls(drive(10.0), objects(kind, 15.0))
    assert (hit, nc, ttc) == ({0: True}, want, 0.0)


def test_nuplan_faults():
    assert cls(drive(0.0), objects(ObjectKind.VEHICLE, -20.0, speed=10.0))[0] == {0: False}  # the ego stands
    assert cls(drive(2.0), objects(ObjectKind.VEHICLE, -10.0, speed=10.0))[0] == {0: False}  # from behind
    assert cls(drive(10.0), objects(ObjectKind.VEHICLE, 12.0, speed=2.0))[0] == {0: True}  # front
    beside = objects(ObjectKind.VEHICLE, 1.5, 2.1, speed=10.0)
    assert cls(drive(10.0), beside)[0] == {0: False}  # lateral in one lane
    assert cls(drive(10.0), beside, common=False)[0] == {0: True}


def test_nuplan_time_to_collision():
    ahead = 4.049 + 2.0
    assert cls(drive(10.0), objects(ObjectKind.VEHICLE, ahead + 8.9, speed=0.1))[2] == 0.0
    assert cls(drive(10.0), objects(ObjectKind.VEHICLE, ahead + 8.9, speed=10.0))[2] == 1.0
    assert cls(drive(10.0, 2), objects(ObjectKind.VEHICLE, ahead + 10.2, count=2))[2] == 1.0
    assert cls(drive(0.005), objects(ObjectKind.VEHICLE, ahead + 0.0001))[2] == 1.0  # the ego stands


def test_nuplan_areas():
    boxes = PACIFICA.corners(drive(10.0)[:, :3])
    assert nuplan.drivable_area(boxes, LANE) == 1.0
    assert nuplan.drivable_area(boxes + np.array([0.0, 1.1]), LANE) == 1.0  # 0.25 m over
    assert nuplan.drivable_area(boxes + np.array([0.0, 1.2]), LANE) == 0.0
    two = Areas([LANE.polygons[0], LANE.polygons[0] + np.array([0.0, 4.0])])
    astride = boxes + np.array([0.0, 2.0])
    assert not nuplan.share_lane(astride, two, np.zeros((2, 2), bool)).any()
    assert nuplan.share_lane(astride, two, np.array([[0, 1], [0, 0]], bool)).all()
    assert nuplan.share_lane(boxes, two, np.zeros((2, 2), bool)).all()


def test_nuplan_small_rules():
    assert [nuplan.driving_direction(np.full(30, -0.1 * v)) for v in (1.9, 2.1, 6.1)] == [1.0, 0.5, 0.0]
    assert nuplan.driving_direction(np.full(30, 0.7)) == 1.0
    assert nuplan.expert_progress(50.0, 100.0) == 0.5
    assert nuplan.expert_progress(0.0, 0.0) == 1.0
    assert nuplan.expert_progress(-2.1, 0.0) == 0.0
    assert (nuplan.making_progress(0.2), nuplan.making_progress(0.19)) == (1.0, 0.0)
    assert nuplan.speed_limit(np.full(10, 12.23), np.full(10, 10.0)) == pytest.approx(0.0)
    assert nuplan.speed_limit(np.full(10, 10.0), np.full(10, 10.0)) == 1.0
    assert nuplan.comfortable(drive(10.0)) == 1.0
    hard = drive(10.0)
    hard[:, 5] = -4.2
    assert nuplan.comfortable(hard) == 0.0
    assert nuplan.ClosedLoopScore(1, 1, 1, 0.5, 0.5, 1, 1, 1).score == pytest.approx(0.5 * 13.5 / 16)
