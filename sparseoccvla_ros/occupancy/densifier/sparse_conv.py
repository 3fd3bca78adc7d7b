"""3x3x3 convolutions over a sparse set of voxels, in plain PyTorch.

    out[o] = bias + sum over k in {-1, 0, 1}^3 with o + k in S of W[:, k] x[o + k]        (not flipped)

Sites are sorted by flat cell index in a volume padded by one cell around every sample, so a neighbour is at a constant
index offset and needs no border test. A dense int32 volume maps cells to rows without hashing (2.9 MB for
200 x 200 x 16). Each convolution is a matrix product per block of sites, whose 27 results per site are summed into the
outputs by `embedding_bag`. No tensor of size sites x 27 x channels is allocated, because consecutive outputs read a
short range of consecutive inputs.

SparseConv3d and SubMConv3d of spconv (Apache-2.0; Graham et al., CVPR 2018) compute the same sums.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_OFFSETS = 27
_BLOCK = 8192
"""Output sites per block: with 17 channels, their 27 products each fit in a CPU's last-level cache."""


@dataclass(frozen=True, eq=False)
class SparseSites:
    """Active voxels of a batch of grids.

    cells: int64 [M], ascending cell indices in the padded volume, ((b (X+2) + x+1) (Y+2) + y+1) (Z+2) + z+1; rows:
    int32 [cells of the volume], position in `cells` of each active cell, M for the others; shape: voxels (X, Y, Z).
    """

    cells: Tensor
    rows: Tensor
    shape: tuple[int, int, int]

    def __len__(self) -> int:
        return len(self.cells)

    @classmethod
    def of_mask(cls, mask: Tensor, shape: tuple[int, int, int]) -> SparseSites:
        """Build sites from a padded mask, bool [B, X+2, Y+2, Z+2], False in the padding."""
        flat = mask.view(-1)
        cells = flat.nonzero()[:, 0]
        rows = torch.full((len(flat),), len(cells), dtype=torch.int32, device=mask.device)
        rows[cells] = torch.arange(len(cells), dtype=torch.int32, device=mask.device)
        return cls(cells, rows, shape)

    @classmethod
    def of_indices(cls, index: Tensor, batch: int, shape: tuple[int, int, int]) -> tuple[SparseSites, Tensor]:
        """Build sites from in-grid indices int64 [N, 4] (b, x, y, z), duplicates merged; also their rows, int64 [N]."""
        x, y, z = rimmed(shape)
        cell = ((index[:, 0] * x + index[:, 1] + 1) * y + index[:, 2] + 1) * z + index[:, 3] + 1
        mask = torch.zeros(batch * x * y * z, dtype=torch.bool, device=index.device)
        mask[cell] = True
        sites = cls.of_mask(mask.view(batch, x, y, z), shape)
        return sites, sites.rows[cell].long()

    def indices(self) -> Tensor:
        """Returns int64 [M, 4]: sample, x, y, z."""
        x, y, z = rimmed(self.shape)
        rest, c = self.cells // z, self.cells % z
        b, a = rest // y, rest % y
        return torch.stack((b // x, b % x - 1, a - 1, c - 1), -1)

    def dilated(self) -> SparseSites:
        """Returns the sites and all their neighbours in the grid (3x3x3 dilation)."""
        x, y, z = rimmed(self.shape)
        mask = (self.rows < len(self)).view(-1, x, y, z)
        for axis in (1, 2, 3):
            length, grown = mask.shape[axis] - 1, mask.clone()
            grown.narrow(axis, 1, length).logical_or_(mask.narrow(axis, 0, length))
            grown.narrow(axis, 0, length).logical_or_(mask.narrow(axis, 1, length))
            mask = grown
        inner = torch.zeros_like(mask)
        inner[:, 1:-1, 1:-1, 1:-1] = mask[:, 1:-1, 1:-1, 1:-1]
        return SparseSites.of_mask(inner, self.shape)

    def steps(self) -> Tensor:
        """Returns int64 [27], cell offsets of the neighbours in the order of a kernel [3, 3, 3] over x, y, z."""
        _, y, z = rimmed(self.shape)
        along = torch.arange(-1, 2, device=self.cells.device)
        return (along[:, None, None] * (y * z) + along[:, None] * z + along).flatten()


def rimmed(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """Returns the size of a padded grid along x, y, z."""
    x, y, z = (n + 2 for n in shape)
    return x, y, z


class SparseConv3d(nn.Module):
    """3x3x3 convolution with stride 1 between sites of the same grids.

    weight: [out, 3, 3, 3, in], kernel axes x, y, z, as spconv >= 2.2 stores it.
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels_out, 3, 3, 3, channels_in))
        self.bias = nn.Parameter(torch.empty(channels_out))
        bound = 1 / math.sqrt(_OFFSETS * channels_in)
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor, source: SparseSites, target: SparseSites) -> Tensor:
        """x float32 [len(source), in] to [len(target), out]; target: `source` itself or its dilation."""
        channels_out, channels_in = len(self.weight), self.weight.shape[-1]
        # Columns (offset, channel), padded to a multiple of 16: with 17 channels two to three times as fast in CPU
        # matrix libraries.
        width = _OFFSETS
        while width * channels_out % 16:
            width += 1
        kernel = self.weight.flatten(1, 3).permute(2, 1, 0)
        kernel = F.pad(kernel, (0, 0, 0, width - _OFFSETS)).reshape(channels_in, width * channels_out)
        spread = None if target is source else _outputs_of(source, target)
        parts = []
        for start, end, low, high in _blocks(source, target):
            products = (x[low:high] @ kernel).view(-1, channels_out)
            if spread is None:
                # Most neighbours are active: every output gathers all 27, inactive ones from a row of zeros.
                table = torch.cat((products, products.new_zeros(1, channels_out)))
                row = source.rows[source.cells[start:end, None] + source.steps()]
                offset = torch.arange(_OFFSETS, dtype=torch.int32, device=x.device)
                index = torch.where(row < len(source), (row - low) * width + offset, len(products))
                parts.append(F.embedding_bag(index, table, mode="sum"))
            else:
                # Few neighbours are active: gather only those.
                pairs, bounds = spread
                bounds = bounds[start : end + 1]
                pair = pairs[int(bounds[0]) : int(bounds[-1])]
                index = (pair // _OFFSETS - low) * width + pair % _OFFSETS
                bounds = bounds - bounds[0]
                parts.append(F.embedding_bag(index, products, bounds, mode="sum", include_last_offset=True))
        return torch.cat(parts) + self.bias


def _blocks(source: SparseSites, target: SparseSites) -> list[list[int]]:
    """Returns (start, end, low, high): rows of a block of `target` and rows of `source` that it reads, half-open."""
    starts = torch.arange(0, len(target), _BLOCK, device=target.cells.device)
    ends = (starts + _BLOCK).clamp(max=len(target))
    reach = int(target.steps()[-1])
    low = torch.searchsorted(source.cells, target.cells[starts] - reach)
    high = torch.searchsorted(source.cells, target.cells[ends - 1] + reach, right=True)
    return torch.stack((starts, ends, low, high), 1).tolist()


def _outputs_of(source: SparseSites, target: SparseSites) -> tuple[Tensor, Tensor]:
    """Returns pairs (source row, offset) as row * 27 + offset, int64 [P], sorted by output row, and the start of each
    output's pairs, int64 [len(target) + 1]. Pairs whose output lies outside the grid come after the last of these."""
    row = target.rows[source.cells[:, None] - source.steps()].flatten()
    order = row.sort(stable=True)
    wanted = torch.arange(len(target) + 1, dtype=row.dtype, device=row.device)
    return order.indices, torch.searchsorted(order.values, wanted)
