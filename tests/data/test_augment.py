"""Image augmentation: every pixel goes where its matrix says, and photometric changes stay what they are called."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseoccvla_ros.camera_sync.config import ImageConfig
from sparseoccvla_ros.camera_sync.images import ImagePreparer
from sparseoccvla_ros.core import geometry
from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.voxels import OCC3D_GRID
from sparseoccvla_ros.data.augment import LARGEST, SMALLEST, ImageAugmentation, cropped, distorted
from sparseoccvla_ros.data.dataset import Sample, flipped
from sparseoccvla_ros.data.nuscenes.dataset import whole_images

HEIGHT, WIDTH = 128, 352
WHOLE = whole_images(ImageConfig(HEIGHT, WIDTH), LARGEST)


def smooth(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A picture without sharp edges, uint8 [H, W, 3]."""
    coarse = rng.integers(0, 256, (9, 16, 3)).astype(np.uint8)
    return cv2.GaussianBlur(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), (0, 0), 6)


def sample_of(images: np.ndarray) -> Sample:
    """A sample with a camera that looks forward, K as for a 90 degree view of these images."""
    t, n, h, w, _ = images.shape
    k = np.array([[w / 2, 0, w / 2 - 0.5], [0, w / 2, 0.55 * h], [0, 0, 1.0]])
    forward = np.eye(4)
    forward[:3, :3] = [(0, -1, 0), (0, 0, -1), (1, 0, 0)]
    ego2img = np.tile(geometry.camera_matrix(k, forward).astype(np.float32), (t, n, 1, 1))
    grid = np.zeros(OCC3D_GRID.shape, np.uint8)
    future = np.tile(np.eye(4, dtype=np.float32), (6, 1, 1))
    return Sample("a", images, ego2img, grid, grid.astype(bool), np.zeros(6, np.float32), 1, future)


def test_whole_images_are_the_largest_scale_of_the_reference() -> None:
    assert whole_images(ImageConfig(256, 704), LARGEST) == ImageConfig(495, 880)  # 0.55 of 900 x 1600


@settings(max_examples=12)
@given(
    scale=st.floats(SMALLEST, LARGEST), across=st.floats(0, 1), flip=st.booleans(), seed=st.integers(0, 1000)
)  # fmt: skip
def test_a_point_shows_the_same_colour_before_and_after(scale: float, across: float, flip: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    before = sample_of(smooth(rng, WHOLE.height, WHOLE.width)[None, None])
    after = cropped(before, HEIGHT, WIDTH, scale, across, flip)
    assert after.images.shape == (1, 1, HEIGHT, WIDTH, 3)
    points = np.column_stack([rng.uniform(3, 30, 400), rng.uniform(-30, 30, 400), rng.uniform(-3, 3, 400)])
    old, _ = geometry.project(before.ego2img[0, 0].astype(np.float64), points)
    new, _ = geometry.project(after.ego2img[0, 0].astype(np.float64), points)
    seen = (old > 2).all(1) & (old < (WHOLE.width - 3, WHOLE.height - 3)).all(1)
    seen &= (new > 1).all(1) & (new < (WIDTH - 2, HEIGHT - 2)).all(1)
    assert seen.sum() > 20
    colour = []
    for image, pixels in ((before.images, old), (after.images, new)):
        at = pixels[seen].astype(np.float32)[None]
        colour.append(cv2.remap(image[0, 0].astype(np.float32), at, None, cv2.INTER_LINEAR)[0])
    # A shift of one pixel would change these pictures by up to this much already.
    assert np.abs(colour[0] - colour[1]).mean() < 1.0
    assert np.abs(colour[0] - colour[1]).max() < 8.0


def test_the_middle_of_the_range_is_the_test_time_image() -> None:
    native = smooth(np.random.default_rng(2), 900, 1600)
    plain, whole = np.empty((HEIGHT, WIDTH, 3), np.uint8), np.empty((WHOLE.height, WHOLE.width, 3), np.uint8)
    for config, out in ((ImageConfig(HEIGHT, WIDTH), plain), (WHOLE, whole)):
        preparer = ImagePreparer(config, 1)
        preparer.prepare(native, out)
        preparer.close()
    after = cropped(sample_of(whole[None, None]), HEIGHT, WIDTH)
    difference = np.abs(after.images[0, 0].astype(int) - plain)
    assert difference.mean() < 0.5  # resized twice instead of once
    assert difference.max() < 16


def test_small_pictures_leave_the_right_side_black() -> None:
    before = sample_of(np.full((1, 2, WHOLE.height, WHOLE.width, 3), 200, np.uint8))
    after = cropped(before, HEIGHT, WIDTH, SMALLEST, 0.7)
    covered = round(WIDTH * SMALLEST)
    assert (after.images[..., : covered - 1, :] == 200).all()
    assert (after.images[..., covered + 1 :, :] == 0).all()


@pytest.mark.parametrize(("x", "y"), [(True, False), (False, True), (True, True)])
def test_a_flipped_scene_keeps_its_pixels_labels_and_motion(x: bool, y: bool) -> None:
    rng = np.random.default_rng(7)
    before = sample_of(smooth(rng, WHOLE.height, WHOLE.width)[None, None])
    semantics = rng.integers(0, 18, OCC3D_GRID.shape).astype(np.uint8)
    turning = geometry.planar(4.0, 1.0, 0.3).astype(np.float32)
    twist = np.array([5.0, 0.5, 0.1, 0.01, 0.02, 0.3], np.float32)
    before = replace(
        before, semantics=semantics, visible=semantics < 9, twist=twist, command=0, future=np.tile(turning, (6, 1, 1))
    )
    after = flipped(before, x, y)
    turn = np.diag([-1.0 if x else 1.0, -1.0 if y else 1.0, 1.0, 1.0])
    index = rng.integers(0, (200, 200, 16), (500, 3))
    points = OCC3D_GRID.centre_of(index).astype(np.float64)
    moved = points @ turn[:3, :3]
    place, inside = OCC3D_GRID.index_of(moved)
    assert inside.all()
    np.testing.assert_array_equal(after.semantics[tuple(place.T)], semantics[tuple(index.T)])
    np.testing.assert_array_equal(after.visible[tuple(place.T)], before.visible[tuple(index.T)])
    old, depth = geometry.project(before.ego2img[0, 0].astype(np.float64), points)
    new, _ = geometry.project(after.ego2img[0, 0].astype(np.float64), moved)
    ahead = depth > 0.5
    np.testing.assert_allclose(new[ahead], old[ahead], rtol=1e-4, atol=1e-3)
    # What rides along moves alike: v + w x r, seen from either base_link.
    v, w = before.twist[:3].astype(np.float64), before.twist[3:].astype(np.float64)
    v2, w2 = after.twist[:3].astype(np.float64), after.twist[3:].astype(np.float64)
    np.testing.assert_allclose(v2 + np.cross(w2, moved), (v + np.cross(w, points)) @ turn[:3, :3], atol=1e-5)
    np.testing.assert_allclose(after.future[0, :3, 3], turn[:3, :3] @ turning[:3, 3], atol=1e-6)
    assert after.command == (2 if y else 0)
    back = flipped(after, x, y)
    np.testing.assert_array_equal(back.semantics, before.semantics)
    np.testing.assert_allclose(back.ego2img, before.ego2img)
    assert after.images is before.images


def test_scene_flips_are_drawn_apart_for_both_axes() -> None:
    picture = np.zeros((1, 1, WHOLE.height, WHOLE.width, 3), np.uint8)
    augment = ImageAugmentation(height=16, width=44, photograph=0.0, flip=0.0, flip_scene=0.5)
    signs = set()
    for seed in range(24):
        matrix = augment(sample_of(picture), np.random.default_rng(seed)).ego2img[0, 0]
        signs.add((bool(matrix[2, 0] > 0), bool(matrix[0, 1] < 0)))  # depth along +x; +y to the left
    assert len(signs) == 4


def test_one_draw_for_all_views_and_frames_and_the_same_for_the_same_numbers() -> None:
    rng = np.random.default_rng(4)
    pictures = np.stack([[smooth(rng, WHOLE.height, WHOLE.width) for _ in range(6)] for _ in range(2)])
    augment = ImageAugmentation(height=HEIGHT, width=WIDTH)
    one, two, other = (augment(sample_of(pictures), np.random.default_rng(n)) for n in (1, 1, 2))
    np.testing.assert_array_equal(one.images, two.images)
    assert (one.ego2img == one.ego2img[0, 0]).all()
    assert not np.array_equal(one.ego2img, other.ego2img)
    assert one.images.shape == (2, 6, HEIGHT, WIDTH, 3)
    plain = replace(augment, photograph=0.0, flip=0.0, smallest=1.0, largest=1.0)(sample_of(pictures), rng)
    assert plain.ego2img[0, 0, 0, 1] < 0  # +y is to the left


def test_photometric_distortion_keeps_to_its_bounds() -> None:
    picture = np.full((4, 4, 3), (120, 90, 60), np.uint8)
    means = np.array([distorted(picture, np.random.default_rng(n))[0, 0] for n in range(400)], float)
    unchanged = (means == (120, 90, 60)).all(1).mean()
    assert 0.005 < unchanged < 0.12  # five coins
    grey = np.full((4, 4, 3), 100, np.uint8)
    levels = np.array([distorted(grey, np.random.default_rng(n))[0, 0] for n in range(400)], float)
    assert np.ptp(levels, axis=1).max() == 0  # hue and saturation leave grey alone
    assert levels.min() >= 33
    assert levels.max() <= 199
    assert np.ptp(levels[:, 0]) > 100


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan")])
def test_no_scale_is_refused(scale: float) -> None:
    with pytest.raises(InvalidInput, match="scale"):
        cropped(sample_of(np.zeros((1, 1, 9, 16, 3), np.uint8)), 8, 8, scale)
