"""Whether what an answer gives as its reason is really there, by the scene graph.

"Slow down, because a pedestrian crosses the road." names a pedestrian. A thing is there if the cameras show it (few
pixels are enough here: nobody can be blamed for naming what is hardly seen) and, where the reason says ahead, if it is.
Numbers are not judged: 10 m instead of 15 m is an error of distance, not a thing that is absent.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ...core.types import Command
from ..agents.traffic import AMBER, GREEN, RED
from .counterfactuals import BENT
from .scene_relations import ROAD_USERS, SceneView

_USERS = re.compile(rf"\b({'|'.join(sorted((*ROAD_USERS, 'vehicle', 'person'), key=len, reverse=True))})(?:e?s)?\b")
_COLOUR = re.compile(rf"\b({RED}|{AMBER}|{GREEN})\b")
_ALIKE = {"person": ("pedestrian",), "bicycle": ("bicycle", "cyclist"), "cyclist": ("cyclist", "bicycle"),
          "vehicle": ROAD_USERS[:6]}  # fmt: skip
_BEND_REACH = 40.0


@dataclass(frozen=True)
class Surroundings:
    """What may be named: ahead, anywhere: kinds of road users; light: colour that the cameras show, or None; junction:
    one lies ahead or around the car; bends: the road does, or the car turns."""

    ahead: frozenset[str]
    anywhere: frozenset[str]
    light: str | None
    junction: bool
    bends: bool

    @classmethod
    def of(cls, view: SceneView) -> Surroundings:
        """Of a view."""
        shown = [t for t in (*view.things, *view.doubtful) if t.word in ROAD_USERS]
        return cls(
            frozenset(t.word for t in shown if t.x > 0.0), frozenset(t.word for t in shown), view.light,
            view.place in ("before", "on"),
            view.turning or view.command is not Command.STRAIGHT or abs(view.bend(_BEND_REACH)) > 0.5 * BENT,
        )  # fmt: skip


def absent(text: str, there: Surroundings) -> list[str] | None:
    """What the reason of an answer names that is not there; None where it gives no reason that names anything."""
    _, because, reason = text.lower().partition("because")
    if not because:
        return None
    named: dict[str, bool] = {}
    ahead = "ahead" in reason or "cross" in reason
    for word in _USERS.findall(reason):
        known = there.ahead if ahead else there.anywhere
        named[word] = any(kind in known for kind in _ALIKE.get(word, (word,)))
    if "light" in reason:
        colour = _COLOUR.search(reason)
        named["light"] = there.light is not None and (colour is None or colour[1] == there.light)
    if "junction" in reason:
        named["junction"] = there.junction
    if re.search(r"\b(bends?|turn)\b", reason):
        named["bend"] = there.bends
    return [name for name, shown in named.items() if not shown] if named else None
