"""Trajectory descriptions in words, and a check whether an answer agrees with one.

The plan's description is added to the language model's question, and the next action named in the answer is compared
with the plan, which detects contradictions between language model and planner.
"""

from __future__ import annotations

import re

import numpy as np

from ..core.types import Command, Plan, PlanStatus

ACTION_QUESTION = "What should the car do next, and why?"
"""Question that the language model is trained to answer with the next action and its reason."""
STOPPED, CHANGED = 0.5, 0.8
"""m/s below which the car is stopped, and minimum change of speed that counts as slowing down or speeding up."""
TURNED = 0.2
"""Minimum change of heading [rad] within 3 s that counts as a turn."""
_SPEED = {
    "stay stopped": "stop", "brake to a stop": "stop", "slow down": "slow", "keep the speed": "keep",
    "speed up": "go", "start": "go",
}  # fmt: skip
_SPEED_WORDS = re.compile("|".join(rf"\b{words}\b" for words in _SPEED))
_SIDE = re.compile(r"\b(left|right)\b")


def driving_action(speed: float, speeds: np.ndarray, heading: float, turns: bool) -> str:
    """Describe a trajectory in a few words, e.g. "slow down and turn left".

    speed: present m/s; speeds: [6] m/s at core.types.WAYPOINT_TIMES; heading: rad after 3 s, left positive; turns:
    False if a change of heading only follows a bend of the road.
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
    """Returns the `driving_action` of a plan from `speed` m/s, None for a rejected plan."""
    if plan.status is PlanStatus.REJECTED:
        return None
    return driving_action(speed, plan.speed, float(plan.heading[-1]), plan.command is not Command.STRAIGHT)


def with_action(question: str, action: str) -> str:
    """Prefix a question with the next action of the car, in the wording of the language model's training data."""
    return f"The car is about to {action}. {question}"


def agrees(text: str, action: str) -> bool | None:
    """Returns whether an answer names the action of a plan in both speed and side, None if it names no speed action.

    Only the text before "because" counts: "Slow down, because a car comes from the left." has no side.
    """
    said, done = _meaning(text), _meaning(action)
    return None if said is None else said == done


def _meaning(text: str) -> tuple[str, str] | None:
    clause = text.lower().split("because", 1)[0]
    speed, side = _SPEED_WORDS.search(clause), _SIDE.search(clause)
    return None if speed is None else (_SPEED[speed[0]], side[0] if side else "")
