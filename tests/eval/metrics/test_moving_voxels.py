"""Moving voxels: a flow that knows the motion is right where a copy is wrong, and nothing else is judged."""

from __future__ import annotations

import numpy as np
import pytest

from sparseoccvla_ros.core.classes import LABEL
from sparseoccvla_ros.core.types import HORIZONS
from sparseoccvla_ros.core.voxels import OCC3D_GRID, SparseVoxels
from sparseoccvla_ros.eval.metrics.moving_voxels import (
    at_constant_velocity,
    at_horizons,
    judged,
    moved,
    moving_plans,
)
from sparseoccvla_ros.eval.tasks.forecast import FORWARD, STEADY_FLOW, TRUE_FLOW, ForecastTask

CAR, ROAD = LABEL["car"], LABEL["driveable_surface"]
SPEED = 8.0


def agents(speed: float = SPEED, brakes: bool = False) -> tuple[np.ndarray, ...]:
    """One car that drives along y and one that is parked."""
    t = 0.5 * np.arange(7)
    along = speed * np.where(brakes, np.minimum(t, 1.0), t)
    centres = np.stack([np.stack([np.full(7, 12.0), along - 8.0], -1), np.full((7, 2), -14.0)])
    yaws = np.full((2, 7), np.pi / 2)
    return centres, yaws, np.ones((2, 7), bool), np.array([[4.0, 2.0], [4.0, 2.0]])


def street(plans: np.ndarray, parked: bool = True) -> np.ndarray:
    """uint8 [X, Y, Z]: road, the cars at footprints [N, 5] and, parked, the one of `agents`."""
    dense = np.full(OCC3D_GRID.shape, 17, np.uint8)
    dense[..., 2] = ROAD
    for x, y, _, length, width in [*plans.tolist(), *([[-14.0, -14.0, 0.0, 4.0, 2.0]] if parked else [])]:
        low = np.floor((np.array([x - width / 2, y - length / 2]) - OCC3D_GRID.lower[:2]) / 0.4 + 0.5).astype(int)
        dense[low[0] : low[0] + 5, low[1] : low[1] + 10, 3:6] = CAR
    return dense


def test_only_what_moves_is_judged() -> None:
    plans = moving_plans(*agents())
    assert plans.shape == (7, 1, 5)
    still = np.tile(np.eye(4), (3, 1, 1))
    where = judged(at_horizons(plans), still)
    dense = street(plans[0])
    assert where[0][dense == CAR].sum() == 5 * 10 * 3
    assert not where[:, :60].any()
    # Seen from an ego that has gone 10 m ahead, the same car is 10 m nearer.
    ahead = still.copy()
    ahead[:, 0, 3] = 10.0
    assert (judged(at_horizons(plans), ahead)[0, :175] == where[0, 25:]).all()
    assert moving_plans(*agents(speed=0.1)).shape[1] == 0


def test_a_flow_takes_the_car_along_and_leaves_the_parked_one() -> None:
    plans = moving_plans(*agents())
    voxels = SparseVoxels.from_dense(street(plans[0]))
    still = np.tile(np.eye(4), (3, 1, 1))
    for k, found in enumerate(moved(voxels, at_horizons(plans), still, close=False)):
        dense, wanted = found.dense(), street(at_horizons(plans)[k + 1])
        np.testing.assert_array_equal(dense == CAR, wanted == CAR)


@pytest.mark.parametrize("brakes", [False, True])
def test_the_report_compares_flows_with_a_copy(brakes: bool) -> None:
    task = ForecastTask()
    plans = moving_plans(*agents(brakes=brakes))
    future = np.tile(np.eye(4), (3, 1, 1))
    truth = np.stack([street(at_horizons(plans)[k + 1]) for k in range(len(HORIZONS))])
    scenes = ("a",) if brakes else ("a", "b")
    for scene in scenes:
        task.add(scene, street(plans[0]), future, truth, SparseVoxels.from_dense(street(plans[0])), None, plans, False)
    numbers, blocks = task.result()
    rows = numbers["moving"]["rows"]
    assert rows[FORWARD]["miou_1s"].value == 0.0
    assert rows[TRUE_FLOW]["miou_3s"].value == pytest.approx(1.0)
    assert rows[STEADY_FLOW]["miou_2s"].value == pytest.approx(0.0 if brakes else 1.0)
    assert rows[FORWARD]["n"] == len(scenes)
    # The parked car and the road are right in every row of the whole grid.
    assert numbers["rows"][FORWARD]["miou_1s"].value > 0.5
    assert [b.title for b in blocks] == ["Forecasts", "Forecasts: moving voxels"]
    assert np.allclose(at_constant_velocity(plans)[1, :, 1], plans[2, :, 1])
