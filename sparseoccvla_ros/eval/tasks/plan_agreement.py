"""Agreement between the answer about the next action and the driven plan.

The question is asked as on line, with the plan in its context, and again without: only the first should agree, the
second measures the language model alone. Reasons in the answers are checked against the scene graph.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...planning.plan_words import ACTION_QUESTION, agrees, with_action
from ...reasoning.model.reasoner import Reasoner
from ...world.qa.reasons import Surroundings, absent
from ..metrics.intervals import over_scenes
from ..report.tables import Block

TOLD, UNTOLD = "told the plan, as on line", "not told the plan"
ROWS = (TOLD, UNTOLD)
MAX_TOKENS = 32


@dataclass(frozen=True)
class Driven:
    """The plan of a moment in words (planning.plan_words), and what a reason may name (None if unknown)."""

    action: str
    there: Surroundings | None


def ask(reasoner: Reasoner, driven: Driven, seconds: float) -> dict[str, str | None]:
    """Returns the answers by row about the scene last passed to the reasoner; None after a time-out."""
    heard = {
        TOLD: with_action(ACTION_QUESTION, driven.action) if reasoner.plan_in_prompt else ACTION_QUESTION,
        UNTOLD: ACTION_QUESTION,
    }
    tokens = min(MAX_TOKENS, reasoner.config.max_tokens_limit)
    replies = reasoner.ask_batch(list(heard.values()), max_tokens=tokens, time_limit=seconds)
    return {
        row: None if reply.reason == "time_limit" else reply.text for row, reply in zip(heard, replies, strict=True)
    }


def result(
    driven: Mapping[str, Driven], scenes: Mapping[str, str], answers: Mapping[str, Mapping[str, str | None]]
) -> tuple[dict[str, Any], Block]:
    """Returns numbers and a table. driven, scenes: by id; answers: by row and id; one without an action disagrees."""
    numbers: dict[str, Any] = {"actions": dict(Counter(d.action for d in driven.values()))}
    rows = []
    for row in (r for r in ROWS if r in answers):
        said = {i: answers[row].get(i) or "" for i in driven}
        agreed = over_scenes(
            np.array([float(agrees(said[i], d.action) is True) for i, d in driven.items()]), [scenes[i] for i in driven]
        )
        reasons = {i: absent(said[i], d.there) for i, d in driven.items() if d.there is not None}
        named = {i: float(bool(found)) for i, found in reasons.items() if found is not None}
        missing = Counter(name for found in reasons.values() for name in found or ())
        wrong = over_scenes(np.array([*named.values()]), [scenes[i] for i in named])
        numbers[row] = {
            "n": len(driven), "agrees": agreed, "reasons": len(named), "reasons_absent": wrong, "absent": dict(missing),
        }  # fmt: skip
        what = ", ".join(f"{name} {count}" for name, count in missing.most_common(4))
        rows.append([row, str(len(driven)), agreed.text(), str(len(named)), wrong.text(), what])
    notes = [
        f'"{ACTION_QUESTION}": speed (speed up, keep, slow down, stop) and side, against the chosen plan; '
        "percent of moments [95 % bootstrap over scenes].",
        "A reason names something absent where the scene graph has no such thing (of reasons that name one).",
    ]
    head = ["", "n", "agrees with the plan", "reasons", "name something absent", "which"]
    return numbers, Block("Words and path", head, rows, notes)
