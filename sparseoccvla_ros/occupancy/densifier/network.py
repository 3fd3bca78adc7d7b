"""Densifier of OPUS-V2: points with features to a dense surface of classified voxels (jbwang1997/OPUS, 2026).

Predicted points cover surfaces only sparsely. The densifier pools the points of every voxel (a PointPillars feature
network; Lang et al., CVPR 2019), dilates the set of voxels by one in every direction and classifies each with two
sparse convolutions. Points need no class of their own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.classes import NUM_CLASSES
from ...core.onednn import Linear
from ...core.voxels import SparseVoxels, VoxelGrid
from .sparse_conv import SparseConv3d, SparseSites


@dataclass(frozen=True, eq=False)
class DensifiedVoxels:
    """Active voxels of a batch with class logits.

    indices: int64 [M, 4] (sample, x, y, z), ascending; logits: float32 [M, 17], independent sigmoids, free if all are
    low; point_rows: int64 [B, Q, R], row of the voxel that contains each point.
    """

    indices: Tensor
    logits: Tensor
    point_rows: Tensor

    def occupied(self, sample: int, threshold: float, grid: VoxelGrid) -> SparseVoxels:
        """Returns the voxels of one sample whose most likely class has a probability above `threshold`."""
        best, labels = self.logits.detach().max(1)
        keep = (best.sigmoid() > threshold) & (self.indices[:, 0] == sample)
        return SparseVoxels(
            self.indices[keep, 1:].to(torch.int16).cpu().numpy(),
            labels[keep].to(torch.uint8).cpu().numpy(),
            best[keep].sigmoid().float().cpu().numpy(),
            grid,
        )


class PointLayer(nn.Module):
    """Linear layer, batch norm and ReLU on points, followed by the maximum over each voxel's points."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.linear = Linear(channels_in, channels_out, bias=False)
        self.norm = nn.BatchNorm1d(channels_out, eps=1e-3, momentum=0.01)

    def forward(self, x: Tensor, row: Tensor, voxels: int) -> tuple[Tensor, Tensor]:
        """Points [N, C_in] and the rows of their voxels, int64 [N], to [N, C_out] and per voxel [voxels, C_out]."""
        x = F.relu(self.norm(self.linear(x)))
        # The maximum may start from zero, because x is not negative after the ReLU.
        best = x.new_zeros(voxels, x.shape[1]).scatter_reduce(0, row[:, None].expand_as(x), x, "amax")
        return x, best


class Densifier(nn.Module):
    """Network from the points and features of one decoder layer to logits of the voxels in and around them.

    Args:
        grid: voxel grid; points outside are assigned to its border voxels.
        point_features: channels of a point's features.
        width: channels of the pooled points and of the hidden voxels.
    """

    lower: Tensor
    extent: Tensor
    counts: Tensor

    def __init__(self, grid: VoxelGrid, point_features: int = 32, width: int = 64) -> None:
        super().__init__()
        self.shape = grid.shape
        self.pfn_layers = nn.ModuleList([PointLayer(6 + point_features, width // 2), PointLayer(width, width)])
        self.cls_branch = nn.ModuleList([SparseConv3d(width, width), nn.ReLU(), SparseConv3d(width, NUM_CLASSES)])
        nn.init.constant_(self.cls_branch[2].bias, -math.log(99.0))  # initial probability 0.01 of every class
        lower, upper = torch.tensor(grid.lower), torch.tensor(grid.upper)
        self.register_buffer("lower", lower, persistent=False)
        self.register_buffer("extent", upper - lower, persistent=False)
        self.register_buffer("counts", torch.tensor(grid.shape), persistent=False)

    def forward(self, points: Tensor, features: Tensor) -> DensifiedVoxels:
        """Classify the voxels in and around a layer's points.

        Args:
            points: float32 [B, Q, R, 3], normalised to the grid, not clamped.
            features: float32 [B, Q, R, point_features].

        Returns:
            Logits of the voxels that contain points and of all their neighbours in the grid.
        """
        sites, row, pooled = self.pool(points, features)
        grown = sites.dilated()
        first, act, second = self.cls_branch
        logits = second(act(first(pooled, sites, grown)), grown, grown)
        own = grown.rows[sites.cells[row]].long().view(points.shape[:3])
        return DensifiedVoxels(grown.indices(), logits, own)

    def pool(self, points: Tensor, features: Tensor) -> tuple[SparseSites, Tensor, Tensor]:
        """Returns the voxels that contain points, each point's row int64 [B * Q * R], and features [voxels, width]."""
        b, q, r, _ = points.shape
        metres = points * self.extent + self.lower
        with torch.no_grad():
            scaled = torch.floor((metres - self.lower) / self.extent * self.counts)
            voxel = torch.minimum(scaled.nan_to_num().clamp(min=0), self.counts - 1).long().view(-1, 3)
            sample = torch.arange(b, device=points.device).repeat_interleave(q * r)
            sites, row = SparseSites.of_indices(torch.cat((sample[:, None], voxel), 1), b, self.shape)
            centre = ((voxel + 0.5) / self.counts * self.extent + self.lower).view(b, q, r, 3)
        x = torch.cat((metres - centre, metres - metres.mean(2, keepdim=True), features), -1).flatten(0, 2)
        first, second = self.pfn_layers
        x, best = first(x, row, len(sites))
        _, pooled = second(torch.cat((x, best[row]), 1), row, len(sites))
        return sites, row, pooled
