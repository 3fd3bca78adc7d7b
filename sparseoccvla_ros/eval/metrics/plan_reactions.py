"""Whether forecasts model reactions of other actors: the same scene under two ego plans.

The world simulates which actors behave differently under the other plan (world.labels.reactions); a forecaster given
that plan should change its forecast for their voxels only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import KDTree

from ...core.classes import MOVABLE
from ...core.types import Reasoning, SceneQueries
from ...core.voxels import SparseVoxels
from ...reasoning.model.reasoner import Reasoner
from .moving_voxels import flow_of

IN_CONFLICT = 1.0
"""Displacement (m) between both plans after 3 s above which an actor's voxels count as in conflict."""


@dataclass(frozen=True, eq=False)
class TwoPlans:
    """Waypoints float32 [6, 2] m of the recorded and the other plan, and footprints [4, N, 5] of the actors under
    each, now and at HORIZONS, all in base_link at the present."""

    motion: np.ndarray
    other_motion: np.ndarray
    movers: np.ndarray
    other_movers: np.ndarray


def reaction_sums(
    reasoner: Reasoner, queries: SceneQueries, reasoning: Reasoning, voxels: SparseVoxels, plans: TwoPlans
) -> np.ndarray:
    """Returns float64 [5], sums over voxels of movable classes at 3 s: (number in conflict, difference of their
    forecasts in m, forecast share of the true reaction; number not in conflict, difference of their forecasts in m)."""
    labels = np.isin(voxels.labels, MOVABLE)
    where, kind = voxels.centres()[labels], voxels.labels[labels]
    if not len(where) or not len(queries.centres):
        return np.zeros(5)
    true, other = (flow_of(where[None], kind[None], m)[-1, 0] for m in (plans.movers, plans.other_movers))
    distance, owner = KDTree(queries.centres).query(where)
    went, otherwise = (
        _moved(reasoner, queries, reasoning, where, owner, m) for m in (plans.motion, plans.other_motion)
    )
    near = (distance < reasoner.config.max_point_distance)[:, None]
    told, wanted = (otherwise - went) * near, (other - true)[:, :2]
    size = np.linalg.norm(wanted, axis=1)
    conflict = size > IN_CONFLICT
    differs = np.linalg.norm(told, axis=1)
    shares = (told * wanted)[conflict].sum(1) / size[conflict] ** 2
    return np.array(
        [conflict.sum(), differs[conflict].sum(), shares.sum(), (~conflict).sum(), differs[~conflict].sum()]
    )


@torch.inference_mode()
def _moved(
    reasoner: Reasoner, queries: SceneQueries, reasoning: Reasoning, where: np.ndarray, owner: np.ndarray,
    motion: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Returns the forecast displacement at 3 s of voxels at `where` with their queries, float64 [V, 2] m."""

    def row(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, np.float32)).to(reasoner.anchors.device)[None]

    found = reasoner.forecaster(row(reasoning.fused_features), row(queries.centres), row(motion))
    shift, turn = found.shift[0, -1].cpu().numpy()[owner, :2], found.turn[0, -1].cpu().numpy()[owner]
    x, y = (where - queries.centres[owner])[:, :2].T
    cos, sin = np.cos(turn), np.sin(turn)
    return shift + np.stack([(cos - 1) * x - sin * y, sin * x + (cos - 1) * y], -1)
