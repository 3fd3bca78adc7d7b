"""Greedy decoding of answers, concurrent with planning: one answer as a stream, or a batch."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from ...core.errors import InvalidInput
from ..llm.language_model import CacheLayers, LanguageModel
from ..model.question_pooling import POOLED_TOKEN
from .priority_lock import PriorityLock
from .text_stream import TextStream, check_question

__all__ = ["Answer", "check_limits", "check_question", "decode", "decode_batch"]

QUESTION_CHUNK = 16
"""Question tokens per model call; takes about as long as one decoding step, the longest a prefill has to wait."""

Reason = Literal["complete", "token_limit", "time_limit", "cancelled"]


@dataclass(frozen=True)
class Answer:
    """An answer and why it ended.

    text: at most max_answer_chars characters, control characters escaped; reason: "complete" (the model ended it),
    "token_limit" (of tokens or characters), "time_limit" or "cancelled"; tokens: number generated, without the end
    token; seconds: wall time of the call; stamp: ns, of the scene; trained: False while the bridge has random weights,
    when the text comes from the pretrained language model alone; epoch: of the scene.
    """

    text: str
    reason: Reason
    tokens: int
    seconds: float
    stamp: int = 0
    trained: bool = False
    epoch: int = 0


def check_limits(max_tokens: int, time_limit: float, most_tokens: int, most_seconds: float) -> None:
    """Raise InvalidInput unless 1 <= max_tokens <= most_tokens and 0 < time_limit <= most_seconds."""
    if not isinstance(max_tokens, int) or isinstance(max_tokens, bool) or not 1 <= max_tokens <= most_tokens:
        raise InvalidInput("max_tokens", f"want 1..{most_tokens}, got {max_tokens!r}")
    if not isinstance(time_limit, int | float) or not math.isfinite(time_limit) or not 0 < time_limit <= most_seconds:
        raise InvalidInput("time_limit", f"want above 0 and at most {most_seconds} s, got {time_limit!r}")


def embedded(language_model: LanguageModel, ids: torch.Tensor, readings: torch.Tensor | None) -> torch.Tensor:
    """Returns embeddings [N, L, D] of ids int64 [N, L]; POOLED_TOKEN is replaced by `readings`, [N, D] or [D]."""
    embeddings = language_model.embed(ids.clamp_min(0))
    if readings is None:
        return embeddings
    rows = readings.reshape(-1, 1, readings.shape[-1]).to(embeddings.dtype)
    return torch.where((ids == POOLED_TOKEN)[..., None].to(embeddings.device), rows, embeddings)


@torch.inference_mode()
def decode(
    language_model: LanguageModel,
    past: CacheLayers,
    ids: list[int],
    stream: TextStream,
    on_text: Callable[[str], None],
    cancel: threading.Event,
    model_lock: PriorityLock,
    max_tokens: int,
    deadline: float,
    reading: torch.Tensor | None = None,
) -> tuple[Reason, int]:
    """Continue `past` with the question's `ids`, then answer greedily; returns (reason, tokens).

    reading: [D], the embedding of POOLED_TOKEN if it is among the ids.

    Runs in the caller's thread. `model_lock` is held for one chunk of the question or one token at a time;
    `on_text` is called while it is released. deadline: in time.monotonic() seconds. `past` is not modified.
    """

    def ended() -> Reason | None:
        if cancel.is_set():
            return "cancelled"
        return "time_limit" if time.monotonic() >= deadline else None

    hidden = None
    for start in range(0, len(ids), QUESTION_CHUNK):
        if reason := ended():
            return reason, 0
        with model_lock.patient():
            chunk = embedded(language_model, torch.tensor([ids[start : start + QUESTION_CHUNK]]), reading)
            hidden, past = language_model.forward(chunk, past)
    if hidden is None:
        raise InvalidInput("question", "has no tokens")

    stop = language_model.stop_ids
    count = 0
    with model_lock.patient():
        token = int(language_model.logits(hidden[0, -1]).argmax())
    while token not in stop:
        count += 1
        if piece := stream.push(token):
            on_text(piece)
        if count == max_tokens or stream.full:
            return _finish(stream, on_text, "token_limit"), count
        if reason := ended():
            return _finish(stream, on_text, reason), count
        with model_lock.patient():
            hidden, past = language_model.forward(language_model.embed([token]), past)
            token = int(language_model.logits(hidden[0, -1]).argmax())
    return _finish(stream, on_text, "complete"), count


def _finish(stream: TextStream, on_text: Callable[[str], None], reason: Reason) -> Reason:
    if piece := stream.finish():
        on_text(piece)
    return reason


@torch.inference_mode()
def decode_batch(
    language_model: LanguageModel,
    past: CacheLayers,
    ids: list[list[int]],
    streams: list[TextStream],
    cancel: threading.Event,
    model_lock: PriorityLock,
    max_tokens: int,
    deadline: float,
    readings: torch.Tensor | None = None,
) -> list[tuple[Reason, int]]:
    """As `decode` for several questions about one scene; returns (reason, tokens) of each. readings: [N, D].

    Shorter questions are padded between the scene and their first token; the padding is masked and takes no position,
    so each row runs as it would alone. The lock is held for the questions, then for one token of all rows at a time.
    """
    rows, scene, longest = len(ids), past[0][0].shape[-2], max(map(len, ids))
    device = language_model.device
    lengths = torch.tensor([len(row) for row in ids], device=device)
    padded = torch.tensor([[0] * (longest - len(row)) + row for row in ids], device=device)
    embeddings = embedded(language_model, padded, readings)
    places = torch.arange(longest, device=device) - (longest - lengths)[:, None]
    mask = torch.cat([places.new_ones(rows, scene, dtype=torch.bool), places >= 0], dim=1)
    past = tuple((k.expand(rows, -1, -1, -1), v.expand(rows, -1, -1, -1)) for k, v in past)
    with model_lock.patient():
        hidden, past = language_model.forward(embeddings, past, mask, scene + places.clamp_min(0))
        tokens = language_model.logits(hidden[:, -1]).argmax(-1)

    stop = language_model.stop_ids
    counts, reasons = [0] * rows, [None] * rows
    position = scene + lengths[:, None]
    while True:
        for i, token in enumerate(tokens.tolist()):
            if reasons[i] is not None:
                continue
            if token in stop:
                reasons[i] = "complete"
                continue
            counts[i] += 1
            streams[i].push(token)
            if counts[i] == max_tokens or streams[i].full:
                reasons[i] = "token_limit"
        over = "cancelled" if cancel.is_set() else "time_limit" if time.monotonic() >= deadline else None
        if over is not None or None not in reasons:
            break
        mask = torch.cat([mask, mask.new_ones(rows, 1)], dim=1)
        with model_lock.patient():
            hidden, past = language_model.forward(language_model.embed(tokens[:, None]), past, mask, position)
            tokens = language_model.logits(hidden[:, -1]).argmax(-1)
        position = position + 1
    for stream in streams:
        stream.finish()
    return [(reason or over, count) for reason, count in zip(reasons, counts, strict=True)]
