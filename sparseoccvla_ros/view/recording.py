"""Recording of a drive for the Rerun viewer: to a file, to a live page in a browser, or both.

Every entity is logged at the stamp of its frame set (timeline "camera"), never at the time of logging.
Rerun is an optional dependency, imported when a recording is created.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
from scipy.linalg import rq

from ..core import geometry
from ..core.classes import CAMERAS, CLASSES, PALETTE
from ..core.errors import InvalidInput
from ..core.types import HORIZONS, CameraFrames, Plan, PlanStatus
from ..core.vehicle import NUSCENES_CAR, Vehicle
from ..core.voxels import SparseVoxels
from .canvas import SHOWN_PALETTE, printable
from .ground_path import centre_line, ground_height, path_colour, score_colours
from .scene_picture import UNTRAINED

TIMELINE = "camera"
EGO = "map/ego"
TRAIL = 600
"""Ego positions kept in the line behind the vehicle."""
TEXT_LIMIT = 4000
LEVELS: tuple[str, ...] = ("DEBUG", "INFO", "WARN", "ERROR")


def _rerun() -> ModuleType:
    """Import rerun. Raises ImportError with the install command if it is missing."""
    try:
        return import_module("rerun")
    except ImportError as error:
        raise ImportError(
            "a recording needs rerun-sdk, which is in the extra `viz`: pip install 'sparseoccvla_ros[viz]'"
        ) from error


def split_camera(ego2img: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Decompose `ego2img` into intrinsics float64 [3, 3] and camera2ego float64 [4, 4].

    Returns None for a matrix that is not a camera: not finite, singular, or mirrored (image flipped for training).
    """
    if not np.isfinite(ego2img).all() or np.linalg.det(ego2img[:3, :3]) <= 1e-9:
        return None
    upper, rotation = rq(ego2img[:3, :3])
    signs = np.sign(np.diag(upper))
    upper, rotation = upper * signs, rotation * signs[:, None]
    ego2camera = np.eye(4)
    ego2camera[:3, :3] = rotation
    ego2camera[:3, 3] = np.linalg.solve(upper, ego2img[:3, 3])
    return upper / upper[2, 2], geometry.inverse(ego2camera)


def camera_entity(name: str) -> str:
    """Return the entity path of a camera's image."""
    return f"{EGO}/cameras/{name}/image"


def forecast_entity(seconds: float) -> str:
    """Return the entity path of the occupancy forecast `seconds` ahead."""
    return f"{EGO}/forecast/{seconds:g}s"


def _check_port(address: str, port: int) -> None:
    """Raise InvalidInput("port") if a port cannot be used; Rerun would only log it and leave the page empty."""
    if not 1 <= port <= 65535:
        raise InvalidInput("port", f"{port} is no port")
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            raise InvalidInput("port", f"{address}:{port} cannot be used ({error.strerror})") from error


class SceneRecording:
    """Logger of scenes, text and numbers to a file, a browser, or both.

    path: the .rrd file to write, or None. port: serves the viewer at http://<address>:<port> (see `url`), or None;
    data use port + 1. address: interface that serves the data, loopback by default. The viewer page comes from Rerun,
    contains no data and is served on every interface. body: vehicle drawn to scale.
    Both sinks get every message from the first one on. Use it as a context manager, or call close().

    Raises ImportError if rerun-sdk is missing, InvalidInput if no sink is given or a port is in use.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        port: int | None = None,
        address: str = "127.0.0.1",
        body: Vehicle = NUSCENES_CAR,
    ) -> None:
        if path is None and port is None:
            raise InvalidInput("path", "neither a file nor a port to serve is given")
        self._rr = _rerun()
        self._body = body
        self._cameras = set(CAMERAS)
        self._trail: deque[np.ndarray] = deque(maxlen=TRAIL)
        self._epoch: int | None = None
        self.path = None if path is None else Path(path)
        self.url = ""
        if port is not None:
            _check_port("0.0.0.0", port)
            _check_port(address, port + 1)
        sinks = []
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            sinks.append(self._rr.FileSink(str(self.path)))
        if port is not None:
            host = "127.0.0.1" if address == "0.0.0.0" else address
            data = f"rerun+http://{host}:{port + 1}/proxy"
            sinks.append(self._rr.GrpcServerSink(address, port + 1, cors_allow_origin=[f"http://{host}:{port}"]))
            self._rr.serve_web_viewer(web_port=port, open_browser=False, connect_to=data)
            self.url = f"http://{host}:{port}/?url={data.replace('+', '%2B')}"
        self._stream = self._rr.RecordingStream("sparseoccvla")
        self._stream.set_sinks(*sinks, default_blueprint=self.blueprint(CAMERAS))
        self._log_static()

    def __enter__(self) -> SceneRecording:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Flush and release the file and the port; logging afterwards is a caller error."""
        self._stream.flush()
        self._stream.disconnect()

    def blueprint(self, cameras: tuple[str, ...]) -> object:
        """Return the viewer layout: scene (now, forecasts, label), status and log left, cameras and plots right."""
        rrb = import_module("rerun.blueprint")

        def scene(name: str, *entities: str) -> object:
            always = [f"/{EGO}/body", f"/{EGO}/plan/**", "/map/trail"]
            return rrb.Spatial3DView(
                origin=f"/{EGO}",
                contents=[*always, *(f"/{EGO}/{entity}" for entity in entities)],
                name=name,
                background=(13, 16, 21),
                line_grid=rrb.LineGrid3D(spacing=10.0, color=(70, 80, 95)),
                eye_controls=rrb.EyeControls3D(
                    position=(-15, 0, 11), look_target=(9, 0, 0), eye_up=(0, 0, 1), kind=rrb.Eye3DKind.Orbital
                ),
            )

        ahead = [scene(f"in {s:g} s", forecast_entity(s).removeprefix(f"{EGO}/")) for s in HORIZONS]
        images = [
            rrb.Spatial2DView(
                origin=f"/{camera_entity(name)}",
                contents=["$origin/**", f"/{EGO}/plan/path"] if "BACK" not in name else ["$origin/**"],
                name=name.removeprefix("CAM_").replace("_", " ").lower(),
            )
            for name in _page_order(cameras)
        ]
        left = rrb.Vertical(
            rrb.Tabs(scene("now", "occupancy"), *ahead, scene("label", "label"), active_tab=0),
            rrb.Horizontal(
                rrb.TextDocumentView(origin="/status", name="status"),
                rrb.TextLogView(origin="/log", name="log"),
                column_shares=[2, 3],
            ),
            row_shares=[5, 2],
        )
        right = rrb.Vertical(
            rrb.Grid(*images, grid_columns=3 if len(images) > 4 else 2),
            rrb.Horizontal(
                rrb.TimeSeriesView(origin="/latency", name="latency, ms"),
                rrb.TimeSeriesView(origin="/motion", name="motion"),
            ),
            row_shares=[3, 2],
        )
        return rrb.Blueprint(
            rrb.Horizontal(left, right, column_shares=[1, 1]),
            rrb.TimePanel(timeline=TIMELINE, state="collapsed"),
            collapse_panels=True,
        )

    def log_scene(
        self,
        frames: CameraFrames,
        voxels: SparseVoxels,
        plan: Plan | None = None,
        forecasts: tuple[SparseVoxels, ...] = (),
        labels: SparseVoxels | None = None,
        notes: Mapping[str, str] | None = None,
        trained: bool = False,
    ) -> None:
        """Log one frame set and its results; the arguments are those of `scene_picture`.

        A missing plan, forecast or label is cleared, so the viewer never shows an older one at a newer stamp.
        """
        rr = self._rr
        if set(frames.names) != self._cameras:
            self._cameras = set(frames.names)
            rr.send_blueprint(self.blueprint(frames.names), recording=self._stream)
        self._at(frames.stamp)
        self._log_ego(frames)
        for index, name in enumerate(frames.names):
            self._log_camera(name, frames.images[index], frames.ego2img[index], bool(frames.valid[index]))
        self._log_voxels(f"{EGO}/occupancy", voxels)
        for index, seconds in enumerate(HORIZONS):
            self._log_voxels(forecast_entity(seconds), forecasts[index] if forecasts else None)
        self._log_voxels(f"{EGO}/label", labels)
        self._log_plan(plan, ground_height(voxels) + 0.1)
        self._stream.log("motion/speed", rr.Scalars([frames.ego.speed]))
        if plan is not None and len(plan.speed):
            self._stream.log("motion/planned_3s", rr.Scalars([float(plan.speed[-1])]))
        document = _status(frames, plan, notes or {}, trained)
        self._stream.log("status", rr.TextDocument(document, media_type="text/markdown"))

    def log_text(self, stamp: int, text: str, source: str = "reasoning", level: str = "INFO") -> None:
        """Log a line of text at `stamp` ns: an answer, a reason, a diagnostic. level is one of LEVELS."""
        if level not in LEVELS:
            raise InvalidInput("level", f"{level} is not one of {', '.join(LEVELS)}")
        self._at(stamp)
        line = self._rr.TextLog(printable(text[:TEXT_LIMIT]), level=level)
        self._stream.log(["log", source], line)

    def log_scalars(self, stamp: int, values: Mapping[str, float], group: str = "latency") -> None:
        """Log the finite values at `stamp` ns, one curve per name; group "latency" is in ms, "motion" in m/s."""
        self._at(stamp)
        for name, value in values.items():
            if np.isfinite(value):
                self._stream.log([group, name], self._rr.Scalars([float(value)]))

    def _at(self, stamp: int) -> None:
        self._stream.set_time(TIMELINE, timestamp=np.datetime64(int(stamp), "ns"))

    def _log_static(self) -> None:
        rr, body = self._rr, self._body
        self._stream.log("map", rr.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)
        names = [(i, name.replace("_", " "), tuple(int(c) for c in PALETTE[i])) for i, name in enumerate(CLASSES)]
        self._stream.log("map", rr.AnnotationContext(names), static=True)
        half = (body.length_m / 2, body.width_m / 2, body.height_m / 2)
        box = rr.Boxes3D(
            centers=[(body.front_m - half[0], 0, half[2])],
            half_sizes=[half],
            colors=[(240, 244, 248)],
            fill_mode="solid",
        )
        self._stream.log(f"{EGO}/body", box, static=True)

    def _log_ego(self, frames: CameraFrames) -> None:
        pose = frames.ego.pose
        if self._epoch != frames.epoch:
            self._trail.clear()
            self._epoch = frames.epoch
        self._trail.append(pose[:3, 3].copy())
        self._stream.log(EGO, self._rr.Transform3D(translation=pose[:3, 3], mat3x3=pose[:3, :3]))
        line = self._rr.LineStrips3D([np.array(self._trail)], colors=[(143, 153, 167)], radii=[0.06])
        self._stream.log("map/trail", line if len(self._trail) > 1 else self._rr.Clear(recursive=False))

    def _log_camera(self, name: str, image: np.ndarray, ego2img: np.ndarray, valid: bool) -> None:
        rr, entity = self._rr, camera_entity(name)
        camera = split_camera(ego2img)
        if not valid or not image.size:
            self._stream.log(entity, rr.Clear(recursive=True))
            return
        if camera is not None:
            intrinsics, camera2ego = camera
            place = rr.Transform3D(translation=camera2ego[:3, 3], mat3x3=camera2ego[:3, :3])
            height, width = image.shape[:2]
            self._stream.log(entity.removesuffix("/image"), place)
            pinhole = rr.Pinhole(
                image_from_camera=intrinsics,
                resolution=(width, height),
                camera_xyz=rr.ViewCoordinates.RDF,
                image_plane_distance=1.2,
            )
            self._stream.log(entity, pinhole)
        good, encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
        if not good:
            raise InvalidInput("images", f"{name}: {list(image.shape)} cannot be encoded as JPEG")
        self._stream.log(entity, rr.EncodedImage(contents=encoded.tobytes(), media_type="image/jpeg"))

    def _log_voxels(self, entity: str, voxels: SparseVoxels | None) -> None:
        rr = self._rr
        if voxels is None or not len(voxels):
            self._stream.log(entity, rr.Clear(recursive=False))
            return
        half = voxels.grid.size / 2
        sizes = np.full((len(voxels), 3), half * 0.96, np.float32)
        shape = rr.Boxes3D(
            centers=voxels.centres(),
            half_sizes=sizes,
            colors=SHOWN_PALETTE[voxels.labels].astype(np.uint8),
            class_ids=voxels.labels,
            fill_mode="solid",
            show_labels=False,
        )
        self._stream.log(entity, shape)

    def _log_plan(self, plan: Plan | None, height: float) -> None:
        rr = self._rr
        if plan is None or not len(plan.candidates):
            self._stream.log(f"{EGO}/plan/candidates", rr.Clear(recursive=False))
        else:
            start = np.zeros((len(plan.candidates), 1, 2))
            strips = _raised(np.concatenate([start, plan.candidates], axis=1), height)
            lines = rr.LineStrips3D(list(strips), colors=score_colours(plan.scores), radii=[0.05])
            self._stream.log(f"{EGO}/plan/candidates", lines)
        line = centre_line(plan.waypoints) if plan is not None else np.zeros((0, 2))
        if plan is None or not len(line):
            self._stream.log(f"{EGO}/plan/path", rr.Clear(recursive=False))
            self._stream.log(f"{EGO}/plan/waypoints", rr.Clear(recursive=False))
            return
        strip = rr.LineStrips3D([_raised(line, height)], colors=[path_colour(plan)], radii=[0.18])
        self._stream.log(f"{EGO}/plan/path", strip)
        dots = rr.Points3D(_raised(plan.waypoints, height), colors=[(255, 255, 255)], radii=[0.24])
        self._stream.log(f"{EGO}/plan/waypoints", dots)


def _page_order(cameras: tuple[str, ...]) -> tuple[str, ...]:
    """Return nuScenes cameras as front row, then rear row, each left to right; other rigs in the given order."""
    usual = ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT")
    return tuple(n for n in usual if n in cameras) if set(cameras) <= set(usual) else tuple(cameras)


def _raised(points: np.ndarray, height: float) -> np.ndarray:
    """Extend [..., 2] m to float32 [..., 3] at one height."""
    return np.concatenate([points, np.full((*points.shape[:-1], 1), height)], axis=-1).astype(np.float32)


def _status(frames: CameraFrames, plan: Plan | None, notes: Mapping[str, str], trained: bool) -> str:
    """Return the status panel as Markdown."""
    lines = [] if trained else [f"### {UNTRAINED}"]
    if plan is None:
        lines.append("### no plan")
    else:
        mark = {PlanStatus.OK: "", PlanStatus.DEGRADED: " (!)"}.get(plan.status, " (!!)")
        lines.append(f"### plan {plan.status.value}{mark}")
        lines.append(f"**{plan.command.value}**, from {plan.command_source.value}; scored by {plan.score_source}")
        lines.extend(f"- {reason}" for reason in plan.reasons)
    if frames.missing:
        lines.append(f"- missing: {', '.join(frames.missing)}")
    lines.append(f"{frames.ego.speed:.1f} m/s")
    lines.extend(f"**{printable(k)}** {printable(str(v)[:TEXT_LIMIT])}" for k, v in notes.items())
    return "\n\n".join(lines)
