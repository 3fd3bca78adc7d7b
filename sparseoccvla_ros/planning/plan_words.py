"""A trajectory in words, and whether an answer's words agree with one.

Language model and planner speak of the same drive only if somebody compares them: the plan goes into a question's
context as words, and what an answer says of the next action is held against the plan.
"""

from __future__ import annotations

import re

import numpy as np

from ..core.types import Command, Plan, PlanStatus

ACTION_QUESTION = "What should the car do next, and why?"
"""What the language model is trained to answer with the next action and its reason."""
STOPPED, CHANGED = 0.5, 0.8
"""m/s below which the car stands, and by which its speed must change to slow down or speed up."""
TURNED = 0.2
"""Radians the heading changes within 3 s from which on the car turns."""
_SPEED = {
    "stay stopped": "stop", "brake to a stop": "stop", "slow down": "slow", "keep the speed": "keep",
    "speed up": "go", "start": "go",
}  # fmt: skip
_SPEED_WORDS = re.compile("|".join(rf"\b{words}\b" for words in _SPEED))
_SIDE = re.compile(r"\b(left|right)\b")


def driving_action(speed: float, speeds: np.ndarray, heading: float, turns: bool) -> str:
    """What a trajectory does, in few words: "slow down and turn left".

    speed: now, m/s; speeds: [6] m/s at core.types.WAYPOINT_TIMES; heading: radians after 3 s, left positive; turns:
    False where a change of heading is the street's own bend.
    """
    lowest, later = float(np.min(speeds)), float(speeds[-1])
    if speed < STOPPED:
        action = "stay stopped" if later < STOPPED + CHANGED else "start"
    elif lowest < speed - CHANGED:
        action = "brake to a stop" if lowest < STOPPED else "slow down"
    else:
        action = "speed up" if later > speed + CHANGED else "keep the speed"
    side = "left" if heading > TURNED else "right" if heading < -TURNED else ""
    if not side:
        return action
    return f"{action} and turn {side}" if turns else f"{action} and follow the bend to the {side}"


def plan_action(plan: Plan, speed: float) -> str | None:
    """`driving_action` of a plan from `speed` m/s; None for one without a trajectory."""
    if plan.status is PlanStatus.REJECTED:
        return None
    return driving_action(speed, plan.speed, float(plan.heading[-1]), plan.command is not Command.STRAIGHT)


def with_action(question: str, action: str) -> str:
    """The question with what the car is about to do before it, as the language model is trained to hear it."""
    return f"The car is about to {action}. {question}"


def agrees(text: str, action: str) -> bool | None:
    """Whether an answer names the action of a plan, speed and side alike; None where it names no change of speed.

    Only the words before a reason count: "Slow down, because a car comes from the left." turns nowhere.
    """
    said, done = _meaning(text), _meaning(action)
    return None if said is None else said == done


def _meaning(text: str) -> tuple[str, str] | None:
    clause = text.lower().split("because", 1)[0]
    speed, side = _SPEED_WORDS.search(clause), _SIDE.search(clause)
    return None if speed is None else (_SPEED[speed[0]], side[0] if side else "")
