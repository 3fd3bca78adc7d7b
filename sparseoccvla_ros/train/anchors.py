"""Anchors of a preset from drives."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from ..core.errors import InvalidInput
from ..data.synthetic.drives import Drive, trajectories
from ..planning.anchors import COMMAND_ORDER, MODES, AnchorSet, fit_anchors
from ..planning.config import PlanningConfig
from ..planning.model.diffusion import DeltaNormaliser


def refit(drives: Iterable[Drive], config: PlanningConfig, every: float = 0.5, seed: int = 0) -> AnchorSet:
    """`fit` to what the drives' ego does after every `every` seconds."""
    return fit(*trajectories(iter(drives), every), config, seed)


def fit(paths: np.ndarray, commands: np.ndarray, config: PlanningConfig, seed: int = 0) -> AnchorSet:
    """k-means per command; each command can stand still.

    A car that waits for green is told "left" while it stands, so a turn must have anchors that start from a standstill.

    Args:
        paths: float [N, 6, 2] m in base_link, at WAYPOINT_TIMES.
        commands: Integers [N], indices into COMMAND_ORDER.
        config: Of the planner that is to use them.
        seed: Of k-means.

    Raises:
        InvalidInput: A command has too few trajectories, or an anchor leaves the range of the planning config.
    """
    # Numbers below the accuracy of a drive's records would only tell standing cars apart.
    anchors = fit_anchors(paths.round(3), commands, seed, standing=COMMAND_ORDER)
    normaliser = DeltaNormaliser(config.forward_range, config.lateral_range)
    if bool(normaliser.clipped(torch.from_numpy(anchors.deltas)).any()):
        raise InvalidInput("anchors", "one leaves forward_range or lateral_range of the planning config")
    return anchors


def too_few(paths: np.ndarray, commands: np.ndarray) -> list[int]:
    """Commands, as indices into COMMAND_ORDER, that have less than MODES different paths to fit anchors to."""
    flat = paths.round(3).reshape(len(paths), -1)
    return [i for i in range(len(COMMAND_ORDER)) if len(np.unique(flat[commands == i], axis=0)) < MODES]


def describe(anchors: AnchorSet) -> str:
    """A line per command: where each anchor ends (m, in base_link), and how many trajectories are behind it."""
    lines = []
    for command, modes, counts in zip(COMMAND_ORDER, anchors.array, anchors.counts, strict=True):
        ends = "  ".join(f"({x:.1f}, {y:.1f}) x{n}" for (x, y), n in zip(modes[:, -1], counts, strict=True))
        lines.append(f"{command.value:9s}{ends}")
    return "\n".join([*lines, f"sha256 {anchors.sha256}"])
