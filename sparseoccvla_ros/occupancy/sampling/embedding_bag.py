"""Feature sampling as one weighted gather: the fast path on a CPU.

Every output vector is a weighted sum of 4 corners x L levels of feature vectors. `embedding_bag` computes these sums
directly from the table, without copying it into maps and without an output-sized intermediate per level. Gradients
reach the table and the weights, and through the weights the points.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .views import SamplingRules, SceneViews, choose_view, locate, project


def sample_bag(scene: SceneViews, points: Tensor, weights: Tensor, rules: SamplingRules) -> Tensor:
    """Compute `views.sample_plain`: points [B, Q, G, P, 3], weights [B, T, G, Q, P, L] to [B, Q, G, T * P, C / G]."""
    b, q, g, p, _ = points.shape
    t = scene.ego2img.shape[1]
    c, device = scene.table.shape[-1], points.device
    u, v, visible = project(points.reshape(b, q * g * p, 3), scene.ego2img, scene.image_size, rules)
    chosen = choose_view(u, v, visible, scene.usable, rules.leak)
    # From here on the layout is that of the result with the levels last: [B, Q, G, T, P, L].
    view, u, v, reads = (a.view(b, t, q, g, p).permute(0, 2, 3, 1, 4)[..., None] for a in chosen)
    height, width, first_row = scene.level_table.unbind(-1)
    x, y = locate(u, width, rules), locate(v, height, rules)
    x0, y0 = x.floor(), y.floor()
    right, below = x - x0, y - y0
    first_x, first_y = x0.int(), y0.int()

    slots = torch.arange(t, device=device) if scene.slots is None else scene.slots
    frame = torch.arange(b, device=device)[:, None] * t + slots
    start = (frame * scene.starts[-1])[:, None, None, :, None, None] + first_row
    group = torch.arange(g, device=device)[:, None, None, None]
    share = torch.where(reads, weights.permute(0, 3, 2, 1, 4, 5), 0.0)
    rows, amounts = [], []
    for dy in (0, 1):
        line = first_y + dy
        across = share * (below if dy else 1 - below) * ((line >= 0) & (line < height))
        line = view * height + torch.minimum(line.clamp(min=0), height - 1)
        for dx in (0, 1):
            column = first_x + dx
            amounts.append(across * (right if dx else 1 - right) * ((column >= 0) & (column < width)))
            row = start + line * width + torch.minimum(column.clamp(min=0), width - 1)
            rows.append(row * g + group)
    index = torch.stack(rows, -1).view(-1, 4 * len(scene.sizes))
    amount = torch.stack(amounts, -1).view(-1, 4 * len(scene.sizes))
    out = F.embedding_bag(
        index, scene.table.reshape(-1, c // g).float(), per_sample_weights=amount, mode="sum", include_last_offset=False
    )
    return out.view(b, q, g, t * p, c // g)
