"""Training forward of the reasoner: the online token sequences, batched, with gradients and a language loss.

Online, one prefill contains [template, T_g, T_o, scoring prompt, reasoning token], and every question continues from
its keys and values up to T_o. Training does the same: one prefill per scene, then all questions with their answers as
continuations of their scenes. Labels cover the answer's tokens and its end token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch.nn import functional

from ..core.errors import InvalidInput
from ..reasoning.llm.language_model import CacheLayers
from ..reasoning.model.reasoner import Readout, Reasoner
from ..reasoning.serving.generation import embedded
from ..reasoning.serving.text_stream import check_question

IGNORED = -100
"""Label of tokens that the loss ignores."""


@dataclass(frozen=True, eq=False)
class TextBatch:
    """Batch of N questions with answers about the scenes of a batch.

    ids: int64 [N, L], padded on the right; labels: int64 [N, L], the id for answer tokens, else IGNORED; scene: int64
    [N], the batch index of each pair's scene; questions: their texts. N may be 0. If the reasoner has a reading token,
    POOLED_TOKEN is its placeholder among the ids.
    """

    ids: torch.Tensor
    labels: torch.Tensor
    scene: torch.Tensor
    questions: tuple[str, ...] = ()

    def to(self, device: torch.device | str) -> TextBatch:
        """Returns the batch on another device."""
        return replace(self, ids=self.ids.to(device), labels=self.labels.to(device), scene=self.scene.to(device))


@dataclass(frozen=True, eq=False)
class TrainingOutput:
    """Outputs of a training forward, with gradients.

    readout: T_r, anchor logits, T_o', fused features and forecast of the B scenes; language_loss: [], the mean
    cross-entropy (nats) over all answer tokens, 0 without any; pair_loss: [N], the mean over each answer's tokens.
    """

    readout: Readout
    language_loss: torch.Tensor
    pair_loss: torch.Tensor


def text_batch(
    reasoner: Reasoner, conversations: Sequence[Sequence[tuple[str, str]]], max_tokens: int = 512
) -> TextBatch:
    """Tokenise (question, answer) pairs; conversations[b] are independent pairs about scene b of the batch.

    Questions are checked as online; an answer is truncated, and loses its end token, if question and answer exceed
    max_tokens or the model's context. Runs on the CPU, also in loader threads. Raises InvalidInput("question") for one
    that is refused or leaves no room for an answer, InvalidInput("answer") for one without tokens.
    """
    model = reasoner.language_model
    end = model.answer_end()
    limit = min(max_tokens, model.context - reasoner.config.max_prefill_tokens)
    rows: list[tuple[list[int], list[int]]] = []
    scenes: list[int] = []
    questions: list[str] = []
    for place, pairs in enumerate(conversations):
        for question, answer in pairs:
            asked, answered = reasoner.question_ids(question), model.tokens(answer)
            if not answered:
                raise InvalidInput("answer", f"to {question!r} has no tokens")
            if len(asked) >= limit:
                raise InvalidInput("question", f"has {len(asked)} tokens, which leaves no room for an answer")
            ids = (asked + answered + [end])[:limit]
            rows.append((ids, [IGNORED] * len(asked) + ids[len(asked) :]))
            scenes.append(place)
            questions.append(check_question(question, reasoner.config.max_question_chars))
    length = max((len(ids) for ids, _ in rows), default=0)
    # The padding's content has no effect: it follows all tokens with labels.
    shape = (len(rows), length)
    scene = torch.tensor(scenes, dtype=torch.long)
    batch = TextBatch(torch.full(shape, end), torch.full(shape, IGNORED), scene, tuple(questions))
    for row, (ids, labels) in enumerate(rows):
        batch.ids[row, : len(ids)] = torch.tensor(ids)
        batch.labels[row, : len(labels)] = torch.tensor(labels)
    return batch


def training_forward(
    reasoner: Reasoner,
    features: torch.Tensor,
    centres: torch.Tensor,
    scores: torch.Tensor,
    view_features: torch.Tensor,
    motion: torch.Tensor,
    text: TextBatch,
) -> TrainingOutput:
    """Returns read-outs and language loss of B scenes.

    features [B, Q, C]; centres [B, Q, 3] m; scores [B, Q, R]; view_features [B, V, C]; motion [B, 6, 2] m, the ego's
    future waypoints for the forecaster; text: from `text_batch`. All on one device. The input T_g is
    `readout.scene[:, :global_tokens]` (for distillation).
    """
    readout, layers = reasoner.prefill(features, centres, scores, view_features, motion)
    if not len(text.scene):
        nothing = readout.scene.new_zeros(0)
        return TrainingOutput(readout, nothing.sum() + 0 * readout.scene.sum(), nothing)
    hidden = continue_scenes(reasoner, layers, text, readout.scene)
    # The state at a token predicts the next one; logits are computed only before answer tokens.
    labels = text.labels[:, 1:]
    counted = labels != IGNORED
    logits = reasoner.language_model.logits(hidden[:, :-1][counted])
    losses = functional.cross_entropy(logits.float(), labels[counted], reduction="none")
    pair = counted.nonzero()[:, 0]
    sums = losses.new_zeros(len(text.scene)).index_add(0, pair, losses)
    return TrainingOutput(readout, losses.mean(), sums / counted.sum(1))


def continue_scenes(
    reasoner: Reasoner, layers: CacheLayers, text: TextBatch, tokens: torch.Tensor | None = None
) -> torch.Tensor:
    """Returns last hidden states [N, L, D] of the pairs' tokens, continuing their scenes' keys and values.

    layers: from `Reasoner.prefill`; tokens: [B, T, D], the scene tokens, input of the reading token.
    """
    past = tuple((keys[text.scene], values[text.scene]) for keys, values in layers)
    read = None if tokens is None else reasoner.pool_question(text.questions, tokens, text.scene)
    embeddings = embedded(reasoner.language_model, text.ids, read)
    return reasoner.language_model.forward(embeddings, past)[0]
