"""Projection of query points into cameras and frames, and bilinear reading of their features.

All of it is float32 on purpose: half precision moves a projected point by pixels.

The feature maps of all cameras of a frame lie on top of each other in one tall map (an atlas), with one row of zeros
below each camera, so that one 4-D grid_sample per level reads every point from its own camera. That is plain PyTorch,
exports to ONNX, and TensorRT documents GridSample for 4-D inputs only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NEAR = 1e-5
"""Metres in front of a camera below which a point is not visible."""


@dataclass(frozen=True, eq=False)
class SceneViews:
    """What the decoder samples from: T frames of N cameras.

    atlases: per level float32 [B, T, G, C / G, N * (H_l + 1), W_l] (see `to_atlas`); ego2img float32 [B, T, N, 4, 4],
    present base_link to pixels of the (padded) image; usable bool [B, T, N], False where a camera must not be read;
    image_size: (H, W) of the padded image in pixels. Frames are ordered by age, the present one first. A memory that
    keeps them in a ring instead gives `slots` int64 [T], the position of each age, and `ages` int64 [T], its inverse.
    """

    atlases: list[Tensor]
    ego2img: Tensor
    usable: Tensor
    image_size: tuple[int, int]
    slots: Tensor | None = None
    ages: Tensor | None = None


def to_atlas(features: Tensor, groups: int) -> Tensor:
    """Feature maps [F, N, C, H, W] of N cameras to an atlas [F, G, C / G, N * (H + 1), W]."""
    f, n, c, h, w = features.shape
    padded = F.pad(features.transpose(1, 2), (0, 0, 0, 1))
    return padded.reshape(f, groups, c // groups, n * (h + 1), w)


def project(points: Tensor, ego2img: Tensor, image_size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Image coordinates of points in every frame and camera.

    points float32 [B, S, 3] m, ego2img float32 [B, T, N, 4, 4]; returns u and v float32 [B, T, N, S] as fractions of
    the image width and height, and visible bool [B, T, N, S]: in front of the camera and strictly inside the image.
    """
    x, y, z = (axis[:, None, None] for axis in points.unbind(-1))

    def row(index: int) -> Tensor:
        m = ego2img[..., index, :, None]
        return m[..., 0, :] * x + m[..., 1, :] * y + m[..., 2, :] * z + m[..., 3, :]

    depth = row(2)
    divisor = depth.clamp(min=NEAR)
    u = row(0) / divisor / image_size[1]
    v = row(1) / divisor / image_size[0]
    visible = (depth > NEAR) & (u > 0) & (u < 1) & (v > 0) & (v < 1)
    return u, v, visible


def choose_view(u: Tensor, v: Tensor, visible: Tensor, usable: Tensor, leak: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The first camera, in their order, that sees each point.

    u, v, visible [B, T, N, S]; usable bool [B, T, N]. Returns camera index int64, u and v, each [B, T, S]. A point
    that no camera sees gets the first camera and, unless `leak` and that camera is usable, coordinates far outside.
    """
    n = u.shape[2]
    seen = visible & usable[..., None]
    # Strictly falling ranks: the order of equal maxima is not defined on every runtime.
    rank = torch.arange(n, 0, -1, dtype=torch.float32, device=u.device)[:, None]
    best, view = (seen * rank).max(dim=2)
    u, v = (axis.gather(2, view[:, :, None])[:, :, 0] for axis in (u, v))
    reads = best > 0
    if leak:
        reads = reads | usable[:, :, :1]
    return view, u.where(reads, -9.0), v.where(reads, -9.0)


def read_atlas(atlas: Tensor, view: Tensor, u: Tensor, v: Tensor, views: int) -> Tensor:
    """Bilinear features with zero padding.

    atlas [M, C, views * (H + 1), W]; view int64, u, v [M, S], fractions of the image that map to 0..W-1 and 0..H-1
    (corners aligned); returns [M, C, S].
    """
    rows, w = atlas.shape[-2:]
    h = rows // views - 1
    x = u * (w - 1)
    y = v * (h - 1)
    # From one pixel off the border on a camera reads zeros. Moving such points well away, rather than clamping them
    # to that distance, keeps rounding from picking up a trace of the next camera in the atlas.
    outside = (x <= -1) | (x >= w) | (y <= -1) | (y >= h)
    x = torch.where(outside, -4.0, x)
    y = torch.where(outside, 0.0, y) + view * (h + 1)
    grid = torch.stack(((2 * x + 1) / w - 1, (2 * y + 1) / rows - 1), -1)
    return F.grid_sample(atlas, grid[:, None], mode="bilinear", padding_mode="zeros", align_corners=False)[:, :, 0]


class PointSampling(nn.Module):
    """Samples each query's own points from all frames, cameras and levels (SparseBEV, OPUS).

    Rows of `sampling_offset`: (group, point, xyz); of `scale_weights`: (group, point, level).
    """

    def __init__(self, embed_dims: int, groups: int, points: int, levels: int, compatible: bool, leak: bool) -> None:
        super().__init__()
        self.groups, self.points, self.levels = groups, points, levels
        self.compatible, self.leak = compatible, leak
        self.sampling_offset = nn.Linear(embed_dims, groups * points * 3)
        self.scale_weights = nn.Linear(embed_dims, groups * points * levels)
        nn.init.zeros_(self.sampling_offset.weight)
        nn.init.uniform_(self.sampling_offset.bias, -0.5, 0.5)

    def forward(self, query: Tensor, centres: Tensor, spread: Tensor, scene: SceneViews) -> Tensor:
        """query [B, Q, C], centres and spread [B, Q, 3] m to [B, Q, G, T * P, C / G], frames in order of age."""
        b, q, _ = query.shape
        g, p = self.groups, self.points
        t, n = scene.ego2img.shape[1:3]
        offset = self.sampling_offset(query).float().view(b, q, g * p, 3)
        points = (centres[:, :, None] + offset * spread[:, :, None]).reshape(b, q * g * p, 3)
        u, v, visible = project(points, scene.ego2img, scene.image_size)
        view, u, v = choose_view(u, v, visible, scene.usable, self.leak)

        def per_group(value: Tensor) -> Tensor:
            """[B, T, Q * G * P] to [B * T * G, Q * P]."""
            return value.view(b, t, q, g, p).transpose(2, 3).reshape(b * t * g, q * p)

        view, u, v = per_group(view), per_group(u), per_group(v)
        weights = self.level_weights(query, t, scene.ages).reshape(self.levels, b * t * g, 1, q * p)
        total = None
        for level, atlas in enumerate(scene.atlases):
            read = read_atlas(atlas.flatten(0, 2), view, u, v, n) * weights[level]
            total = read if total is None else total + read
        assert total is not None
        total = total.view(b, t, g, -1, q, p)
        if scene.slots is not None:
            total = total.index_select(1, scene.slots)
        return total.permute(0, 4, 2, 1, 5, 3).reshape(b, q, g, t * p, -1)

    def level_weights(self, query: Tensor, frames: int, ages: Tensor | None) -> Tensor:
        """Softmax weights [L, B, T, G, Q, P] of the levels.

        In the compatible order the weights laid out (group, frame) meet features laid out (frame, group): frame t,
        group g uses those of group (t * G + g) // T (SparseBEV issue 24). Public weights were trained that way.
        """
        b, q, _ = query.shape
        g, t = self.groups, frames
        weights = self.scale_weights(query).float().view(b, q, g, self.points, self.levels).softmax(-1)
        weights = weights.permute(4, 0, 2, 1, 3)
        if not self.compatible:
            return weights[:, :, None].expand(-1, -1, t, -1, -1, -1)
        source = torch.arange(t * g, device=query.device).view(t, g) // t
        if ages is not None:
            source = source.index_select(0, ages)
        return weights.index_select(2, source.flatten()).view(self.levels, b, t, g, q, self.points)
