"""Plans in words, and whether words agree with plans."""

import numpy as np
import pytest

from sparseoccvla_ros.core.types import Command, CommandSource, Plan, PlanStatus
from sparseoccvla_ros.planning.plan_words import agrees, driving_action, plan_action, with_action
from sparseoccvla_ros.planning.trajectory import motion_of


def straight(speeds):
    return np.stack([np.cumsum(speeds) * 0.5, np.zeros(6)], -1)


@pytest.mark.parametrize(
    ("speed", "speeds", "heading", "turns", "words"),
    [
        (0.0, [0.0] * 6, 0.0, True, "stay stopped"),
        (0.2, [0.5, 1, 1.5, 2, 2.5, 3], 0.0, True, "start"),
        (8.0, [6, 4, 2, 1, 0.2, 0], 0.0, True, "brake to a stop"),
        (8.0, [7, 6, 5, 5, 5, 5], 0.5, True, "slow down and turn left"),
        (5.0, [5] * 6, -0.4, False, "keep the speed and follow the bend to the right"),
        (5.0, [5, 5.5, 6, 6.5, 7, 7], -0.1, True, "speed up"),
    ],
)
def test_actions(speed, speeds, heading, turns, words):
    assert driving_action(speed, np.array(speeds, float), heading, turns) == words
    assert agrees(f"{words.capitalize()}, because a car comes from the left.", words)


def test_answers_that_say_something_else():
    assert agrees("Brake to a stop, because the light is red.", "stay stopped"), "both end standing"
    assert agrees("Slow down.", "brake to a stop") is False
    assert agrees("Keep the speed and turn right.", "keep the speed and turn left") is False
    assert agrees("Keep the speed.", "keep the speed and follow the bend to the left") is False
    assert agrees("There are two cars on the left.", "slow down") is None
    assert agrees("", "slow down") is None


def test_a_plan_is_told_before_the_question():
    moved = motion_of(straight([6, 5, 4, 3, 2, 1]), 7.0)
    plan = Plan(
        0, 0, moved.waypoints, moved.heading, moved.speed, moved.acceleration, np.zeros((0, 6, 2), np.float32),
        np.zeros(0, np.float32), -1, Command.LEFT, CommandSource.TOPIC, PlanStatus.OK,
    )  # fmt: skip
    assert plan_action(plan, 7.0) == "slow down"
    assert with_action("Why?", "slow down") == "The car is about to slow down. Why?"
    none = np.zeros(0, np.float32)
    rejected = Plan(
        0, 0, np.zeros((0, 2), np.float32), none, none, none, np.zeros((0, 6, 2), np.float32), none, -1,
        Command.LEFT, CommandSource.TOPIC, PlanStatus.REJECTED,
    )  # fmt: skip
    assert plan_action(rejected, 7.0) is None
