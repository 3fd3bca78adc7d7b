"""A start for all scene tokens: a small reader answers the questions from them, in the language model's own words.

words.py tells each query's token what the query is. What is true of the scene as a whole (the weather, how many cars,
whether the lane is free) is no word of one query; the questions say it. Before the language model is asked, a reader of
a third of a million weights learns, with connector and global tokens, to point from a question at the tokens and to
find the answer in their mean: as the answer's own word embedding, which is what a language model with tied embeddings
would have to copy. A step takes a quarter of a second where one through the language model takes seconds. The reader is
thrown away afterwards.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import InvalidInput
from ..data.feature_samples import FeatureSample
from ..data.question_cache import Asked
from ..eval.answers import KINDS
from ..reasoning.connector import ranking_scores
from ..reasoning.language_model import LanguageModel
from ..reasoning.reasoner import Reasoner

log = logging.getLogger(__name__)
_WIDTH, _HEADS, _HEAD_DIMS = 128, 4, 64
_SCENES, _PAIRS, _RATE, _DECAY, _SMOOTHING, _CLIP = 16, 10, 1e-3, 0.05, 0.05, 1.0
LEAST = 5
"""Times an answer must occur: rarer ones are left to the language model."""


class Reader(nn.Module):
    """Points from questions at tokens. answers: float32 [N, D], the embeddings that a reading is compared with;
    tokens: T, scene tokens at most."""

    answers: Tensor

    def __init__(self, answers: Tensor, tokens: int) -> None:
        super().__init__()
        dims, width = answers.shape[1], _HEADS * _HEAD_DIMS
        # What all answers have in common tells none from another.
        self.register_buffer("answers", F.normalize(answers - answers.mean(0), dim=-1))
        self.word = nn.Linear(dims, _WIDTH)
        self.order = nn.GRU(_WIDTH, _WIDTH, batch_first=True, bidirectional=True)
        self.query = nn.Linear(2 * _WIDTH, width)
        self.norm, self.key = nn.LayerNorm(dims), nn.Linear(dims, width)
        self.place = nn.Parameter(torch.randn(tokens, width) * 0.02)
        self.gain = nn.Linear(2 * _WIDTH, dims)
        nn.init.zeros_(self.gain.weight)
        nn.init.ones_(self.gain.bias)
        self.usual = nn.Linear(2 * _WIDTH, len(answers))
        self.scale = nn.Parameter(torch.tensor(20.0))

    def forward(self, words: Tensor, lengths: Tensor, tokens: Tensor) -> Tensor:
        """Logits [B, n, N] of n questions each about B scenes.

        words: embeddings [B * n, L, D], padded on the right; lengths: int64 [B * n] on the CPU; tokens: [B, T, D].
        """
        batch, count, _ = tokens.shape
        packed = nn.utils.rnn.pack_padded_sequence(self.word(words), lengths, batch_first=True, enforce_sorted=False)
        asked = self.order(packed)[1].transpose(0, 1).flatten(1).view(batch, -1, 2 * _WIDTH)
        query = self.query(asked).unflatten(-1, (_HEADS, _HEAD_DIMS)).transpose(1, 2)
        key = (self.key(self.norm(tokens)) + self.place[:count]).unflatten(-1, (_HEADS, _HEAD_DIMS)).transpose(1, 2)
        weight = (query @ key.transpose(-1, -2) * _HEAD_DIMS**-0.5).softmax(-1)
        read = weight.mean(1) @ tokens * self.gain(asked)
        return self.scale * F.normalize(read, dim=-1) @ self.answers.T + self.usual(asked)


def common_answers(data: Sequence[FeatureSample]) -> list[str]:
    """Answers to closed questions that occur LEAST times or more, the most frequent first."""
    found = Counter(q.answer for s in data for q in s.arrays["questions"] if q.kind in KINDS)
    return [answer for answer, times in found.most_common() if times >= LEAST]


class _Questions:
    """Word embeddings of questions and answers, each made once."""

    def __init__(self, model: LanguageModel, answers: Sequence[str]) -> None:
        self._model = model
        self._size = float(model.embedding_weight.detach().float().pow(2).mean().sqrt())
        self.place = {answer: i for i, answer in enumerate(answers)}
        # As the model will have to write them, without the full stop that all share.
        self.answers = torch.stack([self._embedded(answer.rstrip(".") or answer).mean(0) for answer in answers])
        self._known: dict[str, Tensor] = {}

    def _embedded(self, text: str) -> Tensor:
        return self._model.embedding_weight.detach()[self._model.tokens(text)].float().cpu()

    def batch(self, asked: Sequence[Asked]) -> tuple[Tensor, Tensor, Tensor]:
        """(words [n, L, D] of unit size, lengths [n], place of each answer [n])."""
        for q in asked:
            if q.question not in self._known:
                self._known[q.question] = self._embedded(q.question) / self._size
        rows = [self._known[q.question] for q in asked]
        lengths, right = torch.tensor([len(r) for r in rows]), torch.tensor([self.place[q.answer] for q in asked])
        return nn.utils.rnn.pad_sequence(rows, batch_first=True), lengths, right


def start_with_answers(reasoner: Reasoner, data: Sequence[FeatureSample], seed: int, steps: int = 1200) -> float:
    """Let connector and global tokens learn what the questions are about; returns the share of right readings at the
    end, on the training data.

    data: samples with QUERY_FIELDS and questions. Where hardly an answer occurs twice (captions) there is nothing to
    read, and 0 is returned. Raises InvalidInput("steps") below 1.
    """
    if steps < 1:
        raise InvalidInput("steps", f"want at least 1, got {steps}")
    answers = common_answers(data)
    if len(answers) < 2:
        return 0.0
    words = _Questions(reasoner.language_model, answers)
    samples = [(s, [q for q in s.arrays["questions"] if q.kind in KINDS and q.answer in words.place]) for s in data]
    samples = [(s, asked) for s, asked in samples if asked]
    rng, device = np.random.default_rng([seed, 37]), reasoner.anchors.device
    config = reasoner.config
    reader = Reader(words.answers, config.global_tokens + config.occupancy_tokens).to(device)
    parts = nn.ModuleList([reasoner.connector, reasoner.global_tokens, reader])
    optimizer = torch.optim.AdamW(parts.parameters(), _RATE, weight_decay=_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps)
    right = 0.0
    with torch.enable_grad():
        for step in range(steps):
            drawn = [samples[i] for i in rng.integers(len(samples), size=_SCENES)]
            tokens = _tokens(reasoner, [s for s, _ in drawn], device)
            text, lengths, answer = words.batch([q[i] for _, q in drawn for i in rng.integers(len(q), size=_PAIRS)])
            logits = reader(text.to(device), lengths, tokens).flatten(0, 1)
            answer = answer.to(device)
            loss = F.cross_entropy(logits, answer, label_smoothing=_SMOOTHING)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parts.parameters(), _CLIP)
            optimizer.step()
            schedule.step()
            share = float((logits.detach().argmax(-1) == answer).float().mean())
            right = share if not step else 0.98 * right + 0.02 * share
            if (step + 1) % max(1, steps // 10) == 0:
                log.info("questions read from tokens: step %d of %d, %.1f %% right", step + 1, steps, 100 * right)
    return right


def _tokens(reasoner: Reasoner, samples: Sequence[FeatureSample], device: torch.device) -> Tensor:
    """Scene tokens [B, T, D] of samples."""

    def stack(name: str) -> Tensor:
        return torch.from_numpy(np.stack([s.arrays[name] for s in samples])).to(device)

    scores = ranking_scores(stack("scores"), stack("labels"), reasoner.config.ground_score)
    return reasoner.scene_tokens(stack("features"), stack("centres"), scores, stack("view_features"))[0]
