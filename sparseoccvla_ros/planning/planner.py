"""Planning stage: scores and denoises the anchors, selects a candidate with the gate, and flags unreliable plans."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn

from ..core.errors import InvalidInput
from ..core.geometry import inverse
from ..core.types import (
    HORIZONS,
    STEPS,
    Command,
    CommandSource,
    EgoState,
    Plan,
    PlanStatus,
    Reasoning,
    SceneQueries,
    check_array,
)
from ..core.voxels import SparseVoxels
from . import trajectory_validator
from .anchors import AnchorSet
from .config import PlanningConfig, ValidatorConfig
from .ego_history import FEATURE_NAMES, EgoHistory, as_if_driving
from .model.anchor_scorer import AnchorScorer, mask_other_commands
from .model.decoder import TrajectoryDecoder
from .model.diffusion import DeltaNormaliser, DiffusionSchedule, denoise, start_noise
from .model.layers import SceneInputs
from .obstacles.collision import VULNERABLE_SHARE, ForecastLayer, ObstacleMap
from .obstacles.grid import ObstacleMemory
from .obstacles.motion import ObstacleTracker
from .obstacles.stop_line import StopLine
from .plan_memory import PlanMemory, PreviousPlan
from .plan_reasons import PlanReason
from .trajectory import Motion, braking, eased, motion_of
from .trajectory_validator import CERTAIN_SCORE, RESUMED_ACCELERATION, RESUMED_SPEED, StuckDetector, slower_path

ABSURD_SPEED = 60.0
"""m/s; a present speed above it is treated as invalid input."""
WAITING_ROOM = 10.0
"""m between front bumper and a red light's line within which a standing vehicle is taken to wait for it."""


@dataclass(frozen=True, eq=False)
class _Request:
    """Inputs that are copied to the plan, and the candidates if available."""

    queries: SceneQueries
    command: Command
    source: CommandSource
    candidates: np.ndarray = field(default_factory=lambda: np.zeros((0, STEPS, 2), np.float32))
    scores: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    score_source: str = "ego"


class Planner(nn.Module):
    """Planner of three-second trajectories from sparse queries, with optional reasoning of the language model.

    A plan that is not OK carries the reasons; a scene that cannot be planned on results in a braking or an empty plan.
    Equal inputs, including the previous plan, give bit-identical plans. Not thread safe.
    """

    anchor_waypoints: Tensor
    anchor_deltas: Tensor
    noise: Tensor

    def __init__(self, config: PlanningConfig, anchors: AnchorSet, limits: ValidatorConfig | None = None) -> None:
        super().__init__()
        self.config = config
        self.limits = limits or ValidatorConfig()
        self.anchors = anchors
        self.trained = False
        """True once trained weights are loaded; set by the loader."""
        self.uses_reasoning = True
        """False for weights that were trained without reasoning; reasoning token and anchor scores are then ignored."""
        self.normaliser = DeltaNormaliser(config.forward_range, config.lateral_range)
        self.schedule = DiffusionSchedule(tuple(config.timesteps), config.schedule == "spaced")
        self.scorer = AnchorScorer(config)
        self.decoder = TrajectoryDecoder(config, self.normaliser)
        deltas = torch.from_numpy(anchors.deltas)
        if bool(self.normaliser.clipped(deltas).any()):
            raise InvalidInput("anchors", "an anchor leaves forward_range or lateral_range of the planning config")
        self.register_buffer("anchor_waypoints", torch.from_numpy(anchors.flat.copy()), persistent=False)
        self.register_buffer("anchor_deltas", self.normaliser.normalise(deltas), persistent=False)
        self.register_buffer("noise", start_noise(deltas.shape, config.seed), persistent=False)
        self.last_gate_report: trajectory_validator.GateReport | None = None
        """GateReport of the newest plan, for diagnostics and markers; None if no candidate was decoded."""
        self._obstacle_memory, self._obstacle_tracker = ObstacleMemory(), ObstacleTracker()
        self._stuck_detector, self._stop_line = StuckDetector(), StopLine(self.limits.max_deceleration_mps2)
        self._plan_memory = PlanMemory()

    def reset(self) -> None:
        """Forget the drive: previous plans, obstacles and the traffic light."""
        self._plan_memory.clear()
        self._stuck_detector.reset()
        self._obstacle_memory.clear()
        self._obstacle_tracker.clear()
        self._stop_line.clear()
        self.last_gate_report = None

    def forward(
        self,
        features: Tensor,
        centres: Tensor,
        ego: Tensor,
        token: Tensor | None = None,
        anchor_scores: Tensor | None = None,
        target_points: Tensor | None = None,
        obstacles: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Score and denoise the anchors for a batch.

        Args:
            features: [B, Q, C], of the queries.
            centres: [B, Q, 3] m, of the queries.
            ego: [B, F], ego features (ego_history.py).
            token: [B, D], reasoning token.
            anchor_scores: [B, A], logits of the language model, added to the scorer's.
            target_points: [B, R, 2] m in base_link, of the route.
            obstacles: uint8 [B, CHANNELS, *SHAPE] (obstacles/grid.py).
            noise: [A, 6, 2], default from config.seed.

        Returns:
            Logits [B, A] and waypoints [B, A, 6, 2] m, cumulative, base_link.
        """
        scene = SceneInputs(features, centres, ego, token, target_points, obstacles)
        logits = self.scorer(self.anchor_waypoints, scene)  # [B, A]
        if anchor_scores is not None:
            logits = logits + anchor_scores
        memory, condition = self.decoder.condition(scene)  # [B, M, W], [B, W]
        batch = len(features)
        anchors = self.anchor_deltas.expand(batch, -1, -1, -1)  # normalised deltas [B, A, 6, 2]
        # detached: the regression loss of the decoder must not train the ranking
        scores = logits.detach().sigmoid()  # [B, A]

        def network(sample: Tensor, time: int) -> Tensor:
            times = torch.full((batch,), time, device=sample.device)
            return self.decoder(sample, times, anchors, scores, memory, condition)[-1]

        start = (self.noise if noise is None else noise).expand(batch, -1, -1, -1)
        x0 = denoise(self.schedule, anchors, start, self.config.noise_step, network)  # normalised deltas [B, A, 6, 2]
        return logits, self.normaliser.metres(x0).cumsum(-2)

    def plan(
        self,
        queries: SceneQueries,
        voxels: SparseVoxels,
        reasoning: Reasoning | None,
        history: EgoHistory,
        command: Command,
        command_source: CommandSource,
        target_points: np.ndarray | None = None,
    ) -> Plan:
        """Plan a trajectory for one scene.

        reasoning: the newest one that is not too old, or None; it may belong to an earlier frame of the same epoch.
        target_points: float32 [R, 2] m in base_link, of the route that the command comes from (route_command.py), or
        None. Raises InvalidInput only for arguments of a wrong type or shape; invalid values result in a flagged plan.
        """
        # 1. Validate
        self._check_arguments(queries, voxels, reasoning, history, command, command_source, target_points)
        previous = self._plan_memory.previous_to(queries)
        request = _Request(queries, command, command_source)
        self.last_gate_report = None
        reasons = self._input_reasons(queries, command_source)
        refused = self._refused(request, reasons, previous)
        if refused is not None:
            return refused
        try:
            ego = self._ego_features(queries.stamp, history, command)
        except InvalidInput:
            return self._braking_or_empty_plan(request, [PlanReason.EGO_HISTORY_MISSING, *reasons], None)
        if self.config.ego == "causal" and ego[FEATURE_NAMES.index("has_velocity")] == 0:
            reasons.append(PlanReason.EGO_HISTORY_MISSING)
        reasoning, missing = self._usable_reasoning(queries, reasoning)
        reasons += missing
        # 2. Infer
        used_reasoning = reasoning if self.uses_reasoning else None
        speed = queries.ego.speed
        line, stuck = self._stop_line_and_stuck(queries)
        if stuck and self.config.ego == "causal":
            ego = as_if_driving(ego, max(speed, RESUMED_SPEED))
        moment = queries.stamp, queries.epoch, queries.ego.pose
        grid = self._obstacle_memory.grid(*moment, voxels, line) if self.config.obstacle_grid else None
        logits, candidates = self._infer(queries, ego, used_reasoning, target_points, grid)  # [A], [A, 6, 2] m
        if stuck:
            for row in np.flatnonzero(np.isfinite(candidates).all((1, 2))):
                candidates[row] = eased(candidates[row], speed, RESUMED_ACCELERATION)
        # 3. Select
        group = torch.from_numpy(self.anchors.group(command))  # bool [A]
        masked = mask_other_commands(logits, group) if self.config.command_mask else logits
        obstacles, found = self._obstacles(queries, voxels, reasoning, history, line, stuck)
        reasons += found
        touches = None if obstacles is None else obstacles.touches
        expected = None if previous is None else previous.expected(queries)
        report = trajectory_validator.choose(self.limits, candidates, masked.numpy(), speed, expected, touches)
        self.last_gate_report = report
        # 4. Package
        finite = np.isfinite(candidates).all((1, 2))  # bool [A]
        if not finite.all():
            reasons.append(PlanReason.MODEL_NOT_FINITE)
        scores = np.where(finite, torch.nan_to_num(logits.sigmoid(), nan=0.0).numpy(), 0.0).astype(np.float32)
        # plans contain finite numbers only: replace other candidates by their anchor with score 0
        finite_candidates = np.where(finite[:, None, None], candidates, self.anchors.flat).astype(np.float32)
        score_source = "ego" if used_reasoning is None else "language+ego"
        request = replace(request, candidates=finite_candidates, scores=scores, score_source=score_source)
        held = [PlanReason.RED_LIGHT] if line is not None else []
        slower = None if obstacles is None else slower_path(self.limits, report, candidates, speed, obstacles)
        if slower is not None:
            chosen, waypoints = slower
            notes: list[str] = [PlanReason.SLOWED]
        elif report.chosen >= 0:
            chosen, waypoints = report.chosen, candidates[report.chosen]
            notes = [f"skipped:{reason}" for reason in report.passed_over]
        else:
            causes = [f"rejected:{reason}" for reason in report.passed_over] or [PlanReason.MODEL_NOT_FINITE]
            return self._braking_or_empty_plan(request, [*causes, *reasons, *held], obstacles)
        # notes and a red light explain a plan without degrading it
        status = PlanStatus.DEGRADED if reasons else PlanStatus.OK
        return self._to_plan(request, motion_of(waypoints, speed), chosen, status, [*reasons, *notes, *held])

    def _check_arguments(
        self,
        queries: SceneQueries,
        voxels: SparseVoxels,
        reasoning: Reasoning | None,
        history: EgoHistory,
        command: Command,
        command_source: CommandSource,
        target_points: np.ndarray | None,
    ) -> None:
        for name, value, kind in (
            ("queries", queries, SceneQueries),
            ("voxels", voxels, SparseVoxels),
            ("reasoning", reasoning, Reasoning | None),
            ("history", history, EgoHistory),
            ("command", command, Command),
            ("command_source", command_source, CommandSource),
        ):
            if not isinstance(value, kind):
                raise InvalidInput(name, f"got {type(value).__name__}")
        if target_points is not None:
            check_array("target_points", target_points, np.float32, (len(self.config.target_points), 2))

    def _refused(self, request: _Request, reasons: list[str], previous: PreviousPlan | None) -> Plan | None:
        """Returns an empty or braking plan for a scene that cannot be planned on at all, None for any other."""
        queries = request.queries
        if not _usable_ego(queries.ego):
            return self._empty_plan(request, [PlanReason.EGO_INVALID, *reasons], remember=False)
        if abs(queries.ego.speed) > ABSURD_SPEED:
            return self._empty_plan(request, [PlanReason.EGO_SPEED_ABSURD, *reasons], remember=False)
        blocking_reason = self._blocking_reason(queries, previous)
        if blocking_reason is None:
            return None
        # a frame with an older stamp does not replace the stored newer plan
        remember = blocking_reason is not PlanReason.STAMP_REVERSED
        return self._braking_or_empty_plan(request, [blocking_reason, *reasons], None, remember)

    def _stop_line_and_stuck(self, queries: SceneQueries) -> tuple[float | None, bool]:
        """Remembers the moment; returns (m to the line of a red light or None, whether the vehicle is stuck)."""
        moment, speed = (queries.stamp, queries.epoch, queries.ego.pose), queries.ego.speed
        light, front = queries.traffic_light if queries.trained else None, self.limits.vehicle.front_m
        line = self._stop_line.ahead(*moment, speed, light, front)
        waits = line is not None and line - front < WAITING_ROOM
        if waits:
            self._stuck_detector.reset()
        return line, queries.trained and not waits and self._stuck_detector.is_stuck(*moment, speed)

    def _obstacles(
        self,
        queries: SceneQueries,
        voxels: SparseVoxels,
        reasoning: Reasoning | None,
        history: EgoHistory,
        line: float | None,
        stuck: bool,
    ) -> tuple[ObstacleMap | None, list[str]]:
        """Returns (what the gate must keep clear of, reasons); None for untrained occupancy."""
        if not queries.trained:
            return None, [PlanReason.COLLISION_UNCHECKED]
        reasons: list[str] = []
        forecasts, missing = self._forecasts(queries, reasoning, history)
        if not self.config.gate_forecasts:
            forecasts = self._obstacle_tracker.layers(queries.stamp, queries.epoch, queries.ego.pose, voxels)
        score, share = self.config.obstacle_score, VULNERABLE_SHARE
        if stuck:
            score, share = max(score, CERTAIN_SCORE), min(score / CERTAIN_SCORE, 1.0)
            reasons.append(PlanReason.RESUMING)
        reasons += missing
        if len(voxels) == 0:
            reasons.append(PlanReason.VOXELS_EMPTY)
        return ObstacleMap(self.limits, voxels, forecasts, score, share, line), reasons

    def _input_reasons(self, queries: SceneQueries, source: CommandSource) -> list[str]:
        reasons = [f"{PlanReason.MISSING_CAMERA}:{name}" for name in queries.missing]
        if not (queries.trained and self.trained):
            reasons.append(PlanReason.UNTRAINED_WEIGHTS)
        if source is CommandSource.TIMEOUT:
            reasons.append(PlanReason.COMMAND_TIMEOUT)
        return reasons

    def _blocking_reason(self, queries: SceneQueries, previous: PreviousPlan | None) -> PlanReason | None:
        """Returns why this scene cannot be planned on at all, None if it can."""
        if previous is not None:
            if queries.stamp < previous.stamp:
                return PlanReason.STAMP_REVERSED
            if previous.teleported(queries, self.limits.max_deceleration_mps2):
                return PlanReason.EGO_TELEPORT
        if len(queries.features) == 0:
            return PlanReason.QUERIES_EMPTY
        if queries.features.shape[1] != self.config.query_dims:
            return PlanReason.QUERIES_INVALID
        if not (np.isfinite(queries.features).all() and np.isfinite(queries.centres).all()):
            return PlanReason.QUERIES_INVALID
        return None

    def _usable_reasoning(
        self, queries: SceneQueries, reasoning: Reasoning | None
    ) -> tuple[Reasoning | None, list[str]]:
        if reasoning is None:
            return None, [PlanReason.REASONING_LATE]
        if reasoning.epoch != queries.epoch:
            return None, [PlanReason.REASONING_EPOCH]
        if reasoning.stamp > queries.stamp:
            return None, [PlanReason.REASONING_FUTURE]
        shapes = reasoning.token.shape == (self.config.reasoning_dims,) and reasoning.anchor_scores.shape == (
            len(self.anchor_waypoints),
        )
        if not (shapes and np.isfinite(reasoning.token).all() and np.isfinite(reasoning.anchor_scores).all()):
            return None, [PlanReason.REASONING_INVALID]
        if not reasoning.trained:
            # A trained planner must not use a random token; an untrained one does, to exercise the pipeline.
            return None if self.trained else reasoning, [PlanReason.REASONING_UNTRAINED]
        return reasoning, []

    def _ego_features(self, stamp: int, history: EgoHistory, command: Command) -> np.ndarray:
        if self.config.ego == "causal":
            return history.features(stamp)
        return history.paper_features(stamp, command) if self.config.ego == "paper" else np.zeros(0, np.float32)

    @torch.inference_mode()
    def _infer(
        self,
        queries: SceneQueries,
        ego: np.ndarray,
        reasoning: Reasoning | None,
        target_points: np.ndarray | None,
        obstacles: np.ndarray | None,
    ) -> tuple[Tensor, np.ndarray]:
        device = self.anchor_waypoints.device

        def row(array: np.ndarray) -> Tensor:
            return torch.from_numpy(array).to(device)[None]

        logits, waypoints = self(
            row(queries.features),
            row(queries.centres),
            row(ego),
            None if reasoning is None else row(reasoning.token),
            None if reasoning is None else row(reasoning.anchor_scores),
            None if target_points is None else row(target_points),
            None if obstacles is None else row(obstacles),
        )
        return logits[0].cpu(), waypoints[0].cpu().numpy()

    def _forecasts(
        self, queries: SceneQueries, reasoning: Reasoning | None, history: EgoHistory
    ) -> tuple[tuple[ForecastLayer, ...], list[str]]:
        """Returns the forecasts still ahead, relative to the queries' stamp and pose; empty if disabled or missing."""
        if not self.config.gate_forecasts:
            return (), []
        if reasoning is None or not reasoning.trained or not reasoning.forecasts:
            return (), [PlanReason.FORECAST_MISSING]
        to_ego = np.eye(4)
        if reasoning.stamp != queries.stamp:
            try:
                then = history.pose_at(reasoning.stamp, queries.stamp)
                now = history.pose_at(queries.stamp, queries.stamp)
            except InvalidInput:
                then = now = None
            if then is None or now is None:
                return (), [PlanReason.FORECAST_MISSING]
            to_ego = inverse(now) @ then
        age = (queries.stamp - reasoning.stamp) / 1e9
        ahead = zip(HORIZONS, reasoning.forecasts, strict=True)
        usable = tuple(ForecastLayer(horizon - age, voxels, to_ego) for horizon, voxels in ahead if horizon > age)
        return usable, [] if usable else [PlanReason.FORECAST_MISSING]

    def _braking_or_empty_plan(
        self, request: _Request, reasons: list[str], obstacles: ObstacleMap | None, remember: bool = True
    ) -> Plan:
        """Returns a braking or an empty plan, as configured by `on_reject`, because no candidate may be followed."""
        if self.limits.on_reject == "empty":
            return self._empty_plan(request, reasons, remember)
        ego, limits = request.queries.ego, self.limits
        for deceleration in (limits.comfortable_deceleration_mps2, limits.max_deceleration_mps2):
            motion = braking(
                ego.speed,
                float(ego.twist[5]),
                deceleration,
                limits.max_curvature_per_m,
                limits.max_lateral_acceleration_mps2,
            )
            if obstacles is None or not obstacles.touches(motion.waypoints[None])[0]:
                break
        return self._to_plan(request, motion, -1, PlanStatus.BRAKING, reasons, remember)

    def _empty_plan(self, request: _Request, reasons: list[str], remember: bool = True) -> Plan:
        none = np.zeros(0, np.float32)
        motion = Motion(np.zeros((0, 2), np.float32), none, none, none)
        return self._to_plan(request, motion, -1, PlanStatus.REJECTED, reasons, remember)

    def _to_plan(
        self,
        request: _Request,
        motion: Motion,
        chosen: int,
        status: PlanStatus,
        reasons: list[str],
        remember: bool = True,
    ) -> Plan:
        queries = request.queries
        if remember:
            follow = motion.waypoints if chosen >= 0 else None
            self._plan_memory.add(queries, follow)
        return Plan(
            stamp=queries.stamp,
            epoch=queries.epoch,
            waypoints=motion.waypoints,
            heading=motion.heading,
            speed=motion.speed,
            acceleration=motion.acceleration,
            candidates=request.candidates,
            scores=request.scores,
            chosen=chosen,
            command=request.command,
            command_source=request.source,
            status=status,
            score_source=request.score_source,
            reasons=tuple(dict.fromkeys(r.value if isinstance(r, PlanReason) else r for r in reasons)),
            trained=queries.trained and self.trained,
            base_frame=queries.ego.base_frame,
        )


def _usable_ego(ego: EgoState) -> bool:
    """Returns True if all numbers are finite and the pose is a rigid transform to 1e-2."""
    if not (np.isfinite(ego.pose).all() and np.isfinite(ego.twist).all()):
        return False
    rotation = ego.pose[:3, :3]
    rigid = np.abs(rotation @ rotation.T - np.eye(3)).max() < 1e-2 and np.linalg.det(rotation) > 0
    return bool(rigid and np.abs(ego.pose[3] - (0, 0, 0, 1)).max() < 1e-6)
