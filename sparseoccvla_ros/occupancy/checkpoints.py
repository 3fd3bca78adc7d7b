"""Weights of the occupancy encoder: own files, and public OPUS, OPUS-V2 and SparseWorld (perception only)."""

from __future__ import annotations

import json
import re
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..core.errors import InvalidInput
from ..core.files import BoundedFile
from ..core.voxels import VoxelGrid
from .config import OccupancyConfig
from .encoder import OccupancyEncoder

FORMAT_VERSION = 1

_OPUS_NAMES = (
    ("img_backbone.", "backbone."),
    ("img_neck.lateral_convs.", "neck.lateral."),
    ("img_neck.fpn_convs.", "neck.output."),
    ("pts_bbox_head.transformer.decoder.decoder_layers.", "decoder.layers."),
    ("pts_bbox_head.densifiers.", "densifiers."),
    ("pts_bbox_head.", "decoder."),
)
_OPUS_PARTS = (
    (".self_attn.attention.attn.in_proj_", ".self_attn.in_proj."),
    (".self_attn.attention.attn.", ".self_attn."),
    (".ffn.layers.0.0.", ".ffn.0."),
    (".ffn.layers.1.", ".ffn.3."),
)
_OPUS_GRID = (".pc_range", ".scene_size", ".voxel_size", ".voxel_num")
"""Buffers of the decoder and of each densifier that describe the grid of the weights."""
_SPARSEWORLD_CAPACITIES = (720, 60, 60, 60, 60, 40, 40)
"""Queries per time step 0..6 of the released SparseWorld models."""
_SPARSEWORLD_REST = (
    "plan_head.", "ego_cross_attn.", "position_encoder.", "reg_branch.", "vel_branch.", "cls_branch.",
    "points_scale_branch.", "traj_head.", "semantic_loss.",
)  # fmt: skip
"""SparseWorld's forecasting and planning parts, which the encoder does not have."""


def save(encoder: OccupancyEncoder, path: Path, trained: bool = True) -> None:
    """Write the weights as safetensors, with configuration, format version and `trained` in the metadata."""
    state = {name: value.detach().cpu().contiguous() for name, value in encoder.state_dict().items()}
    metadata = {
        "stage": "occupancy",
        "format_version": str(FORMAT_VERSION),
        "config": json.dumps(asdict(encoder.config)),
        "trained": json.dumps(trained),
    }
    save_file(state, path, metadata)


def load(encoder: OccupancyEncoder, path: Path) -> None:
    """Load weights written by `save`, clear the temporal memory and set `encoder.trained`.

    Raises InvalidInput("occupancy.weights", ...) when the file is damaged, belongs to another stage or format version,
    or has other names or shapes than the encoder.
    """
    state, metadata = read_state(path)
    if metadata.get("stage") != "occupancy":
        raise InvalidInput("occupancy.weights", f"{path.name} holds no occupancy weights")
    if metadata.get("format_version") != str(FORMAT_VERSION):
        got = metadata.get("format_version")
        raise InvalidInput("occupancy.weights", f"{path.name} has format {got}, this version reads {FORMAT_VERSION}")
    _assign(encoder, state, path.name)
    encoder.trained = json.loads(metadata.get("trained", "false")) is True


def load_opus(encoder: OccupancyEncoder, path: Path) -> None:
    """Load the weights of a public OPUS, OPUS-V2 or SparseWorld checkpoint.

    path: .pth of an mmcv runner, or safetensors with the same names. Build the encoder with
    `opus_config(public_state(read_state(path)[0]))`. Raises InvalidInput("occupancy.weights", ...) when names, shapes
    or the grid do not match.
    """
    state = opus_state(public_state(read_state(path)[0]))
    check_opus_grid(state, encoder.grid)
    _assign(encoder, {k: v for k, v in state.items() if not k.endswith(_OPUS_GRID)}, path.name)
    encoder.trained = True


def read_state(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors by name, and metadata, from safetensors or from a PyTorch file (weights_only, no object unpickling).

    Raises InvalidInput("occupancy.weights", ...) when it cannot be read.
    """
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
        content = _read_pth(path)
    except InvalidInput:
        raise
    except (OSError, SafetensorError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise InvalidInput("occupancy.weights", f"cannot read {path.name}: {error}") from error
    except Exception as error:  # e.g. pickle.UnpicklingError, raised by weights_only
        raise InvalidInput("occupancy.weights", f"{path.name} holds more than plain weights: {error}") from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InvalidInput("occupancy.weights", f"{path.name} holds no state dict")
    return {name.removeprefix("module."): value for name, value in state.items()}, {}


def _read_pth(path: Path) -> Any:
    """Load a PyTorch file: a zip archive, or the plain pickle of torch before 1.6 and of mmdet's tools."""
    if not zipfile.is_zipfile(path):
        with BoundedFile(path) as stream:
            return torch.load(stream, map_location="cpu", weights_only=True)
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(info.file_size for info in archive.infolist())
    if unpacked > path.stat().st_size:  # torch never compresses
        raise InvalidInput("occupancy.weights", f"{path.name} declares {unpacked} bytes, more than it holds")
    return torch.load(path, map_location="cpu", weights_only=True)


def public_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Select the entries of a public state dict that an OPUS encoder needs: all of OPUS, a part of SparseWorld.

    Names stay the public ones. SparseWorld (arXiv 2510.17482) labels each of its 1040 queries with a time step 0..6,
    and its self-attention masks queries of later steps. The 720 queries of step 0 therefore form a complete OPUS
    decoder for the present occupancy. The scaling of the initial points by the ego state (0.8 to 1.5 times) is not
    applied because the layout of the ego vector is not public. Raises InvalidInput("occupancy.weights", ...) for
    another number of queries.
    """
    counts = state.get("pts_bbox_head.num_stamps_all")
    if counts is None:
        return state
    if tuple(counts.shape) != (sum(_SPARSEWORLD_CAPACITIES), len(_SPARSEWORLD_CAPACITIES)):
        raise InvalidInput("occupancy.weights", f"num_stamps_all is {list(counts.shape)}, want [1040, 7]")
    kept = {k: v for k, v in state.items() if not k.startswith((*_SPARSEWORLD_REST, "pts_bbox_head.num_stamps_all"))}
    points = "pts_bbox_head.init_points.weight"
    if points not in kept or len(kept[points]) != len(counts):
        raise InvalidInput("occupancy.weights", f"{points} does not belong to {len(counts)} queries")
    if counts.device.type == "meta":  # names and shapes only
        return {**kept, points: kept[points][: _SPARSEWORLD_CAPACITIES[0]]}
    return {**kept, points: kept[points][query_steps(counts) == 0]}


def query_steps(counts: Tensor, capacities: tuple[int, ...] = _SPARSEWORLD_CAPACITIES) -> Tensor:
    """Returns SparseWorld's time step of every query, int64 [Q], from its matches per step, counts [Q, steps].

    Greedy assignment: queries take their step in decreasing order of the largest share of their matches in one
    open step; a step is closed when its capacity is used up. Ties are resolved in favour of the first query.
    """
    table = counts.double()
    share = table / table.sum(1, keepdim=True).clamp(min=1.0)
    left = list(capacities)
    steps = torch.full((len(counts),), -1, dtype=torch.int64)
    open_rows = torch.ones(len(counts), dtype=torch.bool)
    for _ in range(len(counts)):
        best, step = share.max(1)
        row = int(torch.where(open_rows, best, -1.0).argmax())
        choice = int(step[row])
        if not left[choice]:  # every share of the row is zero, and the first step is full
            choice = next(i for i, room in enumerate(left) if room)
        steps[row], open_rows[row] = choice, False
        left[choice] -= 1
        if not left[choice]:
            share[:, choice] = 0.0
    return steps


def opus_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename an OPUS state dict to this encoder's names; unknown names are kept."""
    renamed = {}
    for name, value in state.items():
        for old, new in _OPUS_NAMES:
            if name.startswith(old):
                name = new + name.removeprefix(old)
                break
        for old, new in _OPUS_PARTS:
            name = name.replace(old, new)
        if name.startswith("neck."):
            name = name.replace(".conv.", ".")
        renamed[name] = value
    return renamed


def opus_config(state: dict[str, Tensor], **changes: Any) -> OccupancyConfig:
    """Infer the configuration of an OPUS state dict from its shapes, with four channel groups as in every OPUS model.

    A state dict with densifiers is OPUS-V2. Pass a checkpoint that may be SparseWorld through `public_state` first.
    Raises InvalidInput("occupancy.weights", ...) when names are missing or shapes contradict each other.
    """
    state = opus_state(state)
    groups = 4

    def rows(name: str, axis: int = 0) -> int:
        if name not in state:
            raise InvalidInput("occupancy.weights", f"this is no OPUS state dict: it lacks {name}")
        shape = state[name].shape
        if len(shape) <= axis or not shape[axis]:
            raise InvalidInput("occupancy.weights", f"{name} has the impossible shape {list(shape)}")
        return int(shape[axis])

    queries, dims = rows("decoder.init_points.weight"), rows("decoder.layers.0.norm1.weight")
    layers = 1 + max(int(name.split(".")[2]) for name in state if re.match(r"decoder\.layers\.\d{1,2}\.", name))
    points = rows("decoder.layers.0.sampling.sampling_offset.bias") // (3 * groups)
    levels = rows("decoder.layers.0.sampling.scale_weights.bias") // max(1, groups * points)
    mixed = rows("decoder.layers.0.mixing.out_proj.weight", 1) // dims
    generated = rows("decoder.layers.0.mixing.parameter_generator.bias") // groups - (dims // groups) ** 2
    frames, rest = divmod(generated, max(1, mixed * points))
    if rest or not 1 <= levels <= 4:
        raise InvalidInput("occupancy.weights", "the shapes of sampling and mixing contradict each other")
    found: dict[str, Any] = {
        "queries": queries,
        "embed_dims": dims,
        "groups": groups,
        "frames": frames,
        "points_per_group": points,
        "points_per_layer": tuple(rows(f"decoder.layers.{i}.reg_branch.4.bias") // 3 for i in range(layers)),
        "heads": rows("decoder.layers.0.self_attn.gen_tau.bias"),
        "ffn_dims": rows("decoder.layers.0.ffn.0.bias"),
        "mixing_points": mixed,
        "strides": (4, 8, 16, 32)[-levels:],
    }
    if "backbone.conv1.weight" in state:
        found["backbone_width"] = rows("backbone.conv1.weight")
    if not any(name.startswith("densifiers.") for name in state):
        return OccupancyConfig.opus("t", **{**found, **changes})
    per_query = rows(f"decoder.layers.{layers - 1}.cls_branch.6.bias")
    found["point_features"] = per_query // found["points_per_layer"][-1]
    found["densifier_dims"] = rows(f"densifiers.{layers - 1}.cls_branch.0.weight")
    return OccupancyConfig.opus_v2("t", **{**found, **changes})


def check_opus_grid(state: dict[str, Tensor], grid: VoxelGrid) -> None:
    """Raise InvalidInput unless the grid stored in a renamed OPUS state dict is `grid`."""
    expected = {".pc_range": (*grid.lower, *grid.upper), ".voxel_size": (grid.size,) * 3}
    for name, value in state.items():
        want = next((torch.tensor(v, dtype=torch.float64) for end, v in expected.items() if name.endswith(end)), None)
        if want is not None and (value.shape != want.shape or not torch.allclose(value.double(), want)):
            raise InvalidInput("occupancy.weights", f"{name} is {value.tolist()}, the grid has {want.tolist()}")


def _names(keys: list[str], shown: int = 12) -> str:
    """Format keys for a message, at most `shown` of them."""
    rest = f" and {len(keys) - shown} more" if len(keys) > shown else ""
    return (", ".join(keys[:shown]) + rest) or "nothing"


def _assign(encoder: OccupancyEncoder, state: dict[str, Tensor], name: str) -> None:
    want = encoder.state_dict()
    # Batch norm's step counters are unused and missing from some files.
    counters = {k for k in want if k.endswith("num_batches_tracked")}
    if encoder.traffic_light_head is None:
        # Whoever switches the head off keeps the weights.
        state = {k: v for k, v in state.items() if not k.startswith("traffic_light_head.")}
    missing, surplus = sorted(want.keys() - state.keys() - counters), sorted(state.keys() - want.keys() - counters)
    if missing or surplus:
        raise InvalidInput(
            "occupancy.weights",
            f"{name} lacks {_names(missing)}, has unknown {_names(surplus)}",
        )
    wrong = [k for k in want if k in state and state[k].shape != want[k].shape]
    if wrong:
        k = wrong[0]
        raise InvalidInput("occupancy.weights", f"{k} is {list(state[k].shape)} in {name}, want {list(want[k].shape)}")
    if not all(bool(v.isfinite().all()) for v in state.values() if v.is_floating_point()):
        raise InvalidInput("occupancy.weights", f"{name} holds a number that is not finite")
    encoder.load_state_dict(state, strict=False)
    encoder.reset()
