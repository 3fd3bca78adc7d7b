"""Stopping at a red light: where its line is, remembered over frame sets, and whether it must be kept clear of.

As in nuPlan's IDM planner (Caesar et al., 2021, arXiv 2106.11810), the line of a red light is an obstacle.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ...core.types import TrafficLight

REMEMBERED, WAITED = 1.6, 10.0
"""s for which a light that is no longer seen, e.g. behind a truck, is taken to be as it was, and longer for a vehicle
that stands at its line."""
GAIN, LARGEST = 0.4, 3.0
"""Share of a line's deviation from where it was measured before, at most so many metres, by which it is moved."""
ANOTHER = 10.0
"""m; a line that deviates by more twice in a row is another one."""
FOLLOWS = (("green", "amber"), ("amber", "red"))
"""Changes of colour that are believed at once; another one must be seen twice in a row."""
FURTHEST = 50.0
"""m ahead of the front bumper from which a line does not matter yet."""
STANDING, PASSED, PASSED_STANDING = 0.5, 1.0, 3.0
"""m/s below which the vehicle stands; m behind the front bumper from which a line is passed, and from which it is while
the vehicle stands at it, when the measured distance goes up and down."""
DECELERATION = {"red": 5.0, "amber": 2.6}
STOPPING = 7.0
"""m/s^2; a vehicle that would have to brake harder than DECELERATION drives on, one that is stopping than STOPPING."""


@dataclass(frozen=True, eq=False)
class _Light:
    """A light: stamp ns and epoch of the last sight; colour; doubted: another colour seen since; place of its line
    float64 [2] m in the fixed frame; strayed: whether it was last measured somewhere else; stops: whether the vehicle
    stops for it."""

    stamp: int
    epoch: int
    colour: str
    place: np.ndarray
    doubted: str = ""
    strayed: bool = False
    stops: bool = False


class StopLine:
    """Remembers the traffic light ahead over the frame sets of a drive.

    max_deceleration: of the vehicle, m/s^2.
    """

    def __init__(self, max_deceleration: float) -> None:
        self._most = max_deceleration
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
        before, stands = self._before, abs(speed) < STANDING
        if before is not None:
            kept = WAITED if before.stops and stands else REMEMBERED
            if before.epoch != epoch or not 0 <= stamp - before.stamp <= kept * 1e9:
                before = None
        self._light = light = before if seen is None else _updated(before, stamp, epoch, pose, seen)
        if light is None:
            return None
        distance = self.at_speed(pose, speed, front)
        self._light = replace(light, stops=distance is not None)
        return distance

    def at_speed(self, pose: np.ndarray, speed: float, front: float) -> float | None:
        """Returns what `ahead` would for the light that it remembers, without adding a moment."""
        light = self._light
        if light is None or light.colour == "green":
            return None
        distance = float((light.place - pose[:2, 3]) @ pose[:2, 0])
        room = distance - front
        limit = min(STOPPING if light.stops else DECELERATION[light.colour], self._most)
        passed = PASSED_STANDING if light.stops and abs(speed) < STANDING else PASSED
        stops = -passed <= room <= FURTHEST and speed**2 <= 2 * limit * max(room, 0.1)
        return distance if stops else None


def _updated(before: _Light | None, stamp: int, epoch: int, pose: np.ndarray, seen: TrafficLight) -> _Light:
    place = (pose @ (seen.distance, 0.0, 0.0, 1.0))[:2]
    off = place - before.place if before is not None else np.zeros(2)
    gap = float(np.hypot(*off))
    if before is None or (gap > ANOTHER and before.strayed):
        return _Light(stamp, epoch, seen.colour, place)
    off *= GAIN * min(1.0, LARGEST / max(gap, 1e-9))
    believed = seen.colour in (before.colour, before.doubted) or (before.colour, seen.colour) in FOLLOWS
    colour, doubted = (seen.colour, "") if believed else (before.colour, seen.colour)
    return _Light(stamp, epoch, colour, before.place + off, doubted, gap > ANOTHER, before.stops)
