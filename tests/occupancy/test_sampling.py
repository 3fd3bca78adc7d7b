"""Projection and feature reading against independent formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseoccvla_ros.core import geometry
from sparseoccvla_ros.occupancy.sampling import PointSampling, choose_view, project, read_atlas, to_atlas


def test_projection_agrees_with_core(make_frames):
    frames = make_frames(0, size=(128, 352))
    points = np.random.default_rng(0).uniform((-40, -40, -1), (40, 40, 5.4), (500, 3))
    u, v, visible = project(
        torch.from_numpy(points).float()[None], torch.from_numpy(frames.ego2img).float()[None, None], (128, 352)
    )
    for camera, matrix in enumerate(frames.ego2img):
        pixels, depth = geometry.project(matrix, points)
        inside = (depth > 1e-5) & ((pixels > 0) & (pixels < (352, 128))).all(-1)
        np.testing.assert_array_equal(visible[0, 0, camera].numpy(), inside)
        np.testing.assert_allclose(u[0, 0, camera].numpy()[inside] * 352, pixels[inside, 0], atol=2e-3)
        np.testing.assert_allclose(v[0, 0, camera].numpy()[inside] * 128, pixels[inside, 1], atol=2e-3)


@settings(max_examples=60, deadline=None)
@given(
    views=st.integers(1, 4),
    height=st.integers(1, 5),
    width=st.integers(1, 6),
    seed=st.integers(0, 2**31 - 1),
)
def test_atlas_reads_like_a_single_camera(views, height, width, seed):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn((1, views, 4, height, width), generator=generator)
    view = torch.randint(0, views, (1, 200), generator=generator)
    u, v = torch.rand((2, 1, 200), generator=generator) * 3 - 1
    out = read_atlas(to_atlas(maps, 2)[0], view.expand(2, -1), u.expand(2, -1), v.expand(2, -1), views)
    # Bilinear with zero padding, written out corner by corner.
    x, y = (u * (width - 1))[0].double(), (v * (height - 1))[0].double()
    expected = torch.zeros(4, 200, dtype=torch.float64)
    for cx in (x.floor(), x.floor() + 1):
        for cy in (y.floor(), y.floor() + 1):
            weight = (1 - (x - cx).abs()) * (1 - (y - cy).abs())
            inside = (cx >= 0) & (cx < width) & (cy >= 0) & (cy < height)
            index = cx.clamp(0, width - 1).long(), cy.clamp(0, height - 1).long()
            corner = maps[0].double()[view[0], :, index[1], index[0]].T
            expected += torch.where(inside, weight, 0.0) * corner
    torch.testing.assert_close(out.reshape(4, 200).double(), expected, atol=2e-5, rtol=0)


def test_first_seeing_camera_wins():
    u = torch.tensor([[0.1], [0.2], [0.3]])[None, None]
    v = u + 0.5
    seen = torch.tensor([[False], [True], [True]])[None, None]
    everything = torch.ones(1, 1, 3, dtype=torch.bool)
    view, x, y = choose_view(u, v, seen, everything, leak=False)
    assert (view.item(), x.item(), y.item()) == (1, pytest.approx(0.2), pytest.approx(0.7))
    usable = torch.tensor([[[True, False, True]]])
    assert choose_view(u, v, seen, usable, leak=False)[0].item() == 2


@pytest.mark.parametrize("leak", [False, True])
def test_unseen_point_reads_the_first_camera_only_if_compatible(leak):
    u = torch.full((1, 1, 2, 1), 1.01)
    seen = torch.zeros(1, 1, 2, 1, dtype=torch.bool)
    usable = torch.ones(1, 1, 2, dtype=torch.bool)
    view, x, y = choose_view(u, u * 0.5, seen, usable, leak)
    read = read_atlas(to_atlas(torch.ones(1, 2, 1, 8, 8), 1)[0], view[0], x[0], y[0], 2)
    assert (read.item() > 0.5) is leak
    masked = torch.tensor([[[False, True]]])
    view, x, y = choose_view(u, u * 0.5, seen, masked, leak)
    assert read_atlas(to_atlas(torch.ones(1, 2, 1, 8, 8), 1)[0], view[0], x[0], y[0], 2).item() == 0


def test_level_weights_of_the_compatible_order():
    torch.manual_seed(0)
    sampling = PointSampling(16, groups=4, points=2, levels=3, compatible=True, leak=True)
    query = torch.randn(2, 5, 16)
    plain = F.softmax(sampling.scale_weights(query).view(2, 5, 4, 2, 3), -1)
    weights = sampling.level_weights(query, 8, None)
    for t in range(8):
        for g in range(4):
            torch.testing.assert_close(weights[:, :, t, g], plain[:, :, t // 2].permute(3, 0, 1, 2))
    # Stored in a ring, every slot holds the weights of its age.
    ages = torch.tensor([3, 0, 7, 1, 2, 6, 5, 4])
    torch.testing.assert_close(sampling.level_weights(query, 8, ages), weights[:, :, ages])
    sampling.compatible = False
    torch.testing.assert_close(sampling.level_weights(query, 8, None)[:, :, 5, 3], plain[:, :, 3].permute(3, 0, 1, 2))
