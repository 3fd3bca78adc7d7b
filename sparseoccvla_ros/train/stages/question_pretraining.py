"""Pretraining of all scene tokens: answers are predicted from them as word embeddings, without the language model.

connector_pretraining.py teaches each token its own query. Properties of the scene as a whole (the weather, how many
cars, whether the lane is free) belong to no single query; questions supervise them. Before stage 2, connector, global
tokens and reading token (reasoning/model/question_pooling.py) learn to produce the embedding of the answer's words. A
step takes a quarter of a second; one through the language model takes seconds.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.errors import InvalidInput
from ...data.synthetic.qa_cache import QaPair
from ...eval.metrics.qa_accuracy import KINDS
from ...planning.losses import positive_anchors, score_loss
from ...reasoning.llm.language_model import LanguageModel
from ...reasoning.model.connector import ranking_scores
from ...reasoning.model.question_pooling import QuestionPooling
from ...reasoning.model.reasoner import Reasoner
from ...reasoning.prompts import ACTION
from ..features.dataset import FeatureSample

log = logging.getLogger(__name__)
_WIDTH, _SCENES, _PAIRS, _LEARNING_RATE, _WEIGHT_DECAY, _SMOOTHING, _MAX_GRAD_NORM = 128, 16, 10, 1e-3, 0.05, 0.05, 1.0
LEAST = 5
"""Minimum number of occurrences of an answer; rarer answers are left to stage 2."""
Rewrite = Callable[[str, FeatureSample, np.random.Generator], str]
"""Function that returns a sample's question as it is asked: with or without the planned action before it."""


class AnswerHead(nn.Module):
    """Classifies pooled tokens by similarity to the answers' embeddings, float32 [N, D]; code: QuestionPooling.code."""

    answers: Tensor
    words: Tensor

    def __init__(self, answers: Tensor, code: int) -> None:
        super().__init__()
        # The component shared by all answers does not discriminate.
        self.register_buffer("answers", F.normalize(answers - answers.mean(0), dim=-1))
        self.register_buffer("words", answers)
        self.usual = nn.Linear(code, len(answers))
        self.scale = nn.Parameter(torch.tensor(20.0))

    def forward(self, read: Tensor, asked: Tensor) -> Tensor:
        """Returns logits [n, N] from the outputs of QuestionPooling.read: pooled tokens [n, D], codes [n, code]."""
        return self.scale * F.normalize(read, dim=-1) @ self.answers.T + self.usual(asked)

    def off(self, token_embedding: Tensor, answer: Tensor) -> Tensor:
        """Returns the loss that aligns reading tokens [n, D] with their answers, int64 [n], against all others."""
        cosine = F.normalize(token_embedding, dim=-1) @ F.normalize(self.words, dim=-1).T
        return F.cross_entropy(self.scale * cosine, answer) + 1.0 - cosine.gather(1, answer[:, None]).mean()


def common_answers(data: Sequence[FeatureSample]) -> list[str]:
    """Returns the answers to closed questions that occur at least LEAST times, most frequent first."""
    found = Counter(q.answer for s in data for q in s.arrays["questions"] if q.kind in KINDS)
    return [answer for answer, times in found.most_common() if times >= LEAST]


class _Questions:
    """Word embeddings of questions and answers; caches the token ids of each text."""

    def __init__(self, model: LanguageModel, answers: Sequence[str]) -> None:
        self._model = model
        self.place = {answer: i for i, answer in enumerate(answers)}
        self._known: dict[str, list[int]] = {}
        # As the model has to write them, without the full stop that all share.
        self.answers = torch.stack([self._embedded(answer.rstrip(".") or answer).mean(0) for answer in answers])

    def _embedded(self, text: str) -> Tensor:
        if text not in self._known:
            self._known[text] = self._model.tokens(text)
        return self._model.embedding_weight.detach()[self._known[text]].float()

    def batch(self, asked: Sequence[QaPair]) -> tuple[list[Tensor], Tensor]:
        """Returns (word embeddings [L, D] of each question, index of each answer [n])."""
        places = torch.tensor([self.place[q.answer] for q in asked], device=self.answers.device)
        return [self._embedded(q.question) for q in asked], places


def pretrain_on_questions(
    reasoner: Reasoner,
    data: Sequence[FeatureSample],
    seed: int,
    steps: int = 1200,
    rewrite: Rewrite = lambda question, sample, draw: question,
) -> float:
    """Pretrain connector, global tokens and reading token on questions; returns the final accuracy on training data.

    A reasoner without a reading token gets a temporary QuestionPooling. data: samples with QUERY_FIELDS and questions.
    Returns 0 if fewer than two answers occur LEAST times (captions). rewrite: applied to every drawn question, because
    online questions contain the plan, which the reading token must have been trained with. With config.token_reads the
    anchor head is trained too, on the reading token of ACTION, for many more steps than in stage 2.

    Raises InvalidInput("steps") below 1.
    """
    if steps < 1:
        raise InvalidInput("steps", f"want at least 1, got {steps}")
    # By index: a dataset need not be iterable.
    found = [data[i] for i in range(len(data))]
    answers = common_answers(found)
    if len(answers) < 2:
        return 0.0
    words = _Questions(reasoner.language_model, answers)
    samples = [(s, [q for q in s.arrays["questions"] if q.kind in KINDS and q.answer in words.place]) for s in found]
    samples = [(s, asked) for s, asked in samples if asked]
    rng, device = np.random.default_rng([seed, 37]), reasoner.anchors.device
    config = reasoner.config
    reading = reasoner.reading
    if reading is None:
        size = float(reasoner.language_model.embedding_weight.detach().float().pow(2).mean().sqrt())
        count = config.global_tokens + config.occupancy_tokens
        reading = QuestionPooling(words.answers.shape[1], _WIDTH, count, size).to(device)
    head = AnswerHead(words.answers, reading.code).to(device)
    action, each = reasoner.question_embeddings(ACTION).float(), torch.arange(_SCENES, device=device)
    scene = torch.arange(_SCENES, device=device).repeat_interleave(_PAIRS)
    parts = nn.ModuleList([reasoner.connector, reasoner.global_tokens, reading, head])
    if config.token_reads:
        parts.append(reasoner.anchor_head)
    optimizer = torch.optim.AdamW(parts.parameters(), _LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LEARNING_RATE, total_steps=steps)
    right = 0.0
    with torch.enable_grad():
        for step in range(steps):
            drawn = [samples[i] for i in rng.integers(len(samples), size=_SCENES)]
            tokens = _tokens(reasoner, [s for s, _ in drawn], device)
            pairs = [(s, q[i]) for s, q in drawn for i in rng.integers(len(q), size=_PAIRS)]
            text, answer = words.batch([replace(q, question=rewrite(q.question, s, rng)) for s, q in pairs])
            read, asked = reading.read(text, tokens, scene)
            logits = head(read, asked)
            loss = F.cross_entropy(logits, answer, label_smoothing=_SMOOTHING)
            loss = loss + head.off(reading.token_embedding(read, asked), answer)
            if config.token_reads:
                loss = loss + _plan_loss(reasoner, reading([action] * _SCENES, tokens, each), [s for s, _ in drawn])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parts.parameters(), _MAX_GRAD_NORM)
            optimizer.step()
            schedule.step()
            share = float((logits.detach().argmax(-1) == answer).float().mean())
            right = share if not step else 0.98 * right + 0.02 * share
            if (step + 1) % max(1, steps // 10) == 0:
                log.info("questions read from tokens: step %d of %d, %.1f %% right", step + 1, steps, 100 * right)
    return right


def _plan_loss(reasoner: Reasoner, read: Tensor, samples: Sequence[FeatureSample]) -> Tensor:
    """Returns the anchor loss, within the commanded group, of reading tokens `read`."""
    device = reasoner.anchors.device
    truth = torch.from_numpy(np.stack([s.waypoints for s in samples])).to(device)
    command = torch.tensor([s.command for s in samples], device=device)
    positive, group = positive_anchors(reasoner.anchors, truth, command)
    logits = reasoner.anchor_head(read, reasoner.anchors).gather(1, group)
    return score_loss(logits, positive - group[:, 0], torch.ones(truth.shape[:2], dtype=torch.bool, device=device))


def _tokens(reasoner: Reasoner, samples: Sequence[FeatureSample], device: torch.device) -> Tensor:
    """Returns the scene tokens [B, T, D] of samples."""

    def stack(name: str) -> Tensor:
        return torch.from_numpy(np.stack([s.arrays[name] for s in samples])).to(device)

    scores = ranking_scores(stack("scores"), stack("labels"), reasoner.config.ground_score)
    return reasoner.scene_tokens(stack("features"), stack("centres"), scores, stack("view_features"))[0]
