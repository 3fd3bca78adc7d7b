"""Context of the voxel head: corrects the classes of a block's voxels by what stands around it.

The head classifies every voxel by itself, so walls end at a gap between two cells and a car is as long as its visible
side. This network sees the whole bird's-eye view: every opened block becomes a few channels, the levels of a column
stand side by side (as in FlashOcc, Yu et al., 2023), and a small U-Net (Ronneberger et al., MICCAI 2015) with 2-D
convolutions at a half and a quarter of the blocks' resolution adds what is around.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.classes import FREE
from ...core.onednn import Conv2d, Linear

EMBEDDING = 8
"""Channels of a block in the bird's-eye view."""
HALF, QUARTER, HIDDEN = 96, 128, 96
"""Channels at a half and at a quarter of the blocks' resolution, and of the MLP that classifies."""


class BlockContext(nn.Module):
    """Network that adds to the logits of opened blocks.

    Args:
        blocks: blocks of the grid along x, y and z.
        hidden: channels of the head's last hidden layer, of each of a block's eight voxels.
    """

    def __init__(self, blocks: tuple[int, ...], hidden: int) -> None:
        super().__init__()
        self.blocks = blocks
        column = blocks[2] * EMBEDDING
        self.embed = Linear(8 * hidden, EMBEDDING)
        self.near = Conv2d(column, column, 3, padding=1, groups=column)
        self.down = Conv2d(column, HALF, 3, stride=2, padding=1)
        self.at_half = nn.ModuleList(Conv2d(HALF, HALF, 3, padding=1) for _ in range(2))
        self.deeper = Conv2d(HALF, QUARTER, 3, stride=2, padding=1)
        self.at_quarter = nn.ModuleList(Conv2d(QUARTER, QUARTER, 3, padding=1) for _ in range(2))
        self.up = Conv2d(QUARTER, HALF, 1)
        self.merge = Conv2d(HALF, HALF, 3, padding=1)
        self.from_around = Linear(HALF, HIDDEN, bias=False)
        self.from_block = Linear(4 * EMBEDDING, HIDDEN)
        self.from_place = nn.Embedding(4 * blocks[2], HIDDEN)
        self.out = Linear(HIDDEN, 8 * (FREE + 1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Reinitialise all weights; the logits of a new network are zero."""
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.zeros_(self.from_place.weight)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def embedded(self, hidden: Tensor) -> Tensor:
        """Returns the channels float32 [K, EMBEDDING] of blocks with hidden units [K, 8, hidden]."""
        return F.relu(self.embed(hidden.flatten(1)))

    def forward(self, embedded: Tensor, block: Tensor) -> Tensor:
        """Returns what to add to the blocks' logits: float32 [K, 8, 18].

        Args:
            embedded: float32 [K, EMBEDDING].
            block: flat x-major index of every block, int64 [K].
        """
        nx, ny, nz = self.blocks
        x, y, z = block // (ny * nz), block // nz % ny, block % nz
        rows = embedded.new_zeros(nx * ny * nz, EMBEDDING).index_copy(0, block, embedded)
        view = rows.view(1, nx, ny, -1).permute(0, 3, 1, 2)  # channels last, as the convolutions compute
        half = F.relu(self.down(view))
        for layer in self.at_half:
            half = half + F.relu(layer(half))
        quarter = F.relu(self.deeper(half))
        for layer in self.at_quarter:
            quarter = quarter + F.relu(layer(quarter))
        above = F.interpolate(self.up(quarter), size=half.shape[-2:], mode="nearest")
        half = half + F.relu(self.merge(half + above))
        around = self.from_around(half[0].flatten(1).T)[(x // 2) * half.shape[-1] + y // 2]

        near = F.relu(self.near(view)).permute(0, 2, 3, 1).reshape(nx * ny, nz, EMBEDDING)
        near = F.pad(near, (0, 0, 1, 1)).flatten(0, 1)
        below = (x * ny + y) * (nz + 2) + z
        own = torch.cat([embedded, *(near[below + level] for level in range(3))], 1)
        place = self.from_place(4 * z + 2 * (x % 2) + y % 2)
        return self.out(F.relu(around + self.from_block(own) + place)).view(-1, 8, FREE + 1)
