"""Scores descriptions and attention answers against references, by published recipes (eval.metrics.language)."""

from __future__ import annotations

from typing import Any

from ...world.qa.questions import Question
from ..metrics.intervals import Estimate
from ..metrics.language import TOKENISATIONS, Document, Score, evaluate
from ..report.tables import Block

SELF_TEST = "reference (self-test)"
SHOWN = ("METEOR-nltk", "METEOR-nltk-no-synonyms", "METEOR-1.5", "ROUGE-L", "CIDEr", "BLEU-4")


def captions_of(questions: list[Question]) -> tuple[Question, ...]:
    """Returns what OmniDrive scores of a sample: its description and its attention answer, the first of its vqa."""
    description = next((q for q in questions if q.family == "desc"), None)
    attention = next((q for q in questions if q.family == "vqa" and q.key in ("vqa", "attention")), None)
    return tuple(q for q in (description, attention) if q is not None)


def scored_captions(
    texts: dict[str, Question], scenes: dict[str, str], answers: dict[str, dict[str, str | None]], tokens: int
) -> tuple[dict[str, Any], Block]:
    """Returns plain numbers and a table.

    texts: questions with their references, by id; scenes: by id; answers: by row and id, rows that lack a caption are
    omitted; tokens: limit at which answers were cut, for the report.
    """
    given = {SELF_TEST: {i: q.answer for i, q in texts.items()}}
    given |= {row: {i: found[i] for i in texts} for row, found in answers.items() if texts.keys() <= found.keys()}
    numbers: dict[str, Any] = {"rows": {}, "families": {}, "absent": {}}
    for question in texts.values():
        numbers["families"][question.family] = numbers["families"].get(question.family, 0) + 1
    rows, notes = [], set()
    for tokenisation in TOKENISATIONS:
        for row, said in given.items():
            documents = [Document(i, said[i], (q.answer,), scenes[i]) for i, q in texts.items()]
            found = evaluate(documents, tokenisation)
            numbers["rows"][f"{row}, {tokenisation}"] = {
                "n": found.n, "missing": found.missing, "empty": found.empty,
                "scores": {name: Estimate(score.value, score.interval) for name, score in found.scores.items()},
            }  # fmt: skip
            numbers["absent"] |= {f"{name}, {tokenisation}": why for name, why in found.absent.items()}
            notes |= set(found.notes)
            rows.append([row, tokenisation, str(found.n), str(found.missing), str(found.empty),
                         *(_cell(found.scores.get(name)) for name in SHOWN)])  # fmt: skip
    asked = ", ".join(f"{family} {count}" for family, count in sorted(numbers["families"].items()))
    remarks = [
        f"{asked}; each asked alone, answers cut at {tokens} tokens. Texts are split at blanks (hermes) or by the PTB "
        "tokeniser (ptb); the two do not compare.",
        *sorted(notes),
        *(f"{name} is absent: {why}" for name, why in sorted(numbers["absent"].items())),
    ]
    head = ["", "tokeniser", "n", "missing", "empty", *SHOWN]
    return numbers, Block("Captions (descriptions and attention answers)", head, rows, remarks)


def _cell(score: Score | None) -> str:
    return "-" if score is None else Estimate(score.value, score.interval).text(1)
