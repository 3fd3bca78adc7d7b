"""Robustness of the chain to a lost camera, image noise, pose errors and latency: loss of driving score."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from ...core import geometry
from ...core.classes import CAMERAS
from ...core.errors import InvalidInput
from ...core.types import NANOSECONDS, REASONING_MAX_AGE, CameraFrames, Reasoning
from ...pipeline import SparseOccVLA
from ...planning.trajectory_follower import TimedPath
from ...world.sim.simulator import Simulator
from ..metrics.intervals import mean_of
from ..report.plots import Bar, draw
from ..report.tables import markdown_table
from .expert import Expert
from .policies import ChainPolicy
from .scores import DriveScores

TURN_PER_METRE = np.radians(5.0)
"""Heading noise (rad) per metre of position noise: a localisation error affects both."""
PLOT = "robustness.png"


@dataclass(frozen=True)
class Disturbance:
    """Disturbance of a drive.

    Attributes:
        lost: Name of a camera that delivers no images.
        noise: Standard deviation of image noise in grey levels (of 255), independent per pixel.
        pose: Standard deviation of the networks' ego position, m, independent per frame set; heading: TURN_PER_METRE.
        latency: Seconds from the images to the path.
        late_sets: Delay of the reasoning in frame sets; reasoning older than REASONING_MAX_AGE is dropped.
    """

    lost: str = ""
    noise: float = 0.0
    pose: float = 0.0
    latency: float = 0.0
    late_sets: int = 0

    def disturbed(self, frames: CameraFrames, rng: np.random.Generator) -> CameraFrames:
        """Returns the disturbed frame set that the networks receive."""
        if self.lost in frames.names:
            row = frames.names.index(self.lost)
            images, valid = frames.images.copy(), frames.valid.copy()
            images[row], valid[row] = 0, False
            frames = replace(frames, images=images, valid=valid)
        if self.noise:
            noise = rng.normal(0.0, self.noise, frames.images.shape).astype(np.float32)
            images = np.clip(np.rint(frames.images + noise), 0, 255).astype(np.uint8)
            frames = replace(frames, images=np.where(frames.valid[:, None, None, None], images, 0).astype(np.uint8))
        if self.pose:
            x, y, turn = rng.normal(0.0, self.pose, 3)
            off = geometry.planar(float(x), float(y), float(turn * TURN_PER_METRE))
            frames = replace(frames, ego=replace(frames.ego, pose=frames.ego.pose @ off))
        return frames


GROUPS: dict[str, dict[str, Disturbance]] = {
    "lost": {camera: Disturbance(lost=camera) for camera in CAMERAS},
    "noise": {f"{level:g}": Disturbance(noise=level) for level in (8.0, 16.0, 32.0)},
    "pose": {f"{metres:g}": Disturbance(pose=metres) for metres in (0.1, 0.3, 1.0)},
    "latency": {f"{seconds:g}": Disturbance(latency=seconds) for seconds in (0.1, 0.3, 0.5, 1.0)},
    "reasoning": {f"{0.5 * sets:g}": Disturbance(late_sets=sets) for sets in (1, 2, 4)},
}
UNITS = {"lost": "", "noise": "of 255", "pose": "m", "latency": "s", "reasoning": "s late"}
DISTURBED = {f"chain+{group}:{name}": d for group, members in GROUPS.items() for name, d in members.items()}
"""Policies by name."""


class LateReasoning:
    """Delays reasonings by a number of frame sets; returns None before the first, and when they are too old."""

    def __init__(self, sets: int) -> None:
        self._said: deque[Reasoning] = deque(maxlen=sets + 1)

    def __call__(self, own: Reasoning) -> Reasoning | None:
        self._said.append(own)
        old = self._said[0]
        whole = len(self._said) == self._said.maxlen
        return old if whole and own.stamp - old.stamp <= REASONING_MAX_AGE * NANOSECONDS else None


class DisturbedChain(ChainPolicy):
    """The chain under one of DISTURBED, reproducible per seed. Latency is applied by `rollout.drive`.

    Args:
        model: As for ChainPolicy; other policies may use it between drives.
        name: Row name in the tables.
        disturbance: The disturbance to apply.
    """

    def __init__(self, model: SparseOccVLA, name: str, disturbance: Disturbance) -> None:
        super().__init__(model, name)
        self._disturbance = disturbance

    def begin(self, simulator: Simulator, expert: Expert) -> None:
        super().begin(simulator, expert)
        self._rng = np.random.default_rng([simulator.scene.seed, 53])
        self._late = LateReasoning(self._disturbance.late_sets)

    def frames(self) -> CameraFrames:
        return self._disturbance.disturbed(super().frames(), self._rng)

    def plan(self) -> TimedPath | None:
        if not self._disturbance.late_sets:
            return super().plan()
        before, self._model.reasoning_filter = self._model.reasoning_filter, self._late
        try:
            return super().plan()
        finally:
            self._model.reasoning_filter = before


def groups_of(words: Sequence[str]) -> tuple[str, ...]:
    """Returns the policies of the named groups, or of all for ["all"]. Raises InvalidInput("vary") for others."""
    chosen = list(GROUPS) if list(words) == ["all"] else words
    for word in (w for w in chosen if w not in GROUPS):
        raise InvalidInput("vary", f"{word!r} is not one of {', '.join(GROUPS)}, and not all")
    return tuple(f"chain+{group}:{name}" for group in chosen for name in GROUPS[group])


def table(rows: Sequence[DriveScores]) -> tuple[list[str], list[list[str]], list[Bar]]:
    """Returns header, rows and bars: driving score and success of the chain with and without disturbance, and the loss
    paired by drive."""
    found: dict[str, list[DriveScores]] = {}
    for row in rows:
        name = row.policy.split()[0]
        name = "chain" if name == "nodes" else name  # driven with --ros
        if name in ("chain", *DISTURBED):
            found.setdefault(name, []).append(row)
    own = {(r.seed, r.scenario): r for r in found.get("chain", ())}
    head = ["disturbance", "drives", "driving score", "success %", "driving score lost"]
    lines, bars = [], []
    for series, name in enumerate(n for n in ("chain", *DISTURBED) if n in found):
        group, _, level = name.removeprefix("chain").removeprefix("+").partition(":")
        title = f"{group} {level} {UNITS[group]}".strip() if group else "none"
        scores = mean_of([r.driving_score for r in found[name]])
        pairs = [(own[r.seed, r.scenario], r) for r in found[name] if (r.seed, r.scenario) in own]
        lost = mean_of([a.driving_score - b.driving_score for a, b in pairs]) if group and pairs else None
        success = mean_of([100.0 * r.success for r in found[name]])
        lines.append(
            [title, str(len(found[name])), scores.text(1.0), success.text(1.0), "" if lost is None else lost.text(1.0)]
        )
        bars.append(Bar(title, scores.value, scores.interval, list(GROUPS).index(group) + 1 if series else 0))
    return head, lines, bars


def section(rows: Sequence[DriveScores], folder: Path) -> str:
    """Returns the Markdown of the table and saves its plot to a folder; "" without disturbed drives."""
    if not any(r.policy.split()[0] in DISTURBED for r in rows):
        return ""
    head, lines, bars = table(rows)
    cv2.imwrite(str(folder / PLOT), draw("Driving score under disturbances", bars)[..., ::-1])
    text = [
        "## Robustness",
        "",
        markdown_table(head, lines),
        "",
        f"![driving score]({PLOT})",
        "",
        "A lost camera sends nothing; noise is anew in every pixel; a wrong pose is what the networks are told, while",
        "the vehicle knows where it is; latency is from the images to the path, late reasoning that of sets before.",
        "",
    ]
    return "\n".join(text)
