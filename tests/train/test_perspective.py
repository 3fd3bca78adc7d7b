"""Feature cells are told the nearest voxel that covers them."""

from __future__ import annotations

import numpy as np
import torch

from sparseoccvla_ros.core.occ3d import LABEL
from sparseoccvla_ros.train.perspective import BINS, FURTHEST, NEAREST, UNKNOWN, PerspectiveHeads, cell_targets

FORWARD = np.eye(4)
FORWARD[:3, :3] = [(32, -40, 0), (16, 0, -40), (1, 0, 0)]
"""A camera at the origin that looks along x: 64 x 32 pixels, focal length 40."""


def test_the_nearest_voxel_wins() -> None:
    centres = np.array([[20.0, 0, 0], [10.0, 0, 0], [20.0, 8.0, 0], [-10.0, 0, 0]])
    labels = np.array([LABEL["manmade"], LABEL["car"], LABEL["terrain"], LABEL["bus"]])
    classes, bins = cell_targets(centres, labels, FORWARD[None], (8, 16), 4, 2.5)
    # u = 32, v = 16 is the corner of four cells; the voxels are 10 and 5 pixels wide there.
    assert (classes[0, 3:5, 7:9] == LABEL["car"]).all()
    assert classes[0, 4, 4] == LABEL["terrain"]
    assert LABEL["bus"] not in classes
    step = (BINS - 1) * np.log(10.0 / NEAREST) / np.log(FURTHEST / NEAREST)
    assert bins[0, 4, 8] == int(step)
    assert ((classes == UNKNOWN) == (bins == UNKNOWN)).all()


def test_heads_learn_from_known_cells_only() -> None:
    torch.manual_seed(0)
    heads = PerspectiveHeads(8)
    level = torch.randn(2, 8, 3, 4, requires_grad=True)
    classes = torch.full((2, 3, 4), UNKNOWN, dtype=torch.uint8)
    assert all(float(v.detach()) == 0.0 for v in heads(level, classes, classes).values())
    classes[1, 2, 3] = 4
    terms = heads(level, classes, classes)
    sum(terms.values()).backward()
    assert level.grad is not None
    assert level.grad[1, :, 2, 3].abs().sum() > 0
    level.grad[1, :, 2, 3] = 0.0
    assert not level.grad.any()
