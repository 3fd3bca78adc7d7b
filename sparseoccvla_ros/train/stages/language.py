"""Stage 2: trains connector, global tokens, reasoning token, anchor head and adapters on cached queries.

Losses: cross-entropy on answer tokens only, and anchor scores from the reasoning token (SparseOccVLA's scoring prompt,
arXiv 2601.06474). The base language model and the encoder are frozen. The adapters' learning rate follows HERMES.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...core.types import Command
from ...data.dataset import COMMANDS
from ...data.synthetic.qa_cache import QaPair
from ...eval.metrics.qa_accuracy import KINDS, answer_accuracy
from ...planning.losses import positive_anchors, score_loss
from ...planning.plan_words import driving_action, with_action
from ...planning.trajectory import motion_of
from ...reasoning.llm.lora import adapter_parameters
from ...reasoning.model.connector import ranking_scores
from ...reasoning.model.ego_motion import constant_velocity
from ...reasoning.model.reasoner import Reasoner
from ..checkpoint import save_reasoner
from ..features.dataset import FeatureSample
from ..language_batch import TextBatch, text_batch, training_forward
from ..task import Stage, Validation
from .connector_pretraining import pretrain_connector
from .forecast import queries_of
from .question_pretraining import pretrain_on_questions

log = logging.getLogger(__name__)

SHORT = 120
"""Maximum number of characters of question and answer in a short pair."""


def is_long(asked: QaPair) -> bool:
    """Whether question and answer together exceed SHORT characters."""
    return len(asked.question) + len(asked.answer) > SHORT


@dataclass(frozen=True)
class LanguageStageSettings:
    """Settings of stage 2. pairs: short questions per scene and step; long_pairs: long ones (descriptions, trajectories
    in words); long_every: one batch in so many consists of long pairs only, since all pairs of a batch are padded to
    the longest; anchors: weight of the anchor loss; bridge: factor on the learning rate of everything but the adapters;
    with_plan: share of questions preceded by the car's next action; asked: closed questions per sample in validation;
    max_tokens: limit of their answers; connector_steps, question_steps: steps of connector_pretraining.py and then
    question_pretraining.py before the first step, 0 to skip."""

    pairs: int = 8
    long_pairs: int = 2
    long_every: int = 4
    anchors: float = 1.0
    bridge: float = 0.5
    with_plan: float = 0.7
    asked: int = 16
    max_tokens: int = 16
    connector_steps: int = 400
    question_steps: int = 2400


@dataclass(frozen=True, eq=False)
class LanguageBatch:
    """Batch of stage 2. features [B, Q, C]; centres [B, Q, 3] m; scores [B, Q, R] for ranking; views [B, V, C]; motion
    [B, 6, 2] m, constant velocity; command int64 [B]; truth [B, 6, 2] m; text: the pairs; samples: for validation."""

    features: Tensor
    centres: Tensor
    scores: Tensor
    views: Tensor
    motion: Tensor
    command: Tensor
    truth: Tensor
    text: TextBatch
    samples: tuple[FeatureSample, ...]


class LanguageStage(Stage[LanguageBatch]):
    """Trains a Reasoner except its fusion and forecaster, and adapters in its language model.

    parts: parts of the reasoner that are trained already; they are listed in the exported file as well.
    """

    name = "language"

    def __init__(
        self, reasoner: Reasoner, parts: Sequence[str] = (), settings: LanguageStageSettings | None = None
    ) -> None:
        super().__init__()
        self.settings = settings or LanguageStageSettings()
        self._fresh = "language" not in parts
        self._parts = sorted({*parts, "language", "plan"})
        self.reasoner = reasoner.requires_grad_(True)
        for part in (reasoner.fusion, reasoner.forecaster):
            part.requires_grad_(False)
        if not list(adapter_parameters(reasoner.language_model)):
            reasoner.add_adapter()
        # The language model is not a submodule of the reasoner; its adapters are registered here to be saved.
        for name, parameter in adapter_parameters(reasoner.language_model):
            self.register_parameter(f"adapter/{name}".replace(".", "/"), parameter)

    def begin(self, data: Any, seed: int) -> None:
        """Pretrain the scene tokens, unless the language part is trained already."""
        reasoner, settings = self.reasoner, self.settings
        if settings.connector_steps and self._fresh:
            close = pretrain_connector(
                reasoner.connector, reasoner.language_model, data, seed, settings.connector_steps
            )
            log.info("tokens and words: cosine %.3f", close)
        if settings.question_steps and self._fresh:
            pretrain_on_questions(reasoner, data, seed, settings.question_steps, self._told)

    def augment(self, sample: FeatureSample, rng: np.random.Generator) -> FeatureSample:
        """Draw some of the sample's questions."""
        asked: list[QaPair] = sample.arrays["questions"]
        order = [asked[i] for i in rng.permutation(len(asked))]
        short = [q for q in order if not is_long(q)][: self.settings.pairs]
        long = [q for q in order if is_long(q)][: self.settings.long_pairs]
        return replace(sample, arrays=sample.arrays | {"questions": [*short, *long]})

    def collate(self, samples: Sequence[FeatureSample]) -> LanguageBatch:
        """Stack samples and tokenise their questions."""

        def stack(name: str) -> Tensor:
            return torch.from_numpy(np.stack([s.arrays[name] for s in samples]))

        # Seeded by the batch alone, so a resumed run draws the same.
        draw = np.random.default_rng([round(1000 * s.time) + s.seed for s in samples])
        long = bool(draw.integers(self.settings.long_every) == 0)
        pairs = [
            [(self._told(q.question, s, draw), q.answer) for q in s.arrays["questions"] if is_long(q) is long]
            for s in samples
        ]
        return LanguageBatch(
            stack("features"), stack("centres"),
            ranking_scores(stack("scores"), stack("labels"), self.reasoner.config.ground_score),
            stack("view_features"),
            torch.from_numpy(np.stack([constant_velocity(s.twist) for s in samples])),
            torch.tensor([s.command for s in samples]), torch.from_numpy(np.stack([s.waypoints for s in samples])),
            text_batch(self.reasoner, pairs), tuple(samples),
        )  # fmt: skip

    def _told(self, question: str, sample: FeatureSample, draw: np.random.Generator) -> str:
        """Returns the question, preceded with probability with_plan by the expert's action (online: the plan's)."""
        if draw.random() >= self.settings.with_plan:
            return question
        speed = float(sample.twist[0])
        done = motion_of(sample.waypoints, speed)
        turns = COMMANDS[sample.command] is not Command.STRAIGHT
        return with_action(question, driving_action(speed, done.speed, float(done.heading[-1]), turns))

    def forward(self, batch: LanguageBatch) -> dict[str, Tensor]:
        """Returns the loss terms."""
        out = training_forward(
            self.reasoner, batch.features, batch.centres, batch.scores, batch.views, batch.motion, batch.text
        )
        positive, group = positive_anchors(self.reasoner.anchors, batch.truth, batch.command)
        valid = torch.ones(batch.truth.shape[:2], dtype=torch.bool, device=positive.device)
        logits = out.readout.anchor_logits.gather(1, group)
        return {
            "language": out.language_loss,
            "anchors": self.settings.anchors * score_loss(logits, positive - group[:, 0], valid),
        }

    def train(self, mode: bool = True) -> LanguageStage:
        """Set the training mode of bridge and adapters."""
        super().train(mode)
        self.reasoner.train(mode)
        return self

    def parameter_groups(self, learning_rate: float, backbone_lr_scale: float) -> list[dict[str, Any]]:
        """Adapters at `learning_rate`, the bridge at settings.bridge times that; its vectors without weight decay."""
        found = [(n, p) for n, p in self.named_parameters() if p.requires_grad]

        def of(adapter: bool, matrix: bool) -> list[nn.Parameter]:
            return [p for n, p in found if n.startswith("adapter/") is adapter and (p.ndim > 1) is matrix]

        bridge_lr = learning_rate * self.settings.bridge
        return [
            {"params": of(adapter=True, matrix=True), "lr": learning_rate},
            {"params": of(adapter=False, matrix=True), "lr": bridge_lr},
            {"params": of(adapter=False, matrix=False), "lr": bridge_lr, "weight_decay": 0.0},
        ]

    def validate(self, batches: Iterable[LanguageBatch]) -> Validation:
        """Accuracy of greedy answers to closed questions, by kind; also with the queries of another sample."""
        samples = [s for batch in batches for s in batch.samples]
        # Drops the cached prefix, which was computed with other weights.
        self.reasoner.set_language_model(self.reasoner.language_model)
        said: dict[str, dict[str, str | None]] = {"": {}, "_shuffled": {}}
        references, kinds = {}, {}
        for k, sample in enumerate(samples):
            closed = [q for q in sample.arrays["questions"] if q.kind in KINDS][: self.settings.asked]
            if not closed:
                continue
            ids = [f"{k}/{i}" for i in range(len(closed))]
            references |= {i: q.answer for i, q in zip(ids, closed, strict=True)}
            kinds |= {i: q.kind for i, q in zip(ids, closed, strict=True)}
            other = samples[(k + len(samples) // 2) % len(samples)]
            for name, seen in (("", sample), ("_shuffled", other)):
                self.reasoner.reason(queries_of(seen))
                answers = self.reasoner.ask_batch([q.question for q in closed], None, self.settings.max_tokens, 60.0)
                said[name] |= {i: a.text for i, a in zip(ids, answers, strict=True)}
        if not references:
            return Validation(0.0, {"questions": 0.0})
        numbers: dict[str, float] = {"questions": float(len(references))}
        for name, texts in said.items():
            result = answer_accuracy(texts, references, kinds)
            numbers[f"accuracy{name}"] = result.accuracy
            numbers |= {f"{kind}{name}": found.accuracy for kind, found in result.per_kind.items()}
        return Validation(numbers["accuracy"], numbers)

    def export(self, path: Path) -> None:
        """Write a file for the preset's `weights.reasoning`, and beside it the adapters for `weights.adapter`."""
        save_reasoner(self.reasoner, path, self._parts)
