"""Stage 3, planning: trains anchor scorer and diffusion decoder on the cached queries of a frozen encoder.

Sources: positives, L1 on the deltas of the positive anchor, one noise time per sample below 40 of 1000 and the sum over
decoder layers follow DiffusionDrive's nuScenes branch; BCE over the anchors is from SparseOccVLA (arXiv 2601.06474).
The positive is the nearest anchor of the commanded group, because the planner selects from that group only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from ...core import geometry
from ...core.errors import InvalidInput
from ...core.types import STEPS
from ...data.dataset import COMMANDS
from ...planning.ego_history import FEATURE_NAMES, PAST_SECONDS
from ...planning.losses import positive_anchors, score_loss, trajectory_loss
from ...planning.model.layers import SceneInputs
from ...planning.obstacles.grid import seen_from, with_stop_line
from ...planning.planner import Planner
from ...planning.trajectory_validator import kinematic_failures
from ...reasoning.model.ego_motion import constant_velocity
from ..features.dataset import FeatureSample
from ..task import Stage, Validation
from ..visualize import plans_picture

NOISE_TIMES = 40
"""Noise times in training are 0 .. NOISE_TIMES - 1 (DiffusionDrive, nuScenes)."""
SCORED_AT = {"1s": 1, "2s": 3, "3s": 5}
REASONING_FIELDS = ("token", "anchor_scores")
"""A sample's cached reasoning; with the suffix `_before`, that of the previous frame set (its own if too long ago)."""
OFF_ROUTE = (0.8, 0.05)
"""Standard deviations of the vehicle's offset from its route (m) and of its heading (rad) in samples beside it."""
_ROUTE_NOISE = 0.15
"""Standard deviation (m) of the shift of all target points: a map and a localisation are not exact."""
_MASKS = 3 * len(PAST_SECONDS) + 5
_PICTURED = 6
_NOISE = {"x": 0.05, "y": 0.03, "yaw": 0.005, "vx": 0.1, "vy": 0.03, "yaw_rate": 0.01, "ax": 0.15, "ay": 0.1}
"""Standard deviations of the noise on ego features (m, rad, m/s, rad/s, m/s^2): the synthetic ones are exact."""


@dataclass(frozen=True)
class PlanningStageSettings:
    """Settings of stage 3, planning.

    score, score_all, trajectory: weights of the losses: anchor scores within the commanded group, over all anchors, and
    the L1 of the positive anchor's trajectory (m). no_reasoning: share of samples without reasoning, as when it is too
    late; no_scores: share of the others without the language model's anchor scores, for ablations that omit them; late:
    share with the reasoning of the previous frame set, as with a slow language model; no_history: share with truncated
    ego history, as at the start of a drive; no_route: share of samples with the command only, without target points;
    other_speed: share of samples with the ego motion and the expert's plan of a speed variant (speed_variants.py);
    off_route: share of samples with the vehicle beside its route (`off_route`).
    """

    score: float = 1.0
    score_all: float = 0.3
    trajectory: float = 1.0
    no_reasoning: float = 0.3
    no_scores: float = 0.15
    late: float = 0.25
    no_history: float = 0.1
    no_route: float = 0.3
    other_speed: float = 0.6
    off_route: float = 0.5

    def __post_init__(self) -> None:
        for spec in fields(self):
            if not 0.0 <= getattr(self, spec.name) < 1e3:
                raise InvalidInput(spec.name, f"want a number from 0, got {getattr(self, spec.name)}")


@dataclass(frozen=True, eq=False)
class PlanningBatch:
    """Batch of stage 3, planning. features [B, Q, C]; centres [B, Q, 3] m; ego [B, F]; command int64 [B]; truth
    [B, 6, 2] m; token [B, D] and anchor_scores [B, A], or None if no reasoning is cached (NaN and 0 for a sample
    without reasoning); target_points [B, R, 2] m and obstacles uint8 [B, CHANNELS, *SHAPE], or None if the planner has
    none (NaN for a sample without a route); samples: for validation."""

    features: Tensor
    centres: Tensor
    ego: Tensor
    command: Tensor
    truth: Tensor
    token: Tensor | None
    anchor_scores: Tensor | None
    target_points: Tensor | None
    obstacles: Tensor | None
    samples: tuple[FeatureSample, ...]


class PlanningStage(Stage[PlanningBatch]):
    """Trains a Planner. uses_reasoning: it is cached, and the planner learns to plan with and without it."""

    name = "planning"

    def __init__(
        self, planner: Planner, settings: PlanningStageSettings | None = None, uses_reasoning: bool = False
    ) -> None:
        super().__init__()
        self.uses_reasoning = uses_reasoning
        self.planner = planner.requires_grad_(True)
        self.settings = settings or PlanningStageSettings()
        sigma = torch.tensor([_NOISE.get(name.split("(")[0], 0.0) for name in FEATURE_NAMES])
        self.register_buffer("sigma", sigma, persistent=False)

    def augment(self, sample: FeatureSample, rng: np.random.Generator) -> FeatureSample:
        """Draw the sample's speed, whether it has a route, and whether its reasoning is in time, late or partial."""
        arrays, chosen = sample.arrays, self.settings
        if "other_ego" in arrays:
            variant = int(rng.integers(len(arrays["other_ego"])))
            if rng.random() < chosen.other_speed:
                ego, future = (arrays[name][variant] for name in ("other_ego", "other_future"))
                if "other_stop_line" in arrays:
                    line = float(arrays["other_stop_line"][variant])
                    grid = with_stop_line(arrays["obstacles"], None if np.isnan(line) else line)
                    arrays = arrays | {"obstacles": grid}
                sample = replace(sample, ego=ego, future=future, arrays=arrays)
        if "target_points" in arrays:
            if rng.random() < chosen.off_route and not np.isnan(arrays["target_points"]).any():
                sample = off_route(sample, float(rng.normal(0.0, OFF_ROUTE[0])), float(rng.normal(0.0, OFF_ROUTE[1])))
                arrays = sample.arrays
            points = arrays["target_points"] + rng.normal(0.0, _ROUTE_NOISE, (1, 2)).astype(np.float32)
            lost = rng.random() < chosen.no_route
            arrays = arrays | {"target_points": np.full_like(points, np.nan) if lost else points}
            sample = replace(sample, arrays=arrays)
        if "token" not in arrays:
            return sample
        late, absent, silent = (rng.random() < p for p in (chosen.late, chosen.no_reasoning, chosen.no_scores))
        token, scores = (arrays[f"{name}_before" if late else name] for name in REASONING_FIELDS)
        if absent:
            token = np.full_like(token, np.nan)
        if absent or silent:
            scores = np.zeros_like(scores)
        return replace(sample, arrays=arrays | dict(zip(REASONING_FIELDS, (token, scores), strict=True)))

    def collate(self, samples: Sequence[FeatureSample]) -> PlanningBatch:
        """Stack samples."""

        def stack(name: str) -> Tensor | None:
            if name not in samples[0].arrays:
                return None
            return torch.from_numpy(np.stack([s.arrays[name] for s in samples]))

        features, centres = stack("features"), stack("centres")
        assert features is not None
        assert centres is not None
        return PlanningBatch(
            features, centres,
            torch.from_numpy(np.stack([s.ego for s in samples])), torch.tensor([s.command for s in samples]),
            torch.from_numpy(np.stack([s.waypoints for s in samples])), stack("token"), stack("anchor_scores"),
            stack("target_points"), stack("obstacles"), tuple(samples),
        )  # fmt: skip

    def forward(self, batch: PlanningBatch) -> dict[str, Tensor]:
        """Returns the loss terms; noise is drawn from torch's global generator."""
        planner, chosen = self.planner, self.settings
        ego = self.blurred(batch.ego)
        scene = SceneInputs(batch.features, batch.centres, ego, batch.token, batch.target_points, batch.obstacles)
        logits = planner.scorer(planner.anchor_waypoints, scene)
        if batch.anchor_scores is not None:
            logits = logits + batch.anchor_scores
        positive, group = positive_anchors(planner.anchor_waypoints, batch.truth, batch.command)
        valid = torch.ones(batch.truth.shape[:2], dtype=torch.bool, device=batch.truth.device)
        memory, condition = planner.decoder.condition(scene)
        clean = planner.anchor_deltas.expand(len(ego), -1, -1, -1)
        time = torch.randint(0, NOISE_TIMES, (len(ego),), device=clean.device)
        noisy = planner.schedule.add_noise(clean, torch.randn_like(clean), time).clamp(-1.0, 1.0)
        layers = planner.decoder(noisy, time, clean, logits.detach().sigmoid(), memory, condition)
        drawn = [
            trajectory_loss(planner.normaliser.metres(x0).cumsum(-2), batch.truth, positive, valid) for x0 in layers
        ]
        return {
            "score": chosen.score * score_loss(logits.gather(1, group), positive - group[:, 0], valid),
            "score_all": chosen.score_all * score_loss(logits, positive, valid),
            "trajectory": chosen.trajectory * torch.stack(drawn).sum(),
        }

    def blurred(self, ego: Tensor) -> Tensor:
        """Returns ego features [B, F] with measurement noise, and in some rows with truncated history."""
        ego = ego + torch.randn_like(ego) * self.sigma
        cut = torch.rand(len(ego), device=ego.device) < self.settings.no_history
        known = torch.randint(0, len(PAST_SECONDS), (len(ego),), device=ego.device)
        known = torch.where(cut, known, torch.full_like(known, len(PAST_SECONDS)))
        gone = torch.arange(len(PAST_SECONDS), device=ego.device) >= known[:, None]
        drop = torch.zeros_like(ego, dtype=torch.bool)
        drop[:, : 3 * len(PAST_SECONDS)] = gone.repeat_interleave(3, 1)
        drop[:, _MASKS : _MASKS + len(PAST_SECONDS)] = gone
        for name in ("ax", "ay", "has_acceleration"):
            drop[:, FEATURE_NAMES.index(name)] = gone[:, 0]
        return torch.where(drop, torch.zeros_like(ego), ego)

    def _told_otherwise(self, batch: PlanningBatch) -> dict[str, np.ndarray]:
        """Returns chosen paths [B, 6, 2] m without and with another sample's reasoning, if any is cached, and without
        target points, if the planner has any."""
        given = batch.token, batch.anchor_scores, batch.target_points
        heard: dict[str, tuple[Tensor | None, Tensor | None, Tensor | None]] = {}
        if batch.token is not None and batch.anchor_scores is not None:
            half = max(1, len(batch.token) // 2)
            heard["l2_no_reasoning"] = None, None, given[2]
            heard["l2_shuffled_reasoning"] = batch.token.roll(half, 0), batch.anchor_scores.roll(half, 0), given[2]
        if batch.target_points is not None:
            heard["l2_no_route"] = *given[:2], None
        out = {}
        _, group = positive_anchors(self.planner.anchor_waypoints, batch.truth, batch.command)
        row = torch.arange(len(batch.truth), device=batch.truth.device)
        for name, told in heard.items():
            logits, paths = self.planner(batch.features, batch.centres, batch.ego, *told, batch.obstacles)
            picked = group.gather(1, logits.gather(1, group).argmax(1, keepdim=True))[:, 0]
            out[name] = paths[row, picked].cpu().numpy()
        return out

    def plans(self, batch: PlanningBatch, swapped: bool = False) -> tuple[Tensor, Tensor]:
        """Returns (logits [B, A], waypoints [B, A, 6, 2] m) as online; swapped: with the scene of another sample."""
        features, obstacles = batch.features, batch.obstacles
        if swapped:
            features, obstacles = features.roll(1, 0), None if obstacles is None else obstacles.roll(1, 0)
        return self.planner(
            features, batch.centres, batch.ego, batch.token, batch.anchor_scores, batch.target_points, obstacles
        )

    def validate(self, batches: Iterable[PlanningBatch]) -> Validation:
        """L2 of the chosen plan at 1, 2 and 3 s (m, mean over samples), with constant motion as baselines.

        score: minus the mean of the three. l2_swapped: L2 with the scene of another sample, to show how much the plan
        depends on it; drivable: share of chosen plans within the gate's kinematic limits.
        """
        rows: dict[str, list[np.ndarray]] = {}
        shown: list[tuple[FeatureSample, np.ndarray, np.ndarray, int]] = []
        with torch.inference_mode():
            for batch in batches:
                anchors = self.planner.anchor_waypoints
                positive, group = positive_anchors(anchors, batch.truth, batch.command)
                logits, paths = self.plans(batch)
                picked = group.gather(1, logits.gather(1, group).argmax(1, keepdim=True))[:, 0]
                swapped, others = self.plans(batch, swapped=True)
                blind = group.gather(1, swapped.gather(1, group).argmax(1, keepdim=True))[:, 0]
                row = torch.arange(len(paths), device=paths.device)
                chosen, truth = paths[row, picked].cpu().numpy(), batch.truth.cpu().numpy()
                own = paths[row[:, None], group]
                coasting = np.stack([constant_velocity(s.twist) for s in batch.samples])
                straight = np.stack([constant_velocity(s.twist * (1, 1, 1, 0, 0, 0)) for s in batch.samples])
                for name, guess in (
                    ("l2", chosen), ("l2_swapped", others[row, blind].cpu().numpy()),
                    ("l2_nearest", paths[row, positive].cpu().numpy()), ("l2_constant_velocity", straight),
                    ("l2_constant_turn", coasting), *self._told_otherwise(batch).items(),
                ):  # fmt: skip
                    rows.setdefault(name, []).append(np.linalg.norm(guess - truth, axis=-1))
                errors = torch.linalg.vector_norm(own - batch.truth[:, None], dim=-1).mean(-1).amin(1)
                rows.setdefault("best_candidate", []).append(errors.cpu().numpy())
                rows.setdefault("score_accuracy", []).append((picked == positive).float().cpu().numpy())
                speeds = [float(s.twist[0]) for s in batch.samples]
                passed = [
                    not any(bool(v[0]) for v in kinematic_failures(self.planner.limits, path[None], speed).values())
                    for path, speed in zip(chosen, speeds, strict=True)
                ]
                rows.setdefault("drivable", []).append(np.array(passed, np.float32))
                rows.setdefault("command", []).append(batch.command.cpu().numpy())
                for k in range(min(len(chosen), _PICTURED - len(shown))):
                    shown.append((batch.samples[k], own[k].cpu().numpy(), chosen[k], int(batch.command[k])))
        return Validation(*_summary({k: np.concatenate(v) for k, v in rows.items()}), plans_picture(shown))

    def export(self, path: Path) -> None:
        """Write a file for the preset's `weights.planning`; it is valid only for the anchors whose digest it stores."""
        state = {k: v.detach().cpu().contiguous() for k, v in self.planner.state_dict().items()}
        facts = {"anchors": self.planner.anchors.sha256, "listens": "yes" if self.uses_reasoning else "no"}
        save_file(state, path, {"stage": "planning", "format_version": "1", **facts})


def off_route(sample: FeatureSample, offset: float, turned: float) -> FeatureSample:
    """Returns the sample as if the vehicle stood `offset` m left of its place and were `turned` rad to the left.

    Recorded drives keep to their route, so from them alone a planner does not learn to return to it. The future returns
    within the distance that the expert takes (a cubic in the arc length); queries, obstacles and target points are
    moved.
    """
    place = geometry.planar(0.0, offset, turned)
    back = geometry.inverse(place)[:2]
    xy = sample.waypoints.astype(np.float64)
    along = np.cumsum(np.hypot(*np.diff(xy, axis=0, prepend=0.0).T))
    length = 8.0 + 4.0 * abs(offset)
    u = np.clip(along / length, 0.0, 1.0)
    shift = offset * (1.0 - u * u * (3.0 - 2.0 * u)) + np.tan(turned) * length * u * (1.0 - u) ** 2
    heading = np.arctan2(sample.future[:, 1, 0], sample.future[:, 0, 0])
    xy += shift[:, None] * np.stack([-np.sin(heading), np.cos(heading)], -1)
    future = sample.future.copy()
    future[:, :2, 3] = xy @ back[:, :2].T + back[:, 3]
    points, centres = sample.arrays["target_points"], sample.arrays["centres"].copy()
    centres[:, :2] = centres[:, :2] @ back[:, :2].T + back[:, 3]
    moved = {"target_points": (points @ back[:, :2].T + back[:, 3]).astype(np.float32), "centres": centres}
    if "obstacles" in sample.arrays:
        moved["obstacles"] = seen_from(sample.arrays["obstacles"], place)
    return replace(sample, future=future, arrays=sample.arrays | moved)


def _summary(rows: dict[str, np.ndarray]) -> tuple[float, dict[str, float]]:
    numbers: dict[str, float] = {"samples": float(len(rows["l2"]))}
    for name, values in rows.items():
        if values.ndim == 2 and values.shape[1] == STEPS:
            at = {k: float(values[:, i].mean()) for k, i in SCORED_AT.items()}
            numbers |= {f"{name}_{k}": v for k, v in at.items()} if name in ("l2", "l2_constant_velocity") else {}
            numbers[f"{name}_avg"] = float(np.mean(list(at.values())))
        elif name != "command":
            numbers[name] = float(values.mean())
    for index, command in enumerate(COMMANDS):
        of = rows["command"] == index
        if of.any():
            numbers[f"l2_{command.value}"] = float(rows["l2"][of][:, list(SCORED_AT.values())].mean())
    return -numbers["l2_avg"], numbers
