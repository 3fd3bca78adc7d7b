"""Parity of the occupancy training losses with the public OPUS code, on recorded terms and gradients.

SPARSEOCCVLA_FIXTURES names the folder (default: shared/fixtures beside the checkout); without it every test skips.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sparseoccvla_ros.occupancy.decoder import LayerOutput
from sparseoccvla_ros.occupancy.densifier.network import DensifiedVoxels
from sparseoccvla_ros.occupancy.losses import LossWeights, OccupancyTargets, occupancy_loss

pytestmark = pytest.mark.numeric


def computed(folder: Path, arrays: dict[str, np.ndarray]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Our terms on a folder's inputs, and those inputs by recorded name, as leaves of the graph."""
    names = [n for n in arrays if n == "init_points" or n.endswith((".cls_scores", ".refine_pts"))]
    leaves = {n: torch.from_numpy(arrays[n]).float().requires_grad_() for n in names}
    layers = sum(n.endswith(".refine_pts") for n in names)
    outputs = []
    for i in range(layers):
        logits, points = leaves[f"layer{i}.cls_scores"], leaves[f"layer{i}.refine_pts"]
        outputs.append(LayerOutput(points.new_zeros(*points.shape[:2], 1), logits, points))
    targets = [
        OccupancyTargets.from_dense(semantics, mask)
        for semantics, mask in zip(arrays["voxel_semantics"], arrays["mask_camera"], strict=True)
    ]
    return occupancy_loss(outputs, leaves["init_points"], targets), leaves


@pytest.mark.recorded("opus_loss*", "folder")
def test_default_weights_are_those_of_the_record(folder: Path) -> None:
    stated, ours = json.loads((folder / "losses.json").read_text()), LossWeights()
    assert list(ours.channels) == stated["cls_channel_weights"]
    focal, points = stated["loss_cls"], stated["loss_pts"]
    assert (ours.gamma, ours.alpha, ours.classification) == (focal["gamma"], focal["alpha"], focal["weight"])
    assert (ours.beta, ours.points) == (points["beta"], points["weight"])


@pytest.mark.recorded("opus_loss*", "folder")
def test_terms_and_gradients(folder: Path) -> None:
    arrays = dict(np.load(folder / "loss.npz"))
    stated = json.loads((folder / "losses.json").read_text())
    terms, leaves = computed(folder, arrays)
    assert set(terms) == set(stated["losses"])
    for name, want in stated["losses"].items():
        assert terms[name].item() == pytest.approx(want, rel=1e-5), name
    total = sum(terms.values())
    assert total.item() == pytest.approx(stated["total"], rel=1e-5)
    total.backward()
    for name, leaf in leaves.items():
        stem, _, last = name.rpartition(".")
        want = torch.from_numpy(arrays[f"{stem}.grad_{last}" if stem else f"grad_{last}"])
        assert leaf.grad is not None
        scale = float(want.abs().max())
        # Against the tensor's largest entry: small entries are differences of larger ones, rounded in float32.
        torch.testing.assert_close(leaf.grad, want, rtol=1e-4, atol=1e-5 * scale, msg=lambda m, n=name: f"{n}: {m}")
        norm = math.sqrt(float(leaf.grad.double().square().sum()))
        assert norm == pytest.approx(stated["grad_l2_norm_of_total"][name], rel=1e-4), name


def densified(folder: Path, arrays: dict[str, np.ndarray], kind: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """OPUS-V2's terms on a folder's inputs, and those inputs by recorded name, as leaves of the graph."""
    names = [n for n in arrays if n == "init_points" or (n.startswith("layer") and not n.endswith("voxel_coors"))]
    leaves = {n: torch.from_numpy(arrays[n]).float().requires_grad_() for n in names}
    outputs, voxels = [], []
    for i in range(sum(n.endswith(".refine_pts") for n in names)):
        points = leaves[f"layer{i}.refine_pts"]
        outputs.append(LayerOutput(points.new_zeros(*points.shape[:2], 1), None, points))
        indices = torch.from_numpy(arrays[f"layer{i}.voxel_coors"]).long()
        voxels.append(DensifiedVoxels(indices, leaves[f"layer{i}.cls_scores"], indices[:0]))
    targets = [
        OccupancyTargets.from_dense(semantics, mask)
        for semantics, mask in zip(arrays["voxel_semantics"], arrays["mask_camera"], strict=True)
    ]
    weights = LossWeights(density_aware=True, points=0.25) if kind == "dcd" else LossWeights()
    return occupancy_loss(outputs, leaves["init_points"], targets, weights=weights, voxels=voxels), leaves


@pytest.mark.recorded("opus_v2_loss*", "folder")
@pytest.mark.parametrize("kind", ["cd", "dcd"])
def test_opus_v2_terms_and_gradients(folder: Path, kind: str) -> None:
    arrays = dict(np.load(folder / "loss.npz"))
    stated = json.loads((folder / "losses.json").read_text())[kind]
    terms, leaves = densified(folder, arrays, kind)
    assert set(terms) == set(stated["losses"])
    for name, want in stated["losses"].items():
        assert terms[name].item() == pytest.approx(want, rel=1e-5), name
    total = sum(terms.values())
    assert total.item() == pytest.approx(stated["total"], rel=1e-5)
    total.backward()
    for name, leaf in leaves.items():
        # The gradients of the classes are the same in both and recorded once.
        recorded = "cd" if name.endswith("cls_scores") else kind
        want = torch.from_numpy(arrays[f"{recorded}.grad_{name}"])
        assert leaf.grad is not None
        error = float((leaf.grad - want).abs().max() / want.abs().max())
        assert error < 1e-4, f"{name}: {error:.1e}"
        norm = math.sqrt(float(leaf.grad.double().square().sum()))
        assert norm == pytest.approx(stated["grad_l2_norm_of_total"][name], rel=1e-4), name


@pytest.mark.recorded("opus_v2_loss*", "folder")
def test_without_a_classed_voxel_the_count_is_one(folder: Path) -> None:
    """The public code divides by the smallest float32 step there; ours by one, and the rest is the same."""
    stated = json.loads((folder / "losses.json").read_text())["no_labelled_active_voxel"]
    indices = torch.tensor(stated["voxel_coors"])
    logits = torch.full((len(indices), 17), stated["logit_everywhere"])
    points = torch.full((1, 1, 1, 3), 0.5)
    truth = [OccupancyTargets.from_dense(np.full((200, 200, 16), 17, np.uint8))]
    terms = occupancy_loss(
        [LayerOutput(points[..., 0], None, points)], points, truth, voxels=[DensifiedVoxels(indices, logits, indices)]
    )
    assert terms["loss_cls"].item() / torch.finfo(torch.float32).eps == pytest.approx(stated["loss_cls"], rel=1e-5)
