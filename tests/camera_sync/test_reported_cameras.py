"""Cameras and calibrations that people had trouble with: used as they mean it, or refused by name."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseoccvla_ros.camera_sync.calibration import from_fields, load_calibration, save_calibration
from sparseoccvla_ros.camera_sync.config import ImageConfig
from sparseoccvla_ros.camera_sync.encodings import ENCODINGS, mosaic_code
from sparseoccvla_ros.camera_sync.frame_assembler import CameraSync
from sparseoccvla_ros.camera_sync.images import CompressedImage, ImagePreparer, decode_compressed, decode_raw
from sparseoccvla_ros.camera_sync.message_adapter import MessageAdapter
from sparseoccvla_ros.camera_sync.profiles import profile
from sparseoccvla_ros.core.errors import InvalidInput

K = np.array([[250.0, 0, 176], [0, 250, 99], [0, 0, 1]])
D = (-0.3, 0.09, 0.0, 0.0, -0.01)
SUBSAMPLING = {"420": 0x221111, "422": 0x211111, "444": 0x111111, "411": 0x411111}


def picture(height: int = 64, width: int = 96, seed: int = 0, noise: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    small = cv2.resize(rng.integers(0, 255, (4, 6, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    return cv2.add(small, rng.integers(0, noise + 1, small.shape, np.uint8)) if noise else small


def jpeg(image: np.ndarray, quality: int = 90, **settings: int) -> bytes:
    flags = [cv2.IMWRITE_JPEG_QUALITY, quality]
    for name, value in settings.items():
        flags += [getattr(cv2, f"IMWRITE_JPEG_{name.upper()}"), value]
    return cv2.imencode(".jpg", image, flags)[1].tobytes()


# --- JPEG that is not whole


@pytest.mark.parametrize("sampling", SUBSAMPLING)
@pytest.mark.parametrize("changes", [{}, {"optimize": 1}, {"rst_interval": 3}, {"progressive": 1}], ids=str)
def test_a_whole_jpeg_is_taken(sampling, changes):
    for size in ((8, 8), (1, 1), (17, 33), (198, 352), (100, 7)):
        image = picture(*size, noise=10)
        for pixels in (image, image[..., 0]):
            for quality in (20, 95):
                case = f"{pixels.shape} at quality {quality}"
                data = jpeg(pixels, quality, sampling_factor=SUBSAMPLING[sampling], **changes)
                assert decode_compressed(data, field=case).shape == (*size, 3), case


def damaged(data: bytes, how: str, rng: np.random.Generator) -> bytes:
    third = len(data) // 3
    if how == "cut, end mark put behind":
        return data[:third] + b"\xff\xd9"
    middle = {"zeroed": bytes(third), "lost": b"", "noise": rng.integers(0, 256, third, np.uint8).tobytes()}[how]
    return data[:third] + middle + data[2 * third :]


@pytest.mark.parametrize("how", ["cut, end mark put behind", "zeroed", "lost", "noise"])
@pytest.mark.parametrize("changes", [{}, {"optimize": 1}, {"rst_interval": 7}], ids=str)
def test_a_jpeg_that_lost_data_is_refused_by_name(how, changes):
    rng = np.random.default_rng(0)
    for seed in range(12):
        data = jpeg(picture(198, 352, seed, noise=12), int(rng.integers(40, 96)), **changes)
        with pytest.raises(InvalidInput, match=r"^CAM_BACK: JPEG") as caught:
            decode_compressed(damaged(data, how, rng), field="CAM_BACK")
        assert caught.value.field == "CAM_BACK"


# --- raw encodings


def mosaic_of(image: np.ndarray, pattern: str) -> np.ndarray:
    out = np.empty(image.shape[:2], np.uint8)
    for index, colour in enumerate(pattern):
        rows, columns = slice(index // 2, None, 2), slice(index % 2, None, 2)
        out[rows, columns] = image[rows, columns, "rgb".index(colour)]
    return out


def sent_as(image: np.ndarray, encoding: str) -> np.ndarray:
    """The rows [R, bytes] of an RGB image in an encoding, as a driver sends them."""
    height, width = image.shape[:2]
    name = encoding.removesuffix("16").removesuffix("8")
    if name.startswith("bayer_"):
        rows = mosaic_of(image, name.removeprefix("bayer_"))
    elif name in ("rgb", "bgr", "rgba", "bgra", "mono", "8UC1"):
        order = {"rgb": (0, 1, 2), "bgr": (2, 1, 0), "rgba": (0, 1, 2, 0), "bgra": (2, 1, 0, 0)}.get(name, (0,))
        rows = image[..., order].reshape(height, -1)
    else:
        y, u, v = (cv2.cvtColor(image, cv2.COLOR_RGB2YUV_I420).reshape(-1)[a:b] for a, b in planes(height, width))
        y, u, v = y.reshape(height, width), u.reshape(height // 2, -1), v.reshape(height // 2, -1)
        if name in ("nv12", "nv21"):
            pair = (u, v) if name == "nv12" else (v, u)
            rows = np.vstack([y, np.stack(pair, -1).reshape(height // 2, width)])
        else:
            u, v = np.repeat(u, 2, 0), np.repeat(v, 2, 0)
            order = (u, y[:, ::2], v, y[:, 1::2]) if name in ("uyvy", "yuv422") else (y[:, ::2], u, y[:, 1::2], v)
            rows = np.stack(order, -1).reshape(height, -1)
    return rows if not encoding.endswith("16") else rows.astype(np.uint16) * 257


def planes(height: int, width: int) -> tuple[tuple[int, int], ...]:
    whole, quarter = height * width, height * width // 4
    return (0, whole), (whole, whole + quarter), (whole + quarter, whole + 2 * quarter)


@pytest.mark.parametrize("encoding", sorted(set(ENCODINGS) - {"8UC3"}))
def test_every_raw_encoding_gives_its_colours(encoding):
    """Smooth colours survive subsampling and demosaicing."""
    image = picture()
    sent = sent_as(image, encoding)
    want = np.repeat(image[..., :1], 3, -1) if encoding in ("mono8", "mono16", "8UC1") else image
    for padding, big in itertools.product((0, 6), (0, 1)):
        rows = sent.astype(">u2" if big else "<u2") if sent.dtype == np.uint16 else sent
        lines = np.frombuffer(rows.tobytes(), np.uint8).reshape(len(rows), -1)
        lines = np.pad(lines, ((0, 0), (0, padding)), constant_values=77)
        got = decode_raw(lines.tobytes(), 64, 96, lines.shape[1], encoding, big)
        inside = np.abs(got.astype(int) - want)[4:-4, 4:-4]
        assert inside.mean() < 4, f"{padding} bytes of padding, big-endian {big}"


@pytest.mark.parametrize("encoding", ["uyvy", "nv12", "bayer_rggb8"])
def test_odd_sizes_of_shared_colours_are_refused(encoding):
    with pytest.raises(InvalidInput, match="odd"):
        decode_raw(bytes(10_000), 64, 95, 200, encoding)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_a_compressed_mosaic_is_demosaiced(suffix, pattern):
    image = picture(400, 600)
    data = cv2.imencode(suffix, mosaic_of(image, pattern), [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
    declared = f"bayer_{pattern}8; {'jpeg' if suffix == '.jpg' else 'png'} compressed "
    got = decode_compressed(data, format=declared)
    assert np.abs(got.astype(int) - image)[8:-8, 8:-8].mean() < 4
    out = np.empty((128, 352, 3), np.uint8)
    preparer = ImagePreparer(ImageConfig(), threads=1)
    preparer.prepare(CompressedImage(data, declared), out)
    preparer.close()
    assert out.std((0, 1)).min() > 5
    assert np.abs(out.astype(int)[..., 0] - out[..., 1]).mean() > 5, "in colour"


@pytest.mark.parametrize("declared", ["jpeg", "bgr8; jpeg compressed bgr8", "bayer_rggb8; jpeg compressed bgr8", ""])
def test_colour_targets_are_no_mosaics(declared):
    assert mosaic_code(declared) is None


def test_an_unknown_mosaic_is_refused():
    with pytest.raises(InvalidInput, match="Bayer pattern"):
        decode_compressed(jpeg(picture()[..., 0]), format="bayer_rgbw8; jpeg compressed ")


# --- calibration


def info(frame: str = "cam", **changes: object) -> SimpleNamespace:
    region = SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0)
    fields = {"width": 352, "height": 198, "k": K.ravel(), "r": np.eye(3).ravel(), "d": (), "distortion_model": ""}
    fields |= {"p": np.hstack([K, np.zeros((3, 1))]).ravel(), "binning_x": 0, "binning_y": 0, "roi": region}
    return SimpleNamespace(header=SimpleNamespace(frame_id=frame), **(fields | changes))


def taken(camera_changes: dict, message: SimpleNamespace):
    sync, chosen = CameraSync(threads=1), profile("nuscenes")
    camera = chosen.cameras["CAM_FRONT"].__class__(**(vars(chosen.cameras["CAM_FRONT"]) | camera_changes))
    MessageAdapter(sync, chosen).add_camera_info(camera, message)
    sync.close()
    return sync.cameras["CAM_FRONT"]


def test_rectified_images_are_described_by_p():
    p = np.array([[200.0, 0, 170, 0], [0, 200, 90, 0], [0, 0, 1, 0]])
    message = info(d=D, distortion_model="plumb_bob", p=p.ravel())
    model = taken({}, message)  # the nuscenes profile reads image_rect topics
    np.testing.assert_array_equal(model.intrinsics, p[:, :3])
    assert not model.distorted
    model = taken({"rectified": False}, message)
    np.testing.assert_array_equal(model.intrinsics, K)
    assert model.distorted


def test_the_frame_that_the_user_sets_wins_over_messages():
    assert taken({"frame_id": "optical"}, info("body")).frame_id == "body"
    assert taken({"frame_id": "optical"}, info("")).frame_id == "optical"
    assert taken({"frame_id": "optical", "frame_wins": True}, info("body")).frame_id == "optical"


@pytest.mark.parametrize("name", ["equidistant", "fisheye", "kannala_brandt4"])
@pytest.mark.parametrize("d", [(), (0.0,) * 4])
def test_a_fisheye_without_coefficients_stays_one(name, d, tmp_path):
    model = from_fields("c", "f", 352, 198, K.ravel(), d=d, model=name)
    assert model.distorted
    save_calibration(tmp_path / "c.yaml", {"c": model})
    assert load_calibration(tmp_path / "c.yaml")["c"].same_as(model)
    # A dot at 40 degrees lies at r = f theta; the prepared image has it at f tan(theta), as a pinhole would.
    angle = np.radians(25.0)
    image = np.zeros((198, 352, 3), np.uint8)
    cv2.circle(image, (round(176 + 250 * angle), 99), 2, (255, 255, 255), -1)
    out = np.empty((128, 352, 3), np.uint8)
    preparer = ImagePreparer(ImageConfig(), threads=1)
    ida = preparer.prepare(image, out, model)
    preparer.close()
    want = ida @ K @ [np.tan(angle), 0, 1]
    y, x = np.nonzero(out[..., 0] > 100)
    np.testing.assert_allclose((x.mean(), y.mean()), want[:2], atol=1.0)
    assert not from_fields("c", "f", 352, 198, K.ravel(), d=d, model=name, rectified=True).distorted


@given(bx=st.integers(0, 4), by=st.integers(0, 4), x=st.integers(0, 40), y=st.integers(0, 100), cut=st.integers(0, 60))
@settings(max_examples=60)
def test_binning_and_region_follow_the_pixels(bx, by, x, y, cut):
    """REP-104: the region first, then the binning; every pixel keeps its direction."""
    region = (x, y, 352 - x - cut, 398 - y - cut)
    model = from_fields("c", "f", 352, 398, K.ravel(), binning=(bx, by), roi=region)
    sx, sy = max(1, bx), max(1, by)
    assert (model.width, model.height) == (region[2] // sx, region[3] // sy)
    columns, rows = np.arange(sx), np.arange(sy)
    full = np.array([x + columns.mean(), y + rows.mean(), 1.0])  # where the first joined pixel lies on the sensor
    np.testing.assert_allclose(np.linalg.solve(model.intrinsics, [0, 0, 1]), np.linalg.solve(K, full), atol=1e-12)
    full += (sx * 7, sy * 11, 0)
    np.testing.assert_allclose(np.linalg.solve(model.intrinsics, [7, 11, 1]), np.linalg.solve(K, full), atol=1e-12)


def test_regions_apply_to_p_and_to_messages():
    region = SimpleNamespace(x_offset=0, y_offset=100, width=352, height=198)
    model = taken({}, info(height=398, roi=region, binning_x=2, binning_y=2))
    assert (model.width, model.height) == (176, 99)
    assert model.intrinsics[0, 0] == 125
    assert model.intrinsics[1, 2] == pytest.approx((99 - 100 + 0.5) / 2 - 0.5)


@pytest.mark.parametrize("roi", [(0, 300, 352, 198), (-1, 0, 352, 398), (0, 0, 353, 398)])
def test_a_region_outside_the_sensor_is_refused(roi):
    with pytest.raises(InvalidInput, match="region of interest"):
        from_fields("c", "f", 352, 398, K.ravel(), roi=roi)
