"""Red lights: where the vehicle has to stop, for how long a light is remembered, and that plans keep the line clear."""

from __future__ import annotations

import numpy as np
import pytest

from sparseoccvla_ros.core.classes import LABEL
from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.geometry import planar
from sparseoccvla_ros.core.types import Command, CommandSource, PlanStatus, TrafficLight
from sparseoccvla_ros.planning.obstacles.stop_line import GAIN, LARGEST, REMEMBERED, WAITED, StopLine

STAMP, S, FRONT = 1_700_000_000_000_000_000, 1_000_000_000, 3.5


def red(distance: float, colour: str = "red") -> TrafficLight:
    return TrafficLight(colour, 0.9, distance)


def test_a_red_line_stays_where_it_is_while_the_vehicle_comes_closer():
    line, speed = StopLine(8.0), 8.0
    for step in range(5):
        pose = planar(10.0 + speed * 0.5 * step, -3.0, 0.0)
        wrong = 1.5 if step % 2 else -1.5
        truth = 40.0 - speed * 0.5 * step
        found = line.ahead(STAMP + step * S // 2, 0, pose, speed, red(truth + wrong), FRONT)
        assert found == pytest.approx(truth, abs=1.5 + 1e-9)
    assert abs(found - truth) < 0.8, "less than each measurement"
    assert line.ahead(STAMP + 4 * S // 2, 0, pose, speed, red(truth + wrong), FRONT) == found, "asked again"
    outlier = line.ahead(STAMP + 5 * S // 2, 0, pose, speed, red(truth - 15.0), FRONT)
    assert abs(outlier - found) <= GAIN * LARGEST + 1e-9


def test_a_light_is_remembered_and_then_forgotten():
    line, pose = StopLine(8.0), planar(0.0, 0.0, 0.0)
    assert line.ahead(STAMP, 0, pose, 5.0, red(30.0), FRONT) == pytest.approx(30.0)
    later = STAMP + S
    assert line.ahead(later, 0, planar(5.0, 0.0, 0.0), 5.0, None, FRONT) == pytest.approx(25.0)
    assert line.ahead(STAMP + round(2.0 * REMEMBERED * S), 0, planar(6.0, 0.0, 0.0), 5.0, None, FRONT) is None
    assert line.ahead(later, 0, planar(5.0, 0.0, 0.0), 5.0, None, FRONT) is None, "time went back"
    line.ahead(STAMP, 0, pose, 5.0, red(30.0), FRONT)
    assert line.ahead(STAMP + 1, 1, pose, 5.0, None, FRONT) is None, "another epoch"


def test_the_remembered_light_is_judged_at_another_speed() -> None:
    line, pose = StopLine(8.0), planar(0.0, 0.0, 0.0)
    assert line.ahead(STAMP, 0, pose, 14.0, red(FRONT + 10.0), FRONT) is None, "too late to stop for it"
    assert line.at_speed(pose, 0.0, FRONT) == pytest.approx(FRONT + 10.0)
    assert line.at_speed(pose, 14.0, FRONT) is None
    assert StopLine(8.0).at_speed(pose, 0.0, FRONT) is None


def test_who_stands_at_the_line_waits_longer_for_a_hidden_light():
    line, pose = StopLine(8.0), planar(0.0, 0.0, 0.0)
    assert line.ahead(STAMP, 0, pose, 0.0, red(FRONT + 1.0), FRONT) is not None
    nearer = line.ahead(STAMP + S // 2, 0, pose, 0.0, red(FRONT - 4.0), FRONT)
    assert nearer is not None, "the line has not moved"
    for seconds in (2.0, 0.9 * WAITED):
        assert line.ahead(STAMP + S // 2 + round(seconds * S), 0, pose, 0.0, None, FRONT) == nearer
    assert line.ahead(STAMP + S // 2 + round(1.1 * WAITED * S), 0, pose, 0.0, None, FRONT) is None


def test_the_light_of_the_next_crossing_is_another_one():
    """Also when the first one is seen until the second one is."""
    line, speed = StopLine(8.0), 10.0
    for step in range(8):
        x = 0.5 * step * speed
        light = red(20.0 - x, "green") if step < 6 else red(70.0 - x)
        found = line.ahead(STAMP + step * S // 2, 0, planar(x, 0.0, 0.0), speed, light, FRONT)
    assert found == pytest.approx(70.0 - x)


def test_what_stopped_at_red_does_not_brake_harder_for_the_amber_after_green():
    line, pose = StopLine(8.0), planar(0.0, 0.0, 0.0)
    for k, (colour, speed) in enumerate((("red", 0.0), ("green", 0.0), ("green", 4.0))):
        line.ahead(STAMP + k * S // 2, 0, pose, speed, red(FRONT + 6.5, colour), FRONT)
    assert line.ahead(STAMP + 3 * S // 2, 0, pose, 8.0, red(FRONT + 6.5, "amber"), FRONT) is None


def test_nothing_is_asked_of_the_vehicle_that_its_brakes_cannot():
    pose, light = planar(0.0, 0.0, 0.0), red(FRONT + 11.0)
    assert StopLine(8.0).ahead(STAMP, 0, pose, 10.0, light, FRONT) is not None
    assert StopLine(3.0).ahead(STAMP, 0, pose, 10.0, light, FRONT) is None
    assert StopLine(8.0).ahead(STAMP, 0, pose, 10.0, red(1e30), FRONT) is None, "far away"


@pytest.mark.parametrize(
    ("colours", "stops"),
    [
        (("red",), (True,)),
        (("green", "amber", "red"), (False, True, True)),
        (("green", "red", "green", "green"), (False, False, False, False)),
        (("green", "red", "red"), (False, False, True)),
        (("red", "green", "red"), (True, True, True)),
        (("red", "green", "green"), (True, True, False)),
        (("amber", "green", "amber"), (True, True, True)),
        (("red", "green", "green", "amber"), (True, True, False, True)),
    ],
)
def test_a_colour_out_of_turn_must_be_seen_twice(colours, stops):
    line, pose = StopLine(8.0), planar(0.0, 0.0, 0.0)
    found = [line.ahead(STAMP + k * S // 2, 0, pose, 4.0, red(30.0, c), FRONT) for k, c in enumerate(colours)]
    assert tuple(f is not None for f in found) == stops


def test_green_passed_and_too_late_do_not_stop():
    pose = planar(0.0, 0.0, 0.0)
    for light, speed, stops in (
        (red(30.0, "green"), 8.0, False),
        (red(FRONT - 1.5), 3.0, False),
        (red(FRONT + 0.5), 0.0, True),
        (red(FRONT + 5.0), 10.0, False),
        (red(FRONT + 11.0), 10.0, True),
        (red(FRONT + 11.0, "amber"), 10.0, False),
        (red(FRONT + 25.0, "amber"), 10.0, True),
    ):
        found = StopLine(8.0).ahead(STAMP, 0, pose, speed, light, FRONT)
        assert (found is not None) == stops, (light, speed)


def test_who_is_stopping_goes_on_stopping():
    """Seen from 22 m an amber light can be stopped at; when the line then seems closer, it brakes a bit harder."""
    line = StopLine(8.0)
    assert line.ahead(STAMP, 0, planar(0.0, 0.0, 0.0), 10.0, red(FRONT + 22.0, "amber"), FRONT) is not None
    closer = planar(4.7, 0.0, 0.0)
    assert line.ahead(STAMP + S // 2, 0, closer, 8.7, red(FRONT + 9.0, "amber"), FRONT) is not None
    assert StopLine(8.0).ahead(STAMP, 0, closer, 8.7, red(FRONT + 9.0, "amber"), FRONT) is None


@pytest.mark.parametrize(
    "values", [("blue", 0.5, 3.0), ("red", 1.5, 3.0), ("red", float("nan"), 3.0), ("red", 0.5, np.inf)]
)
def test_nonsense_is_no_traffic_light(values):
    with pytest.raises(InvalidInput, match="traffic_light"):
        TrafficLight(*values)


def test_no_plan_crosses_a_red_line_and_green_lets_it_go(make_planner, make_queries, make_history, make_voxels):
    """From 12 m/s down to standing at the line, and for longer than the gate waits behind mere suppositions."""
    ground = np.stack(np.meshgrid(np.arange(2, 38, 0.8), np.arange(-4, 4, 0.8), [-0.2]), -1).reshape(-1, 3)
    voxels = make_voxels(ground, LABEL["driveable_surface"])
    for speed, distance, seconds in ((12.0, 30.0, 1.0), (6.0, 14.0, 1.0), (0.0, 4.6, 9.0), (0.0, 3.8, 9.0)):
        planner = make_planner(gate_forecasts=False)
        front = planner.limits.vehicle.front_m

        def plan(second: float, light: TrafficLight | None, planner=planner, speed=speed):
            queries = make_queries(speed=speed, stamp=STAMP + round(second * S), traffic_light=light)
            return planner.plan(queries, voxels, None, make_history(queries), Command.STRAIGHT, CommandSource.TOPIC)

        for second in np.arange(0.0, seconds, 0.5):
            held = plan(second, red(distance))
            assert "red_light" in held.reasons
            assert "resuming" not in held.reasons
            if held.status is not PlanStatus.BRAKING:
                assert held.waypoints[:, 0].max() + front <= distance + 0.3
        assert "red_light" in plan(seconds, red(distance, "green")).reasons, "once may be a mistake"
        free = plan(seconds + 0.5, red(distance, "green"))
        assert "red_light" not in free.reasons
        assert free.waypoints[-1, 0] >= held.waypoints[-1, 0]
        assert speed == 0.0 or free.waypoints[-1, 0] + front > distance
