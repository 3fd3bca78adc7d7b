"""The public open-loop planning protocols, each with its own frame, grid, boxes and averages.

UniAD (Hu et al., CVPR 2023), ST-P3 (Hu et al., ECCV 2022), VAD (Jiang et al., ICCV 2023), BEV-Planner (Li et al., CVPR
2024) with OmniDrive's variant (Wang et al., CVPR 2025), and SparseDrive (Sun et al., arXiv 2405.19620), checked against
the official implementations (tests/parity/test_planning.py). Common to all: ego box 4.084 x 1.85 m; a predicted
collision counts only if the ground-truth trajectory is free at that step; horizons are 1, 2 and 3 s, and "avg" is their
mean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from ...core.errors import InvalidInput
from ...core.types import STEPS
from ...world.agents.traffic import overlap
from ..tasks.planning_samples import DETECTED_VEHICLES, EMERGENCY, PEOPLE, AgentBoxes, Sample
from . import grids

HORIZON_STEPS = np.array([2, 4, 6])
"""Number of 0.5 s steps up to 1, 2 and 3 s."""
COARSE, COARSE_CELLS = 0.5, 200
FINE, FINE_CELLS = 0.1, 1000
SHORTEST_TURN = 1.0
"""Length of a step (m) below which BEV-Planner and OmniDrive assume a heading straight ahead."""
_DETECTED = frozenset(DETECTED_VEHICLES)
_VEHICLES = _DETECTED | frozenset(EMERGENCY)
_VEHICLES_AND_PEOPLE = _VEHICLES | frozenset(PEOPLE)


class Reduction(StrEnum):
    """Reduction of six steps to one value per horizon T."""

    AT = "at T"
    MEAN = "mean up to T"
    ANY = "any up to T"

    def __call__(self, steps: np.ndarray) -> np.ndarray:
        """Reduces steps [..., 6] to float64 [..., 3]."""
        values = np.asarray(steps, np.float64)
        if self is Reduction.AT:
            return values[..., HORIZON_STEPS - 1]
        if self is Reduction.MEAN:
            return np.cumsum(values, -1)[..., HORIZON_STEPS - 1] / HORIZON_STEPS
        return np.maximum.accumulate(values, -1)[..., HORIZON_STEPS - 1]


@dataclass(frozen=True, eq=False)
class Hits:
    """Collisions of one trajectory, bool [6] each. box: ego box with an obstacle; centre: its centre cell, None if the
    protocol has no such test; road: counts as a road violation, None without a map or test."""

    box: np.ndarray
    centre: np.ndarray | None = None
    road: np.ndarray | None = None


Tester = Callable[[np.ndarray], Hits]
"""Maps waypoints float64 [6, 2] m in base_link to their collisions in one sample."""


@dataclass(frozen=True)
class Protocol:
    """A protocol. prepare: rasterises a sample once, returns its tester; masked: every sample counts, with zero error
    for steps without truth (otherwise only samples with six valid steps count); precision: float type of waypoints;
    frame, grid, boxes, heading: descriptions of its conventions for the report; road: name of its road test or None.
    """

    name: str
    frame: str
    grid: str
    boxes: str
    heading: str
    l2: Reduction
    collision: Reduction
    prepare: Callable[[Sample], Tester]
    masked: bool = False
    precision: type = np.float32
    road: str | None = None
    road_excuses_truth: bool = False

    def counts(self, sample: Sample) -> bool:
        """Whether the protocol scores the sample."""
        return self.masked or sample.complete


@dataclass(frozen=True, eq=False)
class Score:
    """Per step [6]: l2 float64 m; hit: the prediction collides; truth_hit: the truth does; collision: hit and not
    truth_hit, as counted; centre_collision: the same for the centre cell; road: counted road violation."""

    l2: np.ndarray
    hit: np.ndarray
    truth_hit: np.ndarray
    collision: np.ndarray
    centre_collision: np.ndarray | None
    road: np.ndarray | None


class SampleScorer:
    """Scores predictions in one sample under one protocol; obstacles are rasterised once."""

    def __init__(self, protocol: Protocol, sample: Sample) -> None:
        if not protocol.counts(sample):
            raise InvalidInput("sample.mask", f"{protocol.name} counts only samples with six valid steps")
        self._protocol = protocol
        self._sample = sample
        self._test = protocol.prepare(sample)
        self._truth = self._test(sample.truth)

    def score(self, waypoints: np.ndarray) -> Score:
        """Scores waypoints, float [6, 2] m in base_link. Raises InvalidInput unless finite."""
        protocol, sample, truth = self._protocol, self._sample, self._truth
        points = np.asarray(waypoints, np.float64)
        if points.shape != (STEPS, 2) or not np.isfinite(points).all():
            raise InvalidInput("waypoints", f"want finite [{STEPS}, 2], got {list(points.shape)}")
        hits = self._test(points)
        kind = protocol.precision
        error = (points.astype(kind) - sample.truth.astype(kind)).astype(np.float64)
        road = hits.road
        if road is not None and truth.road is not None and protocol.road_excuses_truth:
            road = road & ~truth.road
        return Score(
            l2=np.hypot(error[:, 0], error[:, 1]) * sample.mask,
            hit=hits.box,
            truth_hit=truth.box,
            collision=hits.box & ~truth.box,
            centre_collision=None if hits.centre is None else hits.centre & ~truth.box,
            road=road,
        )


def _lidar(agents: AgentBoxes) -> np.ndarray:
    """Returns box corners [A, 7, 4, 2] m in the lidar frame (x right, y forward; origin ahead of base_link)."""
    ego = grids.box_corners(agents.centres, agents.yaws, agents.sizes[:, None])
    return np.stack([-ego[..., 1], ego[..., 0] - grids.LIDAR_AHEAD], -1)


def _base_link(agents: AgentBoxes) -> np.ndarray:
    return grids.box_corners(agents.centres, agents.yaws, agents.sizes[:, None])


def _of(agents: AgentBoxes, categories: frozenset[str]) -> np.ndarray:
    """bool [A]: which agents are of one of the categories."""
    return np.array([c in categories for c in agents.categories], bool)


def _unbroken(agents: AgentBoxes) -> np.ndarray:
    """bool [A, 7]: present now and at every step so far (futures stored as offsets end when an agent disappears)."""
    return np.logical_and.accumulate(agents.present, axis=1)


def _fill(cells: int, pixels: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Fills boxes with corner pixels [A, 7, 4, 2] (column, row) where drawn [A, 7], steps 1..6: bool [6, N, N]."""
    return np.stack([grids.fill(cells, pixels[drawn[:, step], step]) for step in range(1, STEPS + 1)])


def _uniad(sample: Sample) -> Tester:
    agents = sample.agents
    drawn = agents.present & _of(agents, _DETECTED)[:, None]
    occupied = _fill(COARSE_CELLS, np.round((_lidar(agents) + 50) / COARSE), drawn)
    # steps without a future frame are filled: the truth collides there, so the prediction's collision does not count
    occupied[~sample.mask] = True

    def test(waypoints: np.ndarray) -> Hits:
        forward_right = (waypoints * (1, -1)).astype(np.float32)
        return Hits(
            grids.covered(occupied, grids.shifted_cells(forward_right, COARSE)),
            grids.centre_covered(occupied, forward_right, COARSE),
        )

    return test


def _stp3(sample: Sample) -> Tester:
    agents = sample.agents
    seen = agents.present[:, :1] & (agents.visibility > 1)[:, None]
    drawn = agents.present & seen & _of(agents, _VEHICLES_AND_PEOPLE)[:, None]
    # boxes are in base_link but the footprint is in the lidar frame: the 0.986 m mismatch of the original
    occupied = _fill(COARSE_CELLS, np.round((_base_link(agents) + 50) / COARSE)[..., ::-1], drawn)

    def test(waypoints: np.ndarray) -> Hits:
        forward_left = waypoints.astype(np.float32)
        return Hits(
            grids.covered(occupied, grids.shifted_cells(forward_left, COARSE)),
            grids.centre_covered(occupied, forward_left, COARSE),
        )

    return test


def _vad(sample: Sample) -> Tester:
    agents = sample.agents
    drawn = _unbroken(agents) & _of(agents, _VEHICLES_AND_PEOPLE)[:, None]
    occupied = _fill(COARSE_CELLS, np.round((_lidar(agents) * (1, -1) + 50) / COARSE), drawn)

    def test(waypoints: np.ndarray) -> Hits:
        cells = grids.shifted_cells((waypoints * (1, -1)).astype(np.float32), COARSE)
        # image convention: row 0 is far ahead, so truncation acts in the other direction
        return Hits(grids.covered(occupied, np.stack([COARSE_CELLS - cells[..., 0], cells[..., 1]], -1)))

    return test


def _bev_planner(sample: Sample) -> Tester:
    agents = sample.agents
    drawn = agents.present & _of(agents, _DETECTED)[:, None]
    first = -grids.HALF_EXTENT + FINE / 2
    occupied = _fill(FINE_CELLS, np.trunc((_base_link(agents) - first) / FINE), drawn)
    curbs = None
    if sample.boundaries is not None:
        lines = grids.draw_lines(FINE_CELLS, FINE, sample.boundaries)
        curbs = np.broadcast_to(lines, (STEPS, *lines.shape))

    def test(waypoints: np.ndarray) -> Hits:
        points = waypoints.astype(np.float32)
        cells = grids.turned_cells(points, FINE, FINE_CELLS, SHORTEST_TURN)[..., ::-1]
        return Hits(
            grids.covered(occupied, cells),
            grids.centre_covered(occupied, points[:, ::-1], FINE),
            None if curbs is None else grids.covered(curbs, cells),
        )

    return test


def _omnidrive(sample: Sample) -> Tester:
    agents = sample.agents
    drawn = _unbroken(agents) & _of(agents, _VEHICLES)[:, None]
    occupied = _fill(FINE_CELLS, np.round((_base_link(agents) + 50) / FINE), drawn)
    drivable = sample.drivable

    def test(waypoints: np.ndarray) -> Hits:
        cells = grids.turned_cells(waypoints, FINE, FINE_CELLS, SHORTEST_TURN)[..., ::-1]
        return Hits(
            grids.covered(occupied, cells),
            grids.centre_covered(occupied, waypoints[:, ::-1], FINE),
            None if drivable is None else _off_road(drivable, waypoints),
        )

    return test


def _off_road(drivable: np.ndarray, waypoints: np.ndarray) -> np.ndarray:
    """bool [6]: the ego box covers a non-drivable cell; all False if it already does so at the start.

    The box is 4.08 m long here, its centre offset is along x regardless of heading, and short steps rotate it too.
    """
    ahead = np.array([grids.LIDAR_AHEAD + grids.CENTRE_AHEAD, 0.0])
    middles = np.concatenate([np.zeros((1, 2)), waypoints]) + ahead
    yaws = np.concatenate([[0.0], grids.step_headings(waypoints, 0.0)])
    corners = grids.box_corners(middles, yaws, np.array([4.08, grids.EGO_WIDTH]))
    off = np.array([grids.leaves(drivable, polygon) for polygon in np.round((corners + 50) / FINE)])
    return off[1:] & ~off[0]


def _sparsedrive(sample: Sample) -> Tester:
    agents = sample.agents
    x, y = -agents.centres[..., 1], agents.centres[..., 0] - grids.LIDAR_AHEAD
    size = np.broadcast_to(agents.sizes[:, None], agents.centres.shape)
    boxes = np.concatenate([np.stack([x, y, agents.yaws + np.pi / 2], -1), size], -1)[:, 1:]
    present = agents.present[:, 1:]

    def test(waypoints: np.ndarray) -> Hits:
        right_forward = np.stack([-waypoints[:, 1], waypoints[:, 0]], -1).astype(np.float32).astype(np.float64)
        yaw = central_headings(right_forward)
        middle = right_forward + grids.CENTRE_AHEAD * np.stack([np.cos(yaw), np.sin(yaw)], -1)
        ego = np.column_stack([middle, yaw, np.full(STEPS, grids.EGO_LENGTH), np.full(STEPS, grids.EGO_WIDTH)])
        return Hits((overlap(ego, boxes) & present).any(0))

    return test


def central_headings(points: np.ndarray) -> np.ndarray:
    """Returns headings float64 [6] rad of waypoints [6, 2] (right, forward): central differences from the origin on,
    backward at the end; straight ahead (pi/2) throughout if first and last are less than 0.5 m apart."""
    if np.linalg.norm(points[-1] - points[0]) < 0.5:
        return np.full(len(points), np.pi / 2)
    path = np.concatenate([np.zeros((1, 2)), points])
    change = np.concatenate([path[2:] - path[:-2], path[-1:] - path[-2:-1]])
    return np.arctan2(change[:, 1], change[:, 0])


UNIAD = Protocol(
    name="UniAD",
    frame="lidar (x right, y forward)",
    grid="0.5 m, 200 x 200",
    boxes="vehicles of the 10 detection classes, as annotated in each future frame",
    heading="never turned",
    l2=Reduction.AT,
    collision=Reduction.AT,
    prepare=_uniad,
    masked=True,
)
STP3 = Protocol(
    name="ST-P3",
    frame="boxes in base_link, trajectories in lidar (0.986 m apart, as published)",
    grid="0.5 m, 200 x 200",
    boxes="vehicles and people seen now (visibility above 1), as annotated in each future frame",
    heading="never turned",
    l2=Reduction.MEAN,
    collision=Reduction.MEAN,
    prepare=_stp3,
)
VAD = Protocol(
    name="VAD",
    frame="lidar (x right, y forward)",
    grid="0.5 m, 200 x 200, first row far ahead",
    boxes="vehicles and people present now, until they vanish",
    heading="never turned",
    l2=Reduction.MEAN,
    collision=Reduction.MEAN,
    prepare=_vad,
)
BEV_PLANNER = Protocol(
    name="BEV-Planner",
    frame="base_link (x forward, y left)",
    grid="0.1 m, 1000 x 1000, float32",
    boxes="vehicles of the 10 detection classes, as annotated in each future frame",
    heading="last step, straight ahead below 1 m",
    l2=Reduction.MEAN,
    collision=Reduction.ANY,
    prepare=_bev_planner,
    road="curb",
    road_excuses_truth=True,
)
OMNIDRIVE = Protocol(
    name="OmniDrive",
    frame="base_link (x forward, y left)",
    grid="0.1 m, 1000 x 1000, float64",
    boxes="vehicles present now, until they vanish",
    heading="last step, straight ahead below 1 m",
    l2=Reduction.MEAN,
    collision=Reduction.ANY,
    prepare=_omnidrive,
    precision=np.float64,
    road="road boundary",
)
SPARSEDRIVE = Protocol(
    name="SparseDrive",
    frame="lidar (x right, y forward)",
    grid="none: exact polygons, touching counts",
    boxes="every annotated object of each future frame",
    heading="central differences, straight ahead when standing",
    l2=Reduction.MEAN,
    collision=Reduction.MEAN,
    prepare=_sparsedrive,
)
PROTOCOLS: tuple[Protocol, ...] = (UNIAD, STP3, VAD, BEV_PLANNER, OMNIDRIVE, SPARSEDRIVE)
