"""The voxel head reads image cells and points where they are, and says which voxels are occupied."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sparseoccvla_ros.core.classes import CAMERAS, FREE, LABEL
from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.voxels import OCC3D_GRID
from sparseoccvla_ros.occupancy.heads.voxel_head import BLOCKS, VoxelHead
from sparseoccvla_ros.occupancy.image_queries import ViewProposals, depth_step
from sparseoccvla_ros.occupancy.postprocess import occupied_voxels
from sparseoccvla_ros.occupancy.sampling.cell_views import CellViews
from sparseoccvla_ros.occupancy.sampling.views import SceneViews

from .conftest import ego2img_of

SIZE, CELLS, CHANNELS = (64, 96), (8, 12), 8
CAR = LABEL["car"]


def scene(usable: list[bool] | None = None, frames: int = 1) -> SceneViews:
    torch.manual_seed(0)
    ego2img = torch.stack([torch.from_numpy(ego2img_of(n, *SIZE)).float() for n in CAMERAS])
    levels = [torch.randn(6 * frames, CHANNELS, *CELLS)]
    kept = torch.tensor([usable or [True] * 6]).expand(1, frames, 6)
    return SceneViews.of_levels(levels, ego2img[None, None].expand(1, frames, 6, 4, 4), kept, SIZE)


def cells_saying(label: int, metres: float) -> ViewProposals:
    """Every cell shows `label` at one depth along its optical axis."""
    proposals = ViewProposals(10, CHANNELS, OCC3D_GRID).eval()
    logits = torch.full((6 * CELLS[0] * CELLS[1], FREE + 1 + 32), -30.0)
    logits[:, label] = 5.0
    logits[:, FREE + 1 + int(depth_step(torch.tensor(metres)).round())] = 5.0
    proposals.out.forward = lambda _: logits  # type: ignore[method-assign]
    return proposals


def views_saying(label: int, metres: float, **changes: list[bool]) -> CellViews:
    head = VoxelHead(OCC3D_GRID, 32)
    return CellViews.of(scene(**changes), cells_saying(label, metres), head.smooth)


def test_a_cell_is_read_where_its_ray_is_and_at_its_depth():
    views = views_saying(CAR, 12.0)
    # The front camera of the test rig stands at x = 1.5 m, y = 0, z = 1.6 m.
    ahead = torch.tensor([[x, 0.0, 1.6] for x in (6.0, 13.5, 30.0)])
    camera = views.choose(0, ahead)
    assert camera.tolist() == [0, 0, 0]
    read = views.read(0, ahead, torch.zeros(1, 3), camera)[:, 0]
    near = views.nearest(0, ahead, camera)
    for values in (read, near):
        assert (values[:, CAR] > 0.99).all()
        windows = values[:, FREE + 1 : FREE + 6]
        assert windows[1, :3].min() > 0.8  # the surface is here
        assert windows[[0, 2], 1].max() < 0.1
        assert windows[0, 4] > 0.99  # what the cell shows lies further than the first point
        assert windows[2, 3] > 0.99  # and nearer than the last


def test_what_no_usable_camera_sees_reads_nothing():
    views = views_saying(CAR, 12.0, usable=[False, True, True, True, True, True])
    points = torch.tensor([[13.5, 0.0, 1.6], [-13.5, 0.0, 1.6], [0.0, 0.0, 30.0]])
    camera = views.choose(0, points)
    assert camera[0] == -1
    assert camera[1] == CAMERAS.index("CAM_BACK")
    assert camera[2] == -1
    read = views.read(0, points, torch.zeros(1, 3), camera)[:, 0]
    assert not read[[0, 2]].any()
    assert read[1, CAR] > 0.99


@pytest.mark.numeric
def test_loops_read_what_gathers_read():
    """A CPU's kernels against the plain path, but for points whose rounding to a cell or bin is a matter of taste."""
    torch.manual_seed(1)
    cells = ViewProposals(10, CHANNELS, OCC3D_GRID).eval()
    head = VoxelHead(OCC3D_GRID, 32)
    with torch.inference_mode():
        views = CellViews.of(scene(usable=[True] * 5 + [False], frames=2), cells, head.smooth)
        points, offsets = head.centres[::7], head._offsets()
        for frame in range(2):
            camera = views.choose(frame, points)
            assert set(camera.tolist()) == {-1, 0, 1, 2, 3, 4}
            assert (camera != views._choose(frame, points)).float().mean() < 1e-3
            near, plain = views.nearest(frame, points, camera), views._nearest(frame, points, camera)
            assert ((near - plain).abs().amax(1) > 1e-5).float().mean() < 1e-3
            near, plain = (way(frame, points, offsets, camera) for way in (views.read, views._read))
            # The image's edge is a matter of taste as well.
            assert ((near - plain).abs().amax(-1) > 1e-4).float().mean() < 1e-3


def test_candidates_are_distinct_voxels_of_whole_blocks(make_encoder, make_frames, small):
    encoder = make_encoder(small.replace(voxel_head=True))
    encoder.encode(make_frames(0))
    views = encoder.memory.views((64, 96))
    with torch.inference_mode():
        found = encoder.voxel_head.candidates(views, encoder.decoder.proposals, encoder.decode(views)[-1])
    assert found.index.shape == (BLOCKS, 8)
    assert len(found.index.unique()) == 8 * BLOCKS
    x, y, z = np.unravel_index(found.index.numpy(), OCC3D_GRID.shape)
    assert all((np.ptp(axis, axis=1) == 1).all() for axis in (x, y, z))
    centres = OCC3D_GRID.centre_of(np.stack([x, y, z], -1)).mean(1)
    wanted = encoder.voxel_head.centres.numpy()
    row = np.ravel_multi_index((x[:, 0] // 2, y[:, 0] // 2, z[:, 0] // 2), encoder.voxel_head.blocks)
    np.testing.assert_allclose(centres, wanted[row], atol=1e-4)


def test_points_name_their_voxel_by_the_surest(make_encoder, small):
    head = make_encoder(small.replace(voxel_head=True)).voxel_head
    lower, extent = np.array(OCC3D_GRID.lower), np.subtract(OCC3D_GRID.upper, OCC3D_GRID.lower)
    metres = np.array([[10.1, 5.1, 0.3], [10.2, 5.05, 0.3], [99.0, 0.0, 0.0]])
    points = torch.from_numpy((metres - lower) / extent).float()[:, None]
    logits = torch.full((3, 1, 17), -9.0)
    logits[0, 0, CAR], logits[1, 0, LABEL["truck"]], logits[2, 0, CAR] = 1.0, 2.0, 5.0
    label, nearby = head._points(points, logits)
    index, _ = OCC3D_GRID.index_of(metres[0])
    assert label[np.ravel_multi_index(tuple(index), OCC3D_GRID.shape)] == LABEL["truck"]
    assert (label != FREE).sum() == 1  # the third lies outside the grid
    block = np.ravel_multi_index(tuple(index // 2), head.blocks)
    np.testing.assert_allclose(nearby[block, :17].sum(), 1.0, atol=1e-5)
    assert nearby[block, LABEL["truck"]] > nearby[block, CAR] > 0


def test_the_compiled_loop_rasterises_points_as_tensors_do(make_encoder, small):
    head = make_encoder(small.replace(voxel_head=True)).voxel_head
    torch.manual_seed(0)
    points, logits = torch.rand(40, 50, 3) * 0.4 - 0.1, torch.randn(40, 50, 17)
    scores, classes = (t.flatten() for t in logits.max(-1))
    for found, wanted in zip(
        head._points(points, logits), head._rasterised(points, scores.sigmoid(), classes), strict=True
    ):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_what_is_kept_with_a_frame_in_memory_is_what_its_features_give(make_encoder, make_frames, small):
    encoder = make_encoder(small.replace(voxel_head=True, frames=3))
    for index in range(5):
        encoder.encode(make_frames(index))
        views = encoder.memory.views((64, 96))
        assert all("cell_views" in known for known in views.derived[:2])
        with torch.inference_mode():
            last, proposals = encoder.decode(views)[-1], encoder.decoder.proposals
            for found, wanted in zip(
                encoder.voxel_head(views, proposals, last),
                encoder.voxel_head(replace(views, derived=None), proposals, last),
                strict=True,
            ):
                torch.testing.assert_close(found, wanted)


def test_the_encoder_hands_out_what_the_head_says(make_encoder, make_frames, small):
    encoder = make_encoder(small.replace(voxel_head=True))
    queries = encoder.encode(make_frames(0))
    voxels = queries.voxels
    assert voxels is not None
    assert occupied_voxels(queries, OCC3D_GRID, encoder.config) is voxels
    flat = np.ravel_multi_index(tuple(voxels.indices.T.astype(int)), OCC3D_GRID.shape)
    assert (np.diff(flat) > 0).all()
    assert ((voxels.scores >= 0) & (voxels.scores <= 1)).all()
    encoder.reset()
    again = encoder.encode(make_frames(0)).voxels
    np.testing.assert_array_equal(again.indices, voxels.indices)
    np.testing.assert_array_equal(again.labels, voxels.labels)


@pytest.mark.numeric
def test_half_precision_says_nearly_the_same(make_encoder, make_frames, small):
    encoder = make_encoder(small.replace(voxel_head=True))
    encoder.encode(make_frames(0))
    views = encoder.memory.views((64, 96))
    torch.nn.init.normal_(encoder.voxel_head.context.out.weight, std=0.05)
    with torch.inference_mode():
        last, proposals = encoder.decode(views)[-1], encoder.decoder.proposals
        index, exact = encoder.voxel_head(views, proposals, last)
        same, half = encoder.voxel_head(views, proposals, last, torch.bfloat16)
    assert torch.equal(index, same)  # blocks are ranked in float32
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, exact, atol=0.05 * exact.abs().max().item(), rtol=0.0)


def test_streaming_equals_batch(make_encoder, make_frames, small):
    encoder = make_encoder(small.replace(voxel_head=True))
    frames = [make_frames(step) for step in range(2)]
    for each in frames:
        streamed = encoder.encode(each).voxels
    images = torch.from_numpy(np.stack([f.images for f in frames[::-1]])).flatten(0, 1)
    present = frames[1].ego.pose
    ego2img = np.stack([f.ego2img @ np.linalg.inv(f.ego.pose) @ present for f in frames[::-1]])[None]
    with torch.inference_mode():
        levels = encoder.image_features(images)
        usable = torch.ones(1, 2, 6, dtype=torch.bool)
        views = SceneViews.of_levels(levels, torch.from_numpy(ego2img.astype(np.float32)), usable, (64, 96))
        batch = encoder.classified_voxels(views, encoder.decode(views)[-1])
    # Rounding may turn a decision at a boundary; nothing else may differ.
    differ = (streamed.dense() != batch.dense()).sum()
    assert differ <= 0.001 * len(streamed) + 2


def test_a_head_without_image_queries_is_refused(small):
    with pytest.raises(InvalidInput, match="voxel_head"):
        small.replace(image_queries=0, voxel_head=True)
