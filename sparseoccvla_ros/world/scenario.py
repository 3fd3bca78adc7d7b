"""Layout of a world drawn from a seed: its streets, the start of the ego's drive, the construction site.

The junction, the streets' bends and cross-sections, the start of the drive, weather, signal timing and driving styles
differ from seed to seed.

Widths are those of real urban streets (lanes 3.0 to 3.6 m, parking 2.3 m, cycle lanes 1.5 m; RASt 06, FGSV 2006).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .roads.curves import Piece, chain
from .roads.static_scene import Furnishing
from .roads.streets import STOP_LINE, Street, Streets, reversed_piece

MANEUVERS = ("left", "straight", "right")
FAR_END = 620.0
"""Distance from the junction at which the streets end, beyond the reach of any drive, m."""
NOMINAL = 20.0
"""Driving time in s for which the land beside the streets is built up."""
_APART = 42.0
"""Minimum distance of the two streets' centrelines away from the junction, m."""


@dataclass(frozen=True)
class Plan:
    """Properties of a world that do not change when its traffic is drawn again.

    maneuver: left, straight or right; lane: index of the ego's lane, 0 the innermost; start: arc length on the main
    street of the ego's rear axle two seconds before the drive begins, negative before the junction; desired: the ego's
    speed on a free road in m/s; closed: the direction (1 along the main street, -1 against it) whose outer lane is
    closed by a construction site, 0 for none.
    """

    streets: Streets
    furnishing: Furnishing
    maneuver: str
    lane: int
    start: float
    desired: float
    closed: int

    @property
    def beyond(self) -> bool:
        """Whether the drive begins on the far side of the junction."""
        return self.start > 0


def draw(rng: np.random.Generator, maneuver: str | None) -> Plan:
    """Draw the plan of a world; maneuver: the one to drive, drawn if None."""
    chosen = str(rng.choice(MANEUVERS, p=[0.3, 0.45, 0.25]))
    behind = rng.random() < 0.24 and chosen == "straight"
    chosen = maneuver or chosen
    beyond = bool(behind and chosen == "straight")
    tee = rng.random() < 0.4
    side = {"left": 1.0, "right": -1.0}.get(chosen, float(rng.choice([-1.0, 1.0])))
    arms = (side,) if tee else (1.0, -1.0)
    main = _section(rng, 1 if rng.random() < 0.4 else 2)
    cross = _section(rng, 2 if rng.random() < 0.15 else 1, median=False)
    lines = _lines(rng, main.half_width, cross.half_width, arms)
    desired = float(rng.uniform(8.0, 11.5) if len(main.lanes) == 1 else rng.uniform(9.0, 13.5))
    stop = cross.half_width + STOP_LINE[1]
    if beyond:
        start = cross.half_width + float(rng.uniform(10.0, 50.0))
    else:
        # Far starts make most of a drive plain road; turning drives mostly start near, to contain the turn.
        afar = rng.random() < (0.6 if chosen == "straight" else 0.25)
        start = -stop - float(rng.uniform(45.0, 140.0) if afar else rng.uniform(45.0, 75.0))
    site, closed = _site(rng, main, start)
    lane = 0 if chosen == "left" else len(main.lanes) - 1 if chosen == "right" else int(rng.integers(len(main.lanes)))
    if closed == 1 and lane == len(main.lanes) - 1:
        site, closed = None, 0
    way = 0.85 * desired * NOMINAL
    ends = [start - 55.0, max(start + way + 55.0, 90.0) if chosen == "straight" else 100.0]
    after = max(way + start, 30.0) + 55.0
    reach = {s: 100.0 if chosen == "straight" or s != side else max(after, 90.0) for s in arms}
    low = -reach[-1.0] if -1.0 in arms else main.half_width + 2.0
    high = reach[1.0] if 1.0 in arms else -main.half_width - 2.0
    streets = Streets(
        main=replace(main, pieces=tuple(lines[0]), built=(min(ends[0], -90.0), ends[1])),
        cross=replace(cross, pieces=tuple(lines[1]), built=(low, high)),
        worn=float(rng.uniform(0.05, 0.6)),
        arms=arms,
        corner=float(rng.uniform(5.0, 8.0)),
        asphalt=float(np.exp(rng.uniform(np.log(0.65), np.log(2.2)))),
        shift=(float(rng.uniform(-400, 400)), float(rng.uniform(-400, 400))),
        striped=bool(rng.random() < 0.15),
        dryness=float(rng.uniform(-0.4, 0.8)),
    )
    low_floors = int(rng.integers(1, 4))
    furnishing = Furnishing(
        site, float(rng.uniform(0.2, 0.9)), float(rng.uniform(0.25, 0.95)), float(rng.uniform(22, 38)),
        (low_floors, low_floors + int(rng.integers(1, 5))), float(rng.uniform(0.0, 0.5)), float(rng.uniform(0.0, 1.0)),
    )  # fmt: skip
    return Plan(streets, furnishing, chosen, lane, start, desired, closed)


def _section(rng: np.random.Generator, lanes: int, median: bool = True) -> Street:
    """Draw a street's cross-section; it has no centreline yet."""
    island = float(rng.uniform(0.5, 1.6)) if median and rng.random() < (0.55 if lanes == 2 else 0.2) else 0.0
    width = float(rng.uniform(3.0, 3.5) if lanes == 2 else rng.uniform(3.15, 3.6))
    inner = island + 0.45 if island else 0.12
    outer = inner + width * lanes
    centres = tuple(inner + width * (k + 0.5) for k in range(lanes))
    dashed = (inner + width,) if lanes == 2 else ()
    kind = rng.choice(["plain", "cycling", "parking", "both"], p=[0.3, 0.2, 0.35, 0.15])
    edge, solid, parking, cycling = outer + 0.06, [outer + 0.06], 0.0, 0.0
    if kind in ("cycling", "both"):
        cycling = edge + 0.8
        edge += 1.6
        solid.append(edge) if kind == "both" else None
    if kind in ("parking", "both"):
        parking = edge + 1.25
        edge += 2.45
    # Without a cycle lane, cyclists keep to the right of a two-lane road without parking; other roads have none.
    if not cycling and lanes == 2 and not parking:
        cycling = outer - 0.25
    half_width = edge + (0.0 if parking else float(rng.uniform(0.25, 0.6)))
    return Street((), half_width, centres, island, dashed, tuple(solid), parking, cycling)


def _bend(rng: np.random.Generator, straight: tuple[float, float], radius: tuple[float, float]) -> list:
    """Draw lengths and curvatures of an arm with one bend, straight near the junction and far from it."""
    near, turned = float(rng.uniform(*straight)), float(rng.uniform(*radius))
    angle, sign = float(rng.uniform(0.25, 0.85)), float(rng.choice([-1.0, 1.0]))
    return [(near, 0.0), (angle * turned, sign / turned), (FAR_END - near - angle * turned, 0.0)]


def _lines(
    rng: np.random.Generator, main: float, cross: float, arms: tuple[float, ...]
) -> tuple[list[Piece], list[Piece]]:
    """Draw centrelines of both streets that are near each other only at the junction."""
    straight: list = [(FAR_END, 0.0)]
    for _ in range(40):
        shapes = [_bend(rng, (30.0, 75.0), (70.0, 220.0)) if rng.random() < 0.45 else straight for _ in range(2)]
        one = _two_ways(shapes[0], shapes[1], 0.0)
        shapes = [_bend(rng, (26.0, 50.0), (55.0, 140.0)) if rng.random() < 0.6 else straight for _ in range(2)]
        two = _two_ways(shapes[0], shapes[1], np.pi / 2)
        if len(arms) == 1:
            # A single arm begins at the far kerb, because the markings need the whole junction.
            kept = [p for p in two if (p.s0 >= 0 if arms[0] > 0 else p.s1 <= 0)]
            stub = chain([(main, 0.0)], 0.0, -main if arms[0] > 0 else 0.0, np.pi / 2, -main if arms[0] > 0 else 0.0)
            two = [*stub, *kept] if arms[0] > 0 else [*kept, *stub]
        if _apart(one, two):
            return one, two
    one, two = _two_ways(straight, straight, 0.0), _two_ways(straight, straight, np.pi / 2)
    if len(arms) == 1:
        low, high = (-main, FAR_END) if arms[0] > 0 else (-FAR_END, main)
        two = chain([(high - low, 0.0)], 0.0, low, np.pi / 2, s0=low)
    return one, two


def _two_ways(forward: list, backward: list, yaw: float) -> list[Piece]:
    """Return a centreline through the origin with one shape ahead and another behind."""
    ahead = chain(forward, 0.0, 0.0, yaw)
    behind = chain(backward, 0.0, 0.0, yaw + np.pi)
    return [reversed_piece(p) for p in reversed(behind)] + ahead


def _apart(one: list[Piece], two: list[Piece]) -> bool:
    points = []
    for pieces in (one, two):
        s = np.arange(-420.0, 420.0, 6.0)
        s = s[(s >= pieces[0].s0) & (s <= pieces[-1].s1)]
        at = np.zeros((len(s), 2))
        for piece in pieces:
            inside = (s >= piece.s0) & (s <= piece.s1)
            at[inside] = np.stack(piece.pose(s), -1)[inside, :2]
        points.append((s, at))
    (s, a), (t, b) = points
    distance = np.linalg.norm(a[:, None] - b[None], axis=-1)
    # Near the junction the required distance is proportional to the distance from it.
    return bool((distance >= np.minimum(0.7 * np.maximum(np.abs(s)[:, None], np.abs(t)), _APART)).all())


def _site(rng: np.random.Generator, main: Street, start: float) -> tuple[tuple[float, float] | None, int]:
    """Draw the construction site (Furnishing.site) and the direction whose outer lane it closes (Plan.closed)."""
    side, along = float(rng.choice([-1.0, 1.0])), float(rng.uniform(start + 25.0, start + 150.0))
    if rng.random() > 0.6 or not (main.parking or len(main.lanes) == 2):
        return None, 0
    if -62.0 < along < 62.0:  # up to 34 m of cones on either side must leave the junction free
        along = -75.0 if start + 25.0 < -75.0 else 65.0 + float(rng.uniform(0, 20))
    # Traffic keeps right: along the street on its right side, against it on its left.
    return (along, side), (0 if len(main.lanes) == 1 else 1 if side < 0 else -1)
