"""The densifier and its sparse convolutions against dense ones, and what an encoder makes of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseoccvla_ros.core.voxels import OCC3D_GRID, VoxelGrid
from sparseoccvla_ros.occupancy.densifier import sparse_conv
from sparseoccvla_ros.occupancy.densifier.network import Densifier
from sparseoccvla_ros.occupancy.densifier.sparse_conv import SparseConv3d, SparseSites

SHAPE = (7, 5, 4)
GRID = VoxelGrid((0.0, 0.0, 0.0), (7.0, 5.0, 4.0), 1.0)


def dense_of(sites: SparseSites, x: torch.Tensor, batch: int) -> torch.Tensor:
    """Zeros but for the sites: [B, C, X, Y, Z]."""
    volume = x.new_zeros(batch, *sites.shape, x.shape[1])
    volume[sites.indices().unbind(1)] = x
    return volume.permute(0, 4, 1, 2, 3)


def dense_kernel(conv: SparseConv3d) -> torch.Tensor:
    return conv.weight.permute(0, 4, 1, 2, 3)


@settings(max_examples=10)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 60), block=st.sampled_from([1, 7, 8192]))
def test_both_convolutions_equal_dense_ones_with_a_mask(seed: int, count: int, block: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    batch = 2
    index = torch.stack([torch.randint(0, n, (count,), generator=generator) for n in (batch, *SHAPE)], -1)
    sites, row = SparseSites.of_indices(index, batch, SHAPE)
    assert torch.equal(sites.indices(), index.unique(dim=0))
    assert torch.equal(sites.indices()[row], index)
    grown = sites.dilated()
    active = dense_of(sites, torch.ones(len(sites), 1), batch)
    around = F.max_pool3d(active, 3, 1, 1)
    assert torch.equal(dense_of(grown, torch.ones(len(grown), 1), batch), around)

    first, second = SparseConv3d(6, 5).double(), SparseConv3d(5, 3).double()
    x = torch.randn(len(sites), 6, generator=generator, dtype=torch.float64, requires_grad=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sparse_conv, "_BLOCK", block)
        hidden = first(x, sites, grown)
        out = second(hidden, grown, grown)
    want = F.conv3d(dense_of(sites, x, batch), dense_kernel(first), first.bias, padding=1) * around
    want = F.conv3d(want, dense_kernel(second), second.bias, padding=1) * around
    got = dense_of(grown, out, batch)
    torch.testing.assert_close(got, want, atol=1e-10, rtol=0)
    weight = torch.randn(want.shape, generator=generator, dtype=torch.float64)
    parameters = (x, *first.parameters(), *second.parameters())
    for a, b in zip(
        torch.autograd.grad((got * weight).sum(), parameters),
        torch.autograd.grad((want * weight).sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=0)


def test_points_beyond_the_grid_count_into_its_border() -> None:
    densifier = Densifier(GRID, 4, 8).eval()
    points = torch.tensor([[[[-3.0, 0.5, 0.5], [0.5, 9.0, 0.5], [float("nan"), 0.5, 1e30]]]])
    with torch.no_grad():
        sites, row, _ = densifier.pool(points, torch.zeros(1, 1, 3, 4))
    assert sites.indices()[row].tolist() == [[0, 0, 2, 2], [0, 3, 4, 2], [0, 0, 2, 3]]


def test_samples_of_a_batch_do_not_see_each_other() -> None:
    torch.manual_seed(0)
    densifier = Densifier(GRID, 4, 8).eval()
    points, features = torch.rand(2, 3, 5, 3), torch.randn(2, 3, 5, 4)
    with torch.no_grad():
        both = densifier(points, features)
        alone = [densifier(points[b : b + 1], features[b : b + 1]) for b in range(2)]
    for b, one in enumerate(alone):
        here = both.indices[:, 0] == b
        assert torch.equal(both.indices[here, 1:], one.indices[:, 1:])
        torch.testing.assert_close(both.logits[here], one.logits, atol=1e-5, rtol=0)
        index = one.indices[one.point_rows[0]][..., 1:]
        want = torch.floor(points[b] * torch.tensor(GRID.shape)).long()
        assert torch.equal(index, want)


def test_an_encoder_gives_each_point_the_class_of_its_voxel(make_frames, make_encoder, small) -> None:
    config = small.replace(image_queries=0, decoder="opus_v2", densifier_dims=16, score_threshold=0.25)
    encoder = make_encoder(config)
    seen = {}
    encoder.densifiers[-1].register_forward_hook(lambda _module, _inputs, out: seen.update(out=out))
    queries = encoder.encode(make_frames(0))
    best, labels = seen["out"].logits.sigmoid().max(1)
    index, inside = OCC3D_GRID.index_of(queries.points)
    lookup = np.zeros((3, *OCC3D_GRID.shape), np.float32)
    lookup[(slice(None), *seen["out"].indices[:, 1:].T.numpy())] = np.stack([best, labels, np.ones(len(best))])
    at = lookup[(slice(None), *index[inside].T)]
    assert at[2].all()
    # float64 on one side: a point on a voxel's border may fall on either.
    assert (np.abs(at[0] - queries.scores[inside]) < 1e-6).mean() > 0.999
    assert (at[1] == queries.labels[inside]).mean() > 0.999
    found = encoder.voxels(queries)
    assert found is queries.voxels
    occupied = best > config.score_threshold
    np.testing.assert_array_equal(found.indices, seen["out"].indices[occupied, 1:])
    np.testing.assert_array_equal(found.labels, labels[occupied])
    np.testing.assert_allclose(found.scores, best[occupied], atol=1e-6)
