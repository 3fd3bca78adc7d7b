"""CameraInfo as recordings have it, refusals, and the calibration file."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseoccvla_ros.camera_sync.calibration import CameraModel, from_fields, load_calibration, save_calibration
from sparseoccvla_ros.core import geometry
from sparseoccvla_ros.core.errors import InvalidInput

K = (1266.4, 0.0, 816.3, 0.0, 1266.4, 491.5, 0.0, 0.0, 1.0)
P = (1200.0, 0.0, 800.0, 0.0, 0.0, 1200.0, 450.0, 0.0, 0.0, 0.0, 1.0, 0.0)
EYE = (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)


def camera(**changes):
    fields = {"name": "CAM_FRONT", "frame_id": "cam", "width": 1600, "height": 900, "k": K}
    return from_fields(**(fields | changes))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"r": (0.0,) * 9, "p": P, "d": (0.0,) * 5},
        {"r": EYE, "p": (0.0,) * 12},
        {"d": (0.0,) * 5, "model": "who_knows"},
        {"r": (0.0,) * 9, "model": "plumb_bob"},
        {"rectified": True},
        {"rectified": True, "p": (0.0,) * 12, "d": (0.0,) * 5},
    ],
)
def test_published_defects_mean_k_and_no_distortion(fields):
    model = camera(**fields)
    assert np.array_equal(model.intrinsics.ravel(), K)
    assert not model.distorted
    assert np.array_equal(model.rectification, np.eye(3))


def test_a_rectified_image_is_described_by_p_and_r():
    turn = geometry.transform((0, 0, 0), (0, math.sin(0.05), 0, math.cos(0.05)))[:3, :3]
    model = camera(rectified=True, p=P, r=turn.ravel(), d=(0.1,) * 5, model="plumb_bob")
    assert model.intrinsics[0, 0] == 1200
    assert not model.distorted, "D was undone by whoever rectified"
    assert np.allclose(model.rectification, turn)
    assert np.array_equal(camera(rectified=True, p=P, r=(0.0,) * 9).rectification, np.eye(3))
    assert camera(rectified=False, p=P).intrinsics[0, 0] == K[0]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"k": (0.0,) * 9}, "not calibrated"),
        ({"k": (math.nan, *K[1:])}, "finite"),
        ({"k": (math.inf, *K[1:])}, "finite"),
        ({"k": (-1266.4, *K[1:])}, "pinhole"),
        ({"k": K[:8]}, "8 numbers"),
        ({"k": ("a",) * 9}, "no number"),
        ({"k": (*K[:2], 9e9, *K[3:])}, "far outside"),
        ({"k": (*K[:6], 1.0, 0.0, 1.0)}, "pinhole"),
        ({"p": P[:11]}, "11 numbers"),
        ({"r": (math.nan,) * 9}, "finite"),
        ({"r": (2.0,) * 9, "rectified": True, "p": P}, "rotation"),
        ({"width": -1}, "image size"),
        ({"width": 0}, "image size"),
        ({"height": 1e3}, "image size"),
        ({"width": 10**6}, "image size"),
        ({"d": (0.1,) * 5, "model": ""}, "not supported; these are: plumb_bob"),
        ({"d": (0.1,) * 5, "model": "omni"}, "not supported"),
        ({"d": (0.1,) * 3, "model": "plumb_bob"}, "coefficients"),
        ({"d": (math.nan,) * 5, "model": "plumb_bob"}, "finite"),
        ({"d": (0.1,) * 5, "model": "plumb_bob", "rectified": True}, "P is empty"),
        ({"name": ""}, "name"),
    ],
)
def test_refusals(fields, reason):
    with pytest.raises(InvalidInput, match=reason):
        camera(**fields)


@settings(max_examples=120)
@given(
    numbers=st.lists(st.floats(), max_size=14),
    k=st.lists(st.floats(), min_size=9, max_size=9),
    model=st.sampled_from(["", "plumb_bob", "equidistant", "fisheye", "x"]),
    size=st.tuples(st.integers(-5, 10**6), st.integers(-5, 10**6)),
    rectified=st.booleans(),
)
def test_fuzz_fields(numbers, k, model, size, rectified):
    try:
        made = from_fields("c", "", *size, k, numbers[:12], numbers[:9], numbers, model, rectified)
    except InvalidInput:
        return
    assert np.isfinite(made.intrinsics).all()


def models():
    pose = geometry.transform((1.7, 0.016, 1.511), (-0.50303, 0.49978, -0.49737, 0.49980))
    return {
        "CAM_FRONT": camera().mounted(pose),
        "CAM_BACK": from_fields("CAM_BACK", "rear", 640, 480, K, d=(0.1, 0.01, 0, 0, 0.2), model="plumb_bob"),
        "CAM_EYE": from_fields("CAM_EYE", "", 0, 0, K, d=(0.1, 0.01, 0, 0), model="fisheye").mounted(pose),
    }


def test_a_file_survives_the_round_trip(tmp_path):
    path = tmp_path / "cameras.yaml"
    save_calibration(path, models())
    read = load_calibration(path)
    assert list(read) == list(models())
    for name, model in models().items():
        assert np.array_equal(read[name].intrinsics, model.intrinsics)
        assert np.array_equal(read[name].distortion, model.distortion)
        assert read[name].distortion_model == model.distortion_model
        assert (read[name].frame_id, read[name].width, read[name].height) == (
            model.frame_id,
            model.width,
            model.height,
        )
        if model.camera2ego is None:
            assert read[name].camera2ego is None
        else:
            assert np.allclose(read[name].camera2ego, model.camera2ego, atol=1e-12)


def test_a_rectifying_rotation_is_not_lost_silently(tmp_path):
    turn = geometry.transform((0, 0, 0), (0, math.sin(0.05), 0, math.cos(0.05)))[:3, :3]
    with pytest.raises(InvalidInput, match="rectifying"):
        save_calibration(tmp_path / "x.yaml", {"c": camera(rectified=True, p=P, r=turn.ravel())})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "has no `cameras`"),
        ("cameras: {}", "has no `cameras`"),
        ("cameras: [", "while parsing"),
        ("format: other\ncameras: {a: {}}", "format 'other'"),
        ("cameras: {a: 3}", "a: want a mapping"),
        ("cameras: {a: {width: 1, height: 1}}", "a: k is missing"),
        ("cameras: {a: {width: 1, height: 1, k: [1], focal: 2}}", "unknown keys focal"),
        ("cameras: {a: {width: 2, height: 2, k: [1,0,1,0,1,1,0,0,1]}}", "neither a pose nor a frame_id"),
        ("cameras: {a: {width: 2, height: 2, k: [1,0,1,0,1,1,0,0,1], translation: [0,0,0]}}", "belong together"),
        (
            "cameras: {a: {width: 2, height: 2, k: [1,0,1,0,1,1,0,0,1],"
            " translation: [0,0,0], rotation_xyzw: [1,1,1,1]}}",
            "norm 2",
        ),
        ("cameras: {a: {width: two, height: 2, k: [1,0,1,0,1,1,0,0,1], frame_id: a}}", "image size"),
        ("cameras: {a: {width: 2, height: 2, k: [1,0,1,0,1,1,0,0,1], frame_id: 7}}", "names"),
    ],
)
def test_mistakes_in_a_file_are_named(tmp_path, text, reason):
    path = tmp_path / "cameras.yaml"
    path.write_text(text)
    with pytest.raises(InvalidInput, match=reason):
        load_calibration(path)


def test_absent_file(tmp_path):
    with pytest.raises(InvalidInput, match="No such file"):
        load_calibration(tmp_path / "absent.yaml")


def test_repeated_messages_give_the_same_model():
    assert camera().same_as(camera())
    assert not camera().same_as(camera(width=1601))
    assert not camera().same_as(None)
    assert not camera().same_as(camera().mounted(np.eye(4)))
    assert not camera().mounted(np.eye(4)).same_as(camera())
    assert camera().mounted(np.eye(4)).same_as(camera().mounted(np.eye(4)))


def test_a_mount_must_be_rigid():
    with pytest.raises(InvalidInput, match="rigid"):
        camera().mounted(np.diag([2.0, 1, 1, 1]))
    with pytest.raises(InvalidInput, match="rigid"):
        CameraModel("a", "", 0, 0, np.reshape(K, (3, 3)), camera2ego=np.eye(3))
