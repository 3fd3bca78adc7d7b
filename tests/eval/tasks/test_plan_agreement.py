"""Agreement of words and path is counted over all moments, and reasons over those that name something."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from sparseoccvla_ros.eval.tasks.language import LanguageTask, QuestionedMoment
from sparseoccvla_ros.eval.tasks.plan_agreement import TOLD, UNTOLD, Driven, ask, result
from sparseoccvla_ros.planning.plan_words import ACTION_QUESTION
from sparseoccvla_ros.world.qa.questions import Question
from sparseoccvla_ros.world.qa.reasons import Surroundings

EMPTY = Surroundings(frozenset(), frozenset(), None, False, False)


def test_answers_are_held_against_plan_and_scene() -> None:
    driven = {"a/1": Driven("slow down", EMPTY), "a/2": Driven("keep the speed", EMPTY), "b/1": Driven("start", None)}
    said = {
        TOLD: {"a/1": "Slow down, because a car is 5 m ahead.", "a/2": "Keep the speed.", "b/1": None},
        UNTOLD: {"a/1": "Start.", "a/2": "Keep the speed, because the road is free.", "b/1": "Start."},
    }
    numbers, block = result(driven, {"a/1": "a", "a/2": "a", "b/1": "b"}, said)
    assert numbers[TOLD]["agrees"].value == pytest.approx(2 / 3)
    assert numbers[UNTOLD]["agrees"].value == pytest.approx(2 / 3)
    assert numbers[TOLD]["reasons"] == 1
    assert numbers[TOLD]["reasons_absent"].value == 1.0
    assert numbers[TOLD]["absent"] == {"car": 1}
    assert numbers[UNTOLD]["reasons"] == 0
    assert [row[0] for row in block.rows] == [TOLD, UNTOLD]


@dataclass
class Reply:
    text: str
    reason: str = "end"


class Reasoner:
    plan_in_prompt = True
    config = type("Config", (), {"max_tokens_limit": 9})

    def ask_batch(self, questions: list[str], max_tokens: int, time_limit: float) -> list[Reply]:
        assert max_tokens == 9
        return [Reply(q) for q in questions]


def test_the_plan_is_in_the_context_as_on_line() -> None:
    told = ask(Reasoner(), Driven("slow down", None), 5.0)  # type: ignore[arg-type]
    assert told == {TOLD: f"The car is about to slow down. {ACTION_QUESTION}", UNTOLD: ACTION_QUESTION}


def test_they_do_not_mix_with_closed_questions() -> None:
    task = LanguageTask()
    question = Question("conv", "yes_no", "exists/car/ahead", "Is there a car ahead?", "Yes.", True)
    task.add(QuestionedMoment("a", "a/1", (question,), None, None, driven=Driven("start", EMPTY)))
    task.take({"seeing": {"a/1/0": "Yes."}, TOLD: {"a/1": "Start."}})
    numbers, blocks = task.result(None)
    assert numbers["plan"][TOLD]["agrees"].value == 1.0
    assert set(numbers["rows"]) == {"seeing"}
    assert [b.title for b in blocks] == ["Answers", "Words and path"]
