"""Builds the stages of a preset, with its weights or, without weights, initialised from its seed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.onednn import fast_precision
from sparseoccvla_ros.core.paths import cache_folder
from sparseoccvla_ros.occupancy import checkpoints
from sparseoccvla_ros.occupancy.encoder import OccupancyEncoder
from sparseoccvla_ros.planning.anchors import AnchorSet
from sparseoccvla_ros.planning.config import ValidatorConfig
from sparseoccvla_ros.planning.planner import Planner
from sparseoccvla_ros.reasoning.llm.language_model import load_language_model
from sparseoccvla_ros.reasoning.model.reasoner import Reasoner

from .backends.base import TOLERANCE, difference
from .presets import ADAPTER, Preset
from .warm_up import made_up_frames

log = logging.getLogger(__name__)


def pick_device(name: str) -> torch.device:
    """Returns a device by name; "auto" is CUDA if available. Raises InvalidInput("device") when "cuda" is missing."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise InvalidInput("device", "cuda was asked for, but torch sees no GPU")
    return torch.device(name)


def load_weights(stage: nn.Module, name: str, path: Path) -> None:
    """Load a stage's weights by name. Raises InvalidInput when they do not fit or were trained with other anchors."""
    try:
        with safe_open(path, framework="pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
        if isinstance(stage, Reasoner) and "anchors" in state:
            # The file stores anchors in half precision; the preset's own are exact.
            if state["anchors"].shape != stage.anchors.shape or (state["anchors"] - stage.anchors).abs().max() > 0.05:
                raise InvalidInput(f"weights.{name}", f"{path.name} was trained with other anchors than the preset has")
            state["anchors"] = stage.anchors
        missing, unexpected = stage.load_state_dict(state, strict=False)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise InvalidInput(f"weights.{name}", f"{path.name} cannot be loaded: {error}") from None
    if missing or unexpected:
        raise InvalidInput(
            f"weights.{name}", f"{path.name} does not fit: missing {missing[:3]}, unexpected {unexpected[:3]}"
        )
    if isinstance(stage, Planner):
        if metadata.get("anchors", stage.anchors.sha256) != stage.anchors.sha256:
            raise InvalidInput(f"weights.{name}", f"{path.name} was trained with other anchors than the preset has")
        stage.uses_reasoning = metadata.get("listens", "yes") == "yes"
    if isinstance(stage, Reasoner):
        stage.plan_in_prompt = "plan" in parts_of(path)
    # Without language training the reasoning token is meaningless, even if the forecaster is trained.
    stage.trained = not isinstance(stage, Reasoner) or "language" in parts_of(path)


def parts_of(path: Path) -> tuple[str, ...]:
    """Returns the trained parts in a reasoner's weights file: forecast, language, and plan if questions were trained
    with the plan in their context; the first two if the file does not list them."""
    with safe_open(path, framework="pt") as file:
        return tuple((file.metadata() or {}).get("parts", "forecast language").split())


def _finish(stage: nn.Module, name: str, preset: Preset, device: torch.device) -> nn.Module:
    """Load the stage's weights, or keep its seeded initialisation; then move it to the device and freeze it."""
    path = preset.weights.get(name)
    if path is None:
        log.warning("preset %s has no weights for %s: it runs untrained", preset.name, name)
    elif isinstance(stage, OccupancyEncoder):
        checkpoints.load(stage, path)
    else:
        load_weights(stage, name, path)
    return stage.to(device).eval().requires_grad_(False)


def build_occupancy(preset: Preset, device: str = "cpu") -> OccupancyEncoder:
    """Build the occupancy encoder of a preset; with `backbone_dtype: auto`, in the precision for this processor."""
    torch.manual_seed(preset.seed)
    encoder = _finish(OccupancyEncoder(preset.occupancy), "occupancy", preset, pick_device(device))
    if preset.occupancy.backbone_dtype == "auto":
        chosen = fast_precision(encoder.pixel_mean.device.type)
        encoder.config = encoder.config.replace(backbone_dtype="float32")
        if chosen != "float32":
            _use_precision(encoder, preset, chosen)
    return encoder


@torch.inference_mode()
def _use_precision(encoder: OccupancyEncoder, preset: Preset, precision: str) -> None:
    """Switch a float32 encoder to a precision whose image features agree; else leave it and warn."""
    images = torch.from_numpy(made_up_frames(preset, 1)[0].images).to(encoder.pixel_mean.device)
    truth = encoder.image_features(images)
    exact, encoder.config = encoder.config, encoder.config.replace(backbone_dtype=precision)
    worst = max(difference(a, b) for a, b in zip(encoder.image_features(images), truth, strict=True))
    if not worst <= TOLERANCE[precision]:
        encoder.config = exact
        encoder.warnings += (f"image features in {precision} differ by {worst:.2g}: float32 is used",)


def build_reasoning(
    preset: Preset, device: str = "cpu", progress: Callable[[str], object] = lambda text: None
) -> Reasoner:
    """Build the reasoner of a preset with its language model (converted into the cache on first use), adapter merged.

    progress: called when that conversion begins and ends. Raises InvalidInput("preset", ...) when the preset lacks the
    stage.
    """
    preset.need("reasoning")
    anchors = AnchorSet.load(preset.anchors)
    config, where = preset.reasoning, pick_device(device)
    model = load_language_model(config.language_model, cache_folder(), config.dtype, progress, where, weights_only=True)
    torch.manual_seed(preset.seed + 1)
    reasoner = Reasoner(config, model, anchors.flat)
    if ADAPTER in preset.weights:
        reasoner.load_adapter(preset.weights[ADAPTER])
    finished = _finish(reasoner, "reasoning", preset, where)
    finished.set_language_model(finished.language_model.for_inference())
    return finished


def build_planning(preset: Preset, device: str = "cpu", limits: ValidatorConfig | None = None) -> Planner:
    """Build the planner of a preset with its anchors, for a vehicle with these limits (default: nuScenes' car).

    Raises InvalidInput("preset", ...) when the preset lacks the stage.
    """
    preset.need("planning")
    anchors = AnchorSet.load(preset.anchors)
    torch.manual_seed(preset.seed + 2)
    return _finish(Planner(preset.planning, anchors, limits), "planning", preset, pick_device(device))
