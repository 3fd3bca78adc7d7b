"""Image queries: queries initialised from the present images instead of at learned positions.

A head on the finest feature level predicts class and depth of every cell; the highest-ranked cells, one per ground
square, are lifted to 3-D and become the decoder's starting points. The decoder then only has to find an object's
extent, not its position in 80 x 80 m: the learned points of OPUS (Wang et al., NeurIPS 2024) have to move there, which
takes a hundred epochs of training. Far3D (Jiang et al., AAAI 2024) initialises detection queries in the same way. Only
comparisons, gathers, sorting and top-k are used, so everything exports to ONNX.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.classes import FLAT, FREE, LABEL, NUM_CLASSES
from ..core.errors import InvalidInput
from ..core.onednn import Linear
from ..core.voxels import VoxelGrid
from .config import CANDIDATE_CELLS
from .sampling.views import SceneViews

NEAREST, FURTHEST = 1.5, 56.0
"""Centres [m] of the first and last logarithmic depth bin; depths between bin centres are interpolated."""
COLUMN = 2.0
"""Edge [m] of the ground squares; the best cell of each square becomes a query."""
_SCENERY = tuple(LABEL[n] for n in ("manmade", "vegetation"))


@dataclass(frozen=True, eq=False)
class Proposals:
    """Image queries: points [B, K, 1, 3] normalised to the grid, without gradient; features [B, K, C]; cells
    [B, N * h * w, 18 + bins], logits of class (17 and "nothing in the grid") and depth bin of all cells, for the loss.
    """

    points: Tensor
    features: Tensor
    cells: Tensor


class ViewProposals(nn.Module):
    """Predicts class and depth of the cells of the present images and proposes the `count` best as queries.

    Cells are ranked by their highest class probability, weighted 1 for objects, 0.3 for manmade and vegetation and
    0.02 for ground, which learned queries cover well.
    """

    lower: Tensor
    extent: Tensor
    worth: Tensor

    def __init__(self, count: int, channels: int, grid: VoxelGrid, bins: int = 32) -> None:
        super().__init__()
        self.count = count
        self.hidden = Linear(channels, channels)
        self.out = Linear(channels, FREE + 1 + bins)
        self.start = Linear(channels, channels)
        worth = torch.ones(FREE + 1)
        worth[list(_SCENERY)] = 0.3
        worth[list(FLAT)] = 0.02
        worth[FREE] = 0.0
        lower, upper = torch.tensor(grid.lower), torch.tensor(grid.upper)
        self.register_buffer("worth", worth, persistent=False)
        self.register_buffer("lower", lower, persistent=False)
        self.register_buffer("extent", upper - lower, persistent=False)

    def forward(self, scene: SceneViews) -> Proposals:
        """Propose queries from the present frame of a scene; unusable cameras rank last.

        Raises InvalidInput("image_queries", ...) when the images have fewer cells than `count`.
        """
        (h, w), n = scene.sizes[0], scene.ego2img.shape[2]
        if n * h * w < self.count:
            raise InvalidInput("image_queries", f"{self.count} are wanted of {n} x {h} x {w} feature cells")
        present = scene.table[:, 0] if scene.slots is None else scene.table.index_select(1, scene.slots[:1])[:, 0]
        hidden = F.relu(self.hidden(present[:, : n * h * w].float()))
        cells = self.out(hidden)
        with torch.no_grad():
            depth = cells[..., NUM_CLASSES + 1 :].detach()
            worth = self._odds(cells[..., : NUM_CLASSES + 1].detach())
            chosen, points = self._choose(worth, self._lift(depth, scene), scene)
        if scene.derived is not None:
            scene.derived[0]["cells"] = cells[0]
        kept = hidden.gather(1, chosen[..., None].expand(-1, -1, hidden.shape[-1]))
        return Proposals(points[:, :, None], self.start(kept), cells)

    def _odds(self, logits: Tensor) -> Tensor:
        """Returns y / (1 - y) of the highest weighted class probability y, [...], of logits [..., 18].

        Of a street's 4,000 cells hundreds are sure to 1e-6 of their class. Probabilities of them differ by rounding,
        which would decide which cells become queries; odds of objects (weight 1) do not.
        """
        label = (logits.softmax(-1) * self.worth).argmax(-1, keepdim=True)
        against = (logits - logits.gather(-1, label)).exp().scatter(-1, label, 0.0).sum(-1)  # (1 - p) / p
        weight = self.worth[label[..., 0]]
        return weight / (1.0 - weight + against).clamp(min=1e-20)

    def cells(self, rows: Tensor) -> Tensor:
        """Returns logits [..., 18 + bins] of feature rows [..., C] of the finest level."""
        return self.out(F.relu(self.hidden(rows.float())))

    def _lift(self, depth: Tensor, scene: SceneViews) -> Tensor:
        """Lift cell centres to their expected depth: [B, cells, 3] m in base_link. depth: logits [B, cells, bins]."""
        b, n = scene.ego2img.shape[0], scene.ego2img.shape[2]
        (h, w), (height, width) = scene.sizes[0], scene.image_size
        away = expected_depth(depth).view(b, n, h * w)
        u = (torch.arange(w, device=depth.device) + 0.5) * (width / w) - 0.5
        v = (torch.arange(h, device=depth.device) + 0.5) * (height / h) - 0.5
        pixel = torch.stack([u.expand(h, w), v[:, None].expand(h, w), u.new_ones(h, w)], -1).view(1, 1, h * w, 3)
        matrix = scene.ego2img[:, 0]
        image = pixel * away[..., None] - matrix[:, :, None, :3, 3]
        return (image @ _inverse(matrix[..., :3, :3]).transpose(-1, -2)).flatten(1, 2)

    def _choose(self, worth: Tensor, places: Tensor, scene: SceneViews) -> tuple[Tensor, Tensor]:
        """Returns indices of the chosen cells [B, K] and their normalised positions [B, K, 3], clamped to the grid."""
        h, w = scene.sizes[0]
        normal = (places - self.lower) / self.extent
        inside = ((normal > 0) & (normal < 1)).all(-1)
        usable = scene.usable[:, 0].repeat_interleave(h * w, 1)
        worth = torch.where(inside & usable, worth, 0.0)
        best, order = worth.topk(min(CANDIDATE_CELLS, worth.shape[1]), dim=1)
        near = normal.gather(1, order[..., None].expand(-1, -1, 3))
        square = torch.floor(near[..., :2] * self.extent[:2] / COLUMN)
        square = square[..., 0] * 4096.0 + square[..., 1]
        earlier = torch.ones(order.shape[1], order.shape[1], device=order.device).tril(-1) > 0
        taken = ((square[:, :, None] == square[:, None]) & earlier).any(-1)
        # The best cell of each square first, then the remaining cells, both in order of worth.
        place = torch.arange(order.shape[1], 0, -1, device=order.device, dtype=best.dtype)
        rank = torch.where(taken | (best <= 0), place, place + order.shape[1])
        first = rank.topk(self.count, dim=1).indices
        # In the order of the image: two cells that are equally sure then change no query's row.
        chosen = order.gather(1, first).sort(1).values
        return chosen, normal.gather(1, chosen[..., None].expand(-1, -1, 3)).clamp(0.0, 1.0)


def depth_step(metres: Tensor, bins: int = 32) -> Tensor:
    """Convert depth to a fractional index of the logarithmic bins, 0..bins - 1."""
    scale = (bins - 1) / math.log(FURTHEST / NEAREST)
    return ((metres / NEAREST).log() * scale).clamp(0.0, bins - 1.0)


def expected_depth(logits: Tensor) -> Tensor:
    """Returns the depth in metres [...] of logits [..., bins]: the mean over the bins within about 26 % of the best.

    A mean over all bins would fall between two surfaces if a cell shows both.
    """
    bins = logits.shape[-1]
    share = logits.softmax(-1)
    step = torch.arange(bins, device=logits.device, dtype=logits.dtype)
    share = torch.where((step - share.argmax(-1, keepdim=True)).abs() <= max(2.0, bins / 16), share, 0.0)
    mean = (share * step).sum(-1) / share.sum(-1)
    return NEAREST * torch.exp(mean * (math.log(FURTHEST / NEAREST) / (bins - 1)))


def _inverse(m: Tensor) -> Tensor:
    """Invert 3 x 3 matrices [..., 3, 3] by cross products, which export to ONNX; singular ones become zero."""
    a, b, c = m.unbind(-2)
    columns = torch.stack([torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)], -1)
    determinant = (a * columns[..., 0]).sum(-1)[..., None, None]
    safe = torch.where(determinant == 0, 1.0, determinant)
    return torch.where(determinant == 0, 0.0, columns / safe)
