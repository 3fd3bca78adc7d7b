"""Fitting the trajectory anchors of a preset to drives."""

from __future__ import annotations

import numpy as np
import torch

from ..core.errors import InvalidInput
from ..planning.anchors import COMMAND_ORDER, MODES, AnchorSet, fit_anchors
from ..planning.config import PlanningConfig
from ..planning.model.diffusion import DeltaNormaliser


def fit(paths: np.ndarray, commands: np.ndarray, config: PlanningConfig, seed: int = 0) -> AnchorSet:
    """Fit anchors by k-means per command; each command has a standstill anchor.

    A car waiting at a red light may have the command "left", so turns need an anchor for standing still.

    Args:
        paths: float [N, 6, 2] m in base_link, at WAYPOINT_TIMES.
        commands: Integers [N], indices into COMMAND_ORDER.
        config: Of the planner that will use them.
        seed: Of k-means.

    Raises:
        InvalidInput: A command has too few trajectories, or an anchor exceeds the range of the planning config.
    """
    # Rounded to the accuracy of the records: smaller differences would only distinguish standing cars.
    anchors = fit_anchors(paths.round(3), commands, seed, standing=COMMAND_ORDER)
    normaliser = DeltaNormaliser(config.forward_range, config.lateral_range)
    if bool(normaliser.clipped(torch.from_numpy(anchors.deltas)).any()):
        raise InvalidInput("anchors", "one leaves forward_range or lateral_range of the planning config")
    return anchors


def too_few(paths: np.ndarray, commands: np.ndarray) -> list[int]:
    """Returns the commands (indices into COMMAND_ORDER) with fewer than MODES different paths."""
    flat = paths.round(3).reshape(len(paths), -1)
    return [i for i in range(len(COMMAND_ORDER)) if len(np.unique(flat[commands == i], axis=0)) < MODES]


def describe(anchors: AnchorSet) -> str:
    """Returns a line per command with each anchor's end point (m, base_link) and number of trajectories."""
    lines = []
    for command, modes, counts in zip(COMMAND_ORDER, anchors.array, anchors.counts, strict=True):
        ends = "  ".join(f"({x:.1f}, {y:.1f}) x{n}" for (x, y), n in zip(modes[:, -1], counts, strict=True))
        lines.append(f"{command.value:9s}{ends}")
    return "\n".join([*lines, f"sha256 {anchors.sha256}"])
