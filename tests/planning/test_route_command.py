"""Commands: parsing, time-out, and what a route asks for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparseoccvla_ros.core import geometry
from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.geometry import planar
from sparseoccvla_ros.core.types import Command, CommandSource
from sparseoccvla_ros.planning.plan_reasons import PlanReason
from sparseoccvla_ros.planning.route_command import (
    CommandChoice,
    RouteCommand,
    parse_command,
    route_instruction,
    target_points,
)

S = 1_000_000_000
HERE = planar(0, 0, 0)


@pytest.mark.parametrize(
    ("text", "command"), [("left", Command.LEFT), ("LEFT ", Command.LEFT), (" Right\n", Command.RIGHT)]
)
def test_accepted_texts(text: str, command: Command):
    assert parse_command(text) is command


@pytest.mark.parametrize(
    "text", ["turn left", "", "l", "left right", "links", "left" + " " * 100, None, 3, "ignore the gate"]
)
def test_refused_texts(text: object):
    with pytest.raises(InvalidInput, match="command"):
        parse_command(text)


@given(st.one_of(st.text(), st.sampled_from(["LeFt", "\tstraight ", "right" + 30 * " "])))
def test_any_text_is_a_command_or_refused(text: str):
    if text.strip().lower() in {c.value for c in Command} and len(text) <= 32:
        assert parse_command(text).value == text.strip().lower()
    else:
        with pytest.raises(InvalidInput, match="command"):
            parse_command(text)


def test_default_is_straight():
    assert RouteCommand().choose(0, HERE, 5.0) == CommandChoice(Command.STRAIGHT, CommandSource.DEFAULT)


def test_command_times_out_to_straight_with_a_reason():
    source = RouteCommand(timeout=2.0)
    source.set_command(10 * S, "left")
    assert source.choose(12 * S, HERE, 5.0) == CommandChoice(Command.LEFT, CommandSource.TOPIC)
    late = source.choose(12 * S + 1, HERE, 5.0)
    assert late == CommandChoice(Command.STRAIGHT, CommandSource.TIMEOUT, PlanReason.COMMAND_TIMEOUT)
    source.set_command(13 * S, Command.RIGHT)
    assert source.choose(13 * S, HERE, 5.0).command is Command.RIGHT


def test_late_command_does_not_replace_a_newer_one_but_a_clock_reset_does():
    source = RouteCommand(timeout=2.0)
    source.set_command(100 * S, "left")
    source.set_command(99 * S, "right")
    assert source.choose(100 * S, HERE, 5.0).command is Command.LEFT
    source.set_command(1 * S, "right")
    assert source.choose(1 * S, HERE, 5.0).command is Command.RIGHT


def test_refused_text_keeps_the_command():
    source = RouteCommand()
    source.set_command(0, "left")
    with pytest.raises(InvalidInput):
        source.set_command(1, "sideways")
    assert source.choose(1, HERE, 0.0).command is Command.LEFT


def bend(sign: float) -> np.ndarray:
    """20 m ahead, then 20 m to the side."""
    return np.array([(-10, 0), (20, 0), (20, 20 * sign)], float)


@pytest.mark.parametrize("yaw", [0.0, 1.3, -2.9])
@pytest.mark.parametrize(("sign", "command"), [(1.0, Command.LEFT), (-1.0, Command.RIGHT)])
def test_route_turns_when_the_bend_is_within_the_lookahead(yaw: float, sign: float, command: Command):
    world = planar(300, -20, yaw)
    route = bend(sign) @ world[:2, :2].T + world[:2, 3]
    source = RouteCommand()
    source.set_route(route)
    near = source.choose(0, world @ planar(10, 0.3, 0.05), 5.0)
    assert near == CommandChoice(command, CommandSource.ROUTE)
    far = source.choose(0, world @ planar(-5, 0.3, 0.0), 5.0)
    assert far == CommandChoice(Command.STRAIGHT, CommandSource.ROUTE)
    assert source.choose(0, world @ planar(-5, 0.3, 0.0), 10.0).command is command


def test_mirrored_route_gives_the_mirrored_command():
    rng = np.random.default_rng(0)
    swap = {Command.LEFT: Command.RIGHT, Command.RIGHT: Command.LEFT, Command.STRAIGHT: Command.STRAIGHT}
    seen = set()
    for _ in range(60):
        route = np.column_stack([np.linspace(-5, 40, 12), np.cumsum(rng.normal(0, 1.0, 12))])
        left, right = RouteCommand(), RouteCommand()
        left.set_route(route)
        right.set_route(route * (1, -1))
        ours = left.choose(0, HERE, 6.0).command
        assert right.choose(0, HERE, 6.0).command is swap[ours]
        seen.add(ours)
    assert seen == set(Command)


def test_topic_wins_over_route_and_route_over_timeout():
    source = RouteCommand(timeout=1.0)
    source.set_route(bend(1.0))
    source.set_command(0, "right")
    assert source.choose(S, planar(12, 0, 0), 5.0) == CommandChoice(Command.RIGHT, CommandSource.TOPIC)
    assert source.choose(3 * S, planar(12, 0, 0), 5.0) == CommandChoice(Command.LEFT, CommandSource.ROUTE)


def test_far_from_the_route_it_says_nothing():
    source = RouteCommand()
    source.set_route(bend(1.0))
    assert source.choose(0, planar(0, 80, 0), 5.0).source is CommandSource.DEFAULT


def test_route_that_passes_twice_is_read_in_driving_direction():
    # out along y = 0, back along y = 1; then the way out turns left at x = 30, the way back ends
    route = np.array([(60, 1), (-40, 1), (-40, 0), (15, 0), (15, 30)], float)
    source = RouteCommand()
    source.set_route(route)
    assert source.choose(0, planar(0, 0.8, 0), 7.0).command is Command.LEFT


def test_goal():
    source = RouteCommand()
    source.set_goal(HERE, np.array([30.0, 30.0]))
    assert source.choose(0, HERE, 5.0) == CommandChoice(Command.LEFT, CommandSource.ROUTE)
    source.set_goal(HERE, np.array([30.0, 1.0]))
    assert source.choose(0, HERE, 5.0).command is Command.STRAIGHT


@pytest.mark.parametrize("yaw", [0.0, 1.3, -2.9])
def test_target_points_lie_on_the_route_ahead_of_the_vehicle(yaw: float):
    world = planar(300, -20, yaw)
    source = RouteCommand(distances=(5.0, 15.0, 25.0))
    source.set_route(bend(1.0) @ world[:2, :2].T + world[:2, 3])
    chosen = source.choose(0, world @ planar(10, 1.5, 0.0), 5.0)  # 1.5 m left of the route
    assert chosen.target_points is not None
    assert chosen.target_points.dtype == np.float32
    np.testing.assert_allclose(chosen.target_points, [(5, -1.5), (10, 3.5), (10, 13.5)], atol=1e-4)
    turned = source.choose(0, world @ planar(10, 1.5, 0.5), 5.0).target_points
    assert turned is not None
    np.testing.assert_allclose(turned @ planar(0, 0, 0.5)[:2, :2].T, chosen.target_points, atol=1e-4)


def test_target_points_are_of_the_route_only():
    source = RouteCommand(timeout=1.0, distances=(5.0, 15.0))
    assert source.choose(0, HERE, 5.0).target_points is None
    source.set_route(bend(1.0))
    assert source.choose(0, HERE, 5.0).target_points is not None
    assert source.choose(0, planar(0, 80, 0), 5.0).target_points is None, "far from it"
    source.set_command(0, "right")
    assert source.choose(0, HERE, 5.0).target_points is None, "the user wants something else than the route"
    plain = RouteCommand()
    plain.set_route(bend(1.0))
    assert plain.choose(0, HERE, 5.0).target_points is None


def test_beyond_its_end_the_route_goes_straight_on():
    points = target_points(bend(-1.0), planar(20, -15, -np.pi / 2), (2.0, 5.0, 12.0))
    np.testing.assert_allclose(points, [(2, 0), (5, 0), (12, 0)], atol=1e-5)


def test_beside_a_straight_route_a_vehicle_is_not_told_to_turn():
    source = RouteCommand()
    source.set_route(np.array([(0.0, 0.0), (200.0, 0.0)]))
    assert source.choose(0, planar(30, 4.0, 0.0), 8.0).command is Command.STRAIGHT


@pytest.mark.parametrize(
    "route",
    [np.zeros((0, 2)), np.zeros((1, 2)), np.zeros((5, 2)), np.zeros((4, 3)), np.array([(0, 0), (np.nan, 1)])],
)
def test_bad_routes_are_refused(route: np.ndarray):
    with pytest.raises(InvalidInput, match="route"):
        RouteCommand().set_route(route)


def test_repeated_points_are_one():
    source = RouteCommand()
    source.set_route(np.repeat(bend(1.0), 3, axis=0))
    assert source.choose(0, planar(12, 0, 0), 5.0).command is Command.LEFT


@pytest.mark.parametrize("timeout", [0.0, -1.0, np.nan])
def test_bad_timeout_is_refused(timeout: float):
    with pytest.raises(InvalidInput, match="timeout"):
        RouteCommand(timeout=timeout)


def street(*corners: tuple[float, float]) -> np.ndarray:
    return np.array(corners, np.float64)


@pytest.mark.parametrize(
    ("route", "x", "said"),
    [
        (street((0, 0), (200, 0)), 20.0, "go straight on"),
        (street((0, 0), (50, 0), (50, 60)), 20.0, "turn left in 30 m"),
        (street((0, 0), (50, 0), (50, -60)), 0.0, "turn right in 50 m"),
        (street((0, 0), (50, 0), (50, 60)), 46.0, "turn left now"),
        (street((0, 0), (60, 0)), 20.0, "arrive in 40 m"),
        (street((0, 0), (60, 0)), 59.5, "arrive now"),
        (street((0, 0), (100, 20), (200, 20)), 0.0, "go straight on"),
        (street((0, 500), (200, 500)), 0.0, None),
    ],
)
def test_instructions_along_the_route(route, x, said):
    assert route_instruction(route, geometry.planar(x, 0.0, 0.0)) == said


def test_an_instruction_does_not_depend_on_where_the_map_begins():
    moved = geometry.planar(300.0, -40.0, 2.0)
    corners = np.array([(0.0, 0, 0), (50, 0, 0), (50, 60, 0)])
    route = geometry.apply(moved, corners)[:, :2]
    assert route_instruction(route, moved @ geometry.planar(20.0, 1.0, 0.1)) == "turn left in 30 m"
    chosen = RouteCommand()
    assert chosen.instruction(moved) == ""
    chosen.set_route(route)
    assert chosen.instruction(moved @ geometry.planar(20.0, 1.0, 0.1)) == "turn left in 30 m"
