"""Splits, label files and the search for files of a nuScenes root."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sparseoccvla_ros.core.classes import FREE
from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.voxels import OCC3D_GRID
from sparseoccvla_ros.data.nuscenes.dataset import missing_files
from sparseoccvla_ros.data.nuscenes.ego_motion import can_odometry, can_route
from sparseoccvla_ros.data.nuscenes.labels import load_occ3d
from sparseoccvla_ros.data.nuscenes.splits import MINI_TRAIN, MINI_VAL, VAL, scene_splits


def test_splits() -> None:
    assert (len(VAL), len(MINI_TRAIN), len(MINI_VAL)) == (150, 8, 2)
    here = Path("nowhere")
    mini = scene_splits(here, "v1.0-mini", ["scene-0061", "scene-0103", "scene-0553", "scene-9"])
    assert mini == ["train", "val", "train", ""]
    assert scene_splits(here, "v1.0-trainval", ["scene-0061", "scene-0103", "scene-0553"]) == ["train", "val", "val"]
    assert scene_splits(here, "v1.0-test", ["scene-0077"]) == ["test"]
    with pytest.raises(InvalidInput, match=r"splits\.json"):
        scene_splits(here, "v1.0-own", ["a"])


@pytest.mark.parametrize("text", ["[]", "{", '{"train": "a"}', '{"other": []}', '{"train": ["a"], "val": ["a"]}'])
def test_split_files_that_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "splits.json").write_text(text)
    with pytest.raises(InvalidInput, match="split"):
        scene_splits(tmp_path, "v1.0-own", ["a"])


def test_label_files_that_are_none(tmp_path: Path) -> None:
    grid = np.full(OCC3D_GRID.shape, FREE, np.uint8)
    good = {"semantics": grid, "mask_lidar": grid * 0, "mask_camera": grid * 0}
    path = tmp_path / "labels.npz"
    np.savez(path, **good)
    assert load_occ3d(path).camera.dtype == bool
    for change in ({"semantics": grid + 1}, {"mask_camera": grid}, {"mask_lidar": grid[1:]}, {"semantics": grid * 1.0}):
        np.savez(path, **(good | change))
        with pytest.raises(InvalidInput, match="occ3d"):
            load_occ3d(path)
    np.savez(path, semantics=grid)
    with pytest.raises(InvalidInput, match="lacks mask_lidar, mask_camera"):
        load_occ3d(path)


def test_missing_files_are_found_folder_by_folder(tmp_path: Path) -> None:
    (tmp_path / "a" / "t").mkdir(parents=True)
    (tmp_path / "a" / "x.jpg").write_text("")
    (tmp_path / "a" / "t" / "labels.npz").write_text("")
    wanted = ["a/x.jpg", "a/y.jpg", "b/z.jpg", "a/t/labels.npz", "a/u/labels.npz"]
    assert missing_files(tmp_path, wanted) == ["a/u/labels.npz", "a/y.jpg", "b/z.jpg"]


@pytest.mark.parametrize(
    ("scene", "motion", "route"),
    [("scene-0061", True, True), ("scene-0161", False, False), ("scene-0071", True, False)],
)
def test_blacklisted_can_bus_files_are_left_alone(tmp_path: Path, scene: str, motion: bool, route: bool) -> None:
    (tmp_path / "can_bus").mkdir()
    row = {"utime": 5, "pos": [1, 2, 0], "orientation": [1, 0, 0, 0], "vel": [3, 0, 0], "rotation_rate": [0, 0, 0]}
    (tmp_path / "can_bus" / f"{scene}_pose.json").write_text(json.dumps([row]))
    (tmp_path / "can_bus" / f"{scene}_route.json").write_text("[[0, 0], [0, 0], [5, 0]]")
    assert (can_odometry(tmp_path, scene, 0, 10_000) is not None) == motion
    assert (can_route(tmp_path, scene) is not None) == route


@pytest.mark.parametrize("text", ["[[1, 2, 3]]", "[", "[[1, NaN], [2, 3]]", "{}", '[["a", 1]]'])
def test_a_route_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "can_bus").mkdir()
    (tmp_path / "can_bus" / "scene-0061_route.json").write_text(text)
    with pytest.raises(InvalidInput, match="can_bus"):
        can_route(tmp_path, "scene-0061")
    assert can_route(tmp_path, "scene-0103") is None
