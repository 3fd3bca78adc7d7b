"""Sparse occupancy decoder of queries with growing sets of semantic points (OPUS, Wang et al., NeurIPS 2024)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..core.classes import NUM_CLASSES
from ..core.onednn import Linear
from ..core.voxels import VoxelGrid
from .attention import DistanceAttention
from .config import OccupancyConfig
from .image_queries import Proposals, ViewProposals
from .mixing import AdaptiveMixing
from .sampling.point_sampling import PointSampling
from .sampling.views import SamplingRules, SceneViews


@dataclass(frozen=True, eq=False)
class LayerOutput:
    """Output of one decoder layer.

    A normalised point p lies at lower + p * (upper - lower) metres of the grid and is not clamped to 0..1. OPUS-V2 has
    point_features instead of logits, which a densifier converts to voxel logits; its layers before the last may have
    neither.
    """

    features: Tensor  # [B, Q, C]
    logits: Tensor | None  # [B, Q, R, 17]
    points: Tensor  # [B, Q, R, 3], normalised
    point_features: Tensor | None = None  # [B, Q, R, C_p]


class DecoderLayer(nn.Module):
    """Decoder layer: position encoding, sampling, mixing, distance-biased self-attention, feed-forward, heads."""

    lower: Tensor
    extent: Tensor

    def __init__(self, config: OccupancyConfig, grid: VoxelGrid, input_points: int, output_points: int) -> None:
        super().__init__()
        c = config.embed_dims
        self.output_points = output_points
        self.offset_scale = config.offset_scale
        self.densified = config.decoder == "opus_v2"
        self.position_encoder = nn.Sequential(
            Linear(3 * input_points, c),
            nn.LayerNorm(c),
            nn.ReLU(inplace=True),
            Linear(c, c),
            nn.LayerNorm(c),
            nn.ReLU(inplace=True),
        )
        self.sampling = PointSampling(
            c,
            config.groups,
            config.points_per_group,
            len(config.strides),
            SamplingRules(leak=config.unseen_points == "compatible", corners=config.feature_alignment == "compatible"),
            compatible=config.scale_weight_order == "compatible",
            prototypes=self.densified,
        )
        self.mixing = AdaptiveMixing(c, config.groups, config.mixing_inputs, config.mixing_points)
        self.self_attn = DistanceAttention(c, config.heads, config.dropout)
        self.ffn = nn.Sequential(
            Linear(c, config.ffn_dims),
            nn.ReLU(inplace=True),
            nn.Dropout(config.dropout),
            Linear(config.ffn_dims, c),
            nn.Dropout(config.dropout),
        )
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(c), nn.LayerNorm(c), nn.LayerNorm(c)
        self.point_channels = config.point_features if self.densified else NUM_CLASSES
        class_head, point_head = Linear(c, self.point_channels * output_points), Linear(c, 3 * output_points)
        self.cls_branch = nn.Sequential(
            Linear(c, c),
            nn.LayerNorm(c),
            nn.ReLU(inplace=True),
            Linear(c, c),
            nn.LayerNorm(c),
            nn.ReLU(inplace=True),
            class_head,
        )
        self.reg_branch = nn.Sequential(
            Linear(c, c),
            nn.ReLU(inplace=True),
            Linear(c, c),
            nn.ReLU(inplace=True),
            point_head,
        )
        if not self.densified:
            nn.init.constant_(class_head.bias, math.log(config.class_prior / (1 - config.class_prior)))
        if config.initial_spread and output_points > 1:
            reach = config.initial_spread / config.offset_scale
            nn.init.uniform_(point_head.bias, -reach, reach)
        lower, upper = torch.tensor(grid.lower), torch.tensor(grid.upper)
        self.register_buffer("lower", lower, persistent=False)
        self.register_buffer("extent", upper - lower, persistent=False)

    def forward(self, query: Tensor, points: Tensor, scene: SceneViews, describe: bool = True) -> LayerOutput:
        """Refine query [B, Q, C] and the previous layer's points [B, Q, R', 3] (normalised, without gradient).

        describe: whether to compute the logits of the new points (in OPUS-V2, their features).
        """
        b, q, count, _ = points.shape
        points_m = points * self.extent + self.lower  # [B, Q, R', 3] m
        centres = points_m.mean(2)  # [B, Q, 3] m
        # The spread of a single point is 0 m, or 1 m in OPUS-V2.
        spread = points_m.std(2) if count > 1 else torch.full_like(centres, float(self.densified))
        query = query + self.position_encoder(points.flatten(2))
        samples = self.sampling(query, centres, spread, scene)  # [B, Q, G, T * P, C / G]
        query = self.norm1(self.mixing(samples, query))
        query = self.norm2(self.self_attn(query, centres))
        query = self.norm3(query + self.ffn(query))
        per_point = self.cls_branch(query).view(b, q, self.output_points, self.point_channels) if describe else None
        offset = self.reg_branch(query).view(b, q, self.output_points, 3)  # [B, Q, R, 3]
        refined_m = centres[:, :, None] + self.offset_scale * offset  # [B, Q, R, 3] m
        points = (refined_m - self.lower) / self.extent  # [B, Q, R, 3], normalised
        return LayerOutput(query, None, points, per_point) if self.densified else LayerOutput(query, per_point, points)


class OccupancyDecoder(nn.Module):
    """Stack of DecoderLayer on starting points that are learned or proposed by the images (image_queries.py).

    Layers do not share weights. Between layers point coordinates are detached; features are not.
    """

    lower: Tensor
    extent: Tensor

    def __init__(self, config: OccupancyConfig, grid: VoxelGrid) -> None:
        super().__init__()
        self.init_points = nn.Embedding(config.queries - config.image_queries, 3)
        nn.init.uniform_(self.init_points.weight, 0.0, 1.0)
        height = grid.upper[2] - grid.lower[2]
        low, high = ((z - grid.lower[2]) / height for z in config.initial_height)
        with torch.no_grad():
            self.init_points.weight[:, 2].mul_(high - low).add_(low)
        counts = (1, *config.points_per_layer)
        self.layers = nn.ModuleList(DecoderLayer(config, grid, counts[i], counts[i + 1]) for i in range(config.layers))
        self.proposals = (
            ViewProposals(config.image_queries, config.embed_dims, grid, config.depth_bins)
            if config.image_queries
            else None
        )
        self.embed_dims = config.embed_dims
        self.densified = config.decoder == "opus_v2"
        lower, upper = torch.tensor(grid.lower), torch.tensor(grid.upper)
        self.register_buffer("lower", lower, persistent=False)
        self.register_buffer("extent", upper - lower, persistent=False)

    def to_metres(self, points: Tensor) -> Tensor:
        """Convert normalised points [..., 3] to metres in base_link."""
        return points * self.extent + self.lower

    def start(self, scene: SceneViews) -> tuple[Tensor, Tensor, Proposals | None]:
        """Returns the initial queries: normalised points [B, Q, 1, 3], features [B, Q, C] and the image proposals.

        Learned points come first, with zero features; image proposals last (None without image queries).
        """
        b = scene.ego2img.shape[0]
        points = self.init_points.weight[None, :, None].expand(b, -1, -1, -1)
        query = points.new_zeros((b, points.shape[1], self.embed_dims))
        if self.proposals is None:
            return points, query, None
        found = self.proposals(scene)
        return torch.cat([points, found.points], 1), torch.cat([query, found.features], 1), found

    def refine(self, points: Tensor, query: Tensor, scene: SceneViews, every_layer: bool = False) -> list[LayerOutput]:
        """Returns one LayerOutput per layer, from points and features as returned by `start`.

        every_layer: compute OPUS-V2's point features in all layers, as training needs, instead of the last one only.
        """
        outputs: list[LayerOutput] = []
        for index, layer in enumerate(self.layers):
            describe = every_layer or not self.densified or index == len(self.layers) - 1
            output = layer(query, points.detach(), scene, describe)
            query, points = output.features, output.points
            outputs.append(output)
        return outputs

    def forward(self, scene: SceneViews) -> list[LayerOutput]:
        """Returns one LayerOutput per layer."""
        points, query, _ = self.start(scene)
        return self.refine(points, query, scene)
