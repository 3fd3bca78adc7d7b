"""Every scenario family finds its place, plays the same for equal seeds, and its actors act when the ego comes."""

from __future__ import annotations

import numpy as np
import pytest

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.world.agents.traffic import overlap
from sparseoccvla_ros.world.sim.scenarios import FAMILIES, place_of
from sparseoccvla_ros.world.sim.simulator import Simulator
from sparseoccvla_ros.world.sim.vehicle import Action


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_finds_a_place(name):
    first, maneuver = place_of(name, 31_000)
    assert (first, maneuver) == place_of(name, 31_000)
    assert first % 1000 == 0
    assert place_of(name, 31_001)[0] != first


def test_unknown_families_are_refused():
    with pytest.raises(InvalidInput, match="scenario"):
        place_of("meteor", 31_000)


def test_the_jaywalker_waits_for_the_ego():
    simulator = Simulator(31_000, "jaywalker", longest=15.0)
    person = simulator.scene.moving[-1]
    at = person.mover
    for _ in range(10):
        simulator.step(Action(-8.0, 0.0))
    assert at.travelled[simulator.traffic.k] == 0.0  # the ego stands far away
    while simulator.state.speed < 8.0:
        simulator.step(Action(3.0, 0.0))
    for _ in range(40):
        simulator.step(Action(0.0, 0.0))
    assert at.travelled[simulator.traffic.k] > 2.0
    van = simulator.scene.standing[-1]
    assert van.shape.name == "truck"
    assert not overlap(van.rectangle, simulator.ego.recorded.mover.rectangle_at(np.arange(0.0, 200.0, 0.5))).any()
