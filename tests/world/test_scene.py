"""The drive: reproducible, on the road, without collisions, with a route that says where it goes."""

import numpy as np
import pytest

from sparseoccvla_ros.core.classes import LABEL
from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.geometry import apply, yaw_of
from sparseoccvla_ros.core.types import Command
from sparseoccvla_ros.world.agents.actors import EGO
from sparseoccvla_ros.world.scene import Scene

TIMES = np.arange(-1.0, 24.0, 0.5)


def body(length, width, centre, steps=9):
    """Points [N, 2] all over a rectangle."""
    x, y = np.meshgrid(np.linspace(-0.5, 0.5, steps) * length + centre, np.linspace(-0.5, 0.5, steps) * width)
    return np.stack([x.ravel(), y.ravel()], -1)


def placed(points, pose):
    c, s = np.cos(pose[2]), np.sin(pose[2])
    return points @ np.array([[c, s], [-s, c]]) + pose[:2]


@pytest.mark.slow
def test_a_seed_is_a_world(scene):
    again, other = Scene.generate(scene.seed), Scene.generate(scene.seed + 1)
    for time in (0.0, 7.3):
        one, two = scene.at(time), again.at(time)
        for a, b in ((one.fixed, two.fixed), (one.moving, two.moving)):
            assert all(np.array_equal(x, y) for x, y in zip(a.__dict__.values(), b.__dict__.values(), strict=True))
        np.testing.assert_array_equal(scene.ego.at(time)[0], again.ego.at(time)[0])
    assert len(other.fixed) != len(scene.fixed) or not np.array_equal(other.fixed.centre, scene.fixed.centre)


def test_ego_touches_nothing():
    scene = Scene.generate(4)
    corners = body(EGO.length_m, EGO.width_m, EGO.centre_m)
    others = [(p.shape, lambda _, pose=np.array(p.pose): pose) for p in scene.standing]
    others += [(m.shape, m.mover.pose) for m in scene.moving]
    for time in TIMES:
        pose, _ = scene.ego.at(float(time))
        here = placed(corners, np.array([pose[0, 3], pose[1, 3], yaw_of(pose)]))
        for shape, where in others:
            there = np.asarray(where(float(time)))
            if np.hypot(*(there[:2] - pose[:2, 3])) > 16.0:
                continue
            c, s = np.cos(there[2]), np.sin(there[2])
            local = (here - there[:2]) @ np.array([[c, -s], [s, c]]) - [shape.centre, 0.0]
            hit = (np.abs(local) < [0.5 * shape.length, 0.5 * shape.width]).all(-1)
            assert not hit.any(), f"{shape.name} at {time} s"


@pytest.mark.parametrize(("seed", "maneuver"), [(2, "left"), (72, "straight"), (35, "right")])
def test_ego_stays_on_the_road_and_goes_where_it_is_told(seed, maneuver):
    scene = Scene.generate(seed, maneuver=maneuver)
    corners = body(EGO.length_m, EGO.width_m, EGO.centre_m)
    corners = np.concatenate([corners, np.zeros((len(corners), 1))], -1)
    turned = 0.0
    commands = []
    for time in np.arange(0, 24.0, 0.5):
        pose, twist = scene.ego.at(float(time))
        ground = apply(pose, corners)[:, :2]
        assert (scene.streets.label(ground) == LABEL["driveable_surface"]).all(), time
        assert 0.0 <= twist[0] < 14.0
        assert abs(twist[0] * twist[5]) < 3.5
        turned += twist[5] * 0.5
        commands.append(scene.ego.command(float(time)))
    want = {"left": Command.LEFT, "straight": Command.STRAIGHT, "right": Command.RIGHT}[maneuver]
    assert want in commands
    if maneuver != "straight":
        heading = np.degrees(yaw_of(scene.ego.at(24.0)[0]))
        assert (heading > 20) if maneuver == "left" else (heading < -20)
    else:
        assert abs(turned) < 0.05


def test_twist_is_the_derivative_of_the_pose(scene):
    step = 0.01
    for time in np.arange(0.55, 20.0, 1.0):
        before, after = scene.ego.at(time - step)[0], scene.ego.at(time + step)[0]
        pose, twist = scene.ego.at(time)
        velocity = (after[:2, 3] - before[:2, 3]) / (2 * step)
        forward = velocity @ pose[:2, 0]
        turn = np.angle(np.exp(1j * (yaw_of(after) - yaw_of(before)))) / (2 * step)
        assert forward == pytest.approx(twist[0], abs=0.05)
        assert abs(velocity @ pose[:2, 1]) < 0.08
        assert turn == pytest.approx(twist[5], abs=0.03)


def test_speed_changes_as_a_driver_would(scene):
    speeds = np.array([scene.ego.at(t)[1][0] for t in np.arange(0, 20.0, 0.1)])
    assert speeds.min() < 1.5, "it slows down for the red light"
    assert speeds.max() > 7.5, "it drives at town speed"
    assert np.abs(np.diff(speeds)).max() / 0.1 < 5.0


def test_movers_do_not_hit_one_another(scene):
    for time in np.arange(0, 20.0, 1.0):
        poses = [m.mover.pose(float(time)) for m in scene.moving]
        for i, a in enumerate(scene.moving):
            points = placed(body(a.shape.length, a.shape.width, 0.0, 5), poses[i])
            for j, b in enumerate(scene.moving):
                if i == j or np.hypot(*(poses[i][:2] - poses[j][:2])) > 13.0:
                    continue
                c, s = np.cos(poses[j][2]), np.sin(poses[j][2])
                local = (points - poses[j][:2]) @ np.array([[c, -s], [s, c]])
                inside = (np.abs(local) < [0.5 * b.shape.length, 0.5 * b.shape.width]).all(-1)
                assert not inside.any(), f"{a.shape.name} in {b.shape.name} at {time}"


def test_only_moving_things_move(scene):
    early, late = scene.at(0.0), scene.at(8.0)
    assert np.array_equal(early.fixed.centre, late.fixed.centre)
    moved = np.linalg.norm(early.moving.centre - late.moving.centre, axis=-1)
    assert (moved > 5.0).mean() > 0.3
    lit = (early.fixed.colour != late.fixed.colour).any(-1)
    assert 4 <= int(lit.sum()) <= 24, "only signal lamps change colour"


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"seed": -1}, "seed"),
        ({"seed": 1, "seconds": 0.1}, "seconds"),
        ({"seed": 1, "seconds": 90.0}, "seconds"),
        ({"seed": 1, "maneuver": "up"}, "maneuver"),
    ],
)
def test_bad_requests_are_named(arguments, field):
    with pytest.raises(InvalidInput) as caught:
        Scene.generate(**arguments)
    assert caught.value.field == field


def test_drive_has_an_end(scene):
    with pytest.raises(InvalidInput, match="outside the drive"):
        scene.ego.at(27.0)
