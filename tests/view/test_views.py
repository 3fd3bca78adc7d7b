"""Each view puts things where the geometry says: the road strip, the view from above, the view from behind."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sparseoccvla_ros.core import geometry
from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.types import PlanStatus
from sparseoccvla_ros.core.vehicle import NUSCENES_CAR, Vehicle
from sparseoccvla_ros.core.voxels import SparseVoxels
from sparseoccvla_ros.view import above, behind, camera_panel
from sparseoccvla_ros.view.canvas import SHOWN_PALETTE
from sparseoccvla_ros.view.ground_path import (
    centre_line,
    ground_height,
    ribbon,
    score_colours,
)


def changed_pixels(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """float [N, 2] u, v of the pixels that differ."""
    v, u = np.nonzero((first != second).any(axis=-1))
    return np.stack([u, v], axis=1).astype(float)


def test_path_in_the_image_is_where_ego2img_says(make_frames, make_plan):
    """Changed pixels, taken back to the ground, lie within half a car's width of the path, and all of it shows."""
    frames, plan = make_frames(size=(360, 640)), make_plan(turn=0.2)
    ego2img = frames.ego2img[0]
    image = frames.images[0].copy()
    camera_panel.draw_path(image, ego2img, plan)
    pixels = changed_pixels(image, frames.images[0])
    assert len(pixels) > 2000
    ground2img = ego2img[:3][:, [0, 1, 3]]
    homogeneous = np.concatenate([pixels, np.ones((len(pixels), 1))], axis=1) @ np.linalg.inv(ground2img).T
    ground = homogeneous[:, :2] / homogeneous[:, 2:]
    line = centre_line(plan.waypoints)
    distance = np.linalg.norm(ground[:, None] - line[None], axis=-1).min(axis=1)
    # Labels ("1 s") and line widths reach past the strip; the strip itself is all but a few percent of the pixels.
    assert (distance < NUSCENES_CAR.width_m / 2 + 0.3).mean() > 0.9
    centre, depth = geometry.project(ego2img, np.concatenate([line, np.zeros((len(line), 1))], axis=1), 0.3)
    inside = (depth > 0.3) & ((centre >= 0) & (centre < (640, 360))).all(axis=1)
    assert inside.sum() > 10
    u, v = np.round(centre[inside]).astype(int).clip(0, (639, 359)).T
    assert (image[v, u] != frames.images[0][v, u]).any(axis=-1).all()


def test_path_scales_with_the_image(make_frames, make_plan):
    """A cell twice as large shows the same strip twice as large: ego2img is scaled with the pixels."""
    frames, plan = make_frames(), make_plan()
    centres = []
    for factor in (1, 2):
        size = (352 * factor, 128 * factor)
        image = cv2.resize(frames.images[0], size)
        plain = image.copy()
        matrix = camera_panel.scaled_ego2img(frames.ego2img[0], (factor, factor), (0, 0))
        camera_panel.draw_path(image, matrix, plan)
        centres.append(changed_pixels(image, plain).mean(axis=0) / factor)
    np.testing.assert_allclose(centres[0], centres[1], atol=6)


def test_no_path_behind_the_camera(make_frames, make_plan):
    frames = make_frames()
    image = frames.images[3].copy()
    camera_panel.draw_path(image, frames.ego2img[3], make_plan())
    np.testing.assert_array_equal(image, frames.images[3])
    assert not camera_panel.looks_forward(frames.ego2img[3])
    assert [camera_panel.looks_forward(m) for m in frames.ego2img] == [True, True, True, False, False, False]


def test_arrangement_of_nuscenes_and_of_other_rigs(make_frames):
    assert camera_panel.arrangement(make_frames()) == [
        ["CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT"],
        ["CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT"],
    ]
    rig = make_frames(names=("e", "d", "c", "b", "a"), yaws=(-1.9, 1.9, -0.9, 0.9, 0.0))
    assert camera_panel.arrangement(rig) == [["b", "a", "c"], ["d", "e", ""]]


def test_mosaic_refuses_no_width_and_keeps_its_width(make_frames):
    assert camera_panel.camera_mosaic(make_frames(), width=640).shape[1] == 640
    with pytest.raises(InvalidInput, match="width"):
        camera_panel.camera_mosaic(make_frames(), width=50)


@pytest.mark.parametrize(
    ("x", "y", "right", "down"),
    [(10, 10, False, False), (10, -10, True, False), (-10, 10, False, True), (-5, -9, True, True)],
)
def test_orientation_from_above(one_voxel, x, y, right, down):
    """Ahead is up, left is left, and the voxel's pixels have the colour of its class where its metres say."""
    scene = one_voxel(x, y, 1.0, "bus")
    drawn = above.draw_columns(scene, 600)
    colour = above.column_colours(scene)[tuple(scene.indices[0, :2])]
    v, u = np.nonzero((drawn == colour).all(axis=-1))
    assert len(u) == 9
    assert (u.mean() > 300) == right
    assert (v.mean() > 300) == down
    centre = above.metres_to_pixels(scene.centres()[0, :2], 600)
    np.testing.assert_allclose((u.mean(), v.mean()), centre, atol=0.6)
    assert colour @ SHOWN_PALETTE[3] / np.linalg.norm(colour) / np.linalg.norm(SHOWN_PALETTE[3]) > 0.99


def test_the_highest_voxel_is_seen_from_above():
    indices = np.array([(5, 6, 9), (5, 6, 2), (5, 6, 4)], np.int16)
    scene = SparseVoxels(indices, np.array([16, 11, 4], np.uint8), np.ones(3, np.float32))
    labels, heights = above.top_labels(scene)
    assert (labels[5, 6], heights[5, 6]) == (16, 9)
    assert (labels < 17).sum() == 1


def test_chosen_path_from_above_covers_its_waypoints(make_plan):
    plan = make_plan(turn=0.3)
    image = above.view_from_above(SparseVoxels.empty(), plan, 612)
    u, v = np.round(above.metres_to_pixels(plan.waypoints, 612)).astype(int).T
    assert (image[v, u].min(axis=-1) > 150).all()
    assert u[-1] < 306
    assert v[-1] < v[0] < 306


@pytest.mark.parametrize("seconds", [1.0, 2.0, 3.0])
def test_forecast_shows_where_the_vehicle_will_be(make_plan, seconds):
    plan = make_plan(turn=0.1)
    plain = above.view_from_above(SparseVoxels.empty(), plan, 400, ahead=0.25)
    image = above.view_from_above(SparseVoxels.empty(), plan, 400, ahead=seconds)
    middle = changed_pixels(image, plain).mean(axis=0)
    step = int(seconds * 2) - 1
    forward = np.array([np.cos(plan.heading[step]), np.sin(plan.heading[step])])
    reference = plan.waypoints[step] + forward * (NUSCENES_CAR.centre_m)
    np.testing.assert_allclose(middle, above.metres_to_pixels(reference, 400), atol=4)


def test_from_behind_left_is_left_and_near_hides_far(one_voxel):
    plain = behind.view_from_behind(SparseVoxels.empty(), None, 400, 240)
    for y, left in ((8, True), (-8, False)):
        image = behind.view_from_behind(one_voxel(10, y, 1, "bus"), None, 400, 240)
        assert (changed_pixels(image, plain)[:, 0].mean() < 200) == left
    near, far = one_voxel(6, 0, 1.0, "bus"), one_voxel(6.8, 0, 0.6, "car")
    both = SparseVoxels(
        np.concatenate([far.indices, near.indices]), np.concatenate([far.labels, near.labels]), np.ones(2, np.float32)
    )
    swapped = SparseVoxels(both.indices[::-1].copy(), both.labels[::-1].copy(), both.scores)
    first, second = (behind.view_from_behind(s, None, 800, 480) for s in (both, swapped))
    np.testing.assert_array_equal(first, second)
    alone = behind.view_from_behind(near, None, 800, 480)
    body = (alone[..., 0] > 150) & (alone[..., 2] < 60)
    assert body.sum() > 20
    assert (first[body] == alone[body]).all()


def test_only_faces_on_the_surface_are_drawn():
    """A solid 5 x 5 x 5 block seen from a corner shows three of its sides, 25 faces each."""
    index = np.stack(np.meshgrid(*[np.arange(100, 105)] * 2, np.arange(3, 8), indexing="ij"), -1).reshape(-1, 3)
    block = SparseVoxels(index.astype(np.int16), np.full(125, 4, np.uint8), np.ones(125, np.float32))
    owner, side = behind.visible_faces(block, np.array([-30.0, -30.0, 30.0]))
    assert np.bincount(side, minlength=6).tolist() == [0, 25, 0, 25, 25, 0]
    assert (block.indices[owner[side == 4], 2] == 7).all()


def test_path_from_behind_runs_under_obstacles(voxels, make_plan):
    image = behind.view_from_behind(voxels, make_plan(), 500, 300, ground_height(voxels))
    plain = behind.view_from_behind(voxels, None, 500, 300, ground_height(voxels))
    assert len(changed_pixels(image, plain)) > 1500


def test_ground_height_follows_the_road(voxels, one_voxel):
    """Road voxels at z index 2 have their top at -1 + 3 * 0.4 = 0.2 m; without road it is 0."""
    assert ground_height(voxels) == pytest.approx(0.2, abs=1e-5)
    assert ground_height(one_voxel(3, 3, 1, "car"), None) == 0.0
    assert ground_height(None, voxels) == pytest.approx(0.2, abs=1e-5)


@settings(max_examples=60)
@given(arrays(np.float32, (6, 2), elements=st.floats(-60, 60, width=32)))
def test_ribbon_is_as_wide_as_the_vehicle_and_follows_the_path(waypoints):
    left, right = ribbon(waypoints, 2.0)
    line = centre_line(waypoints)
    assert len(left) == len(right) == len(line)
    if len(line):
        np.testing.assert_allclose(np.linalg.norm(left - right, axis=1), 2.0, atol=1e-6)
        np.testing.assert_allclose((left + right) / 2, line, atol=1e-9)
        per_step = (len(line) - 1) // 6
        np.testing.assert_allclose(line[::per_step][1:], waypoints, atol=1e-6)
        assert (line.min(axis=0) >= np.minimum(waypoints.min(axis=0), 0) - 1e-4).all()


def test_left_edge_is_left():
    left, right = ribbon(np.stack([np.arange(1, 7), np.zeros(6)], axis=1), 2.0)
    assert (left[:, 1] > right[:, 1]).all()
    stopped, _ = ribbon(np.zeros((6, 2)), 2.0)
    assert not len(stopped)
    pausing = np.array([(2, 0), (4, 0), (4, 0), (4, 0), (4, 0), (4, 0)], float)
    left, right = ribbon(pausing, 2.0)
    np.testing.assert_allclose(left[:, 1], 1.0, atol=1e-6)


def test_vehicle_body_checks_itself():
    assert Vehicle().front_m == pytest.approx(3.5278)
    with pytest.raises(InvalidInput, match="length_m"):
        Vehicle(length_m=0)


def test_status_and_scores_are_told_by_colour(make_plan):
    assert len({above.path_colour(make_plan(s)) for s in (PlanStatus.OK, PlanStatus.DEGRADED, PlanStatus.BRAKING)}) == 3
    colours = score_colours(np.array([0.1, 0.9, 0.5], np.float32))
    assert colours[1] == (255, 220, 100)
    assert len(set(colours)) == 3
    assert score_colours(np.zeros(0, np.float32)) == []
