"""Occupancy metrics against numbers of the public OPUS, SparseOcc, SparseWorld and OccWorld code.

SPARSEOCCVLA_FIXTURES names the folder (default: shared/fixtures beside the checkout); without it every test skips.
"""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest

from sparseoccvla_ros.core import geometry
from sparseoccvla_ros.core.classes import CLASSES
from sparseoccvla_ros.eval.metrics.occupancy import (
    AbsentRule,
    OccupancyMeter,
    OccupancyScores,
    binary_confusion,
    mean_of_known,
)
from sparseoccvla_ros.eval.metrics.ray_iou import (
    RayMeter,
    cast,
    lidar_origins,
    ray_directions,
    ray_iou_per_class,
    rays_from,
)

pytestmark = pytest.mark.numeric

MASKS = {"camera_mask": "mask_camera", "lidar_mask": "mask_lidar", "no_mask": None}


def expected_of(folder: Path) -> dict:
    return json.loads((folder / "expected.json").read_text())


def ious(stated: dict, names: tuple[str, ...]) -> np.ndarray:
    return np.array([stated[n] for n in names], np.float64)  # null becomes NaN


def assert_iou(got: np.ndarray, stated: dict, tolerance: float) -> None:
    names = (*CLASSES, "free")[: len(got)]
    np.testing.assert_allclose(got, ious(stated, names), rtol=0, atol=tolerance)


@pytest.mark.recorded("occ3d_miou*", "folder")
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("rule", [AbsentRule.LEFT_OUT, AbsentRule.ZERO_IF_PREDICTED])
def test_voxel_miou(folder, mask, rule):
    frames = np.load(folder / "frames.npz")
    stated = expected_of(folder)["results"][mask]
    meter = OccupancyMeter(rule)
    mask_grids = frames[MASKS[mask]] if MASKS[mask] else [None] * len(frames["pred"])
    for pred, semantics, seen in zip(frames["pred"], frames["semantics"], mask_grids, strict=True):
        meter.update(pred, semantics, seen)
    got = meter.result()
    np.testing.assert_array_equal(got.confusion, stated["confusion_rows_gt_cols_pred"])
    np.testing.assert_array_equal(
        binary_confusion(got.confusion), stated["binary_confusion_rows_gt_cols_pred_order_nonfree_free"]
    )
    assert got.iou == pytest.approx(stated["binary_iou"]["nonfree"], abs=1e-9)
    if rule is AbsentRule.LEFT_OUT:
        assert got.miou == pytest.approx(stated["miou"], abs=1e-9)
        assert round(100 * got.iou, 2) == stated["binary_iou_percent_2_decimals"]
    else:
        stated = stated["sparseworld_variant"]
        assert round(100 * got.iou, 2) == stated["iou_occupied_percent_2_decimals"]
    assert_iou(got.per_class, stated["per_class_iou"], 1e-9)
    assert round(100 * got.miou, 2) == stated["miou_percent_2_decimals"]


@pytest.mark.recorded("rayiou*", "folder")
def test_ray_iou(folder):
    frames, stated = np.load(folder / "frames.npz"), expected_of(folder)
    meter = RayMeter()
    for f, (pred, semantics) in enumerate(zip(frames["pred"], frames["semantics"], strict=True)):
        before = int(meter.counts[0].sum())
        meter.update(pred, semantics, frames[f"origins.{f}"])
        assert int(meter.counts[0].sum()) - before == stated["kept_rays_per_frame"][f]
    assert meter.counts[0].tolist() == stated["kept_ray_label_counts"]["gt"]
    assert meter.counts[1].tolist() == stated["kept_ray_label_counts"]["pred"]
    got = ray_iou_per_class(meter.counts)
    for row, threshold in zip(got, meter.thresholds, strict=True):
        assert_iou(row, stated["per_class_iou"][f"{threshold:g}m"], 1e-6)
        assert mean_of_known(row) == pytest.approx(stated[f"RayIoU@{threshold:g}"], abs=1e-6)
    assert mean_of_known(got) == pytest.approx(stated["RayIoU"], abs=1e-6)


@pytest.mark.recorded("rayiou*", "folder")
@pytest.mark.parametrize(("grid", "prefix"), [("pred", "pred"), ("semantics", "gt")])
def test_every_ray(folder, grid, prefix):
    frames = np.load(folder / "frames.npz")
    hits = cast(frames[grid][0], rays_from(frames["origins.0"], frames["ray_directions"]))
    np.testing.assert_array_equal(hits.labels, frames[f"rays.0.{prefix}_label"])
    np.testing.assert_allclose(hits.distances, frames[f"rays.0.{prefix}_depth_m"], rtol=0, atol=1e-5)


@pytest.mark.recorded("rayiou*", "folder")
def test_ray_directions(folder):
    np.testing.assert_array_equal(ray_directions(), np.load(folder / "frames.npz")["ray_directions"])


def pose(translation: list[float], wxyz: list[float]) -> np.ndarray:
    return geometry.transform(np.array(translation), np.roll(wxyz, -1))


@pytest.mark.recorded("rayiou*", "folder")
def test_lidar_origins(folder):
    stated = json.loads((folder / "origins.json").read_text())["frames"]
    for _, group in groupby(stated, lambda frame: frame["scene_name"]):
        scene = list(group)
        ego2global = np.stack([pose(f["ego2global_translation"], f["ego2global_rotation"]) for f in scene])
        lidar2ego = np.stack([pose(f["lidar2ego_translation"], f["lidar2ego_rotation"]) for f in scene])
        for index, frame in enumerate(scene):
            got = lidar_origins(ego2global, lidar2ego, index)
            # The official selection passes through float32 lidar coordinates.
            np.testing.assert_allclose(got, frame["lidar_origins"], rtol=0, atol=1e-5)


def forecast_scores(folder: Path, steps: list[int], rule: AbsentRule) -> list[OccupancyScores]:
    """Returns the scores of all sequences at steps of half a second."""
    meters = [OccupancyMeter(rule) for _ in steps]
    for s in range(expected_of(folder)["num_sequences"]):
        file = np.load(folder / f"sequence_{s}.npz")
        for meter, pred, semantics in zip(meters, file["pred"][steps], file["semantics"][steps], strict=True):
            meter.update(pred, semantics)
    return [meter.result() for meter in meters]


@pytest.mark.recorded("forecasting*", "folder")
def test_sparseworld_forecast(folder):
    stated = expected_of(folder)["sparseworld_protocol"]
    got = forecast_scores(folder, [0, 2, 4, 6], AbsentRule.ZERO_IF_PREDICTED)
    for row, scores in enumerate(got):
        per_horizon = stated["per_horizon"][f"{row}s"]
        np.testing.assert_array_equal(scores.confusion, per_horizon["confusion_rows_gt_cols_pred"])
        np.testing.assert_array_equal(
            binary_confusion(scores.confusion)[::-1, ::-1],
            per_horizon["binary_confusion_rows_gt_cols_pred_order_free_occupied"],
        )
        assert_iou(scores.per_class, per_horizon["per_class_iou"], 1e-9)
        assert scores.miou == pytest.approx(per_horizon["miou"], abs=1e-9)
        assert scores.iou == pytest.approx(per_horizon["iou_occupied"], abs=1e-9)
        assert round(100 * scores.miou, 2) == stated["returned_miou_list"][row]
        assert round(100 * scores.iou, 2) == stated["returned_iou_list"][row]
    average = stated["average_1s_2s_3s"]
    assert np.mean([s.miou for s in got[1:]]) == pytest.approx(average["miou"], abs=1e-9)
    assert np.mean([s.iou for s in got[1:]]) == pytest.approx(average["iou_occupied"], abs=1e-9)


@pytest.mark.recorded("forecasting*", "folder")
def test_occworld_forecast(folder):
    stated = expected_of(folder)["occworld_protocol"]
    got = forecast_scores(folder, stated["future_steps"], AbsentRule.ONE)
    for row, scores in enumerate(got):
        per_class = stated["per_class_iou_per_step"][row]
        np.testing.assert_allclose(scores.per_class[: len(per_class)], per_class, rtol=0, atol=1e-7)
        assert 100 * scores.miou == pytest.approx(stated["miou_percent_per_step"][row], abs=1e-5)
        assert 100 * scores.iou == pytest.approx(stated["iou_percent_per_step"][row], abs=1e-5)
    average = stated["average_steps_2_4_6"]
    assert 100 * np.mean([s.miou for s in got[1::2]]) == pytest.approx(average["miou_percent"], abs=1e-5)
    assert 100 * np.mean([s.iou for s in got[1::2]]) == pytest.approx(average["iou_percent"], abs=1e-5)
