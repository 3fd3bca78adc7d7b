"""Stage 1 on a decoder of OPUS-V2: every layer's densifier learns, and validation shows what the node would."""

from __future__ import annotations

import numpy as np
import torch

from sparseoccvla_ros.occupancy.encoder import OccupancyEncoder
from sparseoccvla_ros.occupancy.losses import IGNORED
from sparseoccvla_ros.train.stages.occupancy import OccupancyStage, OccupancyStageSettings
from tests.train.conftest import MICRO, Boxes


def test_every_densifier_learns_and_the_loss_falls() -> None:
    torch.manual_seed(3)
    config = MICRO.replace(decoder="opus_v2", point_features=8, densifier_dims=16, score_threshold=0.25)
    stage = OccupancyStage(OccupancyEncoder(config), OccupancyStageSettings(frozen=-1, perspective=0.0))
    boxes = Boxes(2)
    stage.begin(boxes, 1)
    stage.train()
    batch = stage.collate([boxes[0], boxes[1]])
    optimiser = torch.optim.AdamW(stage.parameter_groups(3e-3, 0.1))
    with torch.no_grad():
        levels = stage.features(batch.images)
    totals = []
    for step in range(8):
        terms = stage.losses(levels, batch)[0]
        if step == 0:
            assert set(terms) == {"init_loss_pts", "d0.loss_cls", "d0.loss_pts", "loss_cls", "loss_pts"}
        loss = torch.stack(list(terms.values())).sum()
        optimiser.zero_grad()
        loss.backward()
        if step == 0:
            layer = stage.encoder.decoder.layers[0]
            watched = [d.cls_branch[0].weight for d in stage.encoder.densifiers] + [
                layer.cls_branch[6].weight,
                layer.reg_branch[4].weight,
            ]
            assert all(float(p.grad.abs().max()) > 0 for p in watched)
        optimiser.step()
        totals.append(loss.item())
    assert totals[-1] < 0.8 * totals[0]
    found = stage.eval().validate([batch])
    assert 0.0 <= found.numbers["iou"] <= 1.0


def test_unseen_voxels_teach_no_class() -> None:
    torch.manual_seed(3)
    config = MICRO.replace(decoder="opus_v2", point_features=8, densifier_dims=16)
    stage = OccupancyStage(OccupancyEncoder(config), OccupancyStageSettings(perspective=0.0)).eval()
    sample = Boxes()[0]
    batch = stage.collate([sample])
    assert batch.targets[0].semantics is not None
    hidden = batch.targets[0].semantics.clone()
    with torch.no_grad():
        last = stage.losses(stage.features(batch.images), batch)[1][-1]
        voxels = stage.encoder.densify(last)
        whole = stage.losses(stage.features(batch.images), batch)[0]["loss_cls"]
        # A free voxel among the active ones is no longer known: its part of the loss is gone.
        index = voxels.indices[0, 1:].tolist()
        hidden[tuple(index)] = IGNORED
        object.__setattr__(batch.targets[0], "semantics", hidden)
        rest = stage.losses(stage.features(batch.images), batch)[0]["loss_cls"]
    assert np.isfinite(float(rest))
    assert float(rest) < float(whole)
