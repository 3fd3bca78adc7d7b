"""Every conversion is the inverse of its partner, and refuses what does not hold what it declares."""

import array
from dataclasses import replace

import numpy as np
import pytest
from geometry_msgs.msg import Pose
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rclpy.serialization import deserialize_message, serialize_message
from sparseoccvla_msgs.msg import SceneQueries as SceneQueriesMsg
from visualization_msgs.msg import MarkerArray

from sparseoccvla_ros.core import geometry
from sparseoccvla_ros.core.classes import LABEL, PALETTES
from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.types import (
    Command,
    CommandSource,
    EgoState,
    Plan,
    PlanStatus,
    Reasoning,
    SceneQueries,
    TrafficLight,
)
from sparseoccvla_ros.core.voxels import SparseVoxels
from sparseoccvla_ros.ros import markers, messages
from sparseoccvla_ros.ros.msg_utils import decode, stamp_of

EGO = EgoState(geometry.planar(3, -2, 0.7), np.arange(6.0), "map")


def through_dds(message):
    """As the other side of a topic sees it."""
    return deserialize_message(serialize_message(message), type(message))


def assert_same(a, b, skip=()):
    for name in a.__dataclass_fields__:
        left, right = getattr(a, name), getattr(b, name)
        if name in skip:
            continue
        if isinstance(left, np.ndarray):
            np.testing.assert_array_equal(left, right)
            assert left.dtype == right.dtype, name
        elif isinstance(left, EgoState):
            np.testing.assert_allclose(left.pose, right.pose, atol=1e-12)
            np.testing.assert_array_equal(left.twist, right.twist)
        elif name == "forecasts":
            for x, y in zip(left, right, strict=True):
                assert_same(x, y)
        elif isinstance(left, SparseVoxels):
            assert_same(left, right)
        else:
            assert left == right, name


def voxels(count=50, seed=0):
    r = np.random.default_rng(seed)
    index = r.integers(0, (200, 200, 16), (count, 3)).astype(np.int16)
    return SparseVoxels(index, r.integers(0, 17, count).astype(np.uint8), r.random(count, np.float32))


def plan(steps=6, status=PlanStatus.OK):
    r = np.random.default_rng(1)
    f = lambda *s: r.random(s, np.float32)  # noqa: E731
    return Plan(
        10**18 + 5, 3, f(steps, 2), f(steps), f(steps), f(steps), f(18, 6, 2), f(18), 4, Command.LEFT,
        CommandSource.TOPIC, status, "language+ego", ("skipped:speed",), True, trace=(("planning/planned", 7),),
    )  # fmt: skip


@given(
    hnp.arrays(
        st.sampled_from([np.float32, np.float64, np.uint8, np.int16, np.int64, np.bool_]),
        hnp.array_shapes(max_dims=4, max_side=5, min_side=0),
    )
)
@settings(max_examples=60)
def test_tensor_round_trip(values):
    back = messages.tensor_from_msg(through_dds(messages.tensor_to_msg(values)), "values")
    np.testing.assert_array_equal(values, back)
    assert back.dtype == values.dtype


def test_tensor_shares_memory():
    message = messages.tensor_to_msg(np.zeros(4, np.uint8))
    messages.tensor_from_msg(message, "x")[0] = 7
    assert message.data[0] == 7


def test_tensor_refuses_what_does_not_fit():
    message = messages.tensor_to_msg(np.zeros((2, 3), np.float32))
    message.shape = array.array("I", [2, 4])
    with pytest.raises(InvalidInput, match="features: 24 bytes"):
        messages.tensor_from_msg(message, "features")
    message.dtype = "object"
    with pytest.raises(InvalidInput, match="object"):
        messages.tensor_from_msg(message, "features")
    empty = messages.tensor_to_msg(np.zeros(0, np.float32))
    for shape in ([2**31, 2**31, 2**31, 0], [0] * 70):
        empty.shape = array.array("I", shape)
        with pytest.raises(InvalidInput, match="features"):
            messages.tensor_from_msg(empty, "features")


@pytest.mark.parametrize("raw", ["", "0001", "00010001", "0000007f", "0001ffff", "000100020000", "00010000ff"])
def test_a_message_shorter_than_it_says_is_not_given_to_fast_cdr(raw):
    """Fast CDR ends the process at those of four bytes."""
    data = bytes.fromhex(raw)
    with pytest.raises(InvalidInput, match="cdr"):
        decode(data, SceneQueriesMsg)
    with pytest.raises(InvalidInput, match="cdr"):
        stamp_of(data)


def test_decode_returns_what_was_serialised():
    message = messages.pose_to_msg(np.eye(4))
    assert decode(serialize_message(message), type(message)) == message


def test_frames_round_trip(frames):
    made = replace(frames(2), trace=(("camera_sync/received", 5), ("camera_sync/complete", 2**60)))
    assert_same(made, messages.frames_from_msg(through_dds(messages.frames_to_msg(made))))


def test_queries_round_trip():
    r = np.random.default_rng(0)
    q = SceneQueries(
        123456789012345678, 7, EGO, r.random((5, 8), np.float32), r.random((5, 3), np.float32),
        r.random((5, 4, 3), np.float32), r.integers(0, 17, (5, 4)).astype(np.uint8), r.random((5, 4), np.float32),
        r.random((12, 8), np.float32), ("CAM_BACK",), True,
    )  # fmt: skip
    assert_same(q, messages.queries_from_msg(through_dds(messages.queries_to_msg(q))))
    with_head = replace(q, voxels=voxels(12), traffic_light=TrafficLight("amber", 0.75, -2.5))
    assert_same(with_head, messages.queries_from_msg(through_dds(messages.queries_to_msg(with_head))))


def test_reasoning_round_trip():
    made = Reasoning(
        5 * 10**9, 1, np.ones(4, np.float32), np.zeros(18, np.float32), np.ones((2, 3), np.float32),
        (voxels(3), SparseVoxels.empty(), voxels(9)), "planned", "two cars ahead", False,
    )  # fmt: skip
    assert_same(made, messages.reasoning_from_msg(through_dds(messages.reasoning_to_msg(made))))


@pytest.mark.parametrize("steps", [0, 6])
def test_plan_round_trip(steps):
    assert_same(plan(steps), messages.plan_from_msg(through_dds(messages.plan_to_msg(plan(steps)))))


def test_plan_refuses_unknown_status():
    message = messages.plan_to_msg(plan())
    message.status = "fine"
    with pytest.raises(InvalidInput, match="fine"):
        messages.plan_from_msg(message)


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), min_size=7, max_size=7))
@settings(max_examples=100)
def test_pose_is_rigid_or_refused(numbers):
    message = Pose()
    message.position.x, message.position.y, message.position.z = numbers[:3]
    q = message.orientation
    q.x, q.y, q.z, q.w = numbers[3:]
    try:
        matrix = messages.pose_from_msg(message)
    except InvalidInput:
        return
    assert np.isfinite(matrix).all()
    np.testing.assert_allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3), atol=1e-9)


def test_path_and_trajectory_hold_the_plan():
    made = plan()
    path, trajectory = messages.path_to_msg(made), messages.trajectory_to_msg(made)
    assert [messages.nanoseconds(p.header.stamp) - made.stamp for p in path.poses] == [
        k * 500_000_000 for k in range(1, 7)
    ]
    speeds = [np.hypot(p.velocities[0].linear.x, p.velocities[0].linear.y) for p in trajectory.points]
    np.testing.assert_allclose(speeds, made.speed, rtol=1e-6)
    assert messages.path_to_msg(plan(0, PlanStatus.REJECTED)).poses == []


def test_cloud_holds_every_voxel_with_its_horizon(read_cloud):
    now, later = voxels(40, 1), voxels(30, 2)
    cloud = read_cloud(through_dds(messages.cloud_to_msg([(0.0, now), (2.0, later)], 10**9)))
    np.testing.assert_array_equal(np.stack([cloud["x"], cloud["y"], cloud["z"]], 1)[:40], now.centres())
    np.testing.assert_array_equal(cloud["label"], np.concatenate([now.labels, later.labels]))
    np.testing.assert_array_equal(cloud["horizon"], np.repeat(np.float32([0, 2]), [40, 30]))
    assert len(messages.cloud_to_msg([], 0).data) == 0


def test_grid_rows_run_along_y():
    car, road = LABEL["car"], LABEL["driveable_surface"]
    made = SparseVoxels(
        np.array([[150, 20, 3], [150, 20, 2], [10, 199, 2]], np.int16),
        np.array([car, road, road], np.uint8),
        np.ones(3, np.float32),
    )
    grid = messages.grid_to_msg(made, 0)
    cells = np.array(grid.data).reshape(200, 200)
    assert cells[20, 150] == 100
    assert cells[199, 10] == 0
    assert (cells == -1).sum() == 40000 - 2
    assert grid.info.origin.position.x == -40.0


@pytest.mark.parametrize("namespace", ["a", "occupancy", "forecast/1s"])
def test_spliced_marker_is_the_typed_one(namespace):
    made = voxels(500)
    raw = markers.cubes(made, 77, namespace, limit=10_000)
    marker = deserialize_message(raw, MarkerArray).markers[0]
    assert (marker.ns, marker.type, marker.header.frame_id, marker.frame_locked) == (namespace, 6, "base_link", False)
    np.testing.assert_allclose([(p.x, p.y, p.z) for p in marker.points], made.centres(), atol=1e-6)
    assert len(marker.colors) == 500
    assert marker.lifetime.sec == 3
    capped = deserialize_message(markers.cubes(made, 77, namespace, limit=100), MarkerArray).markers[0]
    assert len(capped.points) == 100


def test_nothing_to_show_removes_the_markers():
    message = markers.cubes(SparseVoxels.empty(), 5, "occupancy", 10)
    assert message.markers[0].action == 3  # DELETEALL
    empty = Plan(
        0, 0, *(np.zeros((0, *s), np.float32) for s in ((2,), (), (), ())), np.zeros((0, 6, 2), np.float32),
        np.zeros(0, np.float32), -1, Command.STRAIGHT, CommandSource.DEFAULT, PlanStatus.REJECTED,
    )  # fmt: skip
    assert markers.candidates(empty).markers[0].action == 3


def test_candidates_mark_the_chosen_one():
    made = plan()
    drawn = markers.candidates(made).markers
    assert [m.id for m in drawn] == list(range(18))
    widths = [m.scale.x for m in drawn]
    assert widths.index(max(widths)) == made.chosen


def test_vehicle_and_readout_travel_with_the_view_and_the_plan_does_not():
    made = plan()
    box, readout = markers.vehicle(made, 5.0, length=4.0, width=1.8, centre=1.5).markers
    assert (box.scale.x, box.scale.y, box.pose.position.x) == (4.0, 1.8, 1.5)
    for part in ("18 km/h", made.command.value, made.status.value):
        assert part in readout.text
    assert all(m.frame_locked and m.lifetime.sec == 3 for m in (box, readout))
    assert not any(m.frame_locked for m in markers.candidates(made).markers)


@pytest.mark.parametrize("palette", list(PALETTES))
def test_legend_shows_each_colour_of_a_palette_once(palette):
    drawn = markers.class_legend(palette, 0).markers
    assert len({m.id for m in drawn}) == len(drawn)
    shown = {tuple(round(255 * c) for c in (m.color.r, m.color.g, m.color.b)) for m in drawn if m.type == m.CUBE}
    assert shown == {tuple(c) for c in PALETTES[palette].tolist()}
    assert len(shown) == len(drawn) / 2


def test_points_take_the_palette(read_cloud):
    made = voxels(50)
    for palette in PALETTES.values():
        rgb = read_cloud(messages.cloud_to_msg([(0.0, made)], 0, palette))["rgb"].view("<u4")
        np.testing.assert_array_equal(np.stack([rgb >> 16, rgb >> 8 & 255, rgb & 255], 1), palette[made.labels])
