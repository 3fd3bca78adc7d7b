"""Projection and feature reading against independent formulas, and every sampling path against the plain one."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseoccvla_ros.core import geometry
from sparseoccvla_ros.occupancy.sampling.embedding_bag import sample_bag
from sparseoccvla_ros.occupancy.sampling.point_sampling import PointSampling, pick_path
from sparseoccvla_ros.occupancy.sampling.views import (
    SamplingRules,
    SceneViews,
    choose_view,
    locate,
    project,
    read_map,
    sample_plain,
)

pytestmark = pytest.mark.numeric

ALL_RULES = [SamplingRules(leak, corners) for leak in (False, True) for corners in (False, True)]
NO_TRITON = importlib.util.find_spec("triton") is None


@pytest.mark.parametrize("corners", [False, True])
def test_projection_agrees_with_core(make_frames, corners):
    frames = make_frames(0, size=(128, 352))
    points = np.random.default_rng(0).uniform((-40, -40, -1), (40, 40, 5.4), (500, 3))
    matrices = torch.from_numpy(frames.ego2img).float()[None, None]
    rules = SamplingRules(corners=corners)
    u, v, visible = project(torch.from_numpy(points).float()[None], matrices, (128, 352), rules)
    for camera, matrix in enumerate(frames.ego2img):
        pixels, depth = geometry.project(matrix, points)
        pixels = pixels if corners else pixels + 0.5
        inside = (depth > 1e-5) & ((pixels > 0) & (pixels < (352, 128))).all(-1)
        np.testing.assert_array_equal(visible[0, 0, camera].numpy(), inside)
        np.testing.assert_allclose(u[0, 0, camera].numpy()[inside] * 352, pixels[inside, 0], atol=2e-3)
        np.testing.assert_allclose(v[0, 0, camera].numpy()[inside] * 128, pixels[inside, 1], atol=2e-3)


def tall(maps: torch.Tensor) -> torch.Tensor:
    """[M, N, C, H, W] to [M, C, N * (H + 1), W]."""
    m, n, c, h, w = maps.shape
    return F.pad(maps.transpose(1, 2), (0, 0, 0, 1)).reshape(m, c, n * (h + 1), w)


@settings(max_examples=60)
@given(
    views=st.integers(1, 4),
    height=st.integers(1, 5),
    width=st.integers(1, 6),
    seed=st.integers(0, 2**31 - 1),
)
def test_tall_map_reads_like_a_single_camera(views, height, width, seed):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn((1, views, 4, height, width), generator=generator)
    view = torch.randint(0, views, (1, 200), generator=generator)
    u, v = torch.rand((2, 1, 200), generator=generator) * 3 - 1
    x, y = u * (width - 1), v * (height - 1)
    out = read_map(tall(maps), views, view, x, y, torch.ones(1, 200, dtype=torch.bool))
    # Bilinear with zero padding, written out corner by corner.
    x, y = x[0].double(), y[0].double()
    expected = torch.zeros(4, 200, dtype=torch.float64)
    for cx in (x.floor(), x.floor() + 1):
        for cy in (y.floor(), y.floor() + 1):
            weight = (1 - (x - cx).abs()) * (1 - (y - cy).abs())
            inside = (cx >= 0) & (cx < width) & (cy >= 0) & (cy < height)
            index = cx.clamp(0, width - 1).long(), cy.clamp(0, height - 1).long()
            corner = maps[0].double()[view[0], :, index[1], index[0]].T
            expected += torch.where(inside, weight, 0.0) * corner
    torch.testing.assert_close(out[0].double(), expected, atol=2e-5, rtol=0)


def test_a_pixel_reads_the_features_that_cover_it():
    """Clean alignment: a map of its own pixel coordinates, subsampled by averaging, gives every pixel back."""
    width, stride = 64, 8
    coarse = torch.arange(width).float().view(-1, stride).mean(1)
    pixels = torch.linspace(stride / 2, width - stride / 2 - 1, 50)
    at = locate((pixels + 0.5) / width, width // stride, SamplingRules())
    low = at.floor().long().clamp(max=width // stride - 2)
    read = coarse[low] * (1 - (at - low)) + coarse[low + 1] * (at - low)
    torch.testing.assert_close(read, pixels, atol=1e-4, rtol=0)
    ends = locate(torch.tensor([0.0, 1.0]), width // stride, SamplingRules())
    assert ends.tolist() == [0.0, width // stride - 1]
    # OPUS's way is off by up to half a feature pixel, which is why it is a switch.
    off = locate(pixels / width, width // stride, SamplingRules(corners=True)) - at
    assert 0.3 < float(off.abs().max()) < 0.5


def test_first_seeing_camera_wins():
    u = torch.tensor([[0.1], [0.2], [0.3]])[None, None]
    v = u + 0.5
    seen = torch.tensor([[False], [True], [True]])[None, None]
    everything = torch.ones(1, 1, 3, dtype=torch.bool)
    view, x, y, reads = choose_view(u, v, seen, everything, leak=False)
    assert (view.item(), x.item(), y.item()) == (1, pytest.approx(0.2), pytest.approx(0.7))
    assert reads.all()
    usable = torch.tensor([[[True, False, True]]])
    assert choose_view(u, v, seen, usable, leak=False)[0].item() == 2


@pytest.mark.parametrize("leak", [False, True])
def test_unseen_point_reads_the_first_camera_only_if_compatible(leak):
    u = torch.full((1, 1, 2, 1), 1.01)
    seen = torch.zeros(1, 1, 2, 1, dtype=torch.bool)
    rules = SamplingRules(leak=leak, corners=True)
    ones = tall(torch.ones(1, 2, 1, 8, 8))
    for usable, expected in (([[[True, True]]], leak), ([[[False, True]]], False)):
        view, x, y, reads = choose_view(u, u * 0.5, seen, torch.tensor(usable), leak)
        read = read_map(ones, 2, view[0], locate(x[0], 8, rules), locate(y[0], 8, rules), reads[0])
        assert (read.item() > 0.5) is expected


def test_level_weights_of_the_compatible_order():
    torch.manual_seed(0)
    sampling = PointSampling(16, groups=4, points=2, levels=3, rules=SamplingRules(), compatible=True)
    query = torch.randn(2, 5, 16)
    plain = F.softmax(sampling.scale_weights(query).view(2, 5, 4, 2, 3), -1)
    weights = sampling.level_weights(query, 8)
    for t in range(8):
        for g in range(4):
            torch.testing.assert_close(weights[:, t, g], plain[:, :, t // 2])
    sampling.compatible = False
    torch.testing.assert_close(sampling.level_weights(query, 8)[:, 5, 3], plain[:, :, 3])


def scene_of(
    make_frames,
    batch: int,
    frames: int,
    cameras: int,
    slots: list[int] | None,
    device: str = "cpu",
    dtype=torch.float32,
    queries: int = 7,
) -> tuple[SceneViews, torch.Tensor, torch.Tensor]:
    """A scene with two levels, points all over it and level weights, the rig of the fixtures, one camera unusable."""
    generator = torch.Generator().manual_seed(5)
    matrices = torch.from_numpy(make_frames(0, size=(64, 96)).ego2img[:cameras]).float()
    ego2img = matrices.expand(batch, frames, cameras, 4, 4).clone()
    ego2img[:, 1:, :, :3, 3] += 0.3
    usable = torch.ones(batch, frames, cameras, dtype=torch.bool)
    usable[0, -1, 0] = cameras == 1
    sizes = [(8, 12), (4, 6)]
    levels = [torch.randn((batch * frames * cameras, 24, h, w), generator=generator) for h, w in sizes]
    points = torch.rand((batch, queries, 4, 3, 3), generator=generator) * torch.tensor([30, 30, 4.0]) - torch.tensor(
        [15, 15, 1.0]
    )
    weights = torch.rand((batch, frames, 4, queries, 3, 2), generator=generator)
    scene = SceneViews.of_levels(levels, ego2img, usable, (64, 96))
    where = None if slots is None else torch.tensor(slots, device=device)
    table = scene.table.to(device, dtype)
    moved = SceneViews(table, scene.sizes, ego2img.to(device), usable.to(device), (64, 96), where)
    return moved, points.to(device), weights.to(device)


def run(sample, scene: SceneViews, points: torch.Tensor, weights: torch.Tensor, rules: SamplingRules) -> list:
    """Result and gradients with respect to table, points and weights."""
    inputs = [a.detach().clone().requires_grad_() for a in (scene.table, points, weights)]
    own = SceneViews(inputs[0], scene.sizes, scene.ego2img, scene.usable, scene.image_size, scene.slots)
    out = sample(own, inputs[1], inputs[2], rules)
    arriving = torch.randn(out.shape, generator=torch.Generator().manual_seed(0)).to(out.device)
    return [out.detach(), *torch.autograd.grad((out * arriving).sum(), inputs)]


def assert_equal_to_plain(sample, make_frames, batch, frames, cameras, slots, rules, device="cpu", queries=7) -> None:
    case = scene_of(make_frames, batch, frames, cameras, slots, device, queries=queries)
    expected, got = run(sample_plain, *case, rules), run(sample, *case, rules)
    for name, a, b in zip(("features", "table", "points", "weights"), got, expected, strict=True):
        scale = max(1.0, float(b.abs().max()))
        assert float((a - b).abs().max()) < 1e-4 * scale, name
    assert float(expected[0].abs().max()) > 0.1


@pytest.mark.parametrize("rules", ALL_RULES, ids=str)
@pytest.mark.parametrize(
    ("batch", "frames", "cameras", "slots"), [(1, 1, 1, None), (2, 2, 3, None), (1, 3, 6, [2, 0, 1])]
)
def test_weighted_gather_equals_plain(make_frames, batch, frames, cameras, slots, rules):
    assert_equal_to_plain(sample_bag, make_frames, batch, frames, cameras, slots, rules)


@pytest.mark.skipif(NO_TRITON or not torch.cuda.is_available(), reason="needs CUDA and Triton")
@pytest.mark.parametrize("rules", ALL_RULES, ids=str)
@pytest.mark.parametrize(
    ("batch", "frames", "cameras", "slots"), [(1, 1, 1, None), (2, 2, 3, None), (1, 3, 6, [2, 0, 1])]
)
def test_triton_equals_plain_on_a_gpu(make_frames, batch, frames, cameras, slots, rules):
    from sparseoccvla_ros.occupancy.sampling.triton_kernel import sample_triton

    assert_equal_to_plain(sample_triton, make_frames, batch, frames, cameras, slots, rules, "cuda")


@pytest.mark.skipif(NO_TRITON or not torch.cuda.is_available(), reason="needs CUDA and Triton")
def test_triton_reads_half_precision_tables(make_frames):
    from sparseoccvla_ros.occupancy.sampling.triton_kernel import sample_triton

    scene, points, weights = scene_of(make_frames, 1, 2, 6, None, "cuda", torch.bfloat16)
    expected = sample_plain(scene, points, weights, SamplingRules())
    torch.testing.assert_close(sample_triton(scene, points, weights, SamplingRules()), expected, atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.skipif(NO_TRITON, reason="Triton is not installed")
@pytest.mark.parametrize("rules", [0, 3], ids=lambda k: str(ALL_RULES[k]))
def test_triton_equals_plain_in_the_interpreter(rules):
    """The kernels themselves, without a GPU; a process of its own, since Triton decides on import."""
    code = (
        "import sys; sys.path.insert(0, 'tests/occupancy'); import torch, conftest, test_sampling as t\n"
        "from sparseoccvla_ros.occupancy.sampling.triton_kernel import sample_triton\n"
        "make = conftest.make_frames.__wrapped__() if hasattr(conftest.make_frames, '__wrapped__') else None\n"
        f"t.assert_equal_to_plain(sample_triton, make, 1, 2, 3, [1, 0], t.ALL_RULES[{rules}], queries=2)\n"
    )
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_path_is_picked_by_device():
    assert pick_path("auto", torch.device("cpu")) == "bag"
    assert pick_path("plain", torch.device("cpu")) == "plain"
    assert pick_path("auto", torch.device("cuda")) == ("plain" if NO_TRITON else "triton")


def test_not_finite_points_read_something_without_crashing(make_frames):
    """What they read is refused later by name; here they must only stay inside the table."""
    scene, points, weights = scene_of(make_frames, 1, 1, 3, None)
    points[0, 0] = float("nan")
    points[0, 1] = float("inf")
    for rules in ALL_RULES:
        out = sample_bag(scene, points, weights, rules)
        torch.testing.assert_close(out[0, 2:], sample_plain(scene, points, weights, rules)[0, 2:], atol=1e-4, rtol=0)
