"""Feature sampling as one fused kernel: the fast path on CUDA, forward and backward.

One program handles the P points of one (batch element, frame, query, group): it projects them into the frame's
cameras, selects the first camera in which each is visible, and sums 4 corners x L levels of feature vectors in
registers. Only the result is written, so the time is bounded by reading features. The backward pass recomputes the
geometry. Tests without a GPU run the same code in Triton's interpreter (TRITON_INTERPRET=1).
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .views import NEAR, SamplingRules, SceneViews


@triton.jit
def _pick_camera(
    points, ego2img, usable, b, t, row, p, lanes, height, width,
    T: tl.constexpr, N: tl.constexpr, LEAK: tl.constexpr, HALF: tl.constexpr, NEAREST: tl.constexpr,
):  # fmt: skip
    """Returns camera, image fractions u and v, whether to read, pixel numerators a and c, depth, and 3 x 3 matrix."""
    x = tl.load(points + row * 3, mask=lanes, other=0.0)
    y = tl.load(points + row * 3 + 1, mask=lanes, other=0.0)
    z = tl.load(points + row * 3 + 2, mask=lanes, other=0.0)
    view = tl.zeros_like(p)
    found = lanes & (p < 0)
    reads = found
    u, v, a, c, depth = x * 0.0, x * 0.0, x * 0.0, x * 0.0, x * 0.0
    k00, k01, k02, k10, k11, k12, k20, k21, k22 = u, u, u, u, u, u, u, u, u
    for n in tl.static_range(N):
        m = ego2img + ((b * T + t) * N + n) * 16
        m00, m01, m02, m03 = tl.load(m), tl.load(m + 1), tl.load(m + 2), tl.load(m + 3)
        m10, m11, m12, m13 = tl.load(m + 4), tl.load(m + 5), tl.load(m + 6), tl.load(m + 7)
        m20, m21, m22, m23 = tl.load(m + 8), tl.load(m + 9), tl.load(m + 10), tl.load(m + 11)
        use = tl.load(usable + (b * T + t) * N + n) != 0
        an = m00 * x + m01 * y + m02 * z + m03
        cn = m10 * x + m11 * y + m12 * z + m13
        dn = m20 * x + m21 * y + m22 * z + m23
        divisor = tl.maximum(dn, NEAREST)
        un = (an / divisor + HALF) / width
        vn = (cn / divisor + HALF) / height
        seen = (dn > NEAREST) & (un > 0.0) & (un < 1.0) & (vn > 0.0) & (vn < 1.0) & use & lanes
        take = seen & (found == 0)
        if n == 0:
            # Fallback for points outside every image.
            take = lanes
            if LEAK:
                reads = lanes & use
        found = found | seen
        view = tl.where(take, n, view)
        u, v = tl.where(take, un, u), tl.where(take, vn, v)
        a, c, depth = tl.where(take, an, a), tl.where(take, cn, c), tl.where(take, dn, depth)
        k00, k01, k02 = tl.where(take, m00, k00), tl.where(take, m01, k01), tl.where(take, m02, k02)
        k10, k11, k12 = tl.where(take, m10, k10), tl.where(take, m11, k11), tl.where(take, m12, k12)
        k20, k21, k22 = tl.where(take, m20, k20), tl.where(take, m21, k21), tl.where(take, m22, k22)
    return view, u, v, reads | found, a, c, depth, k00, k01, k02, k10, k11, k12, k20, k21, k22


@triton.jit
def _locate(fraction, size, CORNERS: tl.constexpr):
    """Returns the feature coordinate and its derivative with respect to the image fraction."""
    scale = size.to(tl.float32)
    if CORNERS:
        x = fraction * (scale - 1.0)
        # More than one pixel outside the map reads zero; the clamp keeps the conversion to integers defined.
        return tl.minimum(tl.maximum(x, -2.0), scale + 1.0), x * 0.0 + (scale - 1.0)
    raw = fraction * scale - 0.5
    inside = (raw >= 0.0) & (raw <= scale - 1.0)
    return tl.minimum(tl.maximum(raw, 0.0), scale - 1.0), tl.where(inside, scale, 0.0)


@triton.jit
def _corner(x, y, view, reads, h, w, start, CORNER: tl.constexpr):
    """Returns table row, validity and bilinear weights of one of the four feature pixels around (x, y)."""
    left, top = tl.floor(x), tl.floor(y)
    column, line = left.to(tl.int32) + CORNER % 2, top.to(tl.int32) + CORNER // 2
    across = x - left if CORNER % 2 else 1.0 - (x - left)
    down = y - top if CORNER // 2 else 1.0 - (y - top)
    inside = reads & (column >= 0) & (column < w) & (line >= 0) & (line < h)
    return (start + (view * h + line) * w + column).to(tl.int64), inside, across, down


@triton.jit
def _forward(
    table, points, weights, ego2img, usable, slots, levels, out, rows, height, width, Q,
    T: tl.constexpr, N: tl.constexpr, G: tl.constexpr, P: tl.constexpr, L: tl.constexpr, C: tl.constexpr,
    PB: tl.constexpr, CB: tl.constexpr, LEAK: tl.constexpr, CORNERS: tl.constexpr, NEAREST: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0)
    g = pid % G
    q = (pid // G) % Q
    t = (pid // (G * Q)) % T
    b = pid // (G * Q * T)
    p, channel = tl.arange(0, PB), tl.arange(0, CB)
    lanes, channels = p < P, channel < C
    HALF: tl.constexpr = 0.0 if CORNERS else 0.5
    view, u, v, reads, _a, _c, _d, _0, _1, _2, _3, _4, _5, _6, _7, _8 = _pick_camera(
        points, ego2img, usable, b, t, ((b * Q + q) * G + g) * P + p, p, lanes, height, width, T, N, LEAK, HALF, NEAREST
    )
    frame = table + (b * T + tl.load(slots + t)).to(tl.int64) * rows * (G * C) + g * C
    total = tl.zeros([PB, CB], dtype=tl.float32)
    for level in tl.static_range(L):
        h, w, start = tl.load(levels + 3 * level), tl.load(levels + 3 * level + 1), tl.load(levels + 3 * level + 2)
        x, _dx = _locate(u, w, CORNERS)
        y, _dy = _locate(v, h, CORNERS)
        share = tl.load(weights + ((((b * T + t) * G + g) * Q + q) * P + p) * L + level, mask=lanes, other=0.0)
        for corner in tl.static_range(4):
            row, inside, across, down = _corner(x, y, view, reads & lanes, h, w, start, corner)
            cell = frame + row[:, None] * (G * C) + channel[None, :]
            value = tl.load(cell, mask=inside[:, None] & channels[None, :], other=0.0).to(tl.float32)
            total += (share * across * down)[:, None] * value
    place = ((b * Q + q) * G + g).to(tl.int64) * (T * P) + t * P + p
    tl.store(out + place[:, None] * C + channel[None, :], total, mask=lanes[:, None] & channels[None, :])


@triton.jit
def _backward(
    table, points, weights, ego2img, usable, slots, levels, grad_out, grad_table, grad_points, grad_weights,
    rows, height, width, Q,
    T: tl.constexpr, N: tl.constexpr, G: tl.constexpr, P: tl.constexpr, L: tl.constexpr, C: tl.constexpr,
    PB: tl.constexpr, CB: tl.constexpr, LEAK: tl.constexpr, CORNERS: tl.constexpr, NEAREST: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0)
    g = pid % G
    q = (pid // G) % Q
    t = (pid // (G * Q)) % T
    b = pid // (G * Q * T)
    p, channel = tl.arange(0, PB), tl.arange(0, CB)
    lanes, channels = p < P, channel < C
    HALF: tl.constexpr = 0.0 if CORNERS else 0.5
    view, u, v, reads, a, c, depth, k00, k01, k02, k10, k11, k12, k20, k21, k22 = _pick_camera(
        points, ego2img, usable, b, t, ((b * Q + q) * G + g) * P + p, p, lanes, height, width, T, N, LEAK, HALF, NEAREST
    )
    offset = (b * T + tl.load(slots + t)).to(tl.int64) * rows * (G * C) + g * C
    place = ((b * Q + q) * G + g).to(tl.int64) * (T * P) + t * P + p
    tile = lanes[:, None] & channels[None, :]
    arriving = tl.load(grad_out + place[:, None] * C + channel[None, :], mask=tile, other=0.0)
    grad_u, grad_v = u * 0.0, u * 0.0
    for level in tl.static_range(L):
        h, w, start = tl.load(levels + 3 * level), tl.load(levels + 3 * level + 1), tl.load(levels + 3 * level + 2)
        x, x_by_u = _locate(u, w, CORNERS)
        y, y_by_v = _locate(v, h, CORNERS)
        weight = ((((b * T + t) * G + g) * Q + q) * P + p) * L + level
        share = tl.load(weights + weight, mask=lanes, other=0.0)
        grad_share, grad_x, grad_y = u * 0.0, u * 0.0, u * 0.0
        for corner in tl.static_range(4):
            row, inside, across, down = _corner(x, y, view, reads & lanes, h, w, start, corner)
            cell = offset + row[:, None] * (G * C) + channel[None, :]
            some = inside[:, None] & channels[None, :]
            value = tl.load(table + cell, mask=some, other=0.0).to(tl.float32)
            along = tl.sum(value * arriving, axis=1)
            grad_share += across * down * along
            grad_x += (down * along) if corner % 2 else -(down * along)
            grad_y += (across * along) if corner // 2 else -(across * along)
            tl.atomic_add(grad_table + cell, (share * across * down)[:, None] * arriving, mask=some)
        tl.store(grad_weights + weight, grad_share, mask=lanes)
        grad_u += share * grad_x * x_by_u
        grad_v += share * grad_y * y_by_v
    # u = (a / max(depth, NEAR) + half) / width, and a, c, depth are linear in the point.
    divisor = tl.maximum(depth, NEAREST)
    grad_a, grad_c = grad_u / (width * divisor), grad_v / (height * divisor)
    grad_d = tl.where(depth > NEAREST, -(grad_a * a + grad_c * c) / divisor, 0.0)
    where = ((((b * T + t) * Q + q) * G + g) * P + p) * 3
    tl.store(grad_points + where, grad_a * k00 + grad_c * k10 + grad_d * k20, mask=lanes)
    tl.store(grad_points + where + 1, grad_a * k01 + grad_c * k11 + grad_d * k21, mask=lanes)
    tl.store(grad_points + where + 2, grad_a * k02 + grad_c * k12 + grad_d * k22, mask=lanes)


class _Sampling(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, points: Tensor, weights: Tensor, geometry: tuple[Any, ...]) -> Tensor:
        b, q, g, p, _ = points.shape
        t, c = weights.shape[1], table.shape[-1] // g
        ego2img, usable, slots, levels, image_size, rules = geometry
        out = torch.empty((b, q, g, t * p, c), dtype=torch.float32, device=points.device)
        sizes = _constants(points, weights, ego2img, c, rules)
        _forward[(b * t * q * g,)](
            table, points, weights, ego2img, usable, slots, levels, out, table.shape[2], *image_size, q, **sizes
        )
        ctx.save_for_backward(table, points, weights)
        ctx.geometry = geometry
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        table, points, weights = ctx.saved_tensors
        b, q, g, p, _ = points.shape
        t, c = weights.shape[1], table.shape[-1] // g
        ego2img, usable, slots, levels, image_size, rules = ctx.geometry
        grad_table = torch.zeros(table.shape, dtype=torch.float32, device=table.device)
        grad_points = torch.empty((b, t, q, g, p, 3), dtype=torch.float32, device=table.device)
        grad_weights = torch.empty_like(weights)
        sizes = _constants(points, weights, ego2img, c, rules)
        _backward[(b * t * q * g,)](
            table, points, weights, ego2img, usable, slots, levels, grad_out.contiguous(), grad_table, grad_points,
            grad_weights, table.shape[2], *image_size, q, **sizes,
        )  # fmt: skip
        return grad_table.to(table.dtype), grad_points.sum(1), grad_weights, None


def _constants(points: Tensor, weights: Tensor, ego2img: Tensor, channels: int, rules: SamplingRules) -> dict[str, Any]:
    _, _, g, p, _ = points.shape
    lanes, wide = triton.next_power_of_2(p), triton.next_power_of_2(channels)
    return {
        "T": weights.shape[1],
        "N": ego2img.shape[2],
        "G": g,
        "P": p,
        "L": weights.shape[-1],
        "C": channels,
        "PB": lanes,
        "CB": wide,
        "LEAK": rules.leak,
        "CORNERS": rules.corners,
        "NEAREST": NEAR,
        "num_warps": 1 if lanes * wide <= 256 else 2,
    }


def sample_triton(scene: SceneViews, points: Tensor, weights: Tensor, rules: SamplingRules) -> Tensor:
    """Compute `views.sample_plain`: points [B, Q, G, P, 3], weights [B, T, G, Q, P, L] to [B, Q, G, T * P, C / G].

    The table may be float32, bfloat16 or float16; sums are float32. Gradients reach table, points and weights.
    """
    device = points.device
    t = scene.ego2img.shape[1]
    slots = torch.arange(t, device=device) if scene.slots is None else scene.slots
    geometry = (
        scene.ego2img.float().contiguous(),
        scene.usable.to(torch.uint8).contiguous(),
        slots.int(),
        scene.level_table,
        (float(scene.image_size[0]), float(scene.image_size[1])),
        rules,
    )
    return _Sampling.apply(scene.table.contiguous(), points.float().contiguous(), weights.contiguous(), geometry)
