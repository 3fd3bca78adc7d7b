"""Voxel head: classifies candidate voxels from image cells and the decoder's points.

Sparse points leave holes in surfaces, and a query per traffic cone is not affordable. The image cells that propose
queries (image_queries.py) already predict class and approximate depth. For every candidate voxel this head reads the
cell that it projects into, in the present and the previous frame (class shares, and the share of the depth distribution
before, at and behind the voxel), and the decoder's points around it. A small MLP then classifies the voxel as free or
one of 17 classes. The head replaces OPUS-V2's densifier (jbwang1997/OPUS, 2026) and uses the depth distributions of
cells (as in Lift, Splat, Shoot, Philion and Fidler, ECCV 2020) instead of sparse convolutions.

Coarse to fine: a first MLP ranks blocks of 2 x 2 x 2 voxels, and only the voxels of the best `BLOCKS` are classified,
each by itself; then block_context.py corrects them by their surroundings. All shapes are static.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.classes import FREE, NUM_CLASSES
from ...core.onednn import Linear
from ...core.voxels import VoxelGrid
from ..decoder import LayerOutput
from ..image_queries import ViewProposals
from ..sampling.cell_views import FRAMES, WINDOWS, CellViews, depth_windows
from ..sampling.views import SceneViews
from .block_context import BlockContext

BLOCKS = 8_192
"""Blocks of eight voxels that are opened (classified), of 80,000; a scene's visible voxels occupy about 4,700."""
UNDER = 7.0
"""Radius [m] around the vehicle in which ground blocks are always opened, because no camera sees them."""
CHUNK = 512
"""Blocks that are read and classified at once: what fits in the CPU cache."""
WIDTHS = (160, 64)
_CELL = NUM_CLASSES + 1 + len(WINDOWS) + 2 + 1


@dataclass(frozen=True, eq=False)
class Candidates:
    """Candidate voxels and their input features, K blocks of eight voxels.

    number int64 [K]: flat x-major block indices; index int64 [K, 8]: flat x-major voxel indices; label int64 [K, 8]:
    class of the decoder's points in the voxel, 17 if it has none; cells float32 [K, 8, FRAMES * 24]: features of image
    cells; block float32 [K, inputs]: features shared by the voxels of a block.
    """

    number: Tensor
    index: Tensor
    label: Tensor
    cells: Tensor
    block: Tensor


class VoxelHead(nn.Module):
    """Network that classifies the voxels of the most promising blocks.

    Args:
        grid: with an even number of voxels along each axis.
        depth_bins: bins of the cells' depth distribution.
    """

    centres: Tensor
    under: Tensor
    place: Tensor
    smooth: Tensor
    corner: Tensor

    def __init__(self, grid: VoxelGrid, depth_bins: int) -> None:
        super().__init__()
        self.grid = grid
        self.blocks = tuple(n // 2 for n in grid.shape)
        axes = [torch.arange(n) for n in self.blocks]
        at = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).view(-1, 3)
        centres = (at + 0.5) * (2 * grid.size) + torch.tensor(grid.lower)
        away = centres[:, :2].norm(dim=1, keepdim=True)
        place = torch.cat([centres[:, :2] / 40, centres[:, :2].abs() / 40, away / 40, (away / 6).clamp(max=1.0)], 1)
        place = torch.cat([place, F.one_hot(at[:, 2], self.blocks[2]).float()], 1)
        self.register_buffer("centres", centres, persistent=False)
        self.register_buffer("under", (away[:, 0] < UNDER) & (centres[:, 2].abs() < 0.7), persistent=False)
        self.register_buffer("place", place, persistent=False)
        self.register_buffer("smooth", depth_windows(depth_bins), persistent=False)
        self.register_buffer("corner", torch.cartesian_prod(*[torch.arange(2)] * 3), persistent=False)

        block = _CELL + NUM_CLASSES + 1 + place.shape[1]
        self.rank = nn.Sequential(Linear(block, 24), nn.ReLU(), Linear(24, 1))
        self.from_cells = Linear(FRAMES * _CELL, WIDTHS[0])
        self.from_block = Linear(block, WIDTHS[0])
        self.from_corner = nn.Parameter(torch.zeros(8, WIDTHS[0]))
        self.from_label = nn.Embedding(FREE + 1, WIDTHS[0])
        self.hidden = Linear(*WIDTHS)
        self.out = Linear(WIDTHS[1], FREE + 1)
        self.context = BlockContext(self.blocks, WIDTHS[1])
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Reinitialise all weights."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                module.reset_parameters()
        nn.init.normal_(self.from_label.weight, std=0.1)
        nn.init.zeros_(self.from_corner)
        self.context.reset_parameters()

    def forward(
        self, scene: SceneViews, cells: ViewProposals, last: LayerOutput, dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, Tensor]:
        """Classify voxels of the first batch element: flat x-major index int64 [V], logits float32 [V, 18], 17 = free.

        Args:
            scene: the decoder's input.
            cells: the head that predicts class and depth of image cells.
            last: output of the decoder's last layer.
            dtype: precision of the classifying layers; blocks are ranked in float32.
        """
        opened, read = self._open(scene, cells, last)
        precision = torch.autocast(opened.device.type, dtype, enabled=dtype != torch.float32)
        index, embedded, logits = [], [], []
        for chunk in opened.split(CHUNK):
            found = read(chunk)
            index.append(found.index)
            with precision:
                hidden = self.hidden_units(found)
                embedded.append(self.context.embedded(hidden))
                logits.append(self.out(hidden).float())
        with precision:
            around = self.context(torch.cat(embedded), opened)
        return torch.cat(index).flatten(), torch.cat(logits).add_(around).flatten(0, 1)

    def hidden_units(self, found: Candidates) -> Tensor:
        """Returns the last hidden layer of every voxel by itself, float32 [K, 8, WIDTHS[1]]; `out` classifies it."""
        # One table for label and corner: fewer passes over memory.
        table = (self.from_label.weight[:, None] + self.from_corner + self.from_cells.bias).flatten(0, 1)
        hidden = F.embedding(found.label * 8 + torch.arange(8, device=table.device), table)
        hidden = hidden.add_(self.from_block(found.block)[:, None]).flatten(0, 1)
        hidden = F.relu_(self.from_cells.added_to(hidden, found.cells.flatten(0, 1)))
        return F.relu_(self.hidden(hidden)).unflatten(0, (-1, 8))

    @torch.no_grad()
    def candidates(self, scene: SceneViews, cells: ViewProposals, last: LayerOutput) -> Candidates:
        """Returns the voxels of the highest-ranked blocks with the inputs of both MLPs."""
        opened, read = self._open(scene, cells, last)
        return read(opened)

    @torch.no_grad()
    def _open(
        self, scene: SceneViews, cells: ViewProposals, last: LayerOutput
    ) -> tuple[Tensor, Callable[[Tensor], Candidates]]:
        """Returns the blocks to open, int64 [K], and a function that reads the Candidates of some of them."""
        views = CellViews.of(scene, cells, self.smooth)
        label, nearby = self._points(last.points[0].float(), last.logits[0].float())
        (_, y, z), (_, by, bz) = self.grid.shape, self.blocks
        corner = (self.corner[:, 0] * y + self.corner[:, 1]) * z + self.corner[:, 2]

        def about(blocks: Tensor | slice) -> tuple[Tensor, Tensor]:
            centres = self.centres[blocks]
            camera = views.choose(0, centres)
            return torch.cat([views.nearest(0, centres, camera), nearby[blocks], self.place[blocks]], 1), camera

        @torch.no_grad()
        def read(blocks: Tensor) -> Candidates:
            centres, (inputs, camera) = self.centres[blocks], about(blocks)
            seen = [views.read(0, centres, self._offsets(), camera)]
            for frame in range(1, FRAMES):
                seen.append(views.read(frame, centres, self._offsets(), views.choose(frame, centres)))
            first = (2 * (blocks // (by * bz)) * y + 2 * (blocks // bz % by)) * z + 2 * (blocks % bz)
            index = first[:, None] + corner
            return Candidates(blocks, index, label[index].long(), torch.cat(seen, -1), inputs)

        chunks = (slice(first, first + 8 * CHUNK) for first in range(0, len(self.centres), 8 * CHUNK))
        score = torch.cat([self.rank(about(chunk)[0])[:, 0] for chunk in chunks])
        score = torch.where(self.under, score.max(), score)
        return score.topk(min(BLOCKS, len(score)), sorted=False).indices, read

    @torch.no_grad()
    def ranked(self, scene: SceneViews, cells: ViewProposals, last: LayerOutput) -> Tensor:
        """Returns the ranking MLP's input for every block of the grid: float32 [blocks, inputs]."""
        views = CellViews.of(scene, cells, self.smooth)
        _, nearby = self._points(last.points[0].float(), last.logits[0].float())
        return torch.cat([views.nearest(0, self.centres, views.choose(0, self.centres)), nearby, self.place], 1)

    def _offsets(self) -> Tensor:
        """Returns offsets in metres [8, 3] from a block's centre to its voxels' centres."""
        return (self.corner - 0.5) * self.grid.size

    def _points(self, points: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Rasterise the decoder's points: label uint8 [X * Y * Z] of every voxel (17 without points), and of every
        block float32 [blocks, 18]: score-weighted class shares of the points in the 3 x 3 x 3 blocks around it, and
        an eighth of their summed score, at most 1."""
        scores, classes = (t.flatten() for t in logits.max(-1))
        scores = scores.sigmoid()
        if not points.is_cpu:
            return self._rasterised(points, scores, classes)
        from ..sampling.cell_kernels import rasterise  # not before it is needed: see cell_views.py

        label = torch.empty(math.prod(self.grid.shape), dtype=torch.uint8)
        around = torch.empty(len(self.centres), NUM_CLASSES + 1)
        rows = np.ascontiguousarray(points.reshape(-1, 3).numpy())
        rasterise(rows, scores.numpy(), classes.numpy(), self.grid.shape, label.numpy(), around.numpy())
        return label, around

    def _rasterised(self, points: Tensor, scores: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        shape = torch.tensor(self.grid.shape, device=points.device)
        scaled = points.reshape(-1, 3) * shape
        inside = ((scaled >= 0) & (scaled < shape)).all(-1)
        voxel = torch.where(inside[:, None], scaled, 0.0).long()
        _, y, z = self.grid.shape
        index = (voxel[:, 0] * y + voxel[:, 1]) * z + voxel[:, 2]
        # The highest-scored point labels its voxel; packing score and class in one number makes this deterministic.
        rank = torch.where(inside, (scores * 1e6).int() * 32 + classes.int(), -1)
        best = torch.full((int(shape.prod()),), -1, dtype=torch.int32, device=points.device)
        best.scatter_reduce_(0, index, rank, "amax")
        label = torch.where(best < 0, FREE, best & 31).to(torch.uint8)

        (bx, by, bz), half = self.blocks, voxel // 2
        block = (half[:, 0] * by + half[:, 1]) * bz + half[:, 2]
        count = points.new_zeros(bx * by * bz * NUM_CLASSES)
        count.index_add_(0, block * NUM_CLASSES + classes, torch.where(inside, scores, 0.0))
        near = _box_sum(count.view(bx, by, bz, NUM_CLASSES)).view(-1, NUM_CLASSES)
        total = near.sum(1, keepdim=True)
        return label, torch.cat([near / total.clamp(min=1e-3), (total / 8).clamp(max=1.0)], 1)


def _box_sum(volume: Tensor) -> Tensor:
    """Sum float32 [X, Y, Z, C] over 3 x 3 x 3 neighbourhoods."""
    for axis in range(3):
        total = volume.clone()
        n = volume.shape[axis]
        total.narrow(axis, 1, n - 1).add_(volume.narrow(axis, 0, n - 1))
        total.narrow(axis, 0, n - 1).add_(volume.narrow(axis, 1, n - 1))
        volume = total
    return volume
