"""Under the recorded plan the recorded future comes out; under another one some do something else, and most do not."""

from __future__ import annotations

import numpy as np
import pytest

from sparseoccvla_ros.core.types import HORIZONS
from sparseoccvla_ros.world.labels.annotations import boxes, expert
from sparseoccvla_ros.world.labels.reactions import BRAKE, GO, otherwise, reactions


@pytest.fixture(scope="module")
def time() -> float:
    return 3.03


def test_the_recorded_plan_gives_the_recorded_future(scene, time) -> None:
    before = [m.mover.travelled.copy() for m in scene.moving]
    motion, plans = reactions(scene, time, None)
    frame = scene.ego.at(time)[0]
    moving = np.arange(len(scene.standing), len(scene.standing) + len(scene.moving))
    for k, horizon in enumerate((0.0, *HORIZONS)):
        found = boxes(scene, time + horizon, frame)
        wanted = found[np.isin(found.instance, moving)].plans
        np.testing.assert_allclose(plans[k, :, :2], wanted[:, :2], atol=0.5)
        assert np.median(np.abs(plans[k, :, :2] - wanted[:, :2])) < 0.05
    np.testing.assert_allclose(motion, expert(scene, time).waypoints, atol=0.3)
    for kept, m in zip(before, scene.moving, strict=True):
        np.testing.assert_array_equal(kept, m.mover.travelled)


def test_who_follows_brakes_and_the_rest_go_on(scene, time) -> None:
    assert otherwise(scene, time) == BRAKE
    assert otherwise(scene, 8.0) == GO
    motion, plans = reactions(scene, time, None)
    other_motion, other = reactions(scene, time, BRAKE)
    assert other_motion[-1, 0] < 0.6 * motion[-1, 0]
    away = np.linalg.norm(other[-1, :, :2] - plans[-1, :, :2], axis=-1)
    reacts = away > 1.0
    assert 1 <= reacts.sum() < len(away) / 3
    assert (plans[0, reacts, 0] < 0.0).all(), "it is behind the ego"
    assert (other[-1, reacts, 0] < plans[-1, reacts, 0]).all()
