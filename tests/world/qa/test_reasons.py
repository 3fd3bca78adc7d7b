"""A reason is held against what is there; the world's own answers never name what is not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sparseoccvla_ros.planning.plan_words import ACTION_QUESTION
from sparseoccvla_ros.world.qa.counterfactuals import advice
from sparseoccvla_ros.world.qa.questions import templates
from sparseoccvla_ros.world.qa.reasons import Surroundings, absent
from sparseoccvla_ros.world.qa.scene_relations import SceneView

STREET = Surroundings(frozenset({"car", "cyclist"}), frozenset({"car", "cyclist", "bus"}), "red", True, False)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Slow down, because a car is 10 m ahead.", []),
        ("Slow down, because a bus is 10 m ahead.", ["bus"]),
        ("Keep the speed, because the bus is far.", []),
        ("Stop, because two buses are behind.", []),
        ("Slow down, because a pedestrian crosses the road.", ["pedestrian"]),
        ("Slow down, because a bicycle is ahead.", []),
        ("Stay stopped, because the light is red.", []),
        ("Start, because the light is green.", ["light"]),
        ("Stop, because of the traffic light and a truck.", ["truck"]),
        ("Slow down, because a junction is ahead.", []),
        ("Slow down, because the road bends.", ["bend"]),
        ("Keep the speed, because the road is free.", None),
        ("Slow down.", None),
        ("", None),
        ("A pedestrian, because \x00", None),
    ],
)
def test_named_things_are_looked_up(text: str, wanted: list[str] | None) -> None:
    assert absent(text, STREET) == wanted


def test_a_light_that_no_camera_shows_is_absent() -> None:
    dark = replace(STREET, light=None, junction=False)
    assert absent("Stop, because the light is red.", dark) == ["light"]
    assert absent("Slow down, because a junction is ahead.", dark) == ["junction"]


def test_the_worlds_own_reasons_name_what_is_there(scene) -> None:
    named = 0
    for time in (1.0, 4.0, 9.0):
        view = SceneView(scene, time)
        told = advice(view)
        if told is not None:
            found = absent(f"{told.action}, because {told.reason}.", Surroundings.of(view))
            named += found is not None
            assert not found, told
    assert named
    assert ACTION_QUESTION in templates()["questions"]["action"]["texts"]
