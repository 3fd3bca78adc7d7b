"""CameraSync, the core of the camera_sync node: turns images, calibrations, tf and odometry into CameraFrames.

Images are decoded only when a set is complete and its poses are known. Every camera is projected with its own pose at
its own stamp.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from threading import RLock
from typing import Any

import numpy as np

from ..core import geometry
from ..core.errors import InvalidInput
from ..core.tf_buffer import Extrapolation, TransformBuffer, TransformError
from ..core.types import CameraFrames, EgoState
from .calibration import CalibrationMismatch, CameraModel
from .config import ImageConfig, MissingPolicy, SyncConfig
from .drop_reasons import DropReason
from .ego_motion import RESTART_NS, EgoMotion, PoseSource, RelocationGuard, Unresolved, describe_parent_conflicts
from .images import Fallback, ImagePreparer
from .time_synchronizer import FrameSet, Synchroniser

_UPRIGHT = -0.5
_SEES_NOTHING = np.diag([1.0, 1.0, 0.0, 1.0])
_SEES_NOTHING[2, 3] = -1.0
_SEES_NOTHING.setflags(write=False)
"""ego2img of a camera with unknown projection: every point lies behind it."""


@dataclass(frozen=True, eq=False)
class _Placed:
    """A frame set whose poses are known. ego2native: camera -> [4, 4], base_link at the stamp to native pixels, by the
    calibrations in models, which may be replaced in CameraSync before the images are decoded."""

    frame_set: FrameSet
    source: PoseSource
    pose: np.ndarray
    ego2native: dict[str, np.ndarray]
    models: dict[str, CameraModel]


class CameraSync:
    """Buffers inputs and returns CameraFrames. Inputs and `take` may run in different threads.

    transforms: the tf buffer, if the caller shares one; fallback: converts raw encodings outside ENCODINGS.
    """

    def __init__(
        self,
        sync: SyncConfig | None = None,
        image: ImageConfig | None = None,
        transforms: TransformBuffer | None = None,
        fallback: Fallback | None = None,
        threads: int | None = None,
    ) -> None:
        self.config = sync or SyncConfig()
        self.image_config = image or ImageConfig()
        self.transforms = transforms if transforms is not None else TransformBuffer()
        self.synchroniser = Synchroniser(self.config)
        self.preparer = ImagePreparer(self.image_config, threads, fallback)
        self.cameras: dict[str, CameraModel] = {}
        self._ego = EgoMotion(self.config, self.transforms)
        self._relocation = RelocationGuard(self.config)
        self._mounts: dict[str, tuple[str, np.ndarray]] = {}
        self._pending: deque[FrameSet] = deque()
        self._messages: deque[tuple[DropReason, str]] = deque(maxlen=64)
        self._drops = self.synchroniser.statistics.drops
        self._extra_epochs = 0
        self._known_epoch = 0
        self._newest_time = 0
        self._frames = 0
        self._held: dict[str, tuple[int, CameraModel, np.ndarray, np.ndarray]] = {}
        self._lock = RLock()
        self._take_lock = RLock()

    def close(self) -> None:
        """Stop the decoding threads."""
        self.preparer.close()

    def set_camera(self, model: CameraModel) -> None:
        """Set a camera's calibration; an unchanged one is ignored. Raises InvalidInput if name or mount is unknown."""
        if model.name not in self.config.cameras:
            raise InvalidInput("camera", f"{model.name!r} is not one of {list(self.config.cameras)}")
        if not model.frame_id and model.camera2ego is None:
            raise InvalidInput(model.name, "has neither a pose on the vehicle nor a frame to look one up")
        with self._lock:
            if not model.same_as(self.cameras.get(model.name)):
                self.cameras[model.name] = model

    def add_transform(
        self,
        parent: str,
        child: str,
        stamp_ns: int,
        translation: Sequence[float],
        quaternion: Sequence[float],
        static: bool = False,
    ) -> bool:
        """Add a tf transform: translation [3] m, quaternion [4] x, y, z, w. Returns False if it arrived too late.

        Stamps that fall back by more than two seconds mean a restarted publisher: its old samples are dropped.
        """
        with self._lock:
            newest = None if static or not (parent and child) else self.transforms.newest(parent, child)
            if newest is not None and stamp_ns < newest - RESTART_NS:
                self.transforms.forget(child)
            return self.transforms.insert(parent, child, stamp_ns, translation, quaternion, static=static)

    def add_odometry(
        self,
        stamp_ns: int,
        pose: np.ndarray,
        twist: Sequence[float] | None = None,
        fixed_frame: str = "odom",
        child_frame: str = "",
    ) -> None:
        """Add odometry: pose float64 [4, 4], `child_frame` to fixed_frame; twist [6] in child_frame, or None.

        child_frame: empty for the vehicle frame; odometry of any other frame is converted to it through tf. Raises
        InvalidInput while tf lacks that transform.
        """
        with self._lock:
            child = child_frame.lstrip("/")
            if child and child != self.config.base_frame:
                pose, twist = self._at_base(child, stamp_ns, pose, twist)
            self._ego.add_odometry(stamp_ns, pose, twist, fixed_frame)

    def _at_base(
        self, child: str, stamp: int, pose: np.ndarray, twist: Sequence[float] | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        base = self.config.base_frame
        try:
            try:
                child2base = self.transforms.lookup(base, child, stamp)
            except Extrapolation:
                child2base = self.transforms.latest(base, child)[1]
        except TransformError as error:
            raise InvalidInput("odometry", f"is of {child}, not of {base}: {error}") from None
        if twist is not None:
            linear, angular = (child2base[:3, :3] @ np.asarray(part) for part in (twist[:3], twist[3:]))
            # Rigid body: the velocity of the vehicle's origin includes its rotation about the child's.
            twist = np.concatenate([linear - np.cross(angular, child2base[:3, 3]), angular])
        return pose @ geometry.inverse(child2base), twist

    def add_image(self, camera: str, stamp_ns: int, payload: Any) -> int:
        """Add an undecoded image: CompressedImage, RawImage, RGB array, or a callable that returns an array.

        stamp_ns: the header's stamp, or the time of receipt if that is 0. Returns how many sets it completed.
        """
        with self._lock:
            return self._queue(self.synchroniser.add(camera, stamp_ns, payload))

    def reset(self, reason: DropReason = DropReason.RESET, now_ns: int | None = None) -> None:
        """Start a new epoch: drop queues and waiting sets, keep calibrations and static transforms."""
        with self._lock:
            self.synchroniser.reset(reason, now_ns)
            self._queue([])

    def take(self, now_ns: int | None = None) -> CameraFrames | None:
        """Return the newest complete frame set with known poses, prepared; None if none is ready yet.

        now_ns: the node's clock, which ends the wait for silent cameras and late poses. Older sets that were also
        ready are dropped and counted (overload).
        """
        with self._take_lock:
            with self._lock:
                if now_ns is not None:
                    self._queue(self.synchroniser.poll(now_ns))
            return self._next()

    def finish(self) -> CameraFrames | None:
        """Like `take`, at the end of a recording: does not wait for further images or poses."""
        with self._take_lock:
            with self._lock:
                self._queue(self.synchroniser.flush())
            return self._next(expired=True)

    def messages(self) -> list[tuple[DropReason, str]]:
        """Return what was dropped since the last call, for the log, as (reason, sentence)."""
        with self._lock:
            found = [*self.synchroniser.events, *self._messages]
            self.synchroniser.events.clear()
            self._messages.clear()
            return found

    @property
    def waiting(self) -> int:
        """Number of complete sets waiting for tf or odometry; while it is not 0, call `take` after every transform."""
        return len(self._pending)

    @property
    def epoch(self) -> int:
        """Epoch of the next frames."""
        return self.synchroniser.epoch + self._extra_epochs

    def statistics(self) -> dict[str, float | int | str]:
        """Return all statistics as one flat dictionary, for diagnostics."""
        with self._lock:
            out = self.synchroniser.statistics.flat()
            source = self._ego.current
            out["frames"] = self._frames
            out["pending"] = len(self._pending)
            out["epoch"] = self.epoch
            out["ego_source"] = f"{source.kind}: {source.fixed_frame}" if source else "none"
            out["tf_conflicts"] = "; ".join(describe_parent_conflicts(self.transforms))
            out["uncalibrated"] = " ".join(c for c in self.config.cameras if c not in self.cameras)
            return out

    def _drop(self, reason: DropReason, message: str) -> None:
        self._drops[reason] += 1
        self._messages.append((reason, message))

    def _queue(self, sets: list[FrameSet]) -> int:
        """Queue completed sets; after a clock jump, first drop everything from before it. Returns their number."""
        time = self.synchroniser.time or 0
        if self.synchroniser.epoch != self._known_epoch:
            self._known_epoch = self.synchroniser.epoch
            for old in self._pending:
                self._drop(DropReason.RESET, f"set at {old.stamp} ns belongs to an epoch that ended")
            self._pending.clear()
            self._held.clear()
            self._relocation.clear()
            if time and time < self._newest_time - RESTART_NS:
                self._ego.keep_only(0, time + RESTART_NS)
            elif time and time < self._newest_time:
                self._ego.keep_only(1, 0)
            elif time:
                self._ego.keep_only(time - RESTART_NS, 2**63)
            self._newest_time = time
        self._newest_time = max(self._newest_time, time)
        for made in sets:
            if made.epoch == self._known_epoch:
                self._pending.append(made)
        while len(self._pending) > self.config.pending_depth:
            old = self._pending.popleft()
            self._drop(DropReason.OVERLOAD, f"set at {old.stamp} ns: {self.config.pending_depth} newer ones wait")
        return len(sets)

    def _next(self, expired: bool = False) -> CameraFrames | None:
        while True:
            with self._lock:
                placed = self._place(expired)
                state = self._enter(placed) if placed is not None else None
            if placed is None:
                return None
            if state is not None:
                frames = self._prepare(placed, *state)
                if frames is not None:
                    return frames

    def _place(self, expired: bool) -> _Placed | None:
        """Return the newest waiting set with known poses; drops the older ones and those that timed out."""
        time = self.synchroniser.time or 0
        waiting: list[FrameSet] = []
        while self._pending:
            made = self._pending.pop()
            late = expired or time - made.stamp > self.config.tf_timeout * 1e9
            try:
                placed = self._resolve(made, late)
            except Unresolved as failure:
                if failure.waiting:
                    waiting.append(made)
                else:
                    self._drop(failure.reason, f"set at {made.stamp} ns: {failure}")
                continue
            for old in self._pending:
                self._drop(DropReason.OVERLOAD, f"set at {old.stamp} ns: the one at {made.stamp} ns was ready as well")
            self._pending.clear()
            self._pending.extend(reversed(waiting))
            return placed
        self._pending.extend(reversed(waiting))
        return None

    def _resolve(self, made: FrameSet, expired: bool) -> _Placed:
        """Resolve poses and projections of one set. Raises Unresolved."""
        cameras = list(made.images)
        stamps = [made.stamp, *(made.images[c][0] for c in cameras)]
        mounts = {c: self._mount(c, made.images[c][0], expired) for c in cameras}
        source, (pose, *own) = self._ego.poses(stamps, expired)
        ego2native = {}
        for camera, at_camera in zip(cameras, own, strict=True):
            distance = float(np.linalg.norm(at_camera[:3, 3] - pose[:3, 3]))
            if camera not in made.held and distance > self.config.pose_jump:
                text = f"{source.kind}: ego moved {distance:.1f} m between the images of one set"
                raise Unresolved(DropReason.IMPLAUSIBLE_MOTION, text, waiting=False)
            ego2native[camera] = self._projection(self.cameras[camera], mounts[camera], at_camera, pose)
        for camera in made.missing:
            try:
                ego2native[camera] = self._projection(
                    self.cameras[camera], self._mount(camera, made.stamp, True), pose, pose
                )
            except (KeyError, Unresolved):
                continue
        return _Placed(made, source, pose, ego2native, dict(self.cameras))

    @staticmethod
    def _projection(model: CameraModel, mount: np.ndarray, at_camera: np.ndarray, at_stamp: np.ndarray) -> np.ndarray:
        """K x inv(T_fixed<-cam(t_cam)) x T_fixed<-ego(t), native pixels."""
        ego2camera = geometry.inverse(at_camera @ mount) @ at_stamp
        return geometry.camera_matrix(model.intrinsics @ model.rectification, ego2camera)

    def _mount(self, camera: str, stamp: int, expired: bool) -> np.ndarray:
        """Return camera2ego [4, 4]. Raises Unresolved naming both frames.

        From tf it is taken at the image's stamp. Some recordings contain it at keyframes only; because a mount is
        rigid, the newest known one is used outside the samples.
        """
        model = self.cameras.get(camera)
        if model is None:
            text = f"{camera} has no calibration yet: neither camera_info nor a calibration file"
            raise Unresolved(DropReason.NO_CALIBRATION, text, waiting=not expired)
        matrix = model.camera2ego
        if matrix is None:
            base, frame = self.config.base_frame, model.frame_id
            try:
                try:
                    matrix = self.transforms.lookup(base, frame, stamp)
                except Extrapolation:
                    matrix = self.transforms.latest(base, frame)[1]
                self._mounts[camera] = (frame, matrix)
            except TransformError as error:
                known = self._mounts.get(camera)
                if known is None or known[0] != frame:
                    text = f"mount of {camera}: {error}"
                    raise Unresolved(DropReason.MOUNT_UNKNOWN, text, waiting=not expired) from None
                matrix = known[1]
        if self.config.upright_cameras and matrix[2, 1] > _UPRIGHT:
            text = (
                f"{self.config.base_frame} <- {model.frame_id or camera}: the image rows of {camera} do not run "
                "downwards, so this is no optical frame (z forward, x right, y down)"
            )
            raise Unresolved(DropReason.MOUNT_IMPLAUSIBLE, text, waiting=False)
        return matrix

    def _enter(self, placed: _Placed) -> tuple[int, EgoState] | None:
        """Return epoch and ego state of a placed set, or None (dropped) if its motion is unknown or implausible."""
        made, source, pose = placed.frame_set, placed.source, placed.pose
        reported = self._ego.reported_twist(made.stamp)
        if self._relocation.moved(made.stamp, pose, source.fixed_frame, reported):
            self._extra_epochs += 1
            self._ego.floor = made.stamp
            self._held.clear()
            self._messages.append((DropReason.RESET, f"the ego was relocated in {source.fixed_frame}: new epoch"))
        twist = self._ego.twist(source, made.stamp)
        speed = 0.0 if twist is None else float(np.linalg.norm(twist[:3]))
        plausible = speed <= self.config.max_speed
        self._relocation.note(made.stamp, pose, source.fixed_frame, twist if plausible else None)
        if twist is None:
            self._drop(
                DropReason.NO_TWIST,
                f"set at {made.stamp} ns: {source.kind} has no twist and no earlier pose of {self.config.base_frame} "
                f"in {source.fixed_frame}",
            )
            return None
        if not plausible:
            self._drop(DropReason.IMPLAUSIBLE_MOTION, f"set at {made.stamp} ns: {source.kind} moves {speed:.0f} m/s")
            return None
        return made.epoch + self._extra_epochs, EgoState(pose, twist, source.fixed_frame, self.config.base_frame)

    def _prepare(self, placed: _Placed, epoch: int, ego: EgoState) -> CameraFrames | None:
        """Decode, undistort, scale and crop in parallel, and fold the crop into the projections."""
        made, names = placed.frame_set, self.config.cameras
        height, width = self.image_config.height, self.image_config.width
        images = np.zeros((len(names), height, width, 3), np.uint8)
        ego2img = np.empty((len(names), 4, 4))
        ego2img[:] = _SEES_NOTHING
        stamps = np.full(len(names), made.stamp, np.int64)
        valid = np.zeros(len(names), np.bool_)
        jobs, rows = [], []
        for row, camera in enumerate(names):
            model = placed.models.get(camera)
            if camera in made.images and model is not None:
                stamps[row] = made.images[camera][0]
                ida = self._reuse(camera, int(stamps[row]), model, images[row]) if camera in made.held else None
                if ida is not None:
                    ego2img[row] = _prepared(ida, placed.ego2native[camera])
                    continue
                jobs.append((made.images[camera][1], images[row], model))
                rows.append(row)
            elif model is not None and model.width and camera in placed.ego2native:
                ida = self.preparer.geometry(model.height, model.width).ida
                ego2img[row] = _prepared(ida, placed.ego2native[camera])
        for row, job, result in zip(rows, jobs, self.preparer.prepare_all(jobs), strict=True):
            camera = names[row]
            if isinstance(result, InvalidInput):
                mismatch = isinstance(result, CalibrationMismatch)
                reason = DropReason.CALIBRATION_MISMATCH if mismatch else DropReason.DECODE
                with self._lock:
                    self._drop(reason, f"{camera} at {stamps[row]} ns: {result.reason}")
                images[row] = 0
                stamps[row] = made.stamp
                continue
            ego2img[row] = _prepared(result, placed.ego2native[camera])
            valid[row] = camera not in made.held
            if self.config.policy is MissingPolicy.HOLD:
                self._held[camera] = (int(stamps[row]), job[2], images[row], result)
        wanted = len(names) if self.config.policy is MissingPolicy.STRICT else 1
        with self._lock:
            if int(valid.sum()) < wanted:
                self._drop(DropReason.NO_IMAGE, f"set at {made.stamp} ns: {int(valid.sum())} images could be decoded")
                return None
            self._frames += 1
        return CameraFrames(made.stamp, epoch, names, stamps, valid, images, ego2img, ego)

    def _reuse(self, camera: str, stamp: int, model: CameraModel, out: np.ndarray) -> np.ndarray | None:
        """Copy a held image, already prepared with its own set, to `out`. Returns its Ida, None if not cached."""
        known = self._held.get(camera)
        if known is None or known[0] != stamp or known[1] is not model:
            return None
        np.copyto(out, known[2])
        return known[3]


def _prepared(ida: np.ndarray, ego2native: np.ndarray) -> np.ndarray:
    out = ego2native.copy()
    out[:3] = ida @ ego2native[:3]
    return out
