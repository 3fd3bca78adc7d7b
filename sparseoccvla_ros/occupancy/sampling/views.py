"""Sampling of image features at the 3-D points of queries: projection, choice of a camera, bilinear reading.

Geometry is float32 on purpose: half precision moves a projected point by pixels. Three paths compute the same sum,

    out[q, g, (t, p)] = sum over levels l of weight[t, g, q, p, l] * bilinear(map[t, l, camera], pixel of (q, g, p)),

- `sample_plain` (this file) is the truth: plain PyTorch on any device, with gradients, and it exports to ONNX;
- `embedding_bag.sample_bag` reads all levels and corners in one weighted gather: the fast path on a CPU;
- `triton_kernel.sample_triton` fuses everything into one kernel: the fast path on CUDA.

`PointSampling` picks the path; the tests hold each against the first.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

NEAR = 1e-5
"""Metres in front of a camera below which a point is not visible."""


@dataclass(frozen=True)
class SamplingRules:
    """How points are read from a camera; False everywhere is the clean way, True that of public OPUS weights.

    leak: a point that no camera sees reads the first one with zero padding (up to one feature pixel outside its border
    leaks in) instead of nothing. corners: image coordinates 0..W are laid on the feature columns 0..W_l - 1, which
    pulls features up to half a feature pixel towards the image's middle, instead of each on the pixels it covers.
    """

    leak: bool = False
    corners: bool = False


@dataclass(frozen=True, eq=False)
class SceneViews:
    """What the decoder samples from: T frames of N cameras.

    table: float [B, T, rows, C], the feature vectors of a frame's cameras, all levels behind one another; inside a
    level the rows run over (camera, y, x). sizes: (H_l, W_l) per level. ego2img float32 [B, T, N, 4, 4], present
    base_link to pixels of the (padded) image, ordered by age, the present frame first; usable bool [B, T, N], False
    where a camera must not be read. image_size: (H, W) of the padded image in pixels. slots: int64 [T], where in
    `table` the frame of each age lies (a memory keeps them in a ring); in order when None.
    """

    table: Tensor
    sizes: tuple[tuple[int, int], ...]
    ego2img: Tensor
    usable: Tensor
    image_size: tuple[int, int]
    slots: Tensor | None = None

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """First row of every level, and the number of rows behind the last."""
        return level_starts(self.sizes, self.ego2img.shape[2])

    @cached_property
    def level_table(self) -> Tensor:
        """int32 [L, 3] on the table's device: height, width and first row of every level."""
        rows = [(h, w, start) for (h, w), start in zip(self.sizes, self.starts, strict=False)]
        return torch.tensor(rows, dtype=torch.int32, device=self.table.device)

    @cached_property
    def tall_maps(self) -> list[Tensor]:
        """Per level [B * T, C, N * (H_l + 1), W_l], frames in order of age: all cameras of a frame on top of each
        other, with a row of zeros below each, for `sample_plain`. Made once for all decoder layers."""
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
        """From feature maps, per level [B * T * N, C, H_l, W_l] in that order."""
        b, t = ego2img.shape[:2]
        rows = [level.permute(0, 2, 3, 1).reshape(b, t, -1, level.shape[1]) for level in levels]
        sizes = tuple((level.shape[2], level.shape[3]) for level in levels)
        return cls(torch.cat(rows, 2), sizes, ego2img, usable, image_size)


def level_starts(sizes: tuple[tuple[int, int], ...], cameras: int) -> tuple[int, ...]:
    """First row of every level in a SceneViews table, and the number of rows behind the last."""
    return tuple(itertools.accumulate((cameras * h * w for h, w in sizes), initial=0))


def project(
    points: Tensor, ego2img: Tensor, image_size: tuple[int, int], rules: SamplingRules
) -> tuple[Tensor, Tensor, Tensor]:
    """Image coordinates of points in every frame and camera.

    points float32 [B, S, 3] m in the present base_link, ego2img float32 [B, T, N, 4, 4]; returns u and v float32
    [B, T, N, S] as fractions of the image width and height, and visible bool [B, T, N, S]: in front of the camera and
    strictly inside the image. Pixel (0, 0) of ego2img is a pixel's centre, so fractions count from half a pixel before
    it; OPUS (`rules.corners`) counts from the centre itself.
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
    """The first camera, in their order, that sees each point.

    u, v, visible [B, T, N, S]; usable bool [B, T, N]. Returns camera index int64, u, v, and whether anything is read
    there, each [B, T, S]. A point that no camera sees gets the first camera; it is read only if `leak` and that camera
    is usable.
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
    return view, u, v, reads


def locate(fraction: Tensor, size: int | Tensor, rules: SamplingRules) -> Tensor:
    """Coordinates on a feature axis of `size` pixels (integers are their centres) of fractions of the image."""
    if rules.corners:
        return fraction * (size - 1)
    top = size - 1 if isinstance(size, int) else (size - 1).to(fraction.dtype)
    return torch.minimum((fraction * size - 0.5).clamp(min=0.0), torch.as_tensor(top, device=fraction.device))


def read_map(tall: Tensor, cameras: int, view: Tensor, x: Tensor, y: Tensor, reads: Tensor) -> Tensor:
    """Bilinear features with zero padding.

    tall [M, C, cameras * (H + 1), W], see `SceneViews.tall_maps`; view int64, x and y feature pixels, reads bool, each
    [M, S]; returns [M, C, S], zero where not `reads`. One 4-D grid_sample reads every point from its own camera: that
    exports to ONNX, and TensorRT knows GridSample for 4-D inputs only.
    """
    rows, w = tall.shape[-2:]
    h = rows // cameras - 1
    # From one pixel off the border on a camera reads zeros. Moving such points well away, rather than clamping them
    # to that distance, keeps rounding from picking up a trace of the next camera.
    outside = ~reads | (x <= -1) | (x >= w) | (y <= -1) | (y >= h)
    x = torch.where(outside, -4.0, x)
    y = torch.where(outside, 0.0, y) + view * (h + 1)
    grid = torch.stack(((2 * x + 1) / w - 1, (2 * y + 1) / rows - 1), -1)
    return F.grid_sample(tall, grid[:, None], mode="bilinear", padding_mode="zeros", align_corners=False)[:, :, 0]


def sample_plain(scene: SceneViews, points: Tensor, weights: Tensor, rules: SamplingRules) -> Tensor:
    """The truth: features at points, summed over levels.

    points float32 [B, Q, G, P, 3] m in the present base_link; weights float32 [B, T, G, Q, P, L]; returns
    [B, Q, G, T * P, C / G], frames in order of age.
    """
    b, q, g, p, _ = points.shape
    t, n = scene.ego2img.shape[1:3]
    u, v, visible = project(points.reshape(b, q * g * p, 3), scene.ego2img, scene.image_size, rules)

    def per_group(value: Tensor) -> Tensor:
        """[B, T, Q * G * P] to [B * T * G, Q * P]."""
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
