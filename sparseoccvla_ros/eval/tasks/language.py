"""Answers to closed questions about the camera images: with images, blind, and by guessing.

Blind means queries of black images, or those of another scene (in-distribution input with other content). Answers are
decoded greedily, all questions of a moment at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...core.types import SceneQueries
from ...reasoning.model.reasoner import Reasoner
from ...world.qa.questions import Question
from ..metrics.intervals import Estimate, over_scenes
from ..metrics.qa_accuracy import KINDS, answer_accuracy
from ..report.tables import Block
from . import plan_agreement
from .captions import scored_captions
from .plan_agreement import Driven
from .priors import TrainingPriors

SEEING, BLIND, SHUFFLED, GUESS = "seeing", "blind (black images)", "blind (another scene)", "usual answer"
MAX_TOKENS, SECONDS = 24, 120.0
"""Token and time limits of an answer: the longest closed one has 8 words; an untrained model does not stop itself."""
CAPTION_TOKENS = 320
"""Token limit of a caption, as in OmniDrive."""
AGAINST = ((SEEING, BLIND), (SEEING, SHUFFLED), (SEEING, GUESS))


@dataclass(frozen=True, eq=False)
class QuestionedMoment:
    """A moment with questions. questions: closed ones; queries, blind: scene queries with images and blind, None if the
    network is absent; captions: free-text questions scored by caption metrics; driven: the plan for the agreement
    check, None without one."""

    scene: str
    token: str
    questions: tuple[Question, ...]
    queries: SceneQueries | None
    blind: SceneQueries | None
    captions: tuple[Question, ...] = ()
    driven: Driven | None = None

    @property
    def ids(self) -> list[str]:
        """Ids of the closed questions."""
        return [f"{self.token}/{k}" for k in range(len(self.questions))]

    @property
    def caption_ids(self) -> list[str]:
        """Ids of the captions."""
        return [f"{self.token}/caption/{k}" for k in range(len(self.captions))]


def closed(questions: list[Question]) -> tuple[Question, ...]:
    """Selects the questions with a single right answer."""
    return tuple(q for q in questions if q.kind in KINDS)


class LanguageTask:
    """Collects moments; questions are asked at the end, when the queries of other scenes are available.

    Picklable; `merge` adds other processes' moments, then each process asks about a share. answers: by row and id.
    """

    def __init__(self) -> None:
        self.asked: list[QuestionedMoment] = []
        self.answers: dict[str, dict[str, str | None]] = {}

    def add(self, asked: QuestionedMoment) -> None:
        """Adds a moment with questions."""
        if asked.questions or asked.captions:
            self.asked.append(asked)

    def merge(self, other: LanguageTask) -> None:
        """Adds the moments of another task."""
        self.asked += other.asked

    def ask(
        self,
        reasoner: Reasoner | None,
        share: range,
        caption_tokens: int = CAPTION_TOKENS,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> dict[str, dict[str, str | None]]:
        """Asks about the moments with indices in `share`; returns the answers by row and id."""
        found: dict[str, dict[str, str | None]] = {}
        for done, index in enumerate(share):
            on_progress(done, len(share))
            asked = self.asked[index]
            for row, queries in self._inputs(reasoner, index).items():
                said = _ask(reasoner, queries, asked.questions, MAX_TOKENS)
                found.setdefault(row, {}).update(zip(asked.ids, said, strict=True))
                if row == SEEING and asked.driven is not None and asked.questions:
                    assert reasoner is not None
                    limit = min(SECONDS, reasoner.config.time_limit_limit)
                    for kind, text in plan_agreement.ask(reasoner, asked.driven, limit).items():
                        found.setdefault(kind, {})[asked.token] = text
                # A caption of another scene tells no more than one of black images, and costs as much as all the rest.
                if row != SHUFFLED:
                    said = _ask(reasoner, queries, asked.captions, caption_tokens)
                    found[row].update(zip(asked.caption_ids, said, strict=True))
        on_progress(len(share), len(share))
        return found

    def take(self, answers: dict[str, dict[str, str | None]]) -> None:
        """Adds answers returned by `ask`, here or in another process."""
        for row, found in answers.items():
            self.answers.setdefault(row, {}).update(found)

    def result(
        self, known: TrainingPriors | None, caption_tokens: int = CAPTION_TOKENS
    ) -> tuple[dict[str, Any], list[Block]]:
        """Returns plain numbers and tables. known: source of the most frequent answers, the guess."""
        questions = {i: q for asked in self.asked for i, q in zip(asked.ids, asked.questions, strict=True)}
        scenes = {i: asked.scene for asked in self.asked for i in (*asked.ids, *asked.caption_ids)}
        texts = {i: q for asked in self.asked for i, q in zip(asked.caption_ids, asked.captions, strict=True)}
        answers = {row: dict(found) for row, found in self.answers.items() if row not in plan_agreement.ROWS}
        if known is not None:
            answers[GUESS] = {i: known.answer(q.key) for i, q in (questions | texts).items()}
        numbers: dict[str, Any] = {"rows": {}}
        if not questions and not texts:
            return numbers, [Block("Answers", notes=["Nothing was asked: --samples is 0, or no moment has questions."])]
        blocks = []
        if questions:
            numbers, blocks = _scored(questions, scenes, answers)
        driven = {a.token: a.driven for a in self.asked if a.driven is not None and a.questions}
        said = {row: self.answers[row] for row in plan_agreement.ROWS if row in self.answers}
        if driven and said:
            numbers["plan"], block = plan_agreement.result(driven, {a.token: a.scene for a in self.asked}, said)
            blocks.append(block)
        if texts:
            numbers["captions"], block = scored_captions(texts, scenes, answers, caption_tokens)
            blocks.append(block)
        return numbers, blocks

    def _inputs(self, reasoner: Reasoner | None, index: int) -> dict[str, SceneQueries]:
        asked = self.asked[index]
        if reasoner is None or asked.queries is None or asked.blind is None:
            return {}
        found = {SEEING: asked.queries, BLIND: asked.blind}
        others = [a for a in self.asked[index + 1 :] + self.asked[:index] if a.scene != asked.scene]
        # All moments get one or none does, because rows are compared question by question.
        if others and others[0].queries is not None:
            found[SHUFFLED] = others[0].queries
        return found


def _ask(
    reasoner: Reasoner | None, queries: SceneQueries, questions: tuple[Question, ...], tokens: int
) -> list[str | None]:
    assert reasoner is not None
    if not questions:
        return []
    reasoner.reason(queries)
    seconds = min(SECONDS, reasoner.config.time_limit_limit)
    limit = min(tokens, reasoner.config.max_tokens_limit)
    replies = reasoner.ask_batch([q.question for q in questions], max_tokens=limit, time_limit=seconds)
    return [None if reply.reason == "time_limit" else reply.text for reply in replies]


def _scored(
    questions: dict[str, Question], scenes: dict[str, str], answers: dict[str, dict[str, str | None]]
) -> tuple[dict[str, Any], list[Block]]:
    references = {i: q.answer for i, q in questions.items()}
    kinds = {i: q.kind for i, q in questions.items()}
    right: dict[str, np.ndarray] = {}
    numbers: dict[str, Any] = {"rows": {}, "differences": {}}
    order = (SEEING, BLIND, SHUFFLED, GUESS)
    for row in (r for r in order if r in answers):
        found = answer_accuracy({i: answers[row][i] for i in questions}, references, kinds)
        right[row] = np.array([found.correct[i] for i in questions], np.float64)
        numbers["rows"][row] = {
            "n": found.n, "missing": found.missing, "exact": found.exact,
            "unreadable": sum(k.unreadable for k in found.per_kind.values()),
        }  # fmt: skip
    places = [scenes[i] for i in questions]
    groups = _groups(list(questions.values()))

    def estimate(values: np.ndarray, keep: np.ndarray) -> Estimate:
        return over_scenes(values[keep], [place for place, kept in zip(places, keep, strict=True) if kept])

    for row, values in right.items():
        numbers["rows"][row]["accuracy"] = {name: estimate(values, keep) for name, keep in groups.items()}
    for a, b in AGAINST:
        if a in right and b in right:
            numbers["differences"][f"{a} minus {b}"] = {
                name: estimate(right[a] - right[b], keep) for name, keep in groups.items()
            }
    columns = {row: numbers["rows"][row]["accuracy"] for row in right} | numbers["differences"]
    numbers["counts"] = {name: int(keep.sum()) for name, keep in groups.items()}
    numbers["moments"] = len({i.rsplit("/", 1)[0] for i in questions})
    rows = [[name, str(int(keep.sum())), *(c[name].text() for c in columns.values())] for name, keep in groups.items()]
    quality = [f"{row}: {n['missing']} missing, {n['unreadable']} say nothing of their kind, "
               f"{100 * n['exact']:.1f} % word for word" for row, n in numbers["rows"].items()]  # fmt: skip
    notes = [
        f"{numbers['moments']} moments; percent right [95 % bootstrap over scenes]; differences are paired.",
        f"{GUESS}: the most frequent answer to that question over training drives.",
        "visual: questions whose answers vary over scenes.",
        *quality,
    ]
    return numbers, [Block("Answers", ["questions", "n", *columns], rows, notes)]


def _groups(questions: list[Question]) -> dict[str, np.ndarray]:
    """Returns masks bool [N] by name: all, visual, and each kind, family and template that occurs."""
    groups = {"all": np.ones(len(questions), bool), "visual": np.array([q.visual for q in questions])}
    for title, of in (("kind", lambda q: q.kind), ("family", lambda q: q.family), ("", lambda q: q.key.split("/")[0])):
        names = [of(q) for q in questions]
        for name in sorted(set(names)):
            groups[f"{title} {name}".strip()] = np.array([n == name for n in names])
    return {name: keep for name, keep in groups.items() if keep.any()}
