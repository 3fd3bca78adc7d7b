"""Lower bounds on time: arithmetic and bytes of a frame set at the peak rates measured on this machine."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from sparseoccvla_ros.core.types import CameraFrames
from sparseoccvla_ros.data.bags.offline_sync import bag_frames
from sparseoccvla_ros.data.bags.reader import BagReader
from sparseoccvla_ros.reasoning.llm.language_model import LanguageModel
from sparseoccvla_ros.reasoning.llm.llama_file import LlamaFile
from sparseoccvla_ros.runtime.factory import build_occupancy, build_reasoning
from sparseoccvla_ros.runtime.presets import Preset


def physical_floor(preset: Preset, bag: Path, device: str = "cpu") -> dict[str, float]:
    """Returns GFLOP of an encode and a prefill, MB of a token and of a frame set's messages, and the least ms of each.

    Rates are those of one large matrix product and one large copy on `device`, with torch's present number of threads.
    """
    frames = next(islice(bag_frames(bag, preset.image), 1))
    encoder, reasoner = build_occupancy(preset, device), build_reasoning(preset, device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the switch warns of Intel GPUs
        # The counter does not know oneDNN's packed operators.
        with torch.backends.mkldnn.flags(enabled=False), FlopCounterMode(display=False) as encode:
            queries = encoder.encode(frames)
    model = reasoner.language_model
    weights = _layer_weights(model)
    size = model.embedding_weight.element_size()
    head = model.embedding_weight.numel()
    tokens = len(reasoner._scoring_ids) + 1 + reasoner.config.global_tokens + reasoner.config.occupancy_tokens
    with BagReader(bag) as reader:
        images = [t for t in reader.topics.values() if "Image" in t.type]
        compressed = sum(len(m.raw) for m in islice(reader.messages([t.name for t in images]), 6))
    encode_gflop = encode.get_total_flops() / 1e9
    prefill_gflop = 2 * weights * tokens / 1e9
    float32, model_rate, copied = _gflops(torch.float32, device), _gflops(model.dtype, device), _gb_s(device)
    moved = compressed / 1e6 + 2 * sum(a.nbytes for a in _arrays(frames, queries)) / 1e6
    return {
        "encode_gflop": encode_gflop,
        "encode_ms": 1e3 * encode_gflop / float32,
        "prefill_gflop": prefill_gflop,
        "prefill_ms": 1e3 * prefill_gflop / model_rate,
        "token_mb": (weights + head) * size / 1e6,
        "token_ms": (weights + head) * size / 1e6 / copied,
        "message_mb": moved,
        "message_ms": moved / copied,
        "gflops_float32": float32,
        "gflops_language_model": model_rate,
        "copy_gb_s": copied,
    }


def _layer_weights(model: LanguageModel) -> int:
    """Returns the number of weights in the projections of all layers, which every token is multiplied with."""
    if not isinstance(model.model, LlamaFile):
        return sum(m.weight.numel() for m in model.decoder.modules() if isinstance(m, torch.nn.Linear))
    config = model.model.config  # packed for inference: the weights themselves are elsewhere
    wide = config.hidden_size
    narrow = wide * config.num_key_value_heads // config.num_attention_heads
    return config.num_hidden_layers * wide * (2 * wide + 2 * narrow + 3 * config.intermediate_size)


def _arrays(frames: CameraFrames, queries: Any) -> list[Any]:
    names = ("features", "centres", "points", "labels", "scores", "view_features")
    return [frames.images, *(getattr(queries, name) for name in names)]


def _best(work: Callable[[], Any], device: str, seconds: float = 0.4) -> float:
    """Returns the shortest time of a call in seconds."""
    wait = torch.cuda.synchronize if device == "cuda" else (lambda: None)
    work()
    least, until = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < until:
        wait()
        began = time.perf_counter()
        work()
        wait()
        least = min(least, time.perf_counter() - began)
    return least


def _gflops(dtype: torch.dtype, device: str) -> float:
    n = 1024 if device == "cpu" else 8192
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    return 2 * n**3 / _best(lambda: a @ b, device) / 1e9


def _gb_s(device: str) -> float:
    source = torch.randn(16_000_000 if device == "cpu" else 256_000_000, device=device)
    target = torch.empty_like(source)
    return 2 * 4 * source.numel() / _best(lambda: target.copy_(source), device) / 1e9
