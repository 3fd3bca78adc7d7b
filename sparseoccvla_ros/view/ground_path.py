"""The planned path as a strip on the ground."""

from __future__ import annotations

import numpy as np
from scipy.interpolate import PchipInterpolator

from ..core.classes import FLAT
from ..core.types import Plan, PlanStatus
from ..core.voxels import SparseVoxels
from .canvas import BAD, GOOD, WARNING, Colour

STATUS_COLOURS: dict[PlanStatus, Colour] = {
    PlanStatus.OK: GOOD,
    PlanStatus.DEGRADED: WARNING,
    PlanStatus.BRAKING: BAD,
    PlanStatus.REJECTED: BAD,
}


def centre_line(waypoints: np.ndarray, spacing: float = 0.25) -> np.ndarray:
    """Interpolate a dense line float64 [P, 2] m from the origin through every waypoint [S, 2].

    Monotone cubic interpolation over time (PCHIP) does not overshoot, so the image shows no manoeuvre that is not in
    the plan. Returns [0, 2] if the path is empty, not finite or shorter than 5 cm.
    """
    waypoints = np.asarray(waypoints, np.float64).reshape(-1, 2)
    knots = np.concatenate([np.zeros((1, 2)), waypoints])
    length = float(np.linalg.norm(np.diff(knots, axis=0), axis=1).sum())
    if not np.isfinite(length) or length < 0.05:
        return np.zeros((0, 2))
    # A very long path is sampled more coarsely, which bounds the work per image.
    per_piece = int(np.clip(np.ceil(length / spacing / len(waypoints)), 2, 200))
    times = np.linspace(0, len(waypoints), per_piece * len(waypoints) + 1)
    return PchipInterpolator(np.arange(len(knots)), knots)(times)


def ribbon(waypoints: np.ndarray, width: float) -> tuple[np.ndarray, np.ndarray]:
    """Return left and right edge, each float64 [P, 2] m, of a strip `width` metres wide along waypoints [S, 2]."""
    line = centre_line(waypoints)
    if not len(line):
        return line, line
    tangent = np.gradient(line, axis=0)
    speed = np.linalg.norm(tangent, axis=1, keepdims=True)
    # Where the vehicle stands still the line has no direction: keep the last one (forward at the start).
    moving = np.flatnonzero(speed[:, 0] > 1e-6)
    last = np.searchsorted(moving, np.arange(len(line)), side="right") - 1
    direction = np.where(last[:, None] >= 0, (tangent / np.maximum(speed, 1e-9))[moving[last]], (1.0, 0.0))
    normal = np.stack([-direction[:, 1], direction[:, 0]], axis=1) * (width / 2)
    return line + normal, line - normal


def path_colour(plan: Plan) -> Colour:
    """Return green for status OK, amber for degraded, red for braking or rejected."""
    return STATUS_COLOURS[plan.status]


def score_colours(scores: np.ndarray) -> list[Colour]:
    """Return RGB per candidate, from slate for the lowest score of this set to yellow for the highest."""
    if not len(scores):
        return []
    low, high = float(scores.min()), float(scores.max())
    share = (scores - low) / (high - low) if high > low else np.ones_like(scores)
    ramp = np.array([(112, 130, 168), (110, 178, 214), (255, 220, 100)], np.float64)
    colours = np.stack([np.interp(share, (0, 0.5, 1), ramp[:, c]) for c in range(3)], axis=1)
    return [(int(r), int(g), int(b)) for r, g, b in colours]


def ground_height(*scenes: SparseVoxels | None, radius: float = 12.0) -> float:
    """Return the road's z in m: the median top of flat voxels within `radius` in the first scene with any, else 0.

    Occ3D labels place the road about 0.6 m below base_link's z = 0, and so does a model trained on them; a path drawn
    over such voxels at z = 0 would float. Camera images use z = 0, the true road height.
    """
    for scene in scenes:
        if scene is None or not len(scene):
            continue
        centres = scene.centres()
        near = np.isin(scene.labels, FLAT) & (np.abs(centres[:, :2]).max(axis=1) < radius)
        if near.any():
            return float(np.median(centres[near, 2])) + scene.grid.size / 2
    return 0.0
