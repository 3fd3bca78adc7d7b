"""Boxes, drivable area, the driven trajectory and the future describe one and the same world."""

import dataclasses

import numpy as np
import pytest

from sparseoccvla_ros.core.classes import LABEL
from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.geometry import apply, inverse, planar, yaw_of
from sparseoccvla_ros.core.types import WAYPOINT_TIMES
from sparseoccvla_ros.core.voxels import OCC3D_GRID
from sparseoccvla_ros.planning.trajectory import SWEEP_TIMES
from sparseoccvla_ros.world.agents.actors import Moving
from sparseoccvla_ros.world.agents.traffic import overlap, walk
from sparseoccvla_ros.world.labels import annotations
from sparseoccvla_ros.world.labels.occupancy import dense_labels
from sparseoccvla_ros.world.roads.curves import Curve
from sparseoccvla_ros.world.scene import Scene
from sparseoccvla_ros.world.shapes.solids import Primitives

TIME = 4.0
ACCELERATE, BRAKE, LATERAL = 2.40, 4.05, 4.89
"""Highest comfortable accelerations in m/s^2 (nuPlan's comfort metric, Caesar et al. 2021)."""


@pytest.fixture(scope="module")
def static(scene):
    """The scene with one person in it, who stands far away, and nothing else that moves."""
    far = Curve(np.array([[140.0, 60.0], [141.0, 60.0]]), np.zeros(2))
    person = next(m for m in scene.moving if m.shape.name == "pedestrian")
    stands = Moving(person.shape, walk(far, 0.0, 0.0, 0.0, scene.duration + 8))
    return Scene(scene.seed, scene.streets, scene.standing, [stands], scene.ego, scene.signals, scene.maneuver)


def corners_of(parts: Primitives) -> np.ndarray:
    """Corners float32 [P, 8, 3] of each primitive's oriented bounding box in the map frame."""
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float32)
    local = parts.half[:, None] * signs
    c, s = np.cos(parts.yaw)[:, None], np.sin(parts.yaw)[:, None]
    turned = np.stack([c * local[..., 0] - s * local[..., 1], s * local[..., 0] + c * local[..., 1], local[..., 2]], -1)
    return turned + parts.centre[:, None]


def test_boxes_hold_their_primitives_and_voxels(scene):
    """Every annotated thing's parts lie in its box, and every voxel of a movable class lies in some box."""
    frame = scene.ego.at(TIME)[0]
    boxes = annotations.boxes(scene, TIME)
    state = scene.at(TIME)
    tried = 0
    for row in range(len(boxes)):
        for table in (state.fixed, state.moving):
            parts = table[table.owner == int(boxes.instance[row])]
            if not len(parts):
                continue
            assert (parts.label == int(boxes.label[row])).all()
            corners = apply(inverse(frame), corners_of(parts).reshape(-1, 3).astype(np.float64))
            local = apply(inverse(planar(*boxes.centre[row, :2], boxes.yaw[row])), corners)
            local[:, 2] -= boxes.centre[row, 2]
            # Mirrors and bumpers may stick out of the footprint by a hand's width.
            assert (np.abs(local) <= 0.5 * boxes.size[row] + 0.16).all(), boxes.label[row]
            tried += 1
    assert tried == len(boxes) > 50
    dense = dense_labels(scene, TIME, frame)
    near = annotations.boxes(scene, TIME, reach=70.0)
    for label in sorted({int(v) for v in near.label}):
        points = OCC3D_GRID.centre_of(np.argwhere(dense == label)).astype(np.float64)
        inside = np.zeros(len(points), bool)
        for row in np.flatnonzero(near.label == label):
            local = apply(inverse(planar(*near.centre[row, :2], near.yaw[row])), points)[:, :2]
            inside |= (np.abs(local) <= 0.5 * near.size[row, :2] + 0.3).all(-1)
        assert inside.all(), label


def test_velocity_is_the_motion_over_ground(scene):
    frame, dt = scene.ego.at(TIME)[0], 0.02
    before, after = (annotations.boxes(scene, TIME + d, frame) for d in (-dt, dt))
    here = annotations.boxes(scene, TIME, frame)
    moved = (after.centre[:, :2] - before.centre[:, :2]) / (2 * dt)
    assert np.abs(moved - here.velocity).max() < 0.25
    speed = np.hypot(*here.velocity.T)
    assert (speed > 3).sum() >= 3
    for attribute, rate in zip(here.attributes, speed, strict=True):
        if attribute.endswith(".moving"):
            assert rate > annotations.MOVING_SPEED
        if attribute.endswith((".standing", ".stopped", ".parked")):
            assert rate <= annotations.MOVING_SPEED


def test_distance_is_that_of_the_nearest_point():
    box = annotations.Boxes(
        np.array([[10.0, 0, 0.5], [0, 0, 0.5], [3, 4, 0.5]], np.float32), np.array([[4.0, 2, 1]] * 3, np.float32),
        np.array([np.pi / 2, 0.3, 0.0], np.float32), np.zeros((3, 2), np.float32), np.zeros(3, np.uint8), np.arange(3),
        ("", "", ""),
    )  # fmt: skip
    np.testing.assert_allclose(box.distance(), [9.0, 0.0, np.hypot(1, 3)], atol=1e-6)
    assert box[np.array([False, True, True])].instance.tolist() == [1, 2]


def test_future_boxes_keep_their_instances(scene):
    futures = annotations.future_boxes(scene, TIME)
    now = annotations.boxes(scene, TIME)
    assert len(futures) == 6
    for later in futures:
        np.testing.assert_array_equal(later.instance, now.instance)
        still = np.array([a == "vehicle.parked" for a in now.attributes])
        np.testing.assert_allclose(later.centre[still], now.centre[still], atol=1e-5)


def test_drivable_area_is_the_road_of_the_labels(scene):
    frame = scene.ego.at(TIME)[0]
    coarse = annotations.drivable_area(scene, frame, size=0.4)
    ground = dense_labels(scene, TIME, frame)[:, :, 2]
    flat = ground >= LABEL["driveable_surface"]
    flat &= ground <= LABEL["terrain"]
    assert (coarse == (ground == LABEL["driveable_surface"]))[flat].mean() > 0.9999
    fine = annotations.drivable_area(scene, frame)
    assert fine.shape == (400, 400)
    assert fine.reshape(200, 2, 200, 2).mean((1, 3))[coarse].mean() > 0.97
    with pytest.raises(InvalidInput, match="raster"):
        annotations.drivable_area(scene, frame, upper=(-40.0, 0.0))


def test_expert_drives_without_collision_and_in_comfort(scene):
    mover = scene.ego.mover
    for time in np.arange(0.0, scene.duration, 1.5):
        drive = annotations.expert(scene, float(time))
        assert annotations.first_contact(scene, float(time), drive.sweep) is None
        along, speed = mover.motion(time + SWEEP_TIMES)
        forces = np.gradient(speed, SWEEP_TIMES)
        assert forces.min() >= -BRAKE
        assert forces.max() <= ACCELERATE
        assert (speed**2 * np.abs([float(mover.path.curvature_at(s)) for s in along])).max() <= LATERAL
        # The waypoints are the poses of the drive itself, by another way round.
        for k, dt in enumerate(WAYPOINT_TIMES):
            pose = inverse(scene.ego.at(time)[0]) @ scene.ego.at(time + dt)[0]
            np.testing.assert_allclose(pose[:2, 3], drive.waypoints[k], atol=1e-4)
            assert yaw_of(pose) == pytest.approx(drive.heading[k], abs=1e-5)
        travelled = np.linalg.norm(np.diff(drive.sweep[:, :2], axis=0, prepend=np.zeros((1, 2))), axis=1).sum()
        speeds = np.concatenate([[scene.ego.at(time)[1][0]], drive.speed])
        assert travelled == pytest.approx(0.5 * (0.5 * (speeds[1:] + speeds[:-1])).sum(), abs=0.1)


def test_contact_is_found_where_a_thing_stands(scene):
    """Driven straight at the nearest parked or standing thing, the body touches it, and not before it gets there."""
    boxes = annotations.boxes(scene, TIME)
    parked = boxes[np.array([a in ("vehicle.parked", "cycle.without_rider") for a in boxes.attributes])]
    target = int(parked.distance().argmin())
    x, y = parked.centre[target, :2]
    yaw = np.arctan2(y, x)
    share = np.linspace(1 / 30, 1, 30)[:, None]
    sweep = np.concatenate([share * (x, y), np.full((30, 1), yaw)], 1)
    contact = annotations.first_contact(scene, TIME, sweep)
    assert contact is not None
    step = round(contact.seconds * 10)
    assert contact.instance < len(scene.standing) + len(scene.moving)
    things = annotations.boxes(scene, TIME + contact.seconds, scene.ego.at(TIME)[0])
    if contact.instance in things.instance:
        hit = things.plans[int(np.flatnonzero(things.instance == contact.instance)[0])]
        assert overlap(annotations.ego_plan(sweep[step - 1]), hit, 0.2)
    assert annotations.first_contact(scene, TIME, 0.0 * sweep) is None, "nothing stands where the ego stands"
    with pytest.raises(InvalidInput, match="sweep"):
        annotations.first_contact(scene, TIME, sweep[:6])


def test_future_of_a_static_world_is_the_present_moved(static):
    """In the present frame the labels of six half-seconds on are those of now."""
    now = dense_labels(static, TIME, static.ego.at(TIME)[0])
    drive = annotations.expert(static, TIME)
    futures = annotations.future_occupancy(static, TIME)
    afresh = annotations.future_occupancy(static, TIME, present=True)
    assert futures.shape == (6, *OCC3D_GRID.shape)
    moved = np.hypot(*drive.waypoints[-1])
    assert moved > 2.0, "a car that stands would prove nothing"
    for k in range(6):
        # In the present frame a static world does not change at all.
        np.testing.assert_array_equal(afresh[k], now)


def test_moving_things_are_where_their_future_boxes_are(scene):
    """Occupied voxels of vehicles at +1 s lie in the boxes of +1 s."""
    later = annotations.future_occupancy(scene, TIME, present=True, steps=[2])[0]
    boxes = annotations.future_boxes(scene, TIME)[1]
    points = OCC3D_GRID.centre_of(np.argwhere(later == LABEL["car"])).astype(np.float64)
    inside = np.zeros(len(points), bool)
    for row in np.flatnonzero(boxes.label == LABEL["car"]):
        local = apply(inverse(planar(*boxes.centre[row, :2], boxes.yaw[row])), points)[:, :2]
        inside |= (np.abs(local) <= 0.5 * boxes.size[row, :2] + 0.3).all(-1)
    assert len(points) > 50
    assert inside.all()


@pytest.mark.slow
def test_the_same_seed_gives_the_same_annotations():
    one, two = Scene.generate(14, 6.0), Scene.generate(14, 6.0)
    for a, b in ((annotations.boxes(one, 2.0), annotations.boxes(two, 2.0)),):
        for field in dataclasses.fields(a):
            np.testing.assert_array_equal(getattr(a, field.name), getattr(b, field.name))
    np.testing.assert_array_equal(annotations.expert(one, 2.0).sweep, annotations.expert(two, 2.0).sweep)
