"""A forecaster that says what the others would do under another plan scores 1, one that ignores the plan 0."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sparseoccvla_ros.core.classes import LABEL
from sparseoccvla_ros.core.types import HORIZONS
from sparseoccvla_ros.core.voxels import SparseVoxels
from sparseoccvla_ros.eval.metrics.plan_reactions import TwoPlans, reaction_sums
from sparseoccvla_ros.eval.tasks.forecast import ForecastTask


def boxes(speed: float) -> np.ndarray:
    """A car at x = 10 that drives across, and one at x = -10 that does so whatever the plan."""
    at = np.array([[10.0, 0.0, 1.57, 4.0, 2.0], [-10.0, 0.0, 1.57, 4.0, 2.0]])
    out = np.repeat(at[None], 4, 0)
    out[1:, 0, 1] += speed * np.array(HORIZONS)
    out[1:, 1, 1] += 4.0 * np.array(HORIZONS)
    return out.astype(np.float32)


@pytest.mark.parametrize("reacts", [0.0, 0.5, 1.0])
def test_the_share_of_the_reaction_is_what_is_forecast(reacts: float) -> None:
    go, stop = np.full((6, 2), 3.0, np.float32), np.zeros((6, 2), np.float32)

    def forecaster(fused: torch.Tensor, centres: torch.Tensor, motion: torch.Tensor) -> SimpleNamespace:
        shift = torch.zeros(1, 3, 2, 3)
        shift[..., 1] = 4.0 * torch.tensor(HORIZONS)[:, None]
        if float(motion.abs().sum()) > 0:
            shift[:, :, 0, 1] -= reacts * 3.0 * torch.tensor(HORIZONS)
        return SimpleNamespace(shift=shift, turn=torch.zeros(1, 3, 2))

    reasoner = SimpleNamespace(
        forecaster=forecaster, anchors=torch.zeros(1), config=SimpleNamespace(max_point_distance=3.0)
    )
    centres = np.array([[10.0, 0, 1], [-10.0, 0, 1]], np.float32)
    dense = np.full((200, 200, 16), 17, np.uint8)
    dense[124:127, 98:102, 4] = dense[74:77, 98:102, 4] = LABEL["car"]
    plans = TwoPlans(stop, go, boxes(4.0), boxes(1.0))
    queries, reasoning = SimpleNamespace(centres=centres), SimpleNamespace(fused_features=np.zeros((2, 4), np.float32))
    sums = reaction_sums(reasoner, queries, reasoning, SparseVoxels.from_dense(dense), plans)  # type: ignore[arg-type]
    assert sums[0] == sums[3] == 12
    assert sums[2] / sums[0] == pytest.approx(reacts)
    assert sums[1] / sums[0] == pytest.approx(9.0 * reacts)
    assert sums[4] == 0.0
    task = ForecastTask()
    task.add_reactions("a", sums)
    task.add_reactions("b", sums)
    block, numbers = task._reaction_result("two plans")[1], task._reaction_result("two plans")[0]
    assert numbers["reaction_share"].value == pytest.approx(reacts)
    assert numbers["voxels_in_conflict"] == 24
    assert len(block.rows[0]) == len(block.head)
