"""Animated top view of a drive: road, actors, ego, route, current plan and infractions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ...world.agents.traffic import STEP
from ..metrics.driving.vehicle import corners
from .expert import ZOE
from .rollout import Rollout

SIZE, METRES = 240, 60.0
"""Image size in pixels and in metres; the ego is centred horizontally, below the middle, and drives upwards."""
EVERY = 5
"""Simulation steps between two frames."""
_GROUND, _ROAD, _LANE, _STANDS, _OTHERS, _EGO, _PLAN = (
    "#d8d8cc", "#8a8a8e", "#9b9ba0", "#5a5a5a", "#2d6cc0", "#d04020", "#ffe14a",
)  # fmt: skip


def save_film(rollout: Rollout, file: Path) -> None:
    """Writes an animated WebP at twice real-time speed; creates its folder."""
    frames = [_frame(rollout, step) for step in range(0, len(rollout.states), EVERY)]
    file.parent.mkdir(parents=True, exist_ok=True)
    duration = round(500 * EVERY * STEP)
    frames[0].save(file, save_all=True, append_images=frames[1:], duration=duration, loop=0, quality=40, method=2)


def _frame(rollout: Rollout, step: int) -> Image.Image:
    x, y, yaw = rollout.states[step, :3]
    c, s = np.cos(yaw), np.sin(yaw)
    scale = SIZE / METRES

    def place(points: np.ndarray) -> list[tuple[float, float]]:
        ahead = (points[:, 0] - x) * c + (points[:, 1] - y) * s
        left = (points[:, 1] - y) * c - (points[:, 0] - x) * s
        return [(0.5 * SIZE - scale * a, 0.7 * SIZE - scale * b) for a, b in zip(left, ahead, strict=True)]

    image = Image.new("RGB", (SIZE, SIZE), _GROUND)
    draw = ImageDraw.Draw(image)
    road = rollout.world.road
    for areas, colour in ((road.drivable, _ROAD), (road.lanes, _LANE)):
        for polygon in areas.polygons:
            if np.hypot(*(polygon - [x, y]).T).min() < 3 * METRES:
                draw.polygon(place(polygon), fill=colour)
    draw.line(place(road.centerline), fill="#c8e6c8")
    for rectangles, colour in ((rollout.standing.near(x, y).rectangles, _STANDS), (rollout.actors[step], _OTHERS)):
        for box in corners(rectangles):
            draw.polygon(place(box), fill=colour)
    draw.polygon(place(ZOE.corners(rollout.states[step, :3])), fill=_EGO)
    plans = [p.poses for p in rollout.planned if p.step <= step]
    if plans:
        draw.line(place(plans[-1][:, :2]), fill=_PLAN, width=2)
    happened = [what.value for time, what in rollout.infractions if time <= STEP * step]
    words = f"{STEP * step:4.1f} s  {3.6 * rollout.states[step, 3]:3.0f} km/h  {' '.join(happened[-1:])}"
    draw.text((4, 3), words, fill="#202020")
    return image
