"""Sampling of image features at the 3-D points of queries: projection, camera selection, bilinear interpolation.

Geometry is float32 because half precision moves projected points by pixels. Three paths compute the same sum,

    out[q, g, (t, p)] = sum over levels l of weight[t, g, q, p, l] * bilinear(map[t, l, camera], pixel of (q, g, p)),

- `sample_plain` (this file), the reference: plain PyTorch on any device, differentiable, exports to ONNX;
- `embedding_bag.sample_bag`, the fast path on a CPU: one weighted gather over all levels and corners;
- `triton_kernel.sample_triton`, the fast path on CUDA: one fused kernel.

`PointSampling` selects the path; tests compare the other two with the reference.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

NEAR = 1e-5
"""Minimum depth [m] of a visible point in front of the camera."""


@dataclass(frozen=True)
class SamplingRules:
    """Sampling conventions: False is geometrically exact, True reproduces those of public OPUS weights.

    leak: a point outside every image samples the first camera with zero padding (features leak up to one feature pixel
    beyond its border) instead of zeros. corners: image coordinates 0..W map to feature columns 0..W_l - 1, which shifts
    features by up to half a feature pixel towards the image's middle, instead of to the cells that cover them.
    """

    leak: bool = False
    corners: bool = False


@dataclass(frozen=True, eq=False)
class SceneViews:
    """Image features and projections of T frames of N cameras, the decoder's input.

    table: float [B, T, rows, C], feature vectors of a frame's cameras, levels concatenated; within a level the rows run
    over (camera, y, x). sizes: (H_l, W_l) per level. ego2img: float32 [B, T, N, 4, 4], present base_link to pixels of
    the (padded) image, in order of age, the present frame first; usable: bool [B, T, N], False for cameras that must
    not be sampled. image_size: (H, W) of the padded image in pixels. slots: int64 [T], index in `table` of the frame
    of each age (FrameMemory is a ring buffer); None if in order. derived: per frame in order of age, what heads compute
    from its features alone and need again while it is in memory; None without a memory.
    """

    table: Tensor
    sizes: tuple[tuple[int, int], ...]
    ego2img: Tensor
    usable: Tensor
    image_size: tuple[int, int]
    slots: Tensor | None = None
    derived: tuple[dict[str, Any], ...] | None = None

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """First row of every level, followed by the total number of rows."""
        return level_starts(self.sizes, self.ego2img.shape[2])

    @cached_property
    def level_table(self) -> Tensor:
        """int32 [L, 3] on the table's device: height, width and first row of every level."""
        rows = [(h, w, start) for (h, w), start in zip(self.sizes, self.starts, strict=False)]
        return torch.tensor(rows, dtype=torch.int32, device=self.table.device)

    @cached_property
    def tall_maps(self) -> list[Tensor]:
        """Per level [B * T, C, N * (H_l + 1), W_l], frames in order of age: the cameras of a frame stacked
        vertically with a row of zeros below each, for `sample_plain`. Cached for all decoder layers."""
        table = self.table if self.slots is None else self.table.index_select(1, self.slots)
        b, t, n = self.ego2img.shape[:3]
        maps = []
        for (h, w), first, last in zip(self.sizes, self.starts, self.starts[1:], strict=False):
            level = table[:, :, first:last].reshape(b * t, n, h, w, -1).permute(0, 4, 1, 2, 3)
            maps.append(F.pad(level.float(), (0, 0, 0, 1)).reshape(b * t, -1, n * (h + 1), w).contiguous())
        return maps

    @classmethod
    def of_levels(
        cls, levels: list[Tensor], ego2img: Tensor, usable: Tensor, image_size: tuple[int, int]
    ) -> SceneViews:
        """Build from feature maps, per level [B * T * N, C, H_l, W_l], in the order (batch, frame, camera)."""
        b, t = ego2img.shape[:2]
        rows = [level.permute(0, 2, 3, 1).reshape(b, t, -1, level.shape[1]) for level in levels]
        sizes = tuple((level.shape[2], level.shape[3]) for level in levels)
        return cls(torch.cat(rows, 2), sizes, ego2img, usable, image_size)


def level_starts(sizes: tuple[tuple[int, int], ...], cameras: int) -> tuple[int, ...]:
    """Returns the first row of every level in a SceneViews table, followed by the total number of rows."""
    return tuple(itertools.accumulate((cameras * h * w for h, w in sizes), initial=0))


def project(
    points: Tensor, ego2img: Tensor, image_size: tuple[int, int], rules: SamplingRules
) -> tuple[Tensor, Tensor, Tensor]:
    """Project points into every frame and camera.

    points float32 [B, S, 3] m in the present base_link, ego2img float32 [B, T, N, 4, 4]; returns u and v float32
    [B, T, N, S] as fractions of the image width and height, and visible bool [B, T, N, S]: in front of the camera and
    strictly inside the image. Pixel (0, 0) of ego2img is a pixel's centre, so fractions count from half a pixel before
    it; OPUS (`rules.corners`) counts from the centre.
    """
    x, y, z = (axis[:, None, None] for axis in points.unbind(-1))

    def row(index: int) -> Tensor:
        m = ego2img[..., index, :, None]
        return m[..., 0, :] * x + m[..., 1, :] * y + m[..., 2, :] * z + m[..., 3, :]

    depth = row(2)
    divisor = depth.clamp(min=NEAR)
    half = 0.0 if rules.corners else 0.5
    u = (row(0) / divisor + half) / image_size[1]
    v = (row(1) / divisor + half) / image_size[0]
    visible = (depth > NEAR) & (u > 0) & (u < 1) & (v > 0) & (v < 1)
    return u, v, visible


def choose_view(
    u: Tensor, v: Tensor, visible: Tensor, usable: Tensor, leak: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Select the first usable camera in which each point is visible.

    u, v, visible [B, T, N, S]; usable bool [B, T, N]. Returns camera index int64, u, v, and whether to read, each
    [B, T, S]. A point that is visible in none gets the first camera, which is read only if it is usable and `leak`.
    """
    n = u.shape[2]
    seen = visible & usable[..., None]
    # Strictly decreasing ranks, because not every runtime defines which of equal maxima wins.
    rank = torch.arange(n, 0, -1, dtype=torch.float32, device=u.device)[:, None]
    best, view = (seen * rank).max(dim=2)
    u, v = (axis.gather(2, view[:, :, None])[:, :, 0] for axis in (u, v))
    reads = best > 0
    if leak:
        reads = reads | usable[:, :, :1]
    return view, u, v, reads


def locate(fraction: Tensor, size: int | Tensor, rules: SamplingRules) -> Tensor:
    """Convert image fractions to coordinates on a feature axis of `size` pixels (integers are pixel centres)."""
    if rules.corners:
        return fraction * (size - 1)
    top = size - 1 if isinstance(size, int) else (size - 1).to(fraction.dtype)
    return torch.minimum((fraction * size - 0.5).clamp(min=0.0), torch.as_tensor(top, device=fraction.device))


def read_map(tall: Tensor, cameras: int, view: Tensor, x: Tensor, y: Tensor, reads: Tensor) -> Tensor:
    """Interpolate features bilinearly with zero padding.

    tall [M, C, cameras * (H + 1), W], see `SceneViews.tall_maps`; view int64, x and y feature pixels, reads bool, each
    [M, S]; returns [M, C, S], zero where not `reads`. A single 4-D grid_sample reads every point from its own camera,
    because it exports to ONNX and TensorRT supports GridSample for 4-D inputs only.
    """
    rows, w = tall.shape[-2:]
    h = rows // cameras - 1
    # One pixel or more outside the border a camera reads zeros. Moving these points far away instead of clamping them
    # to that distance prevents rounding from blending in the next camera.
    outside = ~reads | (x <= -1) | (x >= w) | (y <= -1) | (y >= h)
    x = torch.where(outside, -4.0, x)
    y = torch.where(outside, 0.0, y) + view * (h + 1)
    grid = torch.stack(((2 * x + 1) / w - 1, (2 * y + 1) / rows - 1), -1)
    return F.grid_sample(tall, grid[:, None], mode="bilinear", padding_mode="zeros", align_corners=False)[:, :, 0]


def sample_plain(scene: SceneViews, points: Tensor, weights: Tensor, rules: SamplingRules) -> Tensor:
    """Sample features at points and sum them over levels (reference implementation).

    points float32 [B, Q, G, P, 3] m in the present base_link; weights float32 [B, T, G, Q, P, L]; returns
    [B, Q, G, T * P, C / G], frames in order of age.
    """
    b, q, g, p, _ = points.shape
    t, n = scene.ego2img.shape[1:3]
    u, v, visible = project(points.reshape(b, q * g * p, 3), scene.ego2img, scene.image_size, rules)

    def per_group(value: Tensor) -> Tensor:
        """Reshape [B, T, Q * G * P] to [B * T * G, Q * P]."""
        return value.view(b, t, q, g, p).transpose(2, 3).reshape(b * t * g, q * p)

    view, u, v, reads = (per_group(a) for a in choose_view(u, v, visible, scene.usable, rules.leak))
    total = None
    for level, ((h, w), tall) in enumerate(zip(scene.sizes, scene.tall_maps, strict=True)):
        grouped = tall.view(b * t * g, -1, *tall.shape[2:])
        read = read_map(grouped, n, view, locate(u, w, rules), locate(v, h, rules), reads)
        read = read * weights[..., level].reshape(b * t * g, 1, q * p)
        total = read if total is None else total + read
    assert total is not None
    return total.view(b, t, g, -1, q, p).permute(0, 4, 2, 1, 5, 3).reshape(b, q, g, t * p, -1)
