"""AlpaSim's scene score (public code 3032e0c): progress along the recorded drive, 0 after a fault."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .polygons import Areas, hulls_touch, project

_SHORT, _ENOUGH, _LANES_WITHIN, _EDGE = 5.0, 0.8, 6.0, 1e-3


@dataclass(frozen=True)
class SceneScore:
    """contact: none, front, rear or lateral; progress: share of the recorded drive; score 0..1."""

    contact: str
    offroad: bool
    progress: float
    score: float


def contact_kind(box: np.ndarray, others: np.ndarray) -> str:
    """Returns none, front, rear or lateral for an ego box [4, 2] among boxes [N, 4, 2]; the last contact counts."""
    kind = "none"
    for other in others[hulls_touch(box, others)] if len(others) else []:
        if hulls_touch(box[[0, 3]], other):
            kind = "front"
        elif hulls_touch(box[[1, 2]], other):
            kind = "rear"
        else:
            kind = "lateral"
    return kind


def is_offroad(box: np.ndarray, lanes: Areas, union_holds: bool, edges: np.ndarray) -> bool:
    """Whether a box [4, 2] lies neither in one lane polygon within 6 m nor in their union, and touches a road edge.

    union_holds: whether the union of the lanes contains the box; edges: segments [E, 2, 2] of the road's border.
    """
    if union_holds:
        return False
    for polygon in lanes.polygons:
        near = (polygon.max(0) >= box.min(0) - _LANES_WITHIN) & (polygon.min(0) <= box.max(0) + _LANES_WITHIN)
        if near.all() and Areas([polygon]).hold(box).all():
            return False
    if not len(edges):
        return False
    grown = box + _EDGE * np.sign(box - box.mean(0))
    return bool(hulls_touch(grown, edges).any())


def scene_score(boxes: np.ndarray, others: list[np.ndarray], offroad: np.ndarray, recorded: np.ndarray) -> SceneScore:
    """Scores a drive from where its evaluation begins.

    boxes: [T, 4, 2] of the ego; others: per step boxes [N, 4, 2]; offroad: bool [T]; recorded: [R, 2] box
    centres of the recorded drive. Steps after the first contact of any kind or off-road are ignored.
    """
    contact, left, end = "none", False, len(boxes) - 1
    for step, box in enumerate(boxes):
        kind = contact_kind(box, others[step])
        if kind != "none" or offroad[step]:
            contact, left, end = kind, bool(offroad[step]), step
            break
    length = float(np.hypot(*np.diff(recorded, axis=0).T).sum())
    progress = 0.0
    if length > 0:
        progress = float(project(boxes[end].mean(0), recorded)[0]) / length
    if contact in ("front", "lateral") or left:
        score = 0.0
    elif length < _SHORT:
        score = 1.0
    else:
        score = min(min(max(progress, 0.0), 1.0) / _ENOUGH, 1.0)
    return SceneScore(contact, left, progress, score)
