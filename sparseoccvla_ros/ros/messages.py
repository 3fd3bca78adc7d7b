"""Conversions between messages and the core's dataclasses: one pair of functions per message.

Arrays are sent as one little-endian block and read without copying. A message that does not contain what it declares
raises InvalidInput naming the field, which the node reports in /diagnostics.
"""

from __future__ import annotations

import array
import math
from collections.abc import Sequence

import numpy as np
from geometry_msgs.msg import Pose, PoseStamped, Transform, Twist
from nav_msgs.msg import OccupancyGrid, Path
from sensor_msgs.msg import Image, PointCloud2, PointField
from sparseoccvla_msgs import msg as own
from trajectory_msgs.msg import MultiDOFJointTrajectory, MultiDOFJointTrajectoryPoint

from sparseoccvla_ros.core import geometry
from sparseoccvla_ros.core.classes import DRIVABLE, LABEL, OBSTACLES, PALETTE
from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.trace import Trace
from sparseoccvla_ros.core.types import (
    BASE_FRAME,
    HORIZONS,
    WAYPOINT_TIMES,
    CameraFrames,
    Command,
    CommandSource,
    EgoState,
    Plan,
    PlanStatus,
    Reasoning,
    SceneQueries,
    TrafficLight,
)
from sparseoccvla_ros.core.voxels import SparseVoxels, VoxelGrid

from .msg_utils import (
    block,
    duration_msg,
    header,
    nanoseconds,
    tensor_from_msg,
    tensor_to_msg,
    time_msg,
)


def pose_to_msg(matrix: np.ndarray) -> Pose:
    """Pose of a transform [4, 4]."""
    out = Pose()
    out.position.x, out.position.y, out.position.z = (float(v) for v in matrix[:3, 3])
    q = geometry.quaternion(matrix)
    out.orientation.x, out.orientation.y, out.orientation.z, out.orientation.w = (float(v) for v in q)
    return out


def pose_from_msg(message: Pose, name: str = "pose") -> np.ndarray:
    """Transform float64 [4, 4] of a Pose; InvalidInput when not finite or not a rotation."""
    p, q = message.position, message.orientation
    return geometry.transform(np.array((p.x, p.y, p.z)), np.array((q.x, q.y, q.z, q.w)), name)


def twist_to_msg(twist: np.ndarray) -> Twist:
    """Twist of vx, vy, vz, wx, wy, wz."""
    out = Twist()
    out.linear.x, out.linear.y, out.linear.z = (float(v) for v in twist[:3])
    out.angular.x, out.angular.y, out.angular.z = (float(v) for v in twist[3:])
    return out


def twist_from_msg(message: Twist, name: str = "twist") -> np.ndarray:
    """float64 [6] of a Twist; InvalidInput when not finite."""
    a, b = message.linear, message.angular
    out = np.array((a.x, a.y, a.z, b.x, b.y, b.z), np.float64)
    if not np.isfinite(out).all():
        raise InvalidInput(name, "holds a number that is not finite")
    return out


def ego_to_msg(ego: EgoState) -> own.EgoState:
    """EgoState message."""
    return own.EgoState(fixed_frame=ego.fixed_frame, pose=pose_to_msg(ego.pose), twist=twist_to_msg(ego.twist))


def ego_from_msg(message: own.EgoState, base_frame: str) -> EgoState:
    """EgoState dataclass; base_frame: frame of the enclosing header. InvalidInput when a number is not finite."""
    pose, twist = pose_from_msg(message.pose, "ego.pose"), twist_from_msg(message.twist, "ego.twist")
    return EgoState(pose, twist, message.fixed_frame, base_frame)


def trace_to_msg(trace: Trace) -> list[own.TraceEvent]:
    """The events of a trace."""
    return [own.TraceEvent(name=name, time=time) for name, time in trace]


def trace_from_msg(events: Sequence[own.TraceEvent]) -> Trace:
    """A trace from its events."""
    return tuple((event.name, event.time) for event in events)


def frames_to_msg(frames: CameraFrames) -> own.CameraFrames:
    """CameraFrames message."""
    return own.CameraFrames(
        header=header(frames.stamp, frames.ego.base_frame),
        epoch=frames.epoch,
        names=list(frames.names),
        stamps=[time_msg(s) for s in frames.stamps.tolist()],
        valid=tensor_to_msg(frames.valid),
        images=tensor_to_msg(frames.images),
        ego2img=tensor_to_msg(frames.ego2img),
        ego=ego_to_msg(frames.ego),
        trace=trace_to_msg(frames.trace),
    )


def frames_from_msg(message: own.CameraFrames) -> CameraFrames:
    """CameraFrames dataclass sharing the message's memory."""
    return CameraFrames(
        stamp=nanoseconds(message.header.stamp),
        epoch=message.epoch,
        names=tuple(message.names),
        stamps=np.array([nanoseconds(s) for s in message.stamps], np.int64),
        valid=tensor_from_msg(message.valid, "valid"),
        images=tensor_from_msg(message.images, "images"),
        ego2img=tensor_from_msg(message.ego2img, "ego2img"),
        ego=ego_from_msg(message.ego, message.header.frame_id),
        trace=trace_from_msg(message.trace),
    )


_MOSAIC = ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT")


def mosaic_to_msg(frames: CameraFrames) -> Image:
    """The prepared images as one rgb8 Image of three columns: front row above, rear row below, left to right."""
    order = sorted(range(len(frames.names)), key=lambda i: _rank(frames.names[i]))
    n, h, w, _ = frames.images.shape
    rows = -(-n // 3)
    page = np.zeros((rows, h, 3, w, 3), np.uint8)
    for place, index in enumerate(order):
        page[place // 3, :, place % 3] = frames.images[index]
    return Image(
        header=header(frames.stamp, frames.ego.base_frame),
        height=rows * h,
        width=3 * w,
        encoding="rgb8",
        step=9 * w,
        data=block(page),
    )


def _rank(name: str) -> tuple[int, str]:
    return (_MOSAIC.index(name), "") if name in _MOSAIC else (len(_MOSAIC), name)


_QUERY_ARRAYS = ("features", "centres", "points", "labels", "scores", "view_features")


def queries_to_msg(queries: SceneQueries) -> own.SceneQueries:
    """SceneQueries message."""
    out = own.SceneQueries(
        header=header(queries.stamp, queries.ego.base_frame),
        epoch=queries.epoch,
        ego=ego_to_msg(queries.ego),
        missing=list(queries.missing),
        trace=trace_to_msg(queries.trace),
    )
    out.trained = queries.trained
    for name in _QUERY_ARRAYS:
        setattr(out, name, tensor_to_msg(getattr(queries, name)))
    if queries.voxels is not None:
        out.voxels = [voxels_to_msg(queries.voxels, queries.stamp)]
    if (light := queries.traffic_light) is not None:
        found = own.TrafficLight(colour=light.colour, probability=light.probability, distance=light.distance)
        out.traffic_light = [found]
    return out


def queries_from_msg(message: own.SceneQueries) -> SceneQueries:
    """SceneQueries dataclass sharing the message's memory."""
    return SceneQueries(
        stamp=nanoseconds(message.header.stamp),
        epoch=message.epoch,
        ego=ego_from_msg(message.ego, message.header.frame_id),
        missing=tuple(message.missing),
        trained=message.trained,
        voxels=voxels_from_msg(message.voxels[0]) if message.voxels else None,
        traffic_light=next((TrafficLight(m.colour, m.probability, m.distance) for m in message.traffic_light), None),
        trace=trace_from_msg(message.trace),
        **{name: tensor_from_msg(getattr(message, name), name) for name in _QUERY_ARRAYS},
    )


def voxels_to_msg(voxels: SparseVoxels, stamp: int, frame: str = BASE_FRAME) -> own.SparseVoxels:
    """SparseVoxels message in the vehicle frame at a stamp."""
    return own.SparseVoxels(
        header=header(stamp, frame),
        lower=list(voxels.grid.lower),
        upper=list(voxels.grid.upper),
        size=voxels.grid.size,
        indices=tensor_to_msg(voxels.indices),
        labels=tensor_to_msg(voxels.labels),
        scores=tensor_to_msg(voxels.scores),
    )


def voxels_from_msg(message: own.SparseVoxels) -> SparseVoxels:
    """SparseVoxels dataclass sharing the message's memory."""
    grid = VoxelGrid(tuple(map(float, message.lower)), tuple(map(float, message.upper)), message.size)
    return SparseVoxels(
        tensor_from_msg(message.indices, "indices"),
        tensor_from_msg(message.labels, "labels"),
        tensor_from_msg(message.scores, "scores"),
        grid,
    )


def reasoning_to_msg(reasoning: Reasoning, latency: float = 0.0) -> own.Reasoning:
    """Reasoning message; latency in seconds."""
    return own.Reasoning(
        header=header(reasoning.stamp, reasoning.base_frame),
        epoch=reasoning.epoch,
        token=tensor_to_msg(reasoning.token),
        anchor_scores=tensor_to_msg(reasoning.anchor_scores),
        fused_features=tensor_to_msg(reasoning.fused_features),
        horizons=array.array("f", HORIZONS if reasoning.forecasts else ()),
        forecasts=[voxels_to_msg(v, reasoning.stamp, reasoning.base_frame) for v in reasoning.forecasts],
        forecast_motion=reasoning.forecast_motion,
        text=reasoning.text,
        trained=reasoning.trained,
        latency=latency,
    )


def reasoning_from_msg(message: own.Reasoning) -> Reasoning:
    """Reasoning dataclass sharing the message's memory."""
    return Reasoning(
        stamp=nanoseconds(message.header.stamp),
        epoch=message.epoch,
        token=tensor_from_msg(message.token, "token"),
        anchor_scores=tensor_from_msg(message.anchor_scores, "anchor_scores"),
        fused_features=tensor_from_msg(message.fused_features, "fused_features"),
        forecasts=tuple(voxels_from_msg(v) for v in message.forecasts),
        forecast_motion=message.forecast_motion,
        text=message.text,
        trained=message.trained,
        base_frame=message.header.frame_id,
    )


_PLAN_ARRAYS = ("waypoints", "heading", "speed", "acceleration", "candidates", "scores")


def plan_to_msg(plan: Plan) -> own.Plan:
    """Plan message."""
    out = own.Plan(header=header(plan.stamp, plan.base_frame), epoch=plan.epoch, chosen=plan.chosen)
    out.reasons, out.trace = list(plan.reasons), trace_to_msg(plan.trace)
    out.command, out.command_source = plan.command.value, plan.command_source.value
    out.status, out.score_source, out.trained = plan.status.value, plan.score_source, plan.trained
    for name in _PLAN_ARRAYS:
        setattr(out, name, tensor_to_msg(getattr(plan, name)))
    return out


def plan_from_msg(message: own.Plan) -> Plan:
    """Plan dataclass sharing the message's memory; InvalidInput on an unknown enumeration value."""
    try:
        command, source = Command(message.command), CommandSource(message.command_source)
        status = PlanStatus(message.status)
    except ValueError as error:
        raise InvalidInput("plan", str(error)) from None
    return Plan(
        stamp=nanoseconds(message.header.stamp),
        epoch=message.epoch,
        chosen=message.chosen,
        command=command,
        command_source=source,
        status=status,
        score_source=message.score_source,
        reasons=tuple(message.reasons),
        trained=message.trained,
        base_frame=message.header.frame_id,
        trace=trace_from_msg(message.trace),
        **{name: tensor_from_msg(getattr(message, name), name) for name in _PLAN_ARRAYS},
    )


def path_to_msg(plan: Plan) -> Path:
    """nav_msgs/Path: a pose per waypoint with its own future stamp, all in the vehicle frame at the plan's stamp."""
    out = Path(header=header(plan.stamp, plan.base_frame))
    for (x, y), yaw, t in zip(plan.waypoints.tolist(), plan.heading.tolist(), WAYPOINT_TIMES.tolist(), strict=False):
        pose = PoseStamped(header=header(plan.stamp + round(t * 1e9), plan.base_frame))
        pose.pose.position.x, pose.pose.position.y = x, y
        pose.pose.orientation.z, pose.pose.orientation.w = math.sin(yaw / 2), math.cos(yaw / 2)
        out.poses.append(pose)
    return out


def path_from_msg(message: Path) -> tuple[int, np.ndarray, str]:
    """(stamp ns, points float64 [M, 2] m, frame) of a path, as a route; InvalidInput when shorter than 2."""
    points = np.array([(p.pose.position.x, p.pose.position.y) for p in message.poses], np.float64).reshape(-1, 2)
    if len(points) < 2 or not np.isfinite(points).all():
        raise InvalidInput("route", f"{len(points)} poses; want at least 2, all finite")
    return nanoseconds(message.header.stamp), points, message.header.frame_id


def trajectory_to_msg(plan: Plan) -> MultiDOFJointTrajectory:
    """Trajectory of a plan, with velocities and accelerations along the heading, and times from its stamp."""
    out = MultiDOFJointTrajectory(header=header(plan.stamp, plan.base_frame), joint_names=[plan.base_frame])
    columns = (plan.waypoints, plan.heading, plan.speed, plan.acceleration, WAYPOINT_TIMES)
    for (x, y), yaw, speed, acceleration, t in zip(*(c.tolist() for c in columns), strict=False):
        point = MultiDOFJointTrajectoryPoint(time_from_start=duration_msg(t))
        place, velocity, change = Transform(), Twist(), Twist()
        place.translation.x, place.translation.y = x, y
        place.rotation.z, place.rotation.w = math.sin(yaw / 2), math.cos(yaw / 2)
        velocity.linear.x, velocity.linear.y = speed * math.cos(yaw), speed * math.sin(yaw)
        change.linear.x, change.linear.y = acceleration * math.cos(yaw), acceleration * math.sin(yaw)
        point.transforms, point.velocities, point.accelerations = [place], [velocity], [change]
        out.points.append(point)
    return out


_CLOUD = np.dtype(
    {
        "names": ["x", "y", "z", "rgb", "label", "confidence", "horizon"],
        "formats": ["<f4", "<f4", "<f4", "<u4", "u1", "<f4", "<f4"],
        "offsets": [0, 4, 8, 12, 16, 20, 24],
        "itemsize": 28,
    }
)
_FIELD_TYPES = {"label": PointField.UINT8}


def cloud_to_msg(
    layers: Sequence[tuple[float, SparseVoxels]], stamp: int, palette: np.ndarray = PALETTE, frame: str = BASE_FRAME
) -> PointCloud2:
    """Voxel centres as PointCloud2 with fields x y z rgb label confidence horizon, in `frame` at the stamp.

    layers: (horizon in seconds, voxels); the present has horizon 0. palette: uint8 [17, 3], RGB per class.
    """
    packed = (palette.astype(np.uint32) << np.array((16, 8, 0), np.uint32)).sum(1).astype(np.uint32)
    rows = np.empty(sum(len(v) for _, v in layers), _CLOUD)
    start = 0
    for horizon, voxels in layers:
        part = rows[start : start + len(voxels)]
        start += len(voxels)
        centres = voxels.centres()
        part["x"], part["y"], part["z"] = centres[:, 0], centres[:, 1], centres[:, 2]
        part["rgb"], part["label"] = packed[voxels.labels], voxels.labels
        part["confidence"], part["horizon"] = voxels.scores, horizon
    fields = [
        PointField(name=n, offset=_CLOUD.fields[n][1], datatype=_FIELD_TYPES.get(n, PointField.FLOAT32), count=1)
        for n in _CLOUD.names
    ]
    return PointCloud2(
        header=header(stamp, frame),
        height=1,
        width=len(rows),
        fields=fields,
        point_step=_CLOUD.itemsize,
        row_step=_CLOUD.itemsize * len(rows),
        data=block(rows),
        is_dense=True,
    )


GRID_COSTS = ((0, DRIVABLE), (100, OBSTACLES))
"""Costs of occupancy/grid by the classes in a column; the last entry that applies is used."""
SEMANTIC_COSTS = (
    (0, DRIVABLE),
    (40, (LABEL["other_flat"],)),
    (70, (LABEL["sidewalk"], LABEL["terrain"])),
    (100, OBSTACLES),
)
"""Costs of occupancy/costmap, a mask for Nav2's costmap filters: 0 free .. 100 forbidden."""


def grid_to_msg(
    voxels: SparseVoxels,
    stamp: int,
    frame: str = BASE_FRAME,
    costs: Sequence[tuple[int, tuple[int, ...]]] = GRID_COSTS,
) -> OccupancyGrid:
    """Top view of the voxels: each column has the last cost whose classes occupy it, -1 if none does."""
    nx, ny, _ = voxels.grid.shape
    cells = np.full((ny, nx), -1, np.int8)  # rows run along y, columns along x (nav_msgs/OccupancyGrid)
    x, y = voxels.indices[:, 0], voxels.indices[:, 1]
    for value, classes in costs:
        chosen = np.isin(voxels.labels, classes)
        cells[y[chosen], x[chosen]] = value
    out = OccupancyGrid(header=header(stamp, frame))
    out.info.map_load_time = out.header.stamp
    out.info.resolution, out.info.width, out.info.height = float(voxels.grid.size), nx, ny
    out.info.origin.position.x, out.info.origin.position.y = voxels.grid.lower[0], voxels.grid.lower[1]
    out.data = array.array("b", cells.tobytes())
    return out
