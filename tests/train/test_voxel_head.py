"""The fit of the voxel head: it learns, and equal seeds give equal weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.voxels import VoxelGrid
from sparseoccvla_ros.data.dataset import Sample
from sparseoccvla_ros.occupancy.encoder import OccupancyEncoder
from sparseoccvla_ros.train.voxel_head import VoxelHeadSettings, calibrate_voxel_head, fit_voxel_head

from .conftest import MICRO, Boxes

QUICK = VoxelHeadSettings(rank_samples=4, rank_steps=30, steps=120, blocks=400, batch_size=128)
SHORT = VoxelHeadSettings(rank_samples=2, rank_steps=3, steps=8, blocks=100, batch_size=64)
GRID = VoxelGrid((-8.0, -8.0, -1.0), (8.0, 8.0, 5.4))


class Near(Boxes):
    """The middle of the grid alone: a fit looks at every block of it."""

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        near = (slice(80, 120), slice(80, 120))
        return replace(sample, semantics=sample.semantics[near], visible=sample.visible[near])


def encoder() -> OccupancyEncoder:
    torch.manual_seed(0)
    return OccupancyEncoder(MICRO.replace(image_queries=4, voxel_head=True), GRID)


def fitted(count: int, settings: VoxelHeadSettings) -> OccupancyEncoder:
    net = encoder()
    fit_voxel_head(net, Near(count), settings, seed=1, report=lambda _: None)
    return net


def test_equal_seeds_give_equal_weights():
    first, second = (fitted(2, SHORT).voxel_head.state_dict() for _ in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_it_learns():
    net = fitted(4, QUICK)
    # The road is where it always is; to say so takes no image.
    before = {name: value.clone() for name, value in net.state_dict().items() if not name.startswith("voxel_head")}
    plain = calibrate_voxel_head(net, [Near(4)[1]], rounds=0, report=lambda _: None)
    assert plain.per_class[11] > 0.25
    shifted = calibrate_voxel_head(net, [Near(4)[1]], report=lambda _: None)
    assert shifted.miou + 0.1 * shifted.iou >= plain.miou + 0.1 * plain.iou
    again = calibrate_voxel_head(net, [Near(4)[1]], rounds=0, report=lambda _: None)
    assert again.miou == pytest.approx(shifted.miou, rel=1e-2)  # half precision decides ties
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())


def test_what_cannot_be_fitted_is_refused():
    with pytest.raises(InvalidInput, match="no samples"):
        fit_voxel_head(encoder(), Near(0), QUICK)
    with pytest.raises(InvalidInput, match="has none"):
        fit_voxel_head(OccupancyEncoder(MICRO), Near(1), QUICK)
