"""AlpaSim's driver contract: gRPC service `egodriver.EgodriverService`, implemented by the networks of a preset.

Clients are AlpaSim (NVlabs/alpasim), its challenge and autoware_carla_scenario; `carla-driver-interface` provides
messages and server. Frames of the contract: `local` is fixed, `rig` has the axes and origin of base_link, cameras are
optical frames (x right, y down, z ahead). Times are simulated microseconds.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field

import numpy as np
from carla_driver_interface.driver import (
    BaseDriver,
    CameraFrame,
    DriveContext,
    DriveResult,
    SensorFrame,
    SessionState,
    TurnIndicator,
)
from carla_driver_interface.geometry import Pose, Trajectory
from carla_driver_interface.protocol import AvailableCamera

from ..camera_sync.calibration import EQUIDISTANT, PLUMB_BOB, RATIONAL, CameraModel
from ..camera_sync.config import SyncConfig
from ..camera_sync.drop_reasons import DropReason
from ..camera_sync.frame_assembler import CameraSync
from ..camera_sync.images import CompressedImage
from ..core import geometry
from ..core.errors import InvalidInput, format_error
from ..core.types import WAYPOINT_TIMES, CameraFrames, Command, Plan
from ..pipeline import SparseOccVLA
from ..planning.config import ValidatorConfig
from ..planning.route_command import RouteCommand
from ..planning.trajectory import braking

log = logging.getLogger(__name__)

FIXED_FRAME = "local"
START_US = 10_000_000
"""Added to every time, because a simulation may begin at 0, which as a stamp means unknown."""
OLDEST_PLAN_US = 1_500_000
"""Longest time between a plan and now, in either direction; beyond it the vehicle brakes."""
ABANDONED = 60.0
"""Wall clock seconds without a call after which another session may take over."""
INDICATORS = {
    Command.LEFT: TurnIndicator.ENABLE_LEFT,
    Command.STRAIGHT: TurnIndicator.DISABLE,
    Command.RIGHT: TurnIndicator.ENABLE_RIGHT,
}


def camera_model(camera: AvailableCamera) -> CameraModel:
    """Returns the calibration of a declared camera, including its mount.

    Raises:
        InvalidInput: It is no pinhole or OpenCV fisheye camera, or its distortion or values are not supported.
    """
    spec, name = camera.intrinsics, camera.logical_id
    kind = spec.WhichOneof("camera_param")
    if outside := spec.WhichOneof("external_distortion"):
        raise InvalidInput(name, f"{outside} is not supported")
    if kind == "opencv_pinhole_param":
        lens = spec.opencv_pinhole_param
        if any(lens.thin_prism_coeffs):
            raise InvalidInput(name, "thin prism distortion is not supported")
        radial, tangential = [*lens.radial_coeffs], [*lens.tangential_coeffs, 0.0, 0.0][:2]
        model = RATIONAL if len(radial) > 3 else PLUMB_BOB
        radial += [0.0] * ((6 if model is RATIONAL else 3) - len(radial))
        distortion = np.array([*radial[:2], *tangential, *radial[2:]])
    elif kind == "opencv_fisheye_param":
        lens, model = spec.opencv_fisheye_param, EQUIDISTANT
        distortion = np.array([*lens.radial_coeffs, 0.0, 0.0, 0.0, 0.0][:4])
    else:
        raise InvalidInput(
            name, f"camera model {kind or 'none'} is not supported, only opencv_pinhole_param and opencv_fisheye_param "
            "(AlpaSim's wizard renders one with --pinhole)",
        )  # fmt: skip
    # Pixel coordinates start at the corner of the image in the contract, at the centre of its first pixel here.
    cx, cy = lens.principal_point_x - 0.5, lens.principal_point_y - 0.5
    intrinsics = np.array([[lens.focal_length_x, 0.0, cx], [0.0, lens.focal_length_y, cy], [0.0, 0.0, 1.0]])
    return CameraModel(
        name, "", spec.resolution_w, spec.resolution_h, intrinsics, Pose.from_proto(camera.rig_to_camera).as_matrix(),
        distortion if distortion.any() else np.zeros(0), model,
    )  # fmt: skip


@dataclass(eq=False)
class _Drive:
    """State of one session. plan: the newest one; planned_from, planned_us: pose and time it starts from."""

    sync: CameraSync
    route: RouteCommand
    plan: Plan | None = None
    planned_from: np.ndarray = field(default_factory=lambda: np.eye(4))
    planned_us: int = 0
    ego_known: bool = False
    called: float = field(default_factory=time.monotonic)
    seconds: list[float] = field(default_factory=list)


class EgoDriver(BaseDriver):
    """Drives one session at a time; calls from several server threads are safe.

    Args:
        model: Networks, at least occupancy and planning.
        period: Simulated seconds between two plans; calls of `drive` in between return the newest one. The networks
            were trained on two frame sets per second.
        limits: Vehicle limits for braking without a plan.
    """

    name = "sparseoccvla"

    def __init__(self, model: SparseOccVLA, period: float = 0.5, limits: ValidatorConfig | None = None) -> None:
        if not {"occupancy", "planning"} <= set(model.stages):
            raise InvalidInput("preset", f"cannot drive: {'; '.join(model.absent.values())}")
        self._model, self._period_us, self._limits = model, round(period * 1e6), limits or ValidatorConfig()
        self._drives: dict[str, _Drive] = {}
        self._lock = threading.RLock()

    # --- the session

    def on_session_start(self, session: SessionState) -> None:
        """Set up the cameras. Raises InvalidInput for no or unsupported cameras, or while another session is driven."""
        models = [camera_model(camera) for camera in session.cameras.values()]
        if not models:
            raise InvalidInput("cameras", "none is declared")
        ahead = max(models, key=lambda m: float(m.camera2ego[0, 2]) if m.camera2ego is not None else -1.0)
        with self._lock:
            for uuid, other in list(self._drives.items()):
                if time.monotonic() - other.called < ABANDONED:
                    raise InvalidInput(
                        "session", f"{uuid} is being driven, and one preset drives one vehicle at a time"
                    )
                self._end(uuid)
            config = SyncConfig(cameras=tuple(m.name for m in models), reference=ahead.name)
            route = RouteCommand(distances=self._model.target_points)
            drive = _Drive(CameraSync(config, self._model.preset.image), route)
            for model in models:
                drive.sync.set_camera(model)
            self._drives[session.uuid] = drive
            self._model.reset()

    def on_session_close(self, session: SessionState) -> None:
        """Close the drive and log how long its steps took."""
        with self._lock:
            self._end(session.uuid)

    def _end(self, uuid: str) -> None:
        drive = self._drives.pop(uuid, None)
        if drive is None:
            return
        drive.sync.close()
        if drive.seconds:
            p50, p95, worst = np.percentile(drive.seconds, (50, 95, 100))
            log.info("%d plans: %.3f s each (median), %.3f s (p95), %.3f s (max)", len(drive.seconds), p50, p95, worst)

    def _of(self, session: SessionState) -> _Drive:
        drive = self._drives.get(session.uuid)
        if drive is None:
            raise InvalidInput("session", f"{session.uuid} was given up after {ABANDONED:.0f} s without a call")
        drive.called = time.monotonic()
        return drive

    # --- inputs

    def on_frame(self, session: SessionState, frame: SensorFrame) -> None:
        """Add an image to the drive's synchroniser; its stamp is the middle of its exposure."""
        if isinstance(frame, CameraFrame):
            middle = (frame.frame_start_us + frame.frame_end_us) // 2
            with self._lock:
                self._of(session).sync.add_image(frame.logical_id, _stamp(middle), CompressedImage(frame.image_bytes))

    def on_egomotion(self, session: SessionState, new_poses: Trajectory) -> None:
        """Add the new poses to the drive's synchroniser, each with its velocities."""
        count = len(new_poses)
        with self._lock, session.lock:
            drive = self._of(session)
            for at, pose, state in zip(
                session.ego_trajectory.timestamps_us[-count:], session.ego_trajectory.poses[-count:],
                session.dynamic_states[-count:], strict=True,
            ) if count else ():  # fmt: skip
                v, w = state.linear_velocity, state.angular_velocity
                twist = np.array((v.x, v.y, v.z, w.x, w.y, w.z))
                matrix = pose.as_matrix()
                if not drive.ego_known:
                    # The pose 0.1 s earlier, so that the motion is known from the first image on.
                    before = matrix @ geometry.planar(-0.1 * v.x, -0.1 * v.y, -0.1 * w.z)
                    drive.sync.add_odometry(_stamp(at - 100_000), before, None, FIXED_FRAME)
                    drive.ego_known = True
                # Without an angular velocity the twist is derived from the poses.
                whole = state.HasField("angular_velocity")
                drive.sync.add_odometry(_stamp(at), matrix, twist.tolist() if whole else None, FIXED_FRAME)

    def on_route(self, session: SessionState) -> None:
        """Set the route, from which commands are derived, in the fixed frame."""
        with self._lock, session.lock:
            pose, points = session.latest_pose(), session.route_waypoints_in_rig
            if pose is not None and len(points) >= 2:
                self._of(session).route.set_route(pose.transform_points(points)[:, :2])

    # --- output

    def drive(self, ctx: DriveContext) -> DriveResult:
        """The plan at `time_now_us`: a new one if `period` has passed and a frame set is ready, else the newest."""
        with self._lock:
            drive = self._of(ctx.session)
            with ctx.session.lock:
                pose, speed = ctx.session.latest_pose(), ctx.session.speed_mps()
            if pose is None:
                return DriveResult(Trajectory.empty())
            scalars: dict[str, float] = {}
            if drive.plan is None or abs(ctx.time_now_us - drive.planned_us) >= self._period_us:
                frames = drive.sync.take() or drive.sync.finish()
                for reason, why in drive.sync.messages():
                    if reason is not DropReason.OVERLOAD:  # sets between two plans are skipped on purpose
                        log.warning("%s", why)
                try:
                    scalars = self._plan(drive, frames) if frames is not None else {}
                except InvalidInput as refused:  # the previous plan is followed until it is too old
                    log.warning("%s", format_error(refused))
            else:
                # Otherwise, in a simulation that steps faster than reasoning, the next plan has to wait for it.
                self._model.finish()
            return self._answer(drive, ctx.time_now_us, pose, speed, scalars)

    def _plan(self, drive: _Drive, frames: CameraFrames) -> dict[str, float]:
        began = time.perf_counter()
        choice = drive.route.choose(frames.stamp, frames.ego.pose, frames.ego.speed)
        step = self._model.step(frames, choice.command, choice.source, target_points=choice.target_points)
        drive.seconds.append(time.perf_counter() - began)
        drive.plan, drive.planned_from = step.plan, frames.ego.pose
        drive.planned_us = frames.stamp // 1000 - START_US
        return {"planned": 1.0, "voxels": float(len(step.voxels)), **{f"{k}_s": v for k, v in step.seconds.items()}}

    def _answer(self, drive: _Drive, now_us: int, pose: Pose, speed: float, scalars: dict[str, float]) -> DriveResult:
        plan, limits = drive.plan, self._limits
        indicator = TurnIndicator.NO_COMMAND if plan is None else INDICATORS[plan.command]
        if plan is None or not len(plan.waypoints) or abs(now_us - drive.planned_us) > OLDEST_PLAN_US:
            stop = braking(
                speed, 0.0, limits.comfortable_deceleration_mps2, limits.max_curvature_per_m,
                limits.max_lateral_acceleration_mps2,
            )  # fmt: skip
            scalars["braking"] = 1.0
            path = _trajectory(now_us, stop.waypoints, stop.heading, np.eye(4))
            return DriveResult(path, debug_scalars=scalars, turn_indicator=indicator)
        plan2rig = geometry.inverse(pose.as_matrix()) @ drive.planned_from
        others = [
            _trajectory(drive.planned_us, points, np.zeros(len(points)), plan2rig)
            for i, points in enumerate(plan.candidates)
            if scalars and i != plan.chosen
        ]
        return DriveResult(
            _trajectory(drive.planned_us, plan.waypoints, plan.heading, plan2rig),
            debug_scalars=scalars,
            sampled_trajectories_in_rig=others,
            turn_indicator=indicator,
        )


def _stamp(time_us: int) -> int:
    return (time_us + START_US) * 1000


def _trajectory(start_us: int, waypoints: np.ndarray, heading: np.ndarray, plan2rig: np.ndarray) -> Trajectory:
    """Returns waypoints [6, 2] m with headings [6] rad, planned at start_us, as poses in the present rig frame."""
    out = Trajectory.empty()
    for seconds, (x, y), yaw in zip(WAYPOINT_TIMES, waypoints.tolist(), heading.tolist(), strict=True):
        matrix = plan2rig @ geometry.planar(x, y, yaw)
        out.append(start_us + round(seconds * 1e6), Pose(matrix[:3, 3], geometry.quaternion(matrix)))
    return out
