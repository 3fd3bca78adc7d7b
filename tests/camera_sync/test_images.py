"""Decoding refuses what it must, and every pixel lands where the matrix says."""

from __future__ import annotations

import array
import random
import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseoccvla_ros.camera_sync.calibration import CalibrationMismatch, CameraModel, from_fields, rectifying_maps
from sparseoccvla_ros.camera_sync.config import ImageConfig
from sparseoccvla_ros.camera_sync.encodings import ENCODINGS
from sparseoccvla_ros.camera_sync.images import (
    CompressedImage,
    ImagePreparer,
    RawImage,
    decode_compressed,
    decode_raw,
)
from sparseoccvla_ros.core.errors import InvalidInput


def picture(height=48, width=80, seed=0):
    """Smooth random colours, so JPEG keeps them."""
    small = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def encode(rgb, suffix=".jpg"):
    return cv2.imencode(suffix, rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 98] if suffix == ".jpg" else [])[1].tobytes()


@pytest.fixture(scope="module")
def preparer():
    made = ImagePreparer(ImageConfig(), threads=2)
    yield made
    made.close()


class TestCompressed:
    @pytest.mark.parametrize("suffix", [".jpg", ".png"])
    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda b: array.array("B", b)])
    def test_colours_come_out_as_rgb(self, suffix, kind):
        rgb = picture()
        got = decode_compressed(kind(encode(rgb, suffix)))
        assert got.dtype == np.uint8
        assert got.shape == rgb.shape
        assert np.abs(got.astype(int) - rgb).mean() < 3

    def test_png_named_jpeg_is_fine(self):
        assert np.array_equal(decode_compressed(encode(picture(), ".png"), format="jpeg"), picture())

    def test_grey_jpeg_and_deep_png(self):
        grey = cv2.imencode(".jpg", picture()[..., 0])[1].tobytes()
        assert decode_compressed(grey).shape == (48, 80, 3)
        deep = cv2.imencode(".png", picture().astype(np.uint16) * 256)[1].tobytes()
        assert decode_compressed(deep).dtype == np.uint8

    def test_exif_orientation_is_ignored(self):
        """Intrinsics belong to the sensor's pixel order, whatever a tag asks a viewer to do."""
        jpeg = encode(picture())
        tiff = b"II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x03\x00\x01\x00\x00\x00\x06\x00\x00\x00\x00\x00\x00\x00"
        exif = b"Exif\x00\x00" + tiff
        tagged = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]
        turned = cv2.imdecode(np.frombuffer(tagged, np.uint8), cv2.IMREAD_COLOR)
        assert turned.shape == (80, 48, 3), "the tag is one that OpenCV obeys"
        assert np.array_equal(decode_compressed(tagged), decode_compressed(jpeg))

    @pytest.mark.parametrize("suffix", [".jpg", ".png"])
    @pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.9, 0.999])
    def test_truncated(self, suffix, share):
        data = encode(picture(), suffix)
        with pytest.raises(InvalidInput):
            decode_compressed(data[: int(len(data) * share)])

    @pytest.mark.parametrize("quality", [60, 95])
    def test_most_of_what_is_overwritten_is_refused(self, quality):
        """JPEG has no checksum, and a Huffman stream falls into step again; but then blocks are no pictures."""
        rng = random.Random(quality)
        rgb = np.random.default_rng(1).normal(0, 12, (96, 160, 3)) + picture(96, 160)
        whole = cv2.imencode(".jpg", rgb.clip(0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, quality])[
            1
        ].tobytes()
        decode_compressed(whole)
        passed = 0
        for _ in range(300):
            at = rng.randrange(len(whole) - 64)
            try:
                decode_compressed(whole[:at] + rng.randbytes(64) + whole[at + 64 :])
                passed += 1
            except InvalidInput:
                pass
        assert passed < 30

    @pytest.mark.parametrize("quality", [1, 10, 50, 90, 100])
    @pytest.mark.parametrize("sampling", [cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444])
    def test_the_strongest_pictures_are_whole(self, quality, sampling):
        """White beside black by pixel, by block and at random: as strong as blocks can be."""
        rng = np.random.default_rng(quality)
        checks = np.indices((64, 96)).sum(0) % 2
        blocks = np.kron(rng.integers(0, 2, (8, 12)), np.ones((8, 8), int))
        words = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
        for levels in (checks, blocks, rng.integers(0, 2, (64, 96)), np.ones((64, 96), int), np.zeros((64, 96), int)):
            pictures = np.stack([levels, np.roll(levels, 1, 1), 1 - levels], -1).astype(np.uint8) * 255
            decode_compressed(cv2.imencode(".jpg", pictures, words)[1].tobytes())

    def test_jpeg_header_bomb_is_refused_before_it_is_decoded(self, monkeypatch):
        data = bytearray(encode(picture()))
        at = data.index(b"\xff\xc0")
        data[at + 5 : at + 9] = struct.pack(">HH", 30000, 30000)
        monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
        with pytest.raises(InvalidInput, match=r"30000x30000.*64 MiB"):
            decode_compressed(bytes(data))

    def test_png_header_bomb(self, monkeypatch):
        def chunk(kind, body):
            return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

        header = chunk(b"IHDR", struct.pack(">IIBBBBB", 50000, 50000, 8, 2, 0, 0, 0))
        bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(10**6))) + chunk(b"IEND", b"")
        monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
        with pytest.raises(InvalidInput, match="64 MiB"):
            decode_compressed(bomb)

    def test_empty_sizes(self):
        data = bytearray(encode(picture()))
        at = data.index(b"\xff\xc0")
        data[at + 5 : at + 9] = bytes(4)
        with pytest.raises(InvalidInput, match="empty"):
            decode_compressed(bytes(data))

    @pytest.mark.parametrize(
        ("data", "name", "reason"),
        [
            (b"\x00\x00\x00\x01\x67\x42\x00\x1f", "h264", "video stream"),
            (b"BM" + bytes(60), "bmp", "neither JPEG nor PNG"),
            (b"", "jpeg", "no data"),
            ("text", "jpeg", "buffer"),
            (None, "jpeg", "buffer"),
            (np.zeros((4, 4))[:, ::2], "jpeg", "buffer"),
            (b"\xff\xd8\xff\xd9", "jpeg", "truncated"),
            (b"\xff\xd8\xff\xc0\x00\x01" + bytes(9), "jpeg", "without length"),
            (b"\xff\xd8\xff\xda\x00\x02\xff\xd9", "jpeg", "no frame header"),
        ],
    )
    def test_refusals_say_why(self, data, name, reason):
        with pytest.raises(InvalidInput, match=reason) as caught:
            decode_compressed(data, field="CAM_BACK", format=name)
        assert caught.value.field == "CAM_BACK"

    @settings(max_examples=120)
    @given(data=st.binary(max_size=400), start=st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"]))
    def test_fuzz_noise(self, data, start):
        with pytest.raises(InvalidInput):
            decode_compressed(start + data)

    @settings(max_examples=120)
    @given(
        suffix=st.sampled_from([".jpg", ".png"]),
        edits=st.lists(st.tuples(st.floats(0, 0.9999), st.integers(0, 255)), min_size=1, max_size=8),
        cut=st.floats(0.1, 1.0),
    )
    def test_fuzz_damaged_files(self, suffix, edits, cut):
        data = bytearray(encode(picture(), suffix))
        for where, value in edits:
            data[int(where * len(data))] = value
        try:
            got = decode_compressed(bytes(data[: int(cut * len(data))]))
        except InvalidInput:
            return
        assert got.dtype == np.uint8
        assert got.ndim == 3


class TestRaw:
    @pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "8UC3", "rgba8", "bgra8", "mono8", "8UC1"])
    @pytest.mark.parametrize("padding", [0, 7])
    def test_encodings(self, encoding, padding):
        rgb = picture()
        layouts = {"rgb8": rgb, "bgr8": rgb[..., ::-1], "8UC3": rgb[..., ::-1]}
        alpha = np.full((48, 80, 1), 9, np.uint8)
        layouts |= {"rgba8": np.dstack([rgb, alpha]), "bgra8": np.dstack([rgb[..., ::-1], alpha])}
        layouts |= {"mono8": rgb[..., :1], "8UC1": rgb[..., :1]}
        pixels = layouts[encoding].reshape(48, -1)
        rows = np.hstack([pixels, np.full((48, padding), 77, np.uint8)])
        got = decode_raw(rows.tobytes(), 48, 80, rows.shape[1], encoding, 0)
        assert np.array_equal(got, np.repeat(rgb[..., :1], 3, -1) if "1" in encoding or "mono" in encoding else rgb)

    def test_rgb8_is_not_copied(self):
        data = bytearray(picture().tobytes())
        got = decode_raw(data, 48, 80, 240, "rgb8", 0)
        data[0] ^= 255
        assert got[0, 0, 0] == data[0]

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"height": 0}, "empty"),
            ({"width": -1}, "empty"),
            ({"step": 239}, "step 239"),
            ({"data": bytes(48 * 240 - 1)}, "bytes are not"),
            ({"data": bytes(48 * 240 + 1)}, "bytes are not"),
            ({"encoding": "32FC1"}, "not supported; these are: rgb8"),
            ({"encoding": "16UC1"}, "not supported"),
            ({"encoding": ""}, "not supported"),
            ({"height": 2**31, "width": 2**31, "step": 2**33}, "64 MiB"),
            ({"height": 4.5}, "integers"),
            ({"data": None}, "buffer"),
        ],
    )
    def test_refusals(self, change, reason):
        good = {"data": bytes(48 * 240), "height": 48, "width": 80, "step": 240, "encoding": "rgb8", "is_bigendian": 0}
        assert decode_raw(**good).shape == (48, 80, 3)
        with pytest.raises(InvalidInput, match=reason):
            decode_raw(**(good | change))

    @settings(max_examples=120)
    @given(
        data=st.binary(max_size=200),
        height=st.integers(-2, 2**32),
        width=st.integers(-2, 2**32),
        step=st.integers(-2, 2**32),
        encoding=st.sampled_from([*ENCODINGS, "yuv444", "32FC1", "\x00", "rgb8 "]),
    )
    def test_fuzz(self, data, height, width, step, encoding):
        try:
            got = decode_raw(data, height, width, step, encoding, 1)
        except InvalidInput:
            return
        assert got.shape == (height, width, 3)

    def test_a_fallback_converts_other_encodings_and_its_failures_are_reasons(self):
        got = decode_raw(b"", 48, 80, 0, "yuv444", 0, fallback=lambda image: picture(image.height, image.width))
        assert np.array_equal(got, picture())

        def fails(image):
            raise RuntimeError("conversion not known")

        with pytest.raises(InvalidInput, match="RuntimeError: conversion not known"):
            decode_raw(b"", 48, 80, 0, "yuv444", 0, fallback=fails)
        with pytest.raises(InvalidInput, match="want uint8"):
            decode_raw(b"", 48, 80, 0, "yuv444", 0, fallback=lambda image: np.zeros((4, 4)))


def blob(height, width, centre, sigma):
    """A white Gaussian spot at a sub-pixel place."""
    y, x = np.mgrid[:height, :width]
    spot = 255 * np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * sigma**2))
    return np.repeat(np.round(spot).astype(np.uint8)[..., None], 3, -1)


def centroid(image):
    weight = image[..., 0].astype(float)
    y, x = np.mgrid[: weight.shape[0], : weight.shape[1]]
    return np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()


SIZES = [(900, 1600), (901, 1603), (1080, 1920), (720, 1280), (480, 640), (128, 352), (100, 200), (1200, 1920)]


class TestPreparer:
    def test_the_rule_of_opus(self, preparer):
        geometry = preparer.geometry(900, 1600)
        assert geometry.resized == (198, 352)
        assert (geometry.top, geometry.left) == (70, 0)

    @pytest.mark.parametrize(
        ("height", "width", "top"), [(192, 256, 103), (240, 240, 147), (480, 1280, 4), (1080, 1920, 70)]
    )
    def test_the_middle_of_an_image_stays_in_the_upper_part(self, preparer, height, width, top):
        geometry = preparer.geometry(height, width)
        assert geometry.top == top
        if width <= 2 * height:  # a wider one has no more rows to spare
            assert abs(geometry.resized[0] / 2 - geometry.top - 29) <= 1
        out = np.zeros((128, 352, 3), np.uint8)
        preparer.prepare(np.full((height, width, 3), 77, np.uint8), out)
        assert (out == 77).all()

    @pytest.mark.parametrize("native", SIZES)
    @pytest.mark.parametrize("suffix", ["raw", ".jpg", ".png", "mono"])
    def test_a_dot_lands_where_the_matrix_says(self, preparer, native, suffix):
        """Independent of how the image got smaller: centroid of the spot against Ida times its native place."""
        height, width = native
        scale = max(128 / height, 352 / width)
        for share in ((0.31, 0.77), (0.62, 0.83)):
            place = np.array([share[0] * width + 0.3, share[1] * height - 0.4])
            image = blob(height, width, place, 2.5 / scale)
            if suffix == "raw":
                source = image
            elif suffix == "mono":
                source = RawImage(image[..., 0].tobytes(), height, width, width, "mono8")
            else:
                source = CompressedImage(encode(image, suffix))
            out = np.zeros((128, 352, 3), np.uint8)
            ida = preparer.prepare(source, out)
            want = (ida @ (*place, 1.0))[:2]
            assert np.abs(centroid(np.where(out > 8, out, 0)) - want).max() < 0.1

    @pytest.mark.parametrize("native", SIZES)
    def test_matrix_equals_the_formula_of_resize(self, preparer, native):
        """cv2.resize maps pixel centres by (u + 0.5) * new / old - 0.5; a reduced first step may add < 0.5 px."""
        height, width = native
        for rounds_up in (False, True):
            geometry = preparer.geometry(height, width, rounds_up)
            rows, columns = geometry.resized
            for u, v in ((0, 0), (width - 1, height - 1), (width / 2, height / 3)):
                want = (
                    (u + 0.5) * columns / width - 0.5 - geometry.left,
                    (v + 0.5) * rows / height - 0.5 - geometry.top,
                )
                assert np.abs((geometry.ida @ (u, v, 1.0))[:2] - want).max() < 1.0

    def test_colours_of_every_way_agree(self, preparer):
        rgb = picture(900, 1600)
        outs = []
        for source in (
            rgb,
            CompressedImage(encode(rgb)),
            CompressedImage(encode(rgb, ".png")),
            RawImage(rgb[..., ::-1].tobytes(), 900, 1600, 4800, "8UC3"),
            lambda: rgb,
        ):
            out = np.zeros((128, 352, 3), np.uint8)
            preparer.prepare(source, out)
            outs.append(out.astype(int))
        want = cv2.resize(rgb, (352, 198), interpolation=cv2.INTER_AREA)[70:].astype(int)
        for out in outs:
            assert np.abs(out - want).mean() < 1.5

    def test_distortion_is_undone(self, preparer):
        """A spot drawn at the distorted pixel of a direction appears at its pinhole pixel."""
        k = np.array([[900.0, 0, 800], [0, 900, 450], [0, 0, 1]])
        direction = np.array([-0.35, 0.22, 1.0])
        for name, d in (
            ("plumb_bob", [-0.3, 0.1, 0.001, -0.002, 0.0]),
            ("rational_polynomial", [0.4, -0.05, 0.001, 0.001, 0.01, 0.2, -0.01, 0.005]),
            ("equidistant", [0.05, -0.01, 0.002, 0.0]),
        ):
            model = from_fields("eye", "", 1600, 900, k.ravel(), d=d, model=name)
            assert model.distorted
            if name == "equidistant":
                ray = direction.reshape(1, 1, 3)
                pixel = cv2.fisheye.projectPoints(ray, np.zeros(3), np.zeros(3), k, np.array(d))[0].ravel()
            else:
                pixel = cv2.projectPoints(direction.reshape(1, 3), np.zeros(3), np.zeros(3), k, np.array(d))[0].ravel()
            pinhole = (k @ direction)[:2]
            assert np.abs(pixel - pinhole).max() > 8, "the distortion is visible"
            for source in (blob(900, 1600, pixel, 10.0), CompressedImage(encode(blob(900, 1600, pixel, 10.0)))):
                out = np.zeros((128, 352, 3), np.uint8)
                ida = preparer.prepare(source, out, model)
                assert np.abs(centroid(np.where(out > 8, out, 0)) - (ida @ (*pinhole, 1))[:2]).max() < 0.35

    @pytest.mark.parametrize("yaw", [-60.0, 60.0])
    def test_a_view_sees_beside_and_behind_a_fisheye(self, preparer, yaw):
        """A spot 97 degrees off the axis of a lens of 200 degrees, where the pinhole of its view has it."""
        focal, side = 800 / np.radians(100), np.radians(97)
        k = np.array([[focal, 0, 800], [0, focal, 450], [0, 0, 1]])
        model = from_fields("eye", "", 1600, 900, k.ravel(), model="equidistant").view("eye.view", yaw)
        direction = np.array([-np.sign(yaw) * np.sin(side), 0.1, np.cos(side)])
        flat = np.hypot(*direction[:2])
        pixel = (k @ [*(np.arctan2(flat, direction[2]) * direction[:2] / flat), 1.0])[:2]
        ray = model.rectification @ direction
        pinhole = model.intrinsics @ (ray / ray[2])
        out = np.zeros((128, 352, 3), np.uint8)
        ida = preparer.prepare(blob(900, 1600, pixel, 10.0), out, model)
        assert np.abs(centroid(np.where(out > 8, out, 0)) - (ida @ pinhole)[:2]).max() < 0.5
        assert out.any((0, 2)).sum() < 60, "one spot"

    @pytest.mark.parametrize(
        ("yaw", "d", "seen"),
        [(0.0, (), 1.0), (40.0, (), 0.66), (70.0, (), 0.39), (170.0, (), 0.0), (60.0, (-0.3, 0, 0, 0), 0.37)],
    )
    def test_a_view_shows_nothing_that_its_lens_cannot(self, preparer, yaw, d, seen):
        """OpenCV would show what is behind as what is ahead upside down, and fold what is beside into the image."""
        k = np.array([[500.0, 0, 800], [0, 500, 450], [0, 0, 1]])
        model = from_fields("eye", "", 1600, 900, k.ravel(), d=d, model="plumb_bob").view("eye.view", yaw)
        white, out = np.full((900, 1600, 3), 255, np.uint8), np.zeros((128, 352, 3), np.uint8)
        ida = preparer.prepare(white, out, model)
        rows, columns = np.nonzero(out[..., 0])
        rays = np.linalg.inv(ida @ model.intrinsics) @ np.stack([columns, rows, np.ones(len(rows))])
        x, y, z = model.rectification.T @ rays
        assert (z > 0).all()
        assert (np.hypot(x, y) <= 1.06 * z).all() if d else True, "where r - 0.3 r^3 turns back"
        assert (out[..., 0] > 0).mean() == pytest.approx(seen, abs=0.1)

    def test_a_fisheye_is_undone_as_by_opencv(self):
        k = (190.0, 0, 322.0, 0, 195.0, 236.0, 0, 0, 1)
        model = from_fields("eye", "", 640, 480, k, d=(0.05, -0.01, 0.002, 0.0), model="equidistant")
        scaling, ida = np.diag((0.5, 0.5, 1.0)), np.array([[0.5, 0, 0], [0, 0.5, -40], [0, 0, 1.0]])
        maps = rectifying_maps(model, scaling, ida, (128, 320))
        source, target = scaling @ model.intrinsics, ida @ model.intrinsics
        want = cv2.fisheye.initUndistortRectifyMap(
            source, model.distortion.reshape(4, 1), np.eye(3), target, (320, 128), cv2.CV_32FC1
        )
        np.testing.assert_allclose(maps, want, atol=2e-3)

    def test_a_view_needs_to_know_its_lens(self):
        k = (190.0, 0, 320.0, 0, 190.0, 240.0, 0, 0, 1)
        with pytest.raises(InvalidInput, match="native size"):
            from_fields("eye", "", 0, 0, k, model="equidistant").view("a", 10.0)

    def test_wrong_size_for_the_calibration(self, preparer):
        model = CameraModel("eye", "", 640, 480, np.array([[300.0, 0, 320], [0, 300, 240], [0, 0, 1]]))
        out = np.zeros((128, 352, 3), np.uint8)
        for source in (picture(), CompressedImage(encode(picture())), CompressedImage(encode(picture(), ".png"))):
            with pytest.raises(CalibrationMismatch, match=r"80x48.*640x480"):
                preparer.prepare(source, out, model)

    def test_one_bad_image_does_not_spoil_the_others(self, preparer):
        out = np.zeros((3, 128, 352, 3), np.uint8)
        good = encode(picture(450, 800))
        jobs = [(CompressedImage(d), out[i], None) for i, d in enumerate((good, good[:100], good))]
        results = preparer.prepare_all(jobs)
        assert isinstance(results[1], InvalidInput)
        assert out[0].any()
        assert out[2].any()
        assert not out[1].any()

    @pytest.mark.parametrize("wrong", [{"height": 0}, {"width": 7}, {"height": 128.0}, {"width": True}])
    def test_config_refuses(self, wrong):
        with pytest.raises(InvalidInput, match="image"):
            ImageConfig(**wrong)
