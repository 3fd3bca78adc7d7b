"""Numerical parity with the public OPUS-V2 code: densifier and decoder, on recorded tensors outside the repository.

SPARSEOCCVLA_FIXTURES names the folder (default: shared/fixtures beside the checkout); without it every test skips.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.voxels import OCC3D_GRID
from sparseoccvla_ros.occupancy.checkpoints import load, load_opus, opus_config, opus_state, read_state, save
from sparseoccvla_ros.occupancy.config import OccupancyConfig
from sparseoccvla_ros.occupancy.decoder import OccupancyDecoder
from sparseoccvla_ros.occupancy.densifier.network import DensifiedVoxels, Densifier
from sparseoccvla_ros.occupancy.encoder import OccupancyEncoder
from sparseoccvla_ros.occupancy.sampling.views import SceneViews
from sparseoccvla_ros.runtime.presets import load_preset

GRID_BUFFERS = (".pc_range", ".scene_size", ".voxel_size", ".voxel_num")


def part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def densifier_of(folder: Path) -> tuple[Densifier, dict[str, Tensor], dict[str, Tensor]]:
    """The recorded densifier, its inputs and outputs."""
    stated = json.loads((folder / "config.json").read_text())
    state, inputs, outputs = (load_file(folder / f"{n}.safetensors") for n in ("state_dict", "inputs", "outputs"))
    weights = part(state, "pts_bbox_head.densifiers.0.")
    assert weights.pop("voxel_num").tolist() == list(OCC3D_GRID.shape)
    torch.testing.assert_close(weights.pop("pc_range"), torch.tensor([*OCC3D_GRID.lower, *OCC3D_GRID.upper]))
    densifier = Densifier(OCC3D_GRID, stated["num_pt_channels"], stated["pfn_channels"][-1]).eval()
    densifier.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in weights.items()})
    return densifier, {k: v.float() for k, v in inputs.items()}, outputs


def above(voxels: DensifiedVoxels, threshold: float) -> tuple[Tensor, Tensor]:
    best, labels = voxels.logits.sigmoid().max(1)
    return voxels.indices[best > threshold], labels[best > threshold]


@pytest.mark.recorded("opus_v2_densifier*", "folder")
def test_densifier(folder):
    densifier, inputs, expected = densifier_of(folder)
    points, features = inputs["refine_pts"], inputs["pt_feats"]
    with torch.no_grad():
        sites, _, pooled = densifier.pool(points, features)
        voxels = densifier(points, features)
    assert torch.equal(sites.indices(), expected["pfn_voxel_coors"].long())
    torch.testing.assert_close(pooled, expected["pfn_voxel_feats"], atol=1e-4, rtol=0)
    assert torch.equal(voxels.indices, expected["voxel_coors"].long())
    torch.testing.assert_close(voxels.logits, expected["cls_scores"], atol=1e-4, rtol=0)
    occupied, labels = above(voxels, json.loads((folder / "config.json").read_text())["score_thr"])
    assert torch.equal(occupied, expected["occ_loc_b"].long())
    assert torch.equal(labels, expected["sem_pred"].long())


@pytest.mark.recorded("opus_v2_densifier*", "folder")
def test_densifier_learns_alike(folder):
    densifier, inputs, expected = densifier_of(folder)
    densifier.train()
    points, features = inputs["refine_pts"].requires_grad_(), inputs["pt_feats"].requires_grad_()
    voxels = densifier(points, features)
    torch.testing.assert_close(voxels.logits, expected["train.cls_scores"], atol=1e-4, rtol=0)
    (voxels.logits * inputs["logit_weights"]).sum().backward()
    grads = {"grad_refine_pts": points.grad, "grad_pt_feats": features.grad}
    grads |= {f"grad.{name}": p.grad for name, p in densifier.named_parameters()}
    for name, got in grads.items():
        want = expected[f"train.{name}"]
        error = float((got - want).abs().max() / want.abs().max())
        assert error < 1e-5, f"{name}: {error:.1e}"
    for name, value in part(expected, "train.after.").items():
        torch.testing.assert_close(densifier.state_dict()[name], value, atol=1e-6, rtol=0, msg=name)


def decoder_of(folder: Path, **changes: object) -> tuple[OccupancyDecoder, list[Densifier], OccupancyConfig]:
    state = load_file(folder / "state_dict.safetensors")
    state = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    config = opus_config(state, **changes)
    state = {k: v for k, v in opus_state(state).items() if not k.endswith(GRID_BUFFERS)}
    decoder = OccupancyDecoder(config, OCC3D_GRID).eval()
    decoder.load_state_dict(part(state, "decoder."))
    densifiers = [
        Densifier(OCC3D_GRID, config.point_features, config.densifier_dims).eval() for _ in range(config.layers)
    ]
    for index, densifier in enumerate(densifiers):
        densifier.load_state_dict(part(state, f"densifiers.{index}."))
    return decoder, densifiers, config


def views_of(folder: Path, config: OccupancyConfig, flipped: bool = True) -> SceneViews:
    inputs = load_file(folder / "inputs.safetensors")
    height, width, _ = json.loads((folder / "config.json").read_text())["image_shape_hwc"]
    batch = len(inputs["ego2img"])
    levels = [inputs[f"mlvl_feats.{level}"].float().flatten(0, 1) for level in range(len(config.strides))]
    occ2ego = inputs["ego2occ"].inverse() if flipped else torch.eye(4)
    ego2img = (inputs["ego2img"] @ occ2ego.view(-1, 1, 4, 4)).view(batch, config.frames, -1, 4, 4)
    usable = torch.ones(ego2img.shape[:3], dtype=torch.bool)
    return SceneViews.of_levels(levels, ego2img, usable, (height, width))


@pytest.mark.recorded("opus_v2_decoder_*", "folder")
def test_configuration_is_read_off_the_shapes(folder):
    _, _, config = decoder_of(folder)
    stated = json.loads((folder / "config.json").read_text())
    assert (config.decoder, config.score_threshold) == ("opus_v2", stated["score_thr"])
    assert (config.point_features, config.densifier_dims) == (stated["num_pt_channels"], stated["pfn_channels"][-1])
    assert (config.queries, config.embed_dims) == (stated["num_query"], stated["embed_dims"])
    assert (config.groups, config.heads) == (stated["num_groups"], stated["num_heads"])
    assert (config.frames, config.points_per_group) == (stated["num_frames"], stated["num_points"])
    assert config.points_per_layer == tuple(stated["num_refines"])
    assert (config.mixing_points, config.ffn_dims) == (stated["out_points"], stated["ffn_channels"])


@pytest.mark.recorded("opus_v2_decoder_*", "folder")
@pytest.mark.parametrize("path", ["plain", "bag"])
def test_decoder_and_densifiers(folder, path):
    decoder, densifiers, config = decoder_of(folder)
    expected = load_file(folder / "outputs.safetensors")
    samples: list[Tensor] = []
    for layer in decoder.layers:
        layer.sampling.path = path
        layer.sampling.register_forward_hook(lambda _module, _inputs, out: samples.append(out))
    with torch.no_grad():
        scene = views_of(folder, config)
        points, query, _ = decoder.start(scene)
        outputs = decoder.refine(points, query, scene, every_layer=True)
        voxels = [d(out.points, out.point_features) for d, out in zip(densifiers, outputs, strict=True)]
        sites, _, pooled = densifiers[-1].pool(outputs[-1].points, outputs[-1].point_features)
    metres = torch.tensor(OCC3D_GRID.upper) - torch.tensor(OCC3D_GRID.lower)
    for index, out in enumerate(outputs):
        # In the order of computation, so that the first failure names the step that differs.
        for name, got, scale in (
            ("sampled_feat", samples[index], 1.0),
            ("query_feat", out.features, 1.0),
            ("refine_pts", out.points, metres),
            ("pt_feats", out.point_features, 1.0),
        ):
            error = float(((got - expected[f"layer{index}.{name}"]).abs() * scale).max())
            assert error < 1e-4, f"layer {index} {name}: {error:.2e}"
        assert torch.equal(voxels[index].indices, expected[f"layer{index}.voxel_coors"].long())
        error = float((voxels[index].logits - expected[f"layer{index}.cls_scores"]).abs().max())
        assert error < 1e-4, f"layer {index} cls_scores: {error:.2e}"
    assert torch.equal(sites.indices(), expected["last.pfn_voxel_coors"].long())
    torch.testing.assert_close(pooled, expected["last.pfn_voxel_feats"], atol=1e-4, rtol=0)
    occupied, labels = above(voxels[-1], config.score_threshold)
    for item in range(len(points)):
        here = occupied[:, 0] == item
        assert torch.equal(occupied[here, 1:], expected[f"occ.{item}.occ_loc"].long())
        assert torch.equal(labels[here], expected[f"occ.{item}.sem_pred"].long())


@pytest.mark.recorded("opus_v2_decoder_*", "folder")
def test_inference_describes_the_last_layer_only(folder):
    decoder, _, config = decoder_of(folder)
    expected = load_file(folder / "outputs.safetensors")
    with torch.no_grad():
        outputs = decoder(views_of(folder, config))
    assert [out.point_features is None for out in outputs] == [True] * (config.layers - 1) + [False]
    want = expected[f"layer{config.layers - 1}.pt_feats"]
    torch.testing.assert_close(outputs[-1].point_features, want, atol=1e-4, rtol=0)


@pytest.mark.recorded("opus_v2_decoder_*", "folder")
@pytest.mark.parametrize(
    ("change", "flipped", "mistake"),
    [
        ({"scale_weight_order": "clean"}, True, "group_weight_pairing_fixed"),
        ({"unseen_points": "zero"}, True, "zero_features_when_not_visible"),
        ({}, False, "ego2occ_not_inverted_or_ignored"),
    ],
)
def test_mistakes_move_the_result_as_recorded(folder, change, flipped, mistake):
    decoder, _, config = decoder_of(folder, **change)
    expected = load_file(folder / "outputs.safetensors")
    stated = json.loads((folder / "config.json").read_text())["largest_shift_caused_by_typical_mistakes"][mistake]
    with torch.no_grad():
        outputs = decoder(views_of(folder, config, flipped))
    for index, shift in enumerate(stated["max_query_feat_shift_per_layer"]):
        got = float((outputs[index].features - expected[f"layer{index}.query_feat"]).abs().max())
        assert got == pytest.approx(shift, abs=2e-4)


VARIANTS = {"OPUS-V2-T": "t", "OPUS-V2-S": "s", "OPUS-V2-M": "m", "OPUS-V2-L": "l"}


@pytest.mark.slow
@pytest.mark.recorded("opus_v2_checkpoint_keys*.json", "path")
@pytest.mark.parametrize("name", VARIANTS)
def test_public_checkpoints_load_strictly_and_survive_our_format(path, name, tmp_path):
    """A file with the names and shapes of each released model, random numbers inside, through the real loader."""
    listed = json.loads(path.read_text())["variants"][name]
    generator = torch.Generator().manual_seed(0)
    lower, upper = torch.tensor(OCC3D_GRID.lower), torch.tensor(OCC3D_GRID.upper)
    grid = {
        "pc_range": torch.cat((lower, upper)),
        "scene_size": upper - lower,
        "voxel_size": torch.full((3,), OCC3D_GRID.size),
        "voxel_num": torch.tensor(OCC3D_GRID.shape),
    }
    state = {}
    for key, (shape, kind) in listed["keys"].items():
        if key.rpartition(".")[2] in grid:
            state[key] = grid[key.rpartition(".")[2]]
            assert list(state[key].shape) == shape
        elif "int" in kind:
            state[key] = torch.randint(0, 50, shape, generator=generator)
        else:
            state[key] = torch.rand(shape, generator=generator) * 0.02 + 0.01
    torch.save({"meta": {"epoch": 100}, "state_dict": state, "optimizer": {}}, tmp_path / "epoch_100.pth")

    config = opus_config(read_state(tmp_path / "epoch_100.pth")[0])
    assert config == OccupancyConfig.opus_v2(VARIANTS[name]) == load_preset(f"opus_v2_{VARIANTS[name]}").occupancy
    encoder = OccupancyEncoder(config)
    assert sum(p.numel() for p in encoder.parameters()) == listed["num_parameters"]
    load_opus(encoder, tmp_path / "epoch_100.pth")
    ours, theirs = encoder.state_dict(), opus_state(state)
    assert ours.keys() == {k for k in theirs if not k.endswith(GRID_BUFFERS)} - absent_counters(theirs, ours)
    for key, value in ours.items():
        if not key.endswith("num_batches_tracked"):
            assert torch.equal(value, theirs[key]), key

    save(encoder, tmp_path / "ours.safetensors")
    again = OccupancyEncoder(config)
    load(again, tmp_path / "ours.safetensors")
    for key, value in ours.items():
        assert torch.equal(again.state_dict()[key], value), key

    if VARIANTS[name] != "t":  # what is refused is refused alike, and each file is 285 MB
        return
    head = "pts_bbox_head."
    del state[head + "densifiers.3.cls_branch.2.bias"]
    state[head + "surplus"] = torch.zeros(1)
    torch.save(state, tmp_path / "broken.pth")
    with pytest.raises(InvalidInput, match=r"densifiers\.3\.cls_branch\.2\.bias.*decoder\.surplus"):
        load_opus(again, tmp_path / "broken.pth")
    state[head + "densifiers.0.pc_range"] = torch.tensor([-51.2, -51.2, -5.0, 51.2, 51.2, 3.0])
    torch.save(state, tmp_path / "other_grid.pth")
    with pytest.raises(InvalidInput, match=r"densifiers\.0\.pc_range"):
        load_opus(again, tmp_path / "other_grid.pth")


def absent_counters(theirs: dict[str, Tensor], ours: dict[str, Tensor]) -> set[str]:
    """Step counters of norms that our backbone does not keep."""
    return {k for k in theirs.keys() - ours.keys() if k.endswith("num_batches_tracked")}
