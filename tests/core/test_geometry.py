"""Rigid transforms against numpy and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from sparseoccvla_ros.core import geometry
from sparseoccvla_ros.core.errors import InvalidInput

pytestmark = pytest.mark.numeric

metres = st.floats(-1e3, 1e3)
angles = st.floats(-3.1, 3.1)
vectors = st.tuples(metres, metres, metres)
rotvecs = st.tuples(angles, angles, angles).filter(lambda v: np.linalg.norm(v) < 3.1)


def pose(t, r):
    return geometry.transform(np.array(t), Rotation.from_rotvec(r).as_quat())


@settings(max_examples=40)
@given(t=vectors, r=rotvecs)
def test_inverse_is_the_inverse(t, r):
    matrix = pose(t, r)
    assert np.allclose(geometry.inverse(matrix), np.linalg.inv(matrix), atol=1e-9)
    assert np.allclose(geometry.inverse(np.stack([matrix, np.eye(4)]))[0] @ matrix, np.eye(4), atol=1e-9)


@settings(max_examples=40)
@given(t=vectors, r=rotvecs)
def test_quaternion_is_x_y_z_w_of_the_same_rotation(t, r):
    matrix = pose(t, r)
    assert np.allclose(geometry.transform(matrix[:3, 3], geometry.quaternion(matrix)), matrix, atol=1e-12)
    assert np.array_equal(geometry.quaternion(np.eye(4)), (0, 0, 0, 1))


@settings(max_examples=40)
@given(t=vectors, r=rotvecs, points=st.lists(vectors, min_size=1, max_size=4))
def test_apply_is_homogeneous_multiplication(t, r, points):
    matrix, points = pose(t, r), np.array(points)
    want = (np.c_[points, np.ones(len(points))] @ matrix.T)[:, :3]
    assert np.allclose(geometry.apply(matrix, points), want, atol=1e-8)


@settings(max_examples=40)
@given(a=vectors, b=vectors, r=rotvecs, fraction=st.floats(0, 1))
def test_interpolation_moves_straight_and_turns_evenly(a, b, r, fraction):
    first, second = pose(a, (0, 0, 0)), pose(b, r)
    got = geometry.interpolate(first, second, fraction)
    assert np.allclose(got[:3, 3], (1 - fraction) * np.array(a) + fraction * np.array(b), atol=1e-9)
    assert np.allclose(Rotation.from_matrix(got[:3, :3]).as_rotvec(), fraction * np.array(r), atol=1e-6)


@pytest.mark.parametrize("fraction", [-1e-9, 1.0000001, math.nan])
def test_interpolation_never_extrapolates(fraction):
    with pytest.raises(InvalidInput, match="extrapolate"):
        geometry.interpolate(np.eye(4), np.eye(4), fraction)


@settings(max_examples=40)
@given(x=metres, y=metres, yaw=angles)
def test_planar_and_heading(x, y, yaw):
    matrix = geometry.planar(x, y, yaw)
    assert geometry.yaw_of(matrix) == pytest.approx(yaw, abs=1e-12)
    ahead = geometry.apply(matrix, np.array([1.0, 0.0, 0.0]))
    assert np.allclose(ahead, (x + math.cos(yaw), y + math.sin(yaw), 0))
    assert np.allclose(geometry.apply(matrix, np.array([0.0, 1.0, 0.0]))[:2] - (x, y), (-math.sin(yaw), math.cos(yaw)))


@pytest.mark.parametrize(
    ("t", "q", "reason"),
    [
        ((0, 0, math.nan), (0, 0, 0, 1), "finite"),
        ((0, 0, 0), (0, 0, 0, math.inf), "finite"),
        ((0, 0, 0), (0, 0, 0, 0), "norm 0"),
        ((0, 0, 0), (0, 0, 0, 1.02), "norm"),
    ],
)
def test_transform_refuses(t, q, reason):
    with pytest.raises(InvalidInput, match=reason) as caught:
        geometry.transform(np.array(t), np.array(q), field="mount")
    assert caught.value.field == "mount"


def test_rounded_quaternions_are_normalised():
    matrix = geometry.transform(np.zeros(3), np.array([0, 0, 0.7071, 0.7071]))
    assert np.allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3), atol=1e-15)


def test_projection_of_a_forward_camera():
    """A point ahead and to the left of a forward camera lies left of the centre, one above it higher."""
    optical = np.eye(4)
    optical[:3, :3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]
    optical[:3, 3] = (1.7, 0, 1.5)
    k = np.array([[1000.0, 0, 800], [0, 900, 450], [0, 0, 1]])
    ego2img = geometry.camera_matrix(k, geometry.inverse(optical))
    points = np.array([[11.7, 0, 1.5], [11.7, 1, 1.5], [11.7, 0, 2.5], [1.6, 0, 1.5]])
    pixels, depth = geometry.project(ego2img, points)
    assert np.allclose(pixels[:3], [(800, 450), (700, 450), (800, 360)])
    assert np.allclose(depth, (10, 10, 10, -0.1))
    assert np.isnan(pixels[3]).all(), "behind the camera"
    homogeneous = ego2img @ (*points[1], 1)
    assert np.allclose(homogeneous[:2] / homogeneous[2], pixels[1])
    assert homogeneous[3] == 1
