"""Traffic lights in an image: which lamps are lit for the ego's direction, where, and how far their stop line is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...core.types import LIGHT_COLOURS
from ..agents.actors import EGO
from ..kernels.ground import STOP_LINE
from ..render.raster import PinholeRays, cast
from ..scene import Scene, approach_of
from ..shapes.objects import SIGNAL_LAMPS
from ..shapes.solids import Primitives

FACING = 0.5
"""Least cosine between the ego's heading and the travel that a traffic light controls, for it to face the ego."""


@dataclass(frozen=True)
class LitLamp:
    """A lit lamp in an image.

    colour: index into LIGHT_COLOURS; column, row: its middle, px; pixels: how many show it; distance: from the ego's
    front bumper to the stop line of its approach, m along that approach, negative past it.
    """

    colour: int
    column: float
    row: float
    pixels: int
    distance: float


def lit_lamps(scene: Scene, time: float, rays: PinholeRays) -> list[LitLamp]:
    """Return the lamps that an image (one ray per pixel) shows lit and facing the ego at `time` s of the drive."""
    state = scene.at(time)
    pose, _ = scene.ego.at(time)
    yaw = float(np.arctan2(pose[1, 0], pose[0, 0]))
    bumper = pose[:2, 3] + EGO.front_m * pose[:2, 0]
    lit: dict[int, tuple[int, float]] = {}
    for first, place in scene.signal_rows:
        if np.cos(place[2] - yaw) < FACING:
            continue
        colour = LIGHT_COLOURS.index(scene.signals.colour(approach_of(place[2]), time))
        forward = np.array([np.cos(place[2]), np.sin(place[2])])
        ahead = float((np.array(place[:2]) - bumper) @ forward) - _beyond_line(scene, place)
        lit |= {first + lamp: (colour, ahead) for lamp in SIGNAL_LAMPS[colour]}
    if not lit:
        return []
    _, row = cast(Primitives.concatenate([state.fixed, state.moving]), rays)
    row = row.reshape(rays.height, rays.width)
    out = []
    for lamp, (colour, distance) in lit.items():
        v, u = np.nonzero(row == lamp)
        if len(u):
            out.append(LitLamp(colour, float(u.mean()), float(v.mean()), len(u), distance))
    return out


def _beyond_line(scene: Scene, pose: tuple[float, float, float]) -> float:
    """Distance in m from the stop line to a traffic light on the far side of the crossing, along its approach."""
    along = abs(pose[0]) if abs(np.cos(pose[2])) > 0.5 else abs(pose[1])
    other = scene.streets.main if approach_of(pose[2]) == "cross" else scene.streets.cross
    return along + other.half_width + STOP_LINE[1]
