"""The expert reaches its goal, and never changes lanes before somebody faster, whom the scores excuse it to hit."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from sparseoccvla_ros.eval.closed_loop import rollout
from sparseoccvla_ros.eval.closed_loop.expert import Expert
from sparseoccvla_ros.eval.closed_loop.policies import ExpertPolicy
from sparseoccvla_ros.eval.metrics.driving.bench2drive import End
from sparseoccvla_ros.eval.metrics.driving.traffic_scene import ObjectKind
from sparseoccvla_ros.world.agents.traffic import STEP
from sparseoccvla_ros.world.roads.curves import Curve

STEPS = 71


@pytest.mark.parametrize(
    ("ahead", "speed", "kind", "unsafe"),
    [
        (0.0, 8.0, ObjectKind.VEHICLE, True),  # beside
        (-12.0, 14.0, ObjectKind.VEHICLE, True),  # a body length behind after a second, and 6 m/s faster
        (-40.0, 12.0, ObjectKind.VEHICLE, False),  # can brake
        (-8.0, 8.0, ObjectKind.VEHICLE, False),  # keeps its distance
        (0.0, 8.0, ObjectKind.PEDESTRIAN, False),  # the corridor looks after people
        (15.0, 8.0, ObjectKind.VEHICLE, False),
    ],
)
def test_a_lane_is_changed_to_only_where_it_is_free(ahead, speed, kind, unsafe):
    x = np.arange(-100.0, 400.0, 0.5)
    expert = Expert.__new__(Expert)
    expert._simulator = SimpleNamespace(route=Curve(np.stack([x, 0 * x], -1), 0 * x), along=100.0)
    times = STEP * np.arange(STEPS)
    drive = np.zeros((41, 11))
    drive[:, 0], drive[:, 1] = 8.0 * times[:41], np.linspace(3.4, 0.0, 41)
    track = np.zeros((1, STEPS, 5))
    track[0, :, 0], track[0, :, 3:] = 1.2 + ahead + speed * times, (4.5, 1.9)
    assert expert._cuts_in(0.0, drive, np.array([int(kind)]), track) is unsafe


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seed", "family"),
    [(91034, "right_turn_over_crosswalk"), (91025, "fog_or_dusk"), (91042, "jaywalker"), (91040, "cut_in")],
)
def test_it_is_never_stuck(seed, family):
    """At the kerb of a tight turn; behind a line that it may not cross; before somebody who waits; at the map's end."""
    drive = rollout.drive(ExpertPolicy(), seed, family, score_every=0)
    assert drive.end is End.DONE
    assert not drive.infractions
