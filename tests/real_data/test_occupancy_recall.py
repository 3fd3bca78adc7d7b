"""What the shipped preset sees on real keyframes, against occupancy derived from one lidar sweep. Never trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import maximum_filter

from sparseoccvla_ros.core.classes import CAMERAS, FLAT, FREE
from sparseoccvla_ros.core.types import CameraFrames, EgoState
from sparseoccvla_ros.data.nuscenes.dataset import NuscenesSamples
from sparseoccvla_ros.data.nuscenes.prepare import prepare
from sparseoccvla_ros.runtime.factory import build_occupancy
from sparseoccvla_ros.runtime.presets import load_preset

HIT, NO_BOX = 2, 255
GROUND = slice(1, 4)
"""Heights, in voxels of 0.4 m from -1 m, at which returns outside of boxes count as ground: -0.6 to 0.6 m."""
LEAST = {"recall": 0.42, "flat": 0.52, "right class": 0.05}
"""Below what the shipped weights reach, by a margin for other processors. The goals are 0.55, 0.60 and 0.15."""


def shares(dense: np.ndarray, state: np.ndarray, boxes: np.ndarray) -> dict[str, float]:
    """recall: lidar voxels with a predicted one within one voxel; flat: ground voxels predicted as a flat class; right
    class: voxels inside boxes with one of the box's class within one voxel. All uint8 [X, Y, Z]."""
    hit, inside = state == HIT, boxes < FREE
    ground = hit & (boxes == NO_BOX)
    ground[..., : GROUND.start] = ground[..., GROUND.stop :] = False
    right = sum(int(maximum_filter(dense == c, 3)[boxes == c].sum()) for c in np.unique(boxes[inside]))
    return {
        "recall": float(maximum_filter(dense < FREE, 3)[hit].mean()),
        "flat": float(np.isin(dense, FLAT)[ground].mean()),
        "right class": right / max(1, int(inside.sum())),
    }


def test_real_streets_are_seen(keyframe_1, record_property):
    truth = keyframe_1.folder / "derived_lidar_occ.npz"
    versions = sorted(keyframe_1.folder.glob("v1.0-*"))
    if not truth.is_file() or not versions:
        pytest.skip("this keyframe has no lidar occupancy or no tables")
    preset = load_preset("tiny")
    root = Path(keyframe_1.folder)
    samples = NuscenesSamples(root, prepare(root, versions[0].name), "train", preset.image, labels=False)
    images, ego2img = samples[0].images[0], samples[0].ego2img[0].astype(np.float64)
    ego = EgoState(np.eye(4), np.zeros(6), "map")
    stamps, valid = np.zeros(len(CAMERAS), np.int64), np.ones(len(CAMERAS), bool)
    encoder = build_occupancy(preset)
    dense = encoder.voxels(encoder.encode(CameraFrames(0, 0, CAMERAS, stamps, valid, images, ego2img, ego))).dense()
    lidar = np.load(truth)
    got = shares(dense, lidar["state"], lidar["box_semantics"])
    print(keyframe_1.name, {name: round(value, 3) for name, value in got.items()})
    for name, value in got.items():
        record_property(name, value)
        assert value >= LEAST[name], f"{name} fell to {value:.3f}"


def test_shares_count_what_they_say():
    state, boxes = np.zeros((4, 4, 16), np.uint8), np.full((4, 4, 16), FREE, np.uint8)
    state[0, 0, 2] = state[3, 3, 2] = HIT
    boxes[0, 0, 2] = NO_BOX
    boxes[3, 3, 2] = 4
    dense = np.full((4, 4, 16), FREE, np.uint8)
    assert shares(dense, state, boxes) == {"recall": 0.0, "flat": 0.0, "right class": 0.0}
    dense[0, 0, 2], dense[2, 3, 2] = FLAT[0], 4
    assert shares(dense, state, boxes) == {"recall": 1.0, "flat": 1.0, "right class": 1.0}
