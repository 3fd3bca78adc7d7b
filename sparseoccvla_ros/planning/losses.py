"""Training losses of the planner, from DiffusionDrive's nuScenes branch (arXiv 2411.15139)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .anchors import MODES
from .model.diffusion import deltas_of


def nearest_anchor(anchors: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """Returns the positive anchor, int64 [B]: least mean distance of cumulative waypoints over the valid steps.

    anchors [A, 6, 2] m; truth [B, 6, 2] m; valid bool [B, 6]. On ties the first anchor wins.
    """
    distance = torch.linalg.vector_norm(anchors[None] - truth[:, None], dim=-1)
    weight = valid[:, None].to(distance.dtype)
    return ((distance * weight).sum(-1) / weight.sum(-1).clamp(min=1.0)).argmin(1)


def score_loss(logits: Tensor, positive: Tensor, valid: Tensor) -> Tensor:
    """Compute binary cross entropy over all A anchors; weight A - 1 balances the positive against the negatives.

    logits [B, A]; positive int64 [B]; valid bool [B, 6]: rows without a valid step are excluded. Scalar.
    """
    count = logits.shape[1]
    target = F.one_hot(positive, count).to(logits.dtype)
    loss = F.binary_cross_entropy_with_logits(
        logits, target, pos_weight=logits.new_tensor(float(count - 1)), reduction="none"
    ).mean(1)
    rows = valid.any(1).to(loss.dtype)
    return (loss * rows).sum() / rows.sum().clamp(min=1.0)


def trajectory_loss(waypoints: Tensor, truth: Tensor, positive: Tensor, valid: Tensor) -> Tensor:
    """Compute mean L1 in metres on the per-step deltas of the positive anchor's trajectory, over valid steps.

    waypoints [B, A, 6, 2] m, cumulative; truth [B, 6, 2] m; positive int64 [B]; valid bool [B, 6]. A step counts if
    both its ends are valid. Scalar.
    """
    chosen = waypoints[torch.arange(len(truth), device=truth.device), positive]
    error = (deltas_of(chosen) - deltas_of(truth)).abs().sum(-1)
    both = valid & torch.cat([torch.ones_like(valid[:, :1]), valid[:, :-1]], dim=1)
    weight = both.to(error.dtype)
    return (torch.where(both, error, torch.zeros_like(error)) * weight).sum() / weight.sum().clamp(min=1.0)


def positive_anchors(anchors: Tensor, truth: Tensor, command: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the nearest anchor of the command's group, int64 [B], and the group, int64 [B, 6].

    anchors [A, 6, 2] m, six per command in COMMAND_ORDER; truth [B, 6, 2] m; command int64 [B]. A nearer anchor of
    another group is not a positive, because online only the command's group can be chosen.
    """
    group = command[:, None] * MODES + torch.arange(MODES, device=command.device)
    valid = torch.ones(1, truth.shape[1], dtype=torch.bool, device=truth.device)
    inside = [nearest_anchor(anchors[row], path[None], valid)[0] for row, path in zip(group, truth, strict=True)]
    return group.gather(1, torch.stack(inside)[:, None])[:, 0], group
