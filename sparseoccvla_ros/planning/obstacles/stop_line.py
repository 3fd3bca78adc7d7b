"""Stopping at a red light: where its line is, remembered over frame sets, and whether it must be kept clear of.

As in nuPlan's IDM planner (Caesar et al., 2021, arXiv 2106.11810), the line of a red light is an obstacle.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ...core.types import TrafficLight

REMEMBERED = 1.6
"""s for which a light that is no longer seen, e.g. behind a truck, is taken to be as it was."""
GAIN, LARGEST = 0.4, 3.0
"""Share of a line's deviation from where it was measured before, at most so many metres, by which it is moved."""
FOLLOWS = (("green", "amber"), ("amber", "red"))
"""Changes of colour that are believed at once; another one must be seen twice in a row."""
PASSED = 1.0
"""m behind the front bumper from which a line is passed; the distance is known to about a metre."""
DECELERATION = {"red": 5.0, "amber": 2.6}
STOPPING = 7.0
"""m/s^2; a vehicle that would have to brake harder than DECELERATION drives on, one that is stopping than STOPPING."""


@dataclass(frozen=True, eq=False)
class _Light:
    """A light: stamp ns and epoch of the last sight; colour; doubted: another colour seen since; place of its line
    float64 [2] m in the fixed frame; stops: whether the vehicle stops for it."""

    stamp: int
    epoch: int
    colour: str
    doubted: str
    place: np.ndarray
    stops: bool = False


class StopLine:
    """Remembers the traffic light ahead over the frame sets of a drive."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget the light."""
        self._light: _Light | None = None
        self._before: _Light | None = None
        self._moment = -1, -1

    def ahead(
        self, stamp: int, epoch: int, pose: np.ndarray, speed: float, seen: TrafficLight | None, front: float
    ) -> float | None:
        """Add a moment and return how far ahead of base_link the vehicle has to stop, m; None if it need not.

        stamp: ns; pose: float64 [4, 4] ego2fixed; speed: m/s; front: from base_link to the front bumper, m. The same if
        asked again for a moment.
        """
        if (stamp, epoch) != self._moment:
            self._before, self._moment = self._light, (stamp, epoch)
        before = self._before
        if before is not None and (before.epoch != epoch or not 0 <= stamp - before.stamp <= REMEMBERED * 1e9):
            before = None
        self._light = light = before if seen is None else _updated(before, stamp, epoch, pose, seen)
        if light is None or light.colour == "green":
            return None
        distance = float((light.place - pose[:2, 3]) @ pose[:2, 0])
        limit = STOPPING if light.stops else DECELERATION[light.colour]
        room = distance - front
        stops = room >= -PASSED and speed**2 <= 2 * limit * max(room, 0.1)
        self._light = replace(light, stops=stops)
        return distance if stops else None


def _updated(before: _Light | None, stamp: int, epoch: int, pose: np.ndarray, seen: TrafficLight) -> _Light:
    place = (pose @ (seen.distance, 0.0, 0.0, 1.0))[:2]
    if before is None:
        return _Light(stamp, epoch, seen.colour, "", place)
    off = place - before.place
    off *= GAIN * min(1.0, LARGEST / max(float(np.hypot(*off)), 1e-9))
    believed = seen.colour in (before.colour, before.doubted) or (before.colour, seen.colour) in FOLLOWS
    colour, doubted = (seen.colour, "") if believed else (before.colour, seen.colour)
    return _Light(stamp, epoch, colour, doubted, before.place + off, before.stops)
