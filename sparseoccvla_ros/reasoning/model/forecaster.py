"""Occupancy at +1, +2 and +3 s: one network for all horizons (paper, figure: "Shared Forecaster").

The network is conditioned on the ego's future path: the planned one when online, else constant velocity, or the true
path (labelled "oracle", evaluation only). Its output is in the current ego frame; `forecast_voxels` converts it to
voxels in that frame (for publishing and the planner's gate) or in the future ego frames (for Occ3D forecast metrics).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import KDTree
from torch import nn

from ...core import geometry
from ...core.classes import FLAT, MOVABLE, NUM_CLASSES
from ...core.morphology import closed
from ...core.onednn import Linear
from ...core.types import HORIZONS, WAYPOINT_TIMES, SceneQueries
from ...core.voxels import OCC3D_GRID, SparseVoxels, VoxelGrid, voxelise
from ..config import ReasoningConfig
from .positional_encoding import encode_positions

METRES = 10.0
"""m; waypoints are divided by this at the network's input."""
MAX_TURN_RATE = 1.0
"""rad/s; upper bound on the rotation of a query's points about the query's centre."""
RELABEL_MARGIN = 4.0
"""Log-odds by which another class's change must exceed that of a point's own class to relabel the point."""
_AT_HORIZON = tuple(int(np.flatnonzero(h == WAYPOINT_TIMES)[0]) for h in HORIZONS)


@dataclass(frozen=True, eq=False)
class Forecast:
    """Change of each query up to each horizon, in base_link at the stamp (the CURRENT ego frame).

    shift: [B, H, Q, 3] m; turn: [B, H, Q] rad about the query's centre, counter-clockwise; class_change:
    [B, H, Q, 17], added to the log-odds of the classes. All zeros: a static scene.
    """

    shift: torch.Tensor
    turn: torch.Tensor
    class_change: torch.Tensor


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(Linear(width, 2 * width), nn.GELU(), Linear(2 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class Forecaster(nn.Module):
    """Transformer with weights shared across horizons, conditioned on a horizon embedding and the ego's future path.

    The last layer is zero-initialised: the untrained forecast is the present scene, which is the baseline to beat.
    """

    seconds: torch.Tensor

    def __init__(self, config: ReasoningConfig) -> None:
        super().__init__()
        width = config.forecaster_dims
        self.max_speed = config.max_object_speed
        self.query = nn.Sequential(nn.LayerNorm(config.query_dims), Linear(config.query_dims, width))
        self.position = Linear(config.query_dims, width)
        self.horizon = nn.Embedding(len(HORIZONS), width)
        self.ego = nn.Sequential(Linear(14, width), nn.GELU(), Linear(width, width))
        self.blocks = nn.ModuleList(_Block(width, config.forecaster_heads) for _ in range(config.forecaster_layers))
        self.out_norm = nn.LayerNorm(width)
        self.out = Linear(width, 4 + NUM_CLASSES)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.register_buffer("seconds", torch.tensor(HORIZONS), persistent=False)

    def forward(self, fused: torch.Tensor, centres: torch.Tensor, motion: torch.Tensor) -> Forecast:
        """Forecast from fused features [B, Q, C], centres [B, Q, 3] m and the ego's future waypoints [B, 6, 2] m."""
        batch, _, dims = fused.shape
        horizons = len(HORIZONS)
        x = self.query(fused) + self.position(encode_positions(centres, dims))
        flat_motion = motion.flatten(1)[:, None].expand(-1, horizons, -1)  # [B, H, 12]
        ego = self.ego(torch.cat([flat_motion, motion[:, list(_AT_HORIZON)]], dim=-1) / METRES)
        x = x[:, None] + (ego + self.horizon.weight)[:, :, None]
        x = x.flatten(0, 1)
        for block in self.blocks:
            x = block(x)
        out = self.out(self.out_norm(x)).unflatten(0, (batch, horizons))
        seconds = self.seconds[None, :, None]
        return Forecast(
            shift=torch.tanh(out[..., :3]) * self.max_speed * seconds[..., None],
            turn=torch.tanh(out[..., 3]) * MAX_TURN_RATE * seconds,
            class_change=out[..., 4:],
        )


def apply_forecast(
    points: np.ndarray,
    centres: np.ndarray,
    labels: np.ndarray,
    scores: np.ndarray,
    shift: np.ndarray,
    turn: np.ndarray,
    class_change: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns points [Q, R, 3] m, labels uint8 [Q, R] and scores [Q, R] at one horizon, in the input points' frame.

    shift [Q, 3], turn [Q] and class_change [Q, 17] as in `Forecast`. A point keeps its label unless another class's
    change exceeds its own by RELABEL_MARGIN; its score moves by the change in log-odds. Zeros return the input exactly.
    """
    cos1, sin = np.cos(turn)[:, None] - 1, np.sin(turn)[:, None]
    offset = points - centres[:, None]
    x, y = offset[..., 0], offset[..., 1]
    # Added to the points as an offset: zero turn and shift return them exactly.
    moved = points + shift[:, None]
    moved[..., 0] += cos1 * x - sin * y
    moved[..., 1] += sin * x + cos1 * y

    rival = class_change.argmax(-1)[:, None]
    own_change = np.take_along_axis(class_change, labels.astype(np.int64), axis=1)
    rival_change = np.take_along_axis(class_change, rival, axis=1) - RELABEL_MARGIN
    switch = (rival_change > own_change) & (rival != labels)
    # Within +-15 the float32 denominator below stays above zero.
    change = np.clip(np.where(switch, rival_change, own_change), -15.0, 15.0)
    # sigmoid(logit(s) + change) without the round trip through the logit.
    growth = np.expm1(change)
    new_scores = scores + scores * (1 - scores) * growth / (1 + scores * growth)
    new_labels = np.where(switch, rival, labels).astype(np.uint8)
    return moved, new_labels, np.clip(new_scores, 0.0, 1.0).astype(np.float32)


def continued(
    points: np.ndarray, centres: np.ndarray, labels: np.ndarray, grid: VoxelGrid
) -> tuple[np.ndarray, np.ndarray]:
    """Continues the ground ahead of the vehicle; returns (points [Q, R, 3] m, bool [Q, R], True for points to keep).

    The area that enters the grid at the front has not been observed yet; it is assumed to look like the area that
    leaves at the back. Queries with centres [Q, 3] m behind the grid move forward by the grid's length, and only their
    ground points are kept. All in the frame of the grid; labels uint8 [Q, R].
    """
    behind = centres[:, 0] < grid.lower[0]
    ahead = points.copy()
    ahead[behind, :, 0] += grid.upper[0] - grid.lower[0]
    return ahead, ~behind[:, None] | np.isin(labels, FLAT)


def forecast_voxels(
    queries: SceneQueries,
    forecast: Forecast,
    config: ReasoningConfig,
    grid: VoxelGrid,
    future2now: np.ndarray | None = None,
) -> tuple[SparseVoxels, ...]:
    """Returns the voxels at each horizon for the batch's first sample.

    future2now: None leaves them in base_link at the stamp (the CURRENT ego frame); float64 [H, 4, 4], the pose of
    base_link at each horizon in base_link at the stamp, puts each horizon into its own FUTURE ego frame. Points are
    moved before voxelisation, so nothing is resampled. config.continue_ground repeats the ground behind a future frame
    ahead of it (`continued`). If the encoder has a voxel head, its voxels are moved instead of the points: those of
    movable classes follow the nearest query within config.max_point_distance, all others stay in place.
    """
    if queries.voxels is not None:
        return _moved_voxels(queries, queries.voxels, forecast, config, grid, future2now)
    distance = np.square(queries.points - queries.centres[:, None]).sum(-1)
    near = distance < config.max_point_distance**2
    parts = [x[0].cpu().numpy() for x in (forecast.shift, forecast.turn, forecast.class_change)]
    out = []
    for i, (shift, turn, change) in enumerate(zip(*parts, strict=True)):
        points, labels, scores = apply_forecast(
            queries.points, queries.centres, queries.labels, queries.scores, shift, turn, change
        )
        keep = near & (scores > config.score_threshold)
        if future2now is not None:
            now2future = geometry.inverse(future2now[i])
            points = geometry.apply(now2future, points)
            if config.continue_ground:
                centres = geometry.apply(now2future, queries.centres + shift)
                points, stays = continued(points, centres, labels, grid)
                keep &= stays
        own = voxelise(points[keep], labels[keep], scores[keep], grid)
        out.append(closed(own) if config.padding else own)
    return tuple(out)


def _moved_voxels(
    queries: SceneQueries,
    voxels: SparseVoxels,
    forecast: Forecast,
    config: ReasoningConfig,
    grid: VoxelGrid,
    future2now: np.ndarray | None,
) -> tuple[SparseVoxels, ...]:
    """`forecast_voxels` for an encoder with a voxel head."""
    now = voxels.centres()
    distance, owner = KDTree(queries.centres).query(now)
    follows = np.isin(voxels.labels, MOVABLE) & (distance < config.max_point_distance)
    out = []
    for i, (shift, turn) in enumerate(
        zip(forecast.shift[0].cpu().numpy(), forecast.turn[0].cpu().numpy(), strict=True)
    ):
        points = now.copy()
        mine = owner[follows]
        angle, offset = turn[mine], now[follows] - queries.centres[mine]
        cos, sin = np.cos(angle), np.sin(angle)
        points[follows, 0] = queries.centres[mine, 0] + shift[mine, 0] + cos * offset[:, 0] - sin * offset[:, 1]
        points[follows, 1] = queries.centres[mine, 1] + shift[mine, 1] + sin * offset[:, 0] + cos * offset[:, 1]
        points[follows, 2] += shift[mine, 2]
        # Rotating into another frame opens holes in surfaces; without a change of frame none need closing.
        close, pose = config.padding and future2now is not None, None if future2now is None else future2now[i]
        out.append(placed(points, voxels, close, pose, config.continue_ground, grid))
    return tuple(out)


def placed(
    points: np.ndarray,
    voxels: SparseVoxels,
    close: bool,
    future2now: np.ndarray | None = None,
    continue_ground: bool = False,
    grid: VoxelGrid = OCC3D_GRID,
) -> SparseVoxels:
    """Returns the voxels with their centres moved to points [V, 3] m, in that frame or in the one of pose future2now.

    future2now: [4, 4]; close: fill holes of one voxel; continue_ground: in a future frame only, see `continued`.
    """
    keep = np.ones(len(points), bool)
    if future2now is not None:
        points = geometry.apply(geometry.inverse(future2now), points)
        if continue_ground:
            # Each voxel acts as its own query: those behind the grid move ahead.
            ahead, stays = continued(points[:, None], points, voxels.labels[:, None], grid)
            points, keep = ahead[:, 0], stays[:, 0]
    moved = voxelise(points[keep], voxels.labels[keep], voxels.scores[keep], grid)
    return closed(moved) if close else moved
