"""A drive to test with: streams of stamps, and a car on a circle whose cameras photograph landmarks.

Each camera photographs its landmark from where it is at its own stamp.
"""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from sparseoccvla_ros.camera_sync.calibration import from_fields
from sparseoccvla_ros.camera_sync.config import SyncConfig
from sparseoccvla_ros.camera_sync.frame_assembler import CameraSync
from sparseoccvla_ros.camera_sync.images import CompressedImage
from sparseoccvla_ros.core import geometry
from sparseoccvla_ros.core.classes import CAMERAS

MS = 10**6
S = 10**9
START = 1000 * S
PERIOD = 83 * MS
SPEED, TURN = 9.0, 0.3
K = (633.0, 0.0, 400.0, 0.0, 633.0, 240.0, 0.0, 0.0, 1.0)
HEIGHT, WIDTH = 450, 800
OFFSET = dict(zip(CAMERAS, (8, 15, 0, 32, 43, 23), strict=True))
HEADING = dict(zip(CAMERAS, (0.0, -0.98, 0.96, np.pi, 1.9, -1.93), strict=True))
OPTICAL = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])


def _stream(cameras, start, count, period=250 * MS, offsets=None, loop=0):
    """Images in the order of their stamps: (camera, stamp, payload); the payload says what it is."""
    offsets = offsets or {}
    images = [
        (
            camera,
            start + k * period + offsets.get(camera, 0),
            (camera, start + k * period + offsets.get(camera, 0), loop),
        )
        for k in range(count)
        for camera in cameras
    ]
    return sorted(images, key=lambda image: image[1])


def _feed(sync, images):
    return [made for image in images for made in sync.add(*image)]


def _check(sets, tolerance, cameras):
    """What must hold of every output, whatever went in."""
    used, last = set(), {}
    for made in sets:
        valid = [c for c in made.images if c not in made.held]
        stamps = [made.images[c][0] for c in valid]
        assert max(stamps) - min(stamps) == made.spread_ns <= tolerance
        assert made.stamp == made.images[made.leader][0]
        assert made.leader in valid
        assert set(made.images) | set(made.missing) == set(cameras)
        assert not set(made.images) & set(made.missing)
        for camera, (stamp, payload) in made.images.items():
            assert payload[:2] == (camera, stamp), "the payload of another image"
        for camera in valid:
            key = (made.epoch, camera, made.images[camera][0])
            assert key not in used, "one image in two sets"
            used.add(key)
        assert made.stamp > last.get(made.epoch, 0), "stamps of sets must rise within an epoch"
        assert made.epoch >= max(last, default=0)
        last[made.epoch] = made.stamp


def ego(stamp):
    """Exact pose on a circle at 9 m/s and 0.3 rad/s."""
    t = (stamp - START) / S
    return geometry.planar(SPEED / TURN * np.sin(TURN * t), SPEED / TURN * (1 - np.cos(TURN * t)), TURN * t)


def mount(camera):
    out = geometry.planar(np.cos(HEADING[camera]), 0.5 * np.sin(HEADING[camera]), HEADING[camera])
    out[2, 3] = 1.5
    out[:3, :3] = out[:3, :3] @ OPTICAL
    return out


def landmark(camera):
    """A point 12 m before the camera at the start, in the world."""
    return geometry.apply(ego(START) @ mount(camera), np.array([0.8, 0.6, 12.0]))


def photograph(camera, stamp):
    """A white spot at the exact pixel of the landmark, as the camera sees it at its own stamp."""
    ego2img = geometry.camera_matrix(np.reshape(K, (3, 3)), geometry.inverse(mount(camera)))
    in_ego = geometry.apply(geometry.inverse(ego(stamp)), landmark(camera))
    (u, v), depth = geometry.project(ego2img, in_ego)
    assert depth > 0
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    spot = 255 * np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * 6.0**2))
    return np.repeat(np.round(spot).astype(np.uint8)[..., None], 3, -1)


def centroid(image):
    weight = np.where(image[..., 0] > 8, image[..., 0], 0).astype(float)
    y, x = np.mgrid[: weight.shape[0], : weight.shape[1]]
    return np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()


PLAIN = cv2.imencode(".jpg", np.full((HEIGHT, WIDTH, 3), 90, np.uint8))[1].tobytes()


def images(start, count, cameras=CAMERAS, payload=PLAIN):
    found = [(start + k * PERIOD + OFFSET[c] * MS, c, CompressedImage(payload)) for k in range(count) for c in cameras]
    return sorted(found, key=lambda image: image[0])


class Rig:
    """A CameraSync with everything calibrated, and a clock that follows the stamps."""

    def __init__(self, mounted=True, **config):
        self.sync = CameraSync(SyncConfig(**{"policy": "strict"} | config), threads=1)
        self.frames = []
        for camera in CAMERAS:
            model = from_fields(camera, f"{camera}_optical", WIDTH, HEIGHT, K)
            self.sync.set_camera(model.mounted(mount(camera)) if mounted else model)

    def tf(self, start, end, period=50 * MS, place=ego):
        for stamp in range(start, end + 1, period):
            pose = place(stamp)
            self.sync.add_transform("map", "base_link", stamp, pose[:3, 3], geometry.quaternion(pose))

    def odometry(self, start, end, twist=None, period=20 * MS, place=ego):
        for stamp in range(start, end + 1, period):
            self.sync.add_odometry(stamp, place(stamp), twist, "odom")

    def play(self, what):
        made = []
        for stamp, camera, payload in what:
            self.sync.add_image(camera, stamp, payload)
            frames = self.sync.take()
            made += [frames] if frames is not None else []
        self.frames += made
        return made

    @property
    def drops(self):
        return self.sync.synchroniser.statistics.drops


@pytest.fixture
def rig():
    rigs = []

    def build(**options):
        rigs.append(Rig(**options))
        return rigs[-1]

    yield build
    for made in rigs:
        made.sync.close()


@pytest.fixture(scope="session")
def stream():
    return _stream


@pytest.fixture(scope="session")
def feed():
    return _feed


@pytest.fixture(scope="session")
def check():
    return _check


@pytest.fixture(scope="session")
def drive():
    """The circle: exact ego pose, camera mounts, landmarks, what a camera sees, streams of images."""
    return SimpleNamespace(
        ego=ego, mount=mount, landmark=landmark, photograph=photograph, centroid=centroid, images=images
    )
