"""The world steps: equal actions give equal worlds, and everybody minds where the ego is."""

from __future__ import annotations

import numpy as np
import pytest

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.world.agents.traffic import Mover, Phases, overlap, rectangle
from sparseoccvla_ros.world.roads.curves import Curve
from sparseoccvla_ros.world.sim.simulator import Simulator
from sparseoccvla_ros.world.sim.traffic import Traffic
from sparseoccvla_ros.world.sim.vehicle import BRAKE_LIMIT, STEER_LIMIT, Action, EgoVehicleState

ALWAYS = Phases(((-60.0, 600.0),), ())


def actions(count: int) -> list[Action]:
    rng = np.random.default_rng(3)
    return [
        Action(float(a), float(s)) for a, s in zip(rng.normal(0, 1, count), rng.normal(0, 0.01, count), strict=True)
    ]


def test_equal_actions_give_equal_worlds():
    worlds = [Simulator(34, longest=20.0) for _ in range(2)]
    for action in actions(40):
        for world in worlds:
            world.step(action)
    one, two = worlds
    assert one.state == two.state
    np.testing.assert_array_equal(one.rectangles(), two.rectangles())
    np.testing.assert_array_equal(one.scene.fixed.centre, two.scene.fixed.centre)
    moved = np.hypot(*(one.rectangles() - one.rectangles(0.0))[:, :2].T)
    assert (moved > 1.0).sum() >= 3  # the world is alive


def test_a_negative_seed_is_refused():
    with pytest.raises(InvalidInput, match="seed"):
        Simulator(-1)


def mover(path: Curve, start: float, speed: float) -> Mover:
    """A car with its recorded motion up to time 0 (row 20)."""
    out = Mover(path, 4.4, 1.8, start - 2 * speed, speed, 10.0)
    out.times = np.arange(-2.0, 10.0, 0.1)
    out.travelled = start + speed * out.times
    out.speeds, out.forces = np.full(len(out.times), speed), np.zeros(len(out.times))
    return out


def line(y: float = 0.0) -> Curve:
    x = np.arange(-50.0, 400.0, 0.5)
    return Curve(np.stack([x, np.full_like(x, y)], -1), np.zeros(len(x)))


@pytest.mark.parametrize("yaw", [0.0, 0.5 * np.pi])
def test_cars_stop_behind_an_ego_that_stands_on_their_path(yaw):
    car, ego = mover(line(), 50.0, 10.0), mover(line(3.5), 50.0, 0.0)
    traffic = Traffic([car], [], [], ego, ALWAYS, 20, 140)
    standing = EgoVehicleState(60.0, 1.0, yaw, 0.0)
    body = rectangle(standing.pose, 4.08, 1.73, 1.39)
    for _ in range(115):
        traffic.step(standing, 100.0, body)
        assert not overlap(car.rectangle(0.1 * (traffic.k - 20)), body).any()
    assert car.speeds[traffic.k] < 0.1
    assert 40.0 < car.travelled[traffic.k] - 50.0 < 60.0


def test_cars_pass_an_ego_beside_their_path():
    car, ego = mover(line(), 50.0, 10.0), mover(line(3.5), 50.0, 0.0)
    traffic = Traffic([car], [], [], ego, ALWAYS, 20, 140)
    standing = EgoVehicleState(60.0, 3.5, 0.0, 0.0)
    for _ in range(115):
        traffic.step(standing, 100.0, rectangle(standing.pose, 4.08, 1.73, 1.39))
    assert car.travelled[traffic.k] > 145.0


def test_the_vehicle_has_limits_and_does_not_reverse():
    state = EgoVehicleState(0.0, 0.0, 0.0, 10.0)
    for _ in range(30):
        state = state.after(Action(-50.0, 5.0))
        assert state.acceleration >= BRAKE_LIMIT
        assert abs(state.steering) <= STEER_LIMIT + 1e-9
    assert state.speed == 0.0
    lagged = EgoVehicleState(0.0, 0.0, 0.0, 10.0).after(Action(2.0, 0.0))
    assert 0.2 < lagged.acceleration < 1.6


@pytest.mark.parametrize("speed", [0.0, 0.5])
def test_who_waits_for_a_standing_ego_steps_back(speed):
    """Or each waits for the other for ever; whoever still creeps does not need it."""
    way = Curve(np.stack([np.full(400, 20.0), np.arange(-10.0, 30.0, 0.1)], -1), np.full(400, 0.5 * np.pi))
    person = Mover(way, 0.6, 0.6, 4.0, 1.4, 1.4)
    person.times = np.arange(-2.0, 10.0, 0.1)
    person.travelled = 4.0 + 0.0 * person.times
    person.speeds, person.forces = np.zeros(len(person.times)), np.zeros(len(person.times))
    traffic = Traffic([], [person], [], mover(line(), 20.0, 0.0), ALWAYS, 20, 140)
    ego = EgoVehicleState(18.6, 0.0, 0.0, speed)
    body = rectangle(ego.pose, 4.08, 1.73, 1.39)
    gaps = []
    for _ in range(100):
        traffic.step(ego, 70.0, body)
        gaps.append(-0.5 * body[4] - float(way.at(traffic._walked)[0, 1]))
    assert min(gaps) > 0.0, "nobody walks into a car"
    assert (max(gaps[60:]) > 1.4) == (speed == 0.0)
