"""Open-loop planning metrics against what the public implementations returned (planning_metrics*/README.md).

SPARSEOCCVLA_FIXTURES names the folder (default: shared/fixtures beside the checkout); every folder planning_metrics*
in it is checked. L2 is asked to 1e-6 m, plus the resolution of the float32 that the reference computed in.
"""

from __future__ import annotations

import json
import os
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from sparseoccvla_ros.eval.protocols import grids, planning
from sparseoccvla_ros.eval.protocols.planning import Protocol, Reduction, SampleScorer, Score
from sparseoccvla_ros.eval.tasks.planning_samples import AgentBoxes, Sample
from sparseoccvla_ros.planning.ego_history import FEATURE_NAMES
from tests.tolerance import rounding

FIXTURES = Path(os.environ.get("SPARSEOCCVLA_FIXTURES") or Path(__file__).parents[3] / "shared" / "fixtures")
FILES = {
    "uniad": planning.UNIAD,
    "stp3": planning.STP3,
    "vad": planning.VAD,
    "bev_planner": planning.BEV_PLANNER,
    "omnidrive": planning.OMNIDRIVE,
    "sparsedrive": planning.SPARSEDRIVE,
}
FLOAT32 = rounding(1.0, terms=16)
"""Relative: a difference of positions, its square, a root and a mean over six steps."""


def folders() -> list:
    found = [path for path in sorted(FIXTURES.glob("planning_metrics*")) if (path / "inputs.npz").is_file()]
    if not found:
        return [pytest.param(None, marks=pytest.mark.skip(reason="no planning_metrics* under SPARSEOCCVLA_FIXTURES"))]
    return [pytest.param(path, id=path.name) for path in found]


pytestmark = [pytest.mark.numeric, pytest.mark.parametrize("folder", folders())]
each_protocol = pytest.mark.parametrize("name", FILES)


@lru_cache(maxsize=8)
def load(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


@lru_cache(maxsize=2)
def cases(folder: Path) -> list[tuple[Sample, np.ndarray]]:
    """(sample, prediction) of every case, with the road where the files have one."""
    inputs, about = load(folder / "inputs.npz"), json.loads((folder / "cases.json").read_text())
    lines = load(folder / "bev_planner.npz")["boundary_lines_ego"]
    drivable = np.unpackbits(load(folder / "omnidrive.npz")["drivable_bits"], axis=-1).astype(bool)
    out = []
    for k, count in enumerate(inputs["n_agents"]):
        agents = AgentBoxes(
            centres=inputs["agent_center_ego"][k, :count],
            yaws=inputs["agent_yaw_ego"][k, :count],
            present=inputs["agent_present"][k, :count],
            sizes=inputs["agent_size_lw"][k, :count],
            categories=tuple(about["categories23"][c] for c in inputs["agent_cat23"][k, :count]),
            visibility=inputs["agent_visibility"][k, :count],
        )
        sample = Sample(
            token=f"case{k}",
            scene=f"case{k}",
            truth=inputs["gt_ego"][k],
            mask=inputs["mask"][k],
            agents=agents,
            ego_features=np.zeros(len(FEATURE_NAMES), np.float32),
            drivable=drivable[k],
            boundaries=tuple(lines[k]),
        )
        out.append((sample, inputs["pred_ego"][k]))
    return out


@lru_cache(maxsize=8)
def scores(folder: Path, protocol: Protocol) -> list[Score | None]:
    return [
        SampleScorer(protocol, sample).score(prediction) if protocol.counts(sample) else None
        for sample, prediction in cases(folder)
    ]


def stacked(folder: Path, name: str, field: str) -> tuple[np.ndarray, np.ndarray]:
    """(our values of the counted cases, which cases those are)."""
    found = scores(folder, FILES[name])
    counted = np.array([score is not None for score in found])
    return np.stack([getattr(score, field) for score in found if score is not None]), counted


@each_protocol
def test_counted_cases(folder, name):
    stored = load(folder / f"{name}.npz")
    counted = np.array([score is not None for score in scores(folder, FILES[name])])
    np.testing.assert_array_equal(counted, stored.get("counted", np.ones(len(counted), bool)))


@each_protocol
def test_l2(folder, name):
    stored, protocol = load(folder / f"{name}.npz"), FILES[name]
    ours, counted = stacked(folder, name, "l2")
    rtol = FLOAT32 if protocol.precision is np.float32 else 0
    np.testing.assert_allclose(ours, stored["l2_step"][counted], rtol=rtol, atol=1e-6)
    horizons = protocol.l2(ours)
    np.testing.assert_allclose(horizons, stored["l2_horizon"][counted], rtol=FLOAT32, atol=1e-6)
    key = "dataset_l2_horizon_noavg" if name == "uniad" else "dataset_l2_horizon"
    np.testing.assert_allclose(horizons.mean(0), stored[key], rtol=FLOAT32, atol=1e-6)


@each_protocol
def test_collisions(folder, name):
    stored, protocol = load(folder / f"{name}.npz"), FILES[name]
    firm = ~stored["fragile"]
    pairs = [("hit", "pred_box_hit_raw"), ("truth_hit", "gt_box_hit"), ("collision", "box_col_step")]
    if name in ("uniad", "stp3", "bev_planner", "omnidrive"):
        pairs.append(("centre_collision", "point_col_step"))
    for field, key in pairs:
        ours, counted = stacked(folder, name, field)
        differs = (ours != stored[key][counted].astype(bool)) & firm[counted]
        assert not differs.any(), f"{field}: {np.argwhere(differs).tolist()}"
    ours, counted = stacked(folder, name, "collision")
    horizons = protocol.collision(ours)
    whole = firm[counted].all(1)
    np.testing.assert_allclose(horizons[whole], stored["box_col_horizon"][counted][whole], atol=1e-6)
    key = "dataset_box_col_horizon_noavg" if name == "uniad" else "dataset_box_col_horizon"
    # a fragile step may fall either way and shift the mean by as much as its share
    allowed = (~whole).sum() / len(whole)
    np.testing.assert_allclose(horizons.mean(0), stored[key], atol=allowed + 1e-6)


@each_protocol
def test_fragile_steps_fall_the_same_way_here(folder, name):
    """Not promised by the README; holds because float types and order of operations were kept."""
    stored = load(folder / f"{name}.npz")
    for field, key in (("hit", "pred_box_hit_raw"), ("truth_hit", "gt_box_hit")):
        ours, counted = stacked(folder, name, field)
        np.testing.assert_array_equal(ours, stored[key][counted])


def test_curbs(folder):
    stored = load(folder / "bev_planner.npz")
    ours, counted = stacked(folder, "bev_planner", "road")
    firm = ~stored["curb_fragile"][counted]
    expected = (stored["curb_pred_box_hit_raw"] & ~stored["curb_gt_box_hit"])[counted]
    np.testing.assert_array_equal(ours[firm], expected[firm])
    np.testing.assert_allclose(Reduction.ANY(ours).mean(0), stored["dataset_curb_box_col_horizon"], atol=1e-6)


def test_road_boundary(folder):
    stored = load(folder / "omnidrive.npz")
    ours, counted = stacked(folder, "omnidrive", "road")
    np.testing.assert_array_equal(Reduction.ANY(ours), stored["boundary_horizon"][counted])
    off = stored["ego_out_of_drivable_t"][counted]
    np.testing.assert_array_equal(ours, off[:, 1:] & ~off[:, :1])
    np.testing.assert_allclose(Reduction.ANY(ours).mean(0), stored["dataset_boundary_horizon"], atol=1e-6)


def test_headings(folder):
    stored = load(folder / "sparsedrive.npz")
    for (sample, prediction), ours, truth in zip(
        cases(folder), stored["pred_heading"], stored["gt_heading"], strict=True
    ):
        for points, expected in ((prediction, ours), (sample.truth, truth)):
            if sample.complete:
                right_forward = np.stack([-points[:, 1], points[:, 0]], -1).astype(np.float32).astype(np.float64)
                np.testing.assert_allclose(planning.central_headings(right_forward), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "keys", "cells"),
    [
        ("uniad", ("seg_bits",), 200),
        ("stp3", ("vehicle_bits", "pedestrian_bits"), 200),
        ("vad", ("vehicle_bits", "pedestrian_bits"), 200),
        ("bev_planner", ("seg_bits",), 1000),
        ("omnidrive", ("seg_bits",), 1000),
    ],
)
def test_obstacle_grids(folder, name, keys, cells, monkeypatch):
    """Grids are drawn alike; OpenCV versions differ in boxes that the border cuts (README: Tolerance)."""
    drawn: list[np.ndarray] = []
    fill = grids.fill
    monkeypatch.setattr(grids, "fill", lambda *arguments: drawn.append(fill(*arguments)) or drawn[-1])
    stored = load(folder / f"{name}.npz")
    different = 0
    for k, (sample, _) in enumerate(cases(folder)):
        if not FILES[name].counts(sample):
            continue
        drawn.clear()
        FILES[name].prepare(sample)
        expected = sum(np.unpackbits(stored[key][k], axis=-1) for key in keys).astype(bool)[-6:]
        different += int((np.stack(drawn) != expected)[sample.mask].sum())
    assert drawn[0].shape == (cells, cells)
    assert different <= 60


def test_boundary_lines(folder):
    stored = load(folder / "bev_planner.npz")
    for lines, bits in zip(stored["boundary_lines_ego"], stored["boundary_bits"], strict=True):
        ours = grids.draw_lines(1000, 0.1, lines)
        np.testing.assert_array_equal(ours, np.unpackbits(bits, axis=-1).astype(bool))
