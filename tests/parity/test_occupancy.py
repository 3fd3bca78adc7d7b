"""Numerical parity with the public OPUS code, on recorded tensors kept outside the repository.

SPARSEOCCVLA_FIXTURES names the folder (default: shared/fixtures beside the checkout); without it every test skips.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sparseoccvla_ros.core.classes import FREE
from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.types import EgoState, SceneQueries
from sparseoccvla_ros.core.voxels import OCC3D_GRID
from sparseoccvla_ros.occupancy.backbone import ResNet50
from sparseoccvla_ros.occupancy.checkpoints import (
    load,
    load_opus,
    opus_config,
    opus_state,
    public_state,
    query_steps,
    read_state,
    save,
)
from sparseoccvla_ros.occupancy.config import OccupancyConfig
from sparseoccvla_ros.occupancy.decoder import OccupancyDecoder
from sparseoccvla_ros.occupancy.encoder import OccupancyEncoder
from sparseoccvla_ros.occupancy.neck import FeaturePyramid
from sparseoccvla_ros.occupancy.postprocess import occupied_voxels
from sparseoccvla_ros.occupancy.sampling.views import SceneViews

pytestmark = pytest.mark.numeric


def part(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def decoder_of(folder: Path, **changes: object) -> tuple[OccupancyDecoder, OccupancyConfig]:
    state = load_file(folder / "state_dict.safetensors")
    config = opus_config(state, **changes)
    decoder = OccupancyDecoder(config, OCC3D_GRID).eval()
    weights = part(opus_state(state), "decoder.")
    grid = {k: weights.pop(k) for k in ("pc_range", "scene_size", "voxel_size", "voxel_num")}
    assert grid["voxel_num"].tolist() == list(OCC3D_GRID.shape)
    decoder.load_state_dict(weights)
    return decoder, config


def views_of(folder: Path, config: OccupancyConfig) -> SceneViews:
    inputs = load_file(folder / "inputs.safetensors")
    height, width, _ = json.loads((folder / "config.json").read_text())["image_shape_hwc"]
    batch, total = inputs["lidar2img"].shape[:2]
    frames, views = config.frames, total // config.frames
    levels = [inputs[f"mlvl_feats.{level}"].float().flatten(0, 1) for level in range(len(config.strides))]
    ego2img = (inputs["lidar2img"] @ inputs["ego2lidar"][:, None]).view(batch, frames, views, 4, 4)
    usable = torch.ones(batch, frames, views, dtype=torch.bool)
    return SceneViews.of_levels(levels, ego2img, usable, (height, width))


def take_path(decoder: OccupancyDecoder, path: str) -> None:
    for layer in decoder.layers:
        layer.sampling.path = path


@pytest.mark.recorded("opus_decoder_*", "folder")
def test_configuration_is_read_off_the_shapes(folder):
    decoder, config = decoder_of(folder)
    stated = json.loads((folder / "config.json").read_text())
    assert config.queries == stated["num_query"]
    assert config.embed_dims == stated["embed_dims"]
    assert config.groups == stated["num_groups"]
    assert config.heads == stated["num_heads"]
    assert config.frames == stated["num_frames"]
    assert config.points_per_group == stated["num_points"]
    assert config.points_per_layer == tuple(stated["num_refines"])
    assert config.mixing_points == stated["out_points"]
    assert config.ffn_dims == stated["ffn_channels"]
    assert len(decoder.layers) == stated["num_layers"]


@pytest.mark.recorded("opus_decoder_*", "folder")
@pytest.mark.parametrize("path", ["plain", "bag"])
def test_decoder(folder, path):
    decoder, config = decoder_of(folder)
    take_path(decoder, path)
    expected = load_file(folder / "outputs.safetensors")
    samples: list[torch.Tensor] = []
    for layer in decoder.layers:
        layer.sampling.register_forward_hook(lambda _module, _inputs, out: samples.append(out))
    with torch.no_grad():
        outputs = decoder(views_of(folder, config))
    metres = torch.tensor(OCC3D_GRID.upper) - torch.tensor(OCC3D_GRID.lower)
    for index, out in enumerate(outputs):
        # In the order of computation, so that the first failure names the step that differs.
        for name, got, want, scale in (
            ("sampled_feat", samples[index], expected[f"layer{index}.sampled_feat"], 1.0),
            ("query_feat", out.features, expected[f"layer{index}.query_feat"], 1.0),
            ("cls_scores", out.logits, expected[f"layer{index}.cls_scores"], 1.0),
            ("refine_pts", out.points, expected[f"layer{index}.refine_pts"], metres),
        ):
            error = float(((got - want).abs() * scale).max())
            assert error < 1e-4, f"layer {index} {name}: {error:.2e}"


@pytest.mark.recorded("opus_decoder_*", "folder")
@pytest.mark.parametrize(
    ("change", "mistake"),
    [
        ({"scale_weight_order": "clean"}, "group_weight_pairing_fixed"),
        ({"unseen_points": "zero"}, "zero_features_when_not_visible"),
    ],
)
def test_clean_switches_move_the_result_as_recorded(folder, change, mistake):
    decoder, config = decoder_of(folder, **change)
    expected = load_file(folder / "outputs.safetensors")
    stated = json.loads((folder / "config.json").read_text())["largest_shift_caused_by_typical_mistakes"][mistake]
    with torch.no_grad():
        outputs = decoder(views_of(folder, config))
    for index, shift in enumerate(stated["max_logit_shift_per_layer"]):
        got = float((outputs[index].logits - expected[f"layer{index}.cls_scores"]).abs().max())
        assert got == pytest.approx(shift, abs=2e-4)


@pytest.mark.recorded("opus_decoder_*", "folder")
def test_ring_order_gives_the_same(folder):
    decoder, config = decoder_of(folder)
    scene = views_of(folder, config)
    slots = torch.randperm(config.frames, generator=torch.Generator().manual_seed(1))
    table = torch.empty_like(scene.table)
    table[:, slots] = scene.table
    ring = SceneViews(table, scene.sizes, scene.ego2img, scene.usable, scene.image_size, slots)
    with torch.no_grad():
        plain, turned = decoder(scene)[-1], decoder(ring)[-1]
    torch.testing.assert_close(turned.logits, plain.logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(turned.points, plain.points, atol=1e-6, rtol=0)


@pytest.mark.recorded("opus_image_encoder*", "folder")
def test_image_encoder(folder):
    stated = json.loads((folder / "config.json").read_text())
    state = opus_state(load_file(folder / "state_dict.safetensors"))
    encoder = OccupancyEncoder(
        OccupancyConfig.opus(
            "t",
            queries=1,
            points_per_layer=(1,),
            embed_dims=stated["fpn_out_channels"],
            backbone_width=stated["base_channels"],
            image_mean=stated["mean"],
            image_std=stated["std"],
        )
    )
    assert isinstance(encoder.backbone, ResNet50)
    assert isinstance(encoder.neck, FeaturePyramid)
    encoder.backbone.load_state_dict(part(state, "backbone."))
    encoder.neck.load_state_dict(part(state, "neck."))
    bgr = load_file(folder / "inputs.safetensors")["img_bgr_uint8"][0]
    expected = load_file(folder / "outputs.safetensors")
    with torch.no_grad():
        levels = encoder.image_features(bgr.flip(1).permute(0, 2, 3, 1))
    for index, level in enumerate(levels):
        want = expected[f"mlvl_feats.{index}"][0]
        assert level.shape == want.shape
        error = float((level - want).abs().max())
        assert error < 1e-3, f"level {index}: {error:.2e}"


@pytest.mark.recorded("opus_postprocess*/*.npz", "path")
def test_postprocess(path):
    """Ours keeps the best class of a point alone: without closing the same voxels, with it 96 in 100 of the union."""
    case = np.load(path)
    lower, upper = np.float32(OCC3D_GRID.lower), np.float32(OCC3D_GRID.upper)
    points = case["refine_pts"][0] * (upper - lower) + lower
    scores = torch.from_numpy(case["cls_logits"][0]).float().sigmoid().numpy()
    queries = SceneQueries(
        stamp=0,
        epoch=0,
        ego=EgoState(np.eye(4), np.zeros(6), "map"),
        features=np.zeros((len(points), 4), np.float32),
        centres=points.mean(1),
        points=points,
        labels=scores.argmax(-1).astype(np.uint8),
        scores=scores.max(-1),
        view_features=np.zeros((2, 4), np.float32),
    )
    config = OccupancyConfig(
        score_threshold=float(case["score_thr"]),
        padding=bool(case["padding"]),
        max_point_distance=float(case["ctr_dist_thr"]),
    )
    voxels = occupied_voxels(queries, OCC3D_GRID, config)
    ours, theirs = (set(map(tuple, indices.tolist())) for indices in (voxels.indices, case["occ_loc"]))
    shared, union = len(ours & theirs), len(ours | theirs)
    assert shared == union or (config.padding and shared > 0.96 * union)
    dense = voxels.dense()
    both = (dense < FREE) & (case["dense"] < FREE)
    assert (dense == case["dense"])[both].sum() >= 0.99 * both.sum()


VARIANTS = {"OPUS-T": "t", "OPUS-S": "s", "OPUS-M": "m", "OPUS-L": "l", "SparseWorld": None, "SparseWorld-72pts": None}


@pytest.mark.slow
@pytest.mark.recorded("opus_checkpoint_keys*.json", "path")
@pytest.mark.parametrize("name", VARIANTS)
def test_public_checkpoints_load_strictly_and_survive_our_format(path, name, tmp_path):
    """A file with the names and shapes of each released model, random numbers inside, through the real loader."""
    listed = json.loads(path.read_text())["variants"][name]
    generator = torch.Generator().manual_seed(0)
    state = {}
    for key, (shape, kind) in listed["keys"].items():
        if "int" in kind:
            state[key] = torch.randint(0, 50, shape, generator=generator)
        else:
            state[key] = torch.rand(shape, generator=generator) * 0.02 + 0.01
    head = "pts_bbox_head."
    lower, upper = torch.tensor(OCC3D_GRID.lower), torch.tensor(OCC3D_GRID.upper)
    state[head + "pc_range"], state[head + "scene_size"] = torch.cat((lower, upper)), upper - lower
    state[head + "voxel_size"] = torch.full((3,), OCC3D_GRID.size)
    torch.save({"meta": {"epoch": 100}, "state_dict": state, "optimizer": {}}, tmp_path / "epoch_100.pth")

    config = opus_config(public_state(read_state(tmp_path / "epoch_100.pth")[0]))
    if VARIANTS[name] is not None:
        assert config == OccupancyConfig.opus(VARIANTS[name])
    else:
        assert (config.frames, config.queries) == (listed["config"]["num_frames"], listed["config"]["num_query"])
        assert config.points_per_layer == tuple(listed["config"]["num_refines"])
    encoder = OccupancyEncoder(config)
    load_opus(encoder, tmp_path / "epoch_100.pth")
    deep = f"transformer.decoder.decoder_layers.{config.layers - 1}.self_attn.attention.attn.in_proj_weight"
    torch.testing.assert_close(encoder.decoder.layers[-1].self_attn.in_proj.weight, state[head + deep])
    torch.testing.assert_close(encoder.backbone.state_dict()["layer4.2.bn3.running_var"],
                               state["img_backbone.layer4.2.bn3.running_var"])  # fmt: skip
    for value in encoder.state_dict().values():
        if value.is_floating_point():
            assert float(value.min()) >= 0.0099, "a weight that the file did not set"

    save(encoder, tmp_path / "ours.safetensors")
    again = OccupancyEncoder(config)
    load(again, tmp_path / "ours.safetensors")
    for key, value in encoder.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key

    del state[head + "transformer.decoder.decoder_layers.3.norm2.bias"]
    state[head + "surplus"] = torch.zeros(1)
    torch.save(state, tmp_path / "broken.pth")
    with pytest.raises(InvalidInput, match=r"layers\.3\.norm2\.bias.*decoder\.surplus"):
        load_opus(again, tmp_path / "broken.pth")


@pytest.mark.recorded("opus_checkpoint_keys*.json", "path")
def test_sparseworld_present_queries_are_picked_by_their_counts(path):
    generator = torch.Generator().manual_seed(1)
    counts = torch.randint(0, 5, (1040, 7), generator=generator)
    wanted = torch.randperm(1040, generator=generator)
    counts[wanted[:720], 0] += 500
    steps = query_steps(counts)
    assert torch.bincount(steps).tolist() == [720, 60, 60, 60, 60, 40, 40]
    assert set(torch.nonzero(steps == 0)[:, 0].tolist()) == set(wanted[:720].tolist())
    assert torch.bincount(query_steps(torch.zeros(1040, 7, dtype=torch.int64))).tolist()[0] == 720
