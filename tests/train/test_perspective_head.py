"""Feature cells are told the nearest voxel that covers them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sparseoccvla_ros.core.classes import FREE, LABEL
from sparseoccvla_ros.occupancy.image_queries import depth_step, expected_depth
from sparseoccvla_ros.train.perspective_head import UNKNOWN, PerspectiveHeads, cell_losses, cell_targets

FORWARD = np.eye(4)
FORWARD[:3, :3] = [(32, -40, 0), (16, 0, -40), (1, 0, 0)]
"""A camera at the origin that looks along x: 64 x 32 pixels, focal length 40."""


def test_the_nearest_voxel_wins() -> None:
    centres = np.array([[20.0, 0, 0], [10.0, 0, 0], [20.0, 8.0, 0], [-10.0, 0, 0]])
    labels = np.array([LABEL["manmade"], LABEL["car"], LABEL["terrain"], LABEL["bus"]])
    classes, depths = cell_targets(centres, labels, FORWARD[None], (8, 16), 4, 2.5)
    # u = 32, v = 16 is the corner of four cells; the voxels are 10 and 5 pixels wide there.
    assert (classes[0, 3:5, 7:9] == LABEL["car"]).all()
    assert classes[0, 4, 4] == LABEL["terrain"]
    assert LABEL["bus"] not in classes
    assert depths[0, 4, 8] == 10.0
    assert depths[0, 4, 4] == 20.0


def test_what_lies_around_a_voxel_is_unknown_and_the_rest_is_free() -> None:
    classes, _ = cell_targets(np.array([[10.0, 0, 0]]), np.array([LABEL["car"]]), FORWARD[None], (8, 16), 4, 2.5)
    assert set(np.unique(classes)) == {LABEL["car"], UNKNOWN, FREE}
    assert (classes[0, 1:7, 5:11] != FREE).all()
    assert (classes[0, :, :5] == FREE).all()
    assert (classes[0, :, 11:] == FREE).all()


def test_heads_learn_from_known_cells_only() -> None:
    torch.manual_seed(0)
    heads = PerspectiveHeads(8)
    level = torch.randn(2, 8, 3, 4, requires_grad=True)
    classes, depths = torch.full((2, 3, 4), UNKNOWN, dtype=torch.uint8), torch.zeros(2, 3, 4)
    assert all(float(v.detach()) == 0.0 for v in cell_losses(heads(level), classes, depths).values())
    classes[1, 2, 3], depths[1, 2, 3] = 4, 7.0
    terms = cell_losses(heads(level), classes, depths)
    sum(terms.values()).backward()
    assert level.grad is not None
    assert level.grad[1, :, 2, 3].abs().sum() > 0
    level.grad[1, :, 2, 3] = 0.0
    assert not level.grad.any()


@pytest.mark.parametrize("bins", [32, 64])
def test_the_least_depth_loss_is_at_the_depth(bins: int) -> None:
    metres = torch.tensor([1.5, 3.3, 17.0, 55.0])
    cells = torch.zeros(1, 4, FREE + 1 + bins, requires_grad=True)
    optimizer = torch.optim.Adam([cells], lr=0.3)
    for _ in range(300):
        optimizer.zero_grad()
        cell_losses(cells, torch.full((1, 4), 4, dtype=torch.uint8), metres[None])["cells_depth"].backward()
        optimizer.step()
    found = expected_depth(cells.detach()[0, :, FREE + 1 :])
    assert torch.allclose(depth_step(found, bins), depth_step(metres, bins), atol=0.1)


def test_cells_of_things_weigh_four_times_in_class_and_depth() -> None:
    cells = torch.zeros(1, 2, FREE + 1 + 32, requires_grad=True)
    classes = torch.tensor([[LABEL["pedestrian"], LABEL["manmade"]]], dtype=torch.uint8)
    for name, part in (("cells_class", slice(0, FREE + 1)), ("cells_depth", slice(FREE + 1, None))):
        (found,) = torch.autograd.grad(cell_losses(cells, classes, torch.tensor([[9.0, 9.0]]))[name], cells)
        thing, wall = found[0, :, part].abs().sum(-1)
        torch.testing.assert_close(thing, 4.0 * wall, msg=name)
