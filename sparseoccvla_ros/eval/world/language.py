"""Answers to closed questions about what the cameras show: with sight, without, and by guessing.

Without sight means: from the queries of black images, and from those of another scene (so that the input looks as in
training and only says something else). Answers are decoded greedily, all questions of a moment at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...core.types import SceneQueries
from ...reasoning.reasoner import Reasoner
from ...world.questions import Question
from ..answers import KINDS, answer_accuracy
from ..planning.report import scene_interval
from .intervals import Estimate
from .known import Known
from .tables import Block

SEEING, BLIND, SHUFFLED, GUESS = "seeing", "blind (black images)", "blind (another scene)", "usual answer"
MAX_TOKENS, SECONDS = 24, 120.0
"""Limits of an answer: the longest closed one has 8 words; an untrained model talks until it is cut off."""
AGAINST = ((SEEING, BLIND), (SEEING, SHUFFLED), (SEEING, GUESS))


@dataclass(frozen=True, eq=False)
class Asked:
    """A moment to ask about. queries, blind: what the network makes of it with and without sight, None if it takes no
    part; questions: closed ones only."""

    scene: str
    token: str
    questions: tuple[Question, ...]
    queries: SceneQueries | None
    blind: SceneQueries | None


def closed(questions: list[Question]) -> tuple[Question, ...]:
    """Those with one right answer."""
    return tuple(q for q in questions if q.kind in KINDS)


class LanguageTask:
    """Collects moments; the questions are asked at the end, when there is another scene to mistake for the own one."""

    def __init__(self, reasoner: Reasoner | None) -> None:
        self._reasoner = reasoner
        self._asked: list[Asked] = []

    def add(self, asked: Asked) -> None:
        """A moment to ask about."""
        if asked.questions:
            self._asked.append(asked)

    def result(
        self, known: Known, on_progress: Callable[[int, int], None] = lambda done, total: None
    ) -> tuple[dict[str, Any], list[Block]]:
        """Plain numbers, and tables of them."""
        questions: dict[str, Question] = {}
        scenes: dict[str, str] = {}
        answers: dict[str, dict[str, str | None]] = {GUESS: {}}
        for done, asked in enumerate(self._asked):
            on_progress(done, len(self._asked))
            ids = [f"{asked.token}/{k}" for k in range(len(asked.questions))]
            questions |= dict(zip(ids, asked.questions, strict=True))
            scenes |= dict.fromkeys(ids, asked.scene)
            answers[GUESS] |= {i: known.answer(q.key) for i, q in zip(ids, asked.questions, strict=True)}
            for row, queries in self._inputs(done).items():
                answers.setdefault(row, {}).update(zip(ids, self._ask(queries, asked.questions), strict=True))
        on_progress(len(self._asked), len(self._asked))
        if not questions:
            return {"rows": {}}, [Block("Answers", notes=["Nothing was asked: --samples is 0."])]
        return _scored(questions, scenes, answers)

    def _inputs(self, index: int) -> dict[str, SceneQueries]:
        asked = self._asked[index]
        if self._reasoner is None or asked.queries is None or asked.blind is None:
            return {}
        found = {SEEING: asked.queries, BLIND: asked.blind}
        others = [a for a in self._asked[index + 1 :] + self._asked[:index] if a.scene != asked.scene]
        # Every moment gets one, or none does: rows are compared question by question.
        if others and others[0].queries is not None:
            found[SHUFFLED] = others[0].queries
        return found

    def _ask(self, queries: SceneQueries, questions: tuple[Question, ...]) -> list[str | None]:
        assert self._reasoner is not None
        self._reasoner.reason(queries)
        seconds = min(SECONDS, self._reasoner.config.time_limit_limit)
        limit = min(MAX_TOKENS, self._reasoner.config.max_tokens_limit)
        replies = self._reasoner.ask_batch([q.question for q in questions], max_tokens=limit, time_limit=seconds)
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
        found = answer_accuracy(answers[row], references, kinds)
        right[row] = np.array([found.correct[i] for i in questions], np.float64)
        numbers["rows"][row] = {
            "n": found.n, "missing": found.missing, "exact": found.exact,
            "unreadable": sum(k.unreadable for k in found.per_kind.values()),
        }  # fmt: skip
    places = [scenes[i] for i in questions]
    groups = _groups(list(questions.values()))

    def estimate(values: np.ndarray, keep: np.ndarray) -> Estimate:
        where = [place for place, kept in zip(places, keep, strict=True) if kept]
        return Estimate(float(values[keep].mean()), scene_interval(values[keep], where))

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
        f"{GUESS}: the most frequent answer to that question over training seeds.",
        "visual: questions whose answers vary over scenes.",
        *quality,
    ]
    return numbers, [Block("Answers", ["questions", "n", *columns], rows, notes)]


def _groups(questions: list[Question]) -> dict[str, np.ndarray]:
    """bool [N] by name: all, visual ones, each kind, family and template that occurs."""
    groups = {"all": np.ones(len(questions), bool), "visual": np.array([q.visual for q in questions])}
    for title, of in (("kind", lambda q: q.kind), ("family", lambda q: q.family), ("", lambda q: q.key.split("/")[0])):
        names = [of(q) for q in questions]
        for name in sorted(set(names)):
            groups[f"{title} {name}".strip()] = np.array([n == name for n in names])
    return {name: keep for name, keep in groups.items() if keep.any()}
