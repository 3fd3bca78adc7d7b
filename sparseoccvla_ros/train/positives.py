"""The anchor that a sample should choose."""

from __future__ import annotations

import torch
from torch import Tensor

from ..planning.anchors import MODES
from ..planning.losses import nearest_anchor


def positive_anchors(anchors: Tensor, truth: Tensor, command: Tensor) -> tuple[Tensor, Tensor]:
    """(int64 [B], the nearest anchor among those of the command; int64 [B, 6], all of the command's).

    anchors [A, 6, 2] m, six per command in their order; truth [B, 6, 2] m; command int64 [B]. Only the commanded group
    is chosen from on line, so an anchor of another group that lies nearer is not what the sample should choose.
    """
    group = command[:, None] * MODES + torch.arange(MODES, device=command.device)
    valid = torch.ones(1, truth.shape[1], dtype=torch.bool, device=truth.device)
    inside = [nearest_anchor(anchors[row], path[None], valid)[0] for row, path in zip(group, truth, strict=True)]
    return group.gather(1, torch.stack(inside)[:, None])[:, 0], group
