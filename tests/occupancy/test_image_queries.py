"""Image queries start on what the cells of the present images show."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseoccvla_ros.core.classes import CAMERAS, FREE, LABEL
from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.voxels import OCC3D_GRID
from sparseoccvla_ros.occupancy.config import OccupancyConfig
from sparseoccvla_ros.occupancy.image_queries import (
    COLUMN,
    FURTHEST,
    NEAREST,
    ViewProposals,
    _inverse,
    depth_step,
    expected_depth,
)
from sparseoccvla_ros.occupancy.sampling.views import SceneViews

from .conftest import ego2img_of

SIZE, CELLS, CHANNELS = (64, 96), (8, 12), 8


def scene(usable: list[bool] | None = None) -> SceneViews:
    torch.manual_seed(0)
    ego2img = torch.stack([torch.from_numpy(ego2img_of(n, *SIZE)).float() for n in CAMERAS])[None, None]
    levels = [torch.randn(6, CHANNELS, *CELLS)]
    kept = torch.tensor([usable or [True] * 6])[None]
    return SceneViews.of_levels(levels, ego2img, kept, SIZE)


def telling(classes: torch.Tensor, metres: float) -> ViewProposals:
    """Proposals whose head says the class `classes` [cells] and one depth, whatever the features are."""
    proposals = ViewProposals(10, CHANNELS, OCC3D_GRID).eval()
    step = depth_step(torch.tensor(metres))
    low = int(step.floor())
    logits = torch.full((1, len(classes), FREE + 1 + 32), -20.0)
    logits[0, torch.arange(len(classes)), classes] = 5.0
    logits[0, :, FREE + 1 + low] = torch.log(1 - (step - low))
    logits[0, :, FREE + 2 + low] = torch.log(step - low)
    proposals.out.forward = lambda _: logits  # type: ignore[method-assign]
    return proposals


@given(st.floats(NEAREST, FURTHEST * 0.999), st.sampled_from([2, 32, 64]))
def test_a_depth_shared_between_two_steps_comes_back(metres: float, bins: int) -> None:
    step = depth_step(torch.tensor(metres, dtype=torch.float64), bins)
    low = int(step.floor())
    logits = torch.full((bins,), -60.0, dtype=torch.float64)
    logits[low] = torch.log(1 - (step - low))
    if step > low:
        logits[low + 1] = torch.log(step - low)
    assert float(expected_depth(logits)) == pytest.approx(metres, rel=1e-6)


def test_of_two_surfaces_the_likelier_one_is_meant() -> None:
    logits = torch.full((32,), -60.0)
    logits[4], logits[25] = 0.0, -0.2
    assert float(depth_step(expected_depth(logits))) == pytest.approx(4.0, abs=1e-4)


@settings(max_examples=50)
@given(st.integers(0, 2**31))
def test_inverse(seed: int) -> None:
    m = torch.randn(4, 3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    torch.testing.assert_close(_inverse(m) @ m, torch.eye(3, dtype=torch.float64).expand(4, 3, 3), atol=1e-6, rtol=0)


def test_a_singular_camera_gives_zeros() -> None:
    assert not _inverse(torch.zeros(2, 3, 3)).any()


def test_queries_start_on_the_ray_of_their_cell_at_its_depth() -> None:
    views = scene()
    classes = torch.full((6 * 96,), FREE)
    cell = 2 * 96 + 5 * 12 + 7  # third camera, row 5, column 7
    classes[cell] = LABEL["car"]
    found = telling(classes, 12.5)(views)
    lower, upper = torch.tensor(OCC3D_GRID.lower), torch.tensor(OCC3D_GRID.upper)
    starts = found.points[0, :, 0] * (upper - lower) + lower
    image = torch.cat([starts, torch.ones(len(starts), 1)], 1) @ views.ego2img[0, 0, 2, :3].T
    there = (image[:, :2] / image[:, 2:] - torch.tensor([7.5 * 8 - 0.5, 5.5 * 8 - 0.5])).abs().amax(1) < 0.05
    assert image[there, 2].tolist() == pytest.approx([12.5], rel=1e-3)


def test_things_come_first_and_one_square_of_ground_gets_one() -> None:
    views = scene()
    classes = torch.full((6 * 96,), LABEL["driveable_surface"])
    things = [3 * 12 + x for x in (1, 4, 7, 10)]
    classes[torch.tensor(things)] = LABEL["pedestrian"]
    found = telling(classes, 15.0)(views)
    metres = found.points[0, :, 0] * 80 - 40
    assert len({tuple(s) for s in (metres[:, :2] / COLUMN).floor().int().tolist()}) == 10
    centre = ego2img_of(CAMERAS[0], *SIZE)
    columns = []
    for place in (found.points[0, :4, 0] * torch.tensor([80, 80, 6.4]) + torch.tensor([-40, -40, -1.0])).double():
        image = torch.from_numpy(centre[:3]) @ torch.cat([place, torch.ones(1, dtype=torch.float64)])
        columns.append(round(float((image[0] / image[2] + 0.5) / 8 - 0.5)))
    assert sorted(columns) == [1, 4, 7, 10]


def test_a_camera_that_is_not_usable_proposes_nothing() -> None:
    classes = torch.full((6 * 96,), LABEL["car"])
    only_back = [name == "CAM_BACK" for name in CAMERAS]
    found = telling(classes, 10.0)(scene(only_back))
    assert (found.points[0, :, 0, 0] < 0.5).all()  # behind the vehicle


def test_features_and_the_loss_carry_gradient_and_places_do_not() -> None:
    proposals = ViewProposals(10, CHANNELS, OCC3D_GRID)
    views = scene()
    views.table.requires_grad_(True)
    found = proposals(views)
    assert not found.points.requires_grad
    (found.features.sum() + found.cells.sum()).backward()
    assert views.table.grad is not None
    assert views.table.grad.abs().sum() > 0


def test_more_queries_than_cells_are_refused() -> None:
    with pytest.raises(InvalidInput, match="image_queries"):
        ViewProposals(577, CHANNELS, OCC3D_GRID)(scene())
    with pytest.raises(InvalidInput, match="want 0 to 1024"):
        OccupancyConfig(queries=2000, image_queries=1025)


def test_cells_that_are_all_sure_are_ranked_by_how_sure() -> None:
    """Their probabilities differ from 1 by less than float32 can tell."""
    proposals = ViewProposals(4, 8, OCC3D_GRID).eval()
    logits = torch.full((6, FREE + 1), -10.0)
    margin = torch.tensor([19.0, 18.5, 25.0, 18.0, 21.0, 20.0])
    logits[torch.arange(6), LABEL["car"]] = margin - 10
    odds = proposals._odds(logits)
    assert odds.argsort(descending=True).tolist() == margin.argsort(descending=True).tolist()
    torch.testing.assert_close(odds, margin.exp() / FREE, rtol=1e-4, atol=0)
    # Objects come before scenery, scenery before ground, and nothing is last.
    few = torch.zeros(4, FREE + 1)
    for row, label in enumerate(("car", "vegetation", "driveable_surface", None)):
        few[row, FREE if label is None else LABEL[label]] = 30.0
    assert proposals._odds(few).argsort(descending=True).tolist() == [0, 1, 2, 3]
    assert proposals._odds(few)[3] < 1e-9
