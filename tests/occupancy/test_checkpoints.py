"""Weight files of the occupancy encoder."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.voxels import VoxelGrid
from sparseoccvla_ros.occupancy.checkpoints import load, load_opus, opus_config, read_state, save
from sparseoccvla_ros.occupancy.config import OccupancyConfig
from sparseoccvla_ros.occupancy.encoder import OccupancyEncoder


def test_saved_weights_give_the_same_queries(make_frames, make_encoder, small, tmp_path):
    first = make_encoder(small)
    save(first, tmp_path / "weights.safetensors")
    second = OccupancyEncoder(small.replace(pretrained=False))
    load(second, tmp_path / "weights.safetensors")
    assert second.trained
    np.testing.assert_array_equal(first.encode(make_frames(0)).features, second.encode(make_frames(0)).features)


def test_weights_that_do_not_fit_are_refused(make_encoder, small, tmp_path):
    path = tmp_path / "weights.safetensors"
    save(make_encoder(small), path)
    for change in ({"queries": 41}, {"points_per_layer": (2, 4)}):
        encoder = OccupancyEncoder(small.replace(pretrained=False, **change))
        with pytest.raises(InvalidInput, match=r"occupancy\.weights"):
            load(encoder, path)
        assert not encoder.trained


def test_the_traffic_light_head_can_be_switched_off_but_not_on(make_encoder, small, tmp_path):
    path = tmp_path / "weights.safetensors"
    save(make_encoder(small.replace(traffic_lights=True)), path)
    encoder = OccupancyEncoder(small.replace(pretrained=False))
    load(encoder, path)
    assert encoder.trained
    save(encoder, path)
    with pytest.raises(InvalidInput, match="traffic_light_head"):
        load(OccupancyEncoder(small.replace(pretrained=False, traffic_lights=True)), path)


@pytest.mark.parametrize("damage", ["cut", "nan", "version", "stage", "text"])
def test_damaged_files_are_refused(make_encoder, small, tmp_path, damage):
    path = tmp_path / "weights.safetensors"
    encoder = make_encoder(small)
    save(encoder, path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-1000])
    elif damage == "text":
        path.write_text("no weights")
    else:
        state, (_, metadata) = load_file(path), read_state(path)
        if damage == "nan":
            state["decoder.init_points.weight"][3, 1] = float("nan")
        else:
            metadata[{"version": "format_version"}.get(damage, damage)] = "other"
        save_file(state, path, metadata)
    with pytest.raises(InvalidInput, match=r"occupancy\.weights"):
        load(encoder, path)


def reduced_opus() -> OccupancyConfig:
    return OccupancyConfig.opus(
        "s", queries=20, embed_dims=64, backbone_width=8, frames=3, points_per_layer=(1, 4, 8), ffn_dims=96
    )


def official_names(encoder: OccupancyEncoder) -> dict[str, torch.Tensor]:
    """The encoder's weights under the names of the public code, written out one rule at a time."""
    out = {}
    for name, value in encoder.state_dict().items():
        part = name.split(".")
        if part[0] == "backbone":
            new = "img_" + name
        elif part[0] == "neck":
            new = f"img_neck.{'lateral_convs' if part[1] == 'lateral' else 'fpn_convs'}.{part[2]}.conv.{part[3]}"
        elif part[1] == "init_points":
            new = "pts_bbox_head.init_points.weight"
        else:
            rest = ".".join(part[3:])
            special = {
                "self_attn.in_proj.weight": "self_attn.attention.attn.in_proj_weight",
                "self_attn.in_proj.bias": "self_attn.attention.attn.in_proj_bias",
                "self_attn.out_proj.weight": "self_attn.attention.attn.out_proj.weight",
                "self_attn.out_proj.bias": "self_attn.attention.attn.out_proj.bias",
                "self_attn.gen_tau.weight": "self_attn.gen_tau.weight",
                "ffn.0.weight": "ffn.layers.0.0.weight",
                "ffn.0.bias": "ffn.layers.0.0.bias",
                "ffn.3.weight": "ffn.layers.1.weight",
                "ffn.3.bias": "ffn.layers.1.bias",
            }
            new = f"pts_bbox_head.transformer.decoder.decoder_layers.{part[2]}.{special.get(rest, rest)}"
        out[new] = value.clone()
    out["pts_bbox_head.pc_range"] = torch.tensor([-40.0, -40.0, -1.0, 40.0, 40.0, 5.4])
    out["pts_bbox_head.voxel_size"] = torch.tensor([0.4, 0.4, 0.4])
    return out


@pytest.fixture(scope="module")
def opus() -> OccupancyEncoder:
    """An encoder of that kind, which takes a second to make; nothing changes it."""
    torch.manual_seed(1)
    return OccupancyEncoder(reduced_opus())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_opus_checkpoint_is_recognised_and_loaded(opus, tmp_path, suffix):
    state = official_names(opus)
    path = tmp_path / f"opus{suffix}"
    if suffix == ".pth":
        torch.save({"meta": {"epoch": 100}, "state_dict": {f"module.{k}": v for k, v in state.items()}}, path)
    else:
        save_file(state, path)
    config = opus_config(read_state(path)[0])
    assert config == reduced_opus()
    torch.manual_seed(2)
    target = OccupancyEncoder(config)
    load_opus(target, path)
    assert target.trained
    for name, value in opus.state_dict().items():
        torch.testing.assert_close(target.state_dict()[name], value, atol=0, rtol=0)


def test_opus_checkpoint_of_another_grid_is_refused(opus, tmp_path):
    save_file(official_names(opus), tmp_path / "opus.safetensors")
    with pytest.raises(InvalidInput, match="pc_range"):
        load_opus(
            OccupancyEncoder(reduced_opus(), VoxelGrid(size=0.8, upper=(48, 40, 5.4))), tmp_path / "opus.safetensors"
        )


def test_pickled_objects_are_never_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    torch.save({"state_dict": {}, "extra": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(InvalidInput, match=r"occupancy\.weights"):
        read_state(tmp_path / "trap.pth")


def test_no_opus_state_is_refused():
    with pytest.raises(InvalidInput, match="init_points"):
        opus_config({"weight": torch.zeros(3)})
