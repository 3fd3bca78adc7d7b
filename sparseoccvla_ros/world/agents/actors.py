"""Actors of a scene: the ego's size, moving shapes, and the removal of those that would collide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...core.vehicle import Vehicle
from ..roads.static_scene import Placed
from ..shapes.objects import Shape
from .traffic import Mover, overlap

EGO = Vehicle(length_m=4.08, width_m=1.73, rear_overhang_m=0.65)
"""Size of the nuScenes cars (Renault Zoe) that all seeds of the world are generated with."""
LEAD_SECONDS = 2.0
"""Seconds of motion available before the drive starts."""
TAIL_SECONDS = 6.0
"""Seconds of motion available after the drive ends, because every stamp needs a future."""


@dataclass(frozen=True)
class Moving:
    """A moving shape."""

    shape: Shape
    mover: Mover


def without_collisions(ego: Mover, moving: list[Moving], standing: Sequence[Placed], seconds: float) -> list[Moving]:
    """Return the movers that never come near the ego, a standing object or a mover kept earlier."""
    times = np.arange(-LEAD_SECONDS, seconds + TAIL_SECONDS, 0.1)
    fixed = np.stack([p.rectangle for p in standing])
    kept: list[Moving] = []
    tracks = ego.rectangle(times)[None]
    for item in moving:
        track = item.mover.rectangle(times)
        reach = 0.5 * item.shape.length + 1.0 + np.ptp(track[:, :2], axis=0)
        near = fixed[(np.abs(fixed[:, :2] - track[:, :2].mean(0)) < reach + 0.5 * fixed[:, 3:4]).all(-1)]
        if overlap(tracks, track[None], 0.25).any() or overlap(near[:, None], track[None, ::3], 0.02).any():
            continue
        kept.append(item)
        tracks = np.concatenate([tracks, track[None]])
    return kept
