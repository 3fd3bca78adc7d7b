"""Checks what the encoder gets from a recording or a running vehicle, and reports one line per problem.

The messages go through the same MessageAdapter and CameraSync as in the node; in addition, every camera is checked on
its own, so a missing one does not hide problems of the others.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ...core import geometry
from ...core.errors import InvalidInput
from ...core.tf_buffer import Extrapolation, TransformError
from ..calibration import EQUIDISTANT, CameraModel
from ..config import ImageConfig
from ..drop_reasons import DropReason
from ..frame_assembler import CameraSync
from ..message_adapter import MessageAdapter, image_source, stamp_ns
from ..profiles import CameraInput, Profile
from .lens import field_of_view

IMAGE_TYPES = {"raw": "sensor_msgs/msg/Image", "compressed": "sensor_msgs/msg/CompressedImage"}
INFO_TYPE = "sensor_msgs/msg/CameraInfo"
ODOMETRY_TYPE = "nav_msgs/msg/Odometry"
FARTHEST_MOUNT = 15.0
"""Largest plausible distance of a mount from the vehicle frame, m; beyond it, units or frame are wrong."""
LOWEST, HIGHEST = 0.1, 5.0
"""Plausible heights of a camera above the ground (z of the vehicle frame), m."""
FAR = 30.0
"""Distance ahead of a camera at which objects on the road must be in its image, m."""
CLOCK_OFF = 1.0
"""Difference between stamp and time of receipt beyond which their clocks differ, s."""
DARK = 16
"""Grey value that the brightest hundredth of an image must reach, otherwise it counts as black."""
_SET_REASONS = {
    DropReason.POSE_TIMEOUT, DropReason.POSE_TOO_OLD, DropReason.NO_TWIST, DropReason.IMPLAUSIBLE_MOTION,
}  # fmt: skip


@dataclass
class CameraReport:
    """Findings about one camera.

    images, rate: number received, and Hz by their stamps; lag_ms: median offset of its stamps from the nearest ones of
    the reference camera; lens, size: distortion model and native size (width, height), empty and 0 without a
    calibration; lens_deg, used_deg: horizontal field of view of the lens and of the prepared image; ego2img: float64
    [4, 4] of the prepared image, None if calibration or mount are unknown; camera2ego likewise; preview: the first
    prepared image, uint8 [H, W, 3]; problems: one line each.
    """

    name: str
    images: int = 0
    rate: float = 0.0
    lag_ms: float = 0.0
    lens: str = ""
    size: tuple[int, int] = (0, 0)
    lens_deg: float = 0.0
    used_deg: float = 0.0
    camera2ego: np.ndarray | None = None
    ego2img: np.ndarray | None = None
    preview: np.ndarray | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def heading_deg(self) -> float | None:
        """Yaw of its optical axis, degrees, left positive; None if its mount is unknown."""
        if self.camera2ego is None:
            return None
        return float(np.degrees(np.arctan2(self.camera2ego[1, 2], self.camera2ego[0, 2])))


@dataclass
class RigReport:
    """Findings about all cameras of a profile. sets: frame sets formed; complete: those with an image of every camera;
    spread_ms: median and largest spread of their stamps; problems: of the vehicle as a whole."""

    profile: Profile
    image: ImageConfig
    cameras: tuple[CameraReport, ...]
    sets: int
    complete: int
    spread_ms: tuple[float, float]
    problems: list[str]

    def lines(self) -> list[str]:
        """Return all problems, one line each; those of a camera begin with its name."""
        return [*self.problems, *(f"{c.name}: {text}" for c in self.cameras for text in c.problems)]


class RigCheck:
    """Collects the messages of a profile's topics, then reports problems.

    Args:
        profile: topics and frames of the cameras and of the ego pose.
        image: size of the preset's prepared images.
        topics: type of every existing topic, by name.
        calibration_file: like the node's parameter.

    Raises:
        InvalidInput: the calibration file cannot be read.
    """

    def __init__(
        self, profile: Profile, image: ImageConfig, topics: Mapping[str, str], calibration_file: str = ""
    ) -> None:
        self._profile, self._image, self._topics = profile, image, dict(topics)
        self._sync = CameraSync(profile.sync_config(), image, threads=1)
        self._problems: list[str] = []
        if profile.needs_calibration_file and not calibration_file:
            self._problems.append("the profile needs a calibration file (cameras-1), and none is given")
            # Check as if tf and CameraInfo were complete: what they lack is reported per camera.
            profile = replace(
                profile, mounts="tf", cameras={n: replace(c, info_topic="/none") for n, c in profile.cameras.items()}
            )
        self._adapter = MessageAdapter(self._sync, profile, calibration_file)
        cameras = self._profile.cameras.values()
        self._images = {c.image_topic: c for c in cameras}
        self._infos = {c.info_topic: c for c in cameras if c.info_topic}
        self._stamps: dict[str, list[int]] = defaultdict(list)
        self._received: dict[str, list[int]] = defaultdict(list)
        self._first: dict[str, Any] = {}
        self._refused: dict[str, Counter[str]] = defaultdict(Counter)
        self._drops: Counter[DropReason] = Counter()
        self._reasons: dict[DropReason, str] = {}
        self._sets = self._complete = 0

    @property
    def wanted(self) -> dict[str, str]:
        """Topics to feed, with their types; only those that exist with the expected type."""
        out = {topic: IMAGE_TYPES[c.transport] for topic, c in self._images.items()}
        out |= dict.fromkeys(self._infos, INFO_TYPE)
        if self._profile.odometry_topic:
            out[self._profile.odometry_topic] = ODOMETRY_TYPE
        out |= {"/tf": "tf2_msgs/msg/TFMessage", "/tf_static": "tf2_msgs/msg/TFMessage"}
        return {topic: kind for topic, kind in out.items() if self._topics.get(topic) == kind}

    def add(self, topic: str, message: Any, received_ns: int) -> None:
        """Add a message of a topic in `wanted`."""
        where = topic
        try:
            if topic in self._images:
                camera = self._images[topic]
                where = camera.name
                self._stamps[camera.name].append(stamp_ns(message.header.stamp))
                self._received[camera.name].append(received_ns)
                self._first.setdefault(camera.name, message)
                self._adapter.add_image(camera, message, received_ns)
            elif topic in self._infos:
                where = self._infos[topic].name
                self._adapter.add_camera_info(self._infos[topic], message)
            elif topic == self._profile.odometry_topic:
                self._adapter.add_odometry(message)
            else:
                self._adapter.add_transforms(message, static=topic == "/tf_static")
        except InvalidInput as error:
            self._refused[where][str(error).removeprefix(f"{where}: ")] += 1
        self._count(self._sync.take())

    def _count(self, frames: Any) -> None:
        if frames is not None:
            self._sets += 1
            self._complete += not frames.missing
        for reason, text in self._sync.messages():
            self._drops[reason] += 1
            self._reasons.setdefault(reason, text)

    def report(self) -> RigReport:
        """End the check and return the findings."""
        self._count(self._sync.finish())
        cameras = tuple(self._camera(c, name) for c in self._profile.cameras.values() for name in c.names)
        self._find_twins(cameras)
        statistics = self._sync.statistics()
        spread = (float(statistics["spread_p50_ms"]), float(statistics["spread_max_ms"]))
        problems = [*self._problems, *self._ego_problems(any(c.images for c in cameras))]
        self._sync.close()
        return RigReport(self._profile, self._image, cameras, self._sets, self._complete, spread, problems)

    # --- one camera

    def _camera(self, camera: CameraInput, name: str) -> CameraReport:
        report = CameraReport(name, images=len(self._stamps[camera.name]))
        report.problems += self._topic_problems(camera, report.images)
        report.problems += [f"{text} ({n} times)" for text, n in self._refused[camera.name].most_common(3)]
        if report.images:
            self._timing(report, camera.name)
        model = self._sync.cameras.get(name)
        if model is None:
            if report.images and not self._refused[camera.name]:
                report.problems.append(
                    f"has no calibration: nothing came on {camera.info_topic or 'a CameraInfo topic'}"
                )
        else:
            self._mount(report, model)
        self._look(report, camera, model)
        return report

    def _topic_problems(self, camera: CameraInput, images: int) -> list[str]:
        topic, wanted = camera.image_topic, IMAGE_TYPES[camera.transport]
        found = self._topics.get(topic)
        if found is None:
            others = sorted(t for t, k in self._topics.items() if k in IMAGE_TYPES.values() and t not in self._images)
            hint = f"; images that no camera takes: {', '.join(others)}" if others else ""
            return [f"there is no topic {topic}{hint}"]
        if found != wanted:
            return [f"{topic} carries {found}, but transport: {camera.transport} means {wanted}"]
        return [] if images else [f"{topic} carries no image"]

    def _timing(self, report: CameraReport, camera: str) -> None:
        stamps = np.array(self._stamps[camera], np.int64)
        received = np.array(self._received[camera], np.int64)
        if not stamps.all():
            report.problems.append(f"{int((stamps == 0).sum())} of {len(stamps)} stamps are 0")
            return
        steps = np.diff(stamps)
        if (steps <= 0).any():
            report.problems.append(
                f"{int((steps <= 0).sum())} of {len(stamps)} stamps are no later than the one before"
            )
        off = float(np.median(received - stamps)) / 1e9
        if abs(off) > CLOCK_OFF:
            report.problems.append(
                f"its stamps are {abs(off):.1f} s {'behind' if off > 0 else 'ahead of'} the recorder's clock"
            )
        step = float(np.median(steps)) if len(steps) else 0.0
        report.rate = 1e9 / step if step > 0 else 0.0
        reference = np.sort(np.array(self._stamps[self._profile.reference], np.int64))
        if not len(reference):
            return
        if step > 0:
            gaps = np.diff([min(reference[0], stamps[0]), *np.sort(stamps), max(reference[-1], stamps[-1])])
            if gaps.max() > max(2.5 * step, 0.5e9):
                report.problems.append(f"is silent for {gaps.max() / 1e9:.1f} s, {report.rate:.1f} Hz otherwise")
        nearest = reference[np.abs(reference[None] - stamps[:, None]).argmin(1)]
        report.lag_ms = float(np.median(stamps - nearest)) / 1e6
        tolerance = 1e3 * self._sync.config.tolerance
        if abs(report.lag_ms) > tolerance:
            report.problems.append(
                f"its stamps lie {report.lag_ms:+.0f} ms off those of {self._profile.reference}, "
                f"tolerance {tolerance:.0f} ms"
            )

    def _mount(self, report: CameraReport, model: CameraModel) -> None:
        matrix, base = model.camera2ego, self._sync.config.base_frame
        if matrix is None:
            try:
                matrix = self._sync.transforms.latest(base, model.frame_id)[1]
            except (TransformError, Extrapolation) as error:
                report.problems.append(f"its place on the vehicle is unknown: {error}")
                return
        report.camera2ego = matrix.copy()
        report.camera2ego[:3, :3] @= model.rectification.T
        if -matrix[2, 1] < 0.5:
            report.problems.append(
                f"{model.frame_id or 'its pose'} is no upright optical frame (z ahead, x right, y down; REP-103)"
            )
        place = matrix[:3, 3]
        if np.linalg.norm(place) > FARTHEST_MOUNT:
            report.problems.append(f"sits {np.linalg.norm(place):.0f} m from {base}: other units than metres?")
        elif not LOWEST < place[2] < HIGHEST:
            report.problems.append(f"sits {place[2]:.2f} m above {base}, which is to lie on the ground")

    def _look(self, report: CameraReport, camera: CameraInput, model: CameraModel | None) -> None:
        """Prepare the first image as the node would, and check how much of the field of view is left."""
        message = self._first.get(camera.name)
        if message is None:
            return
        out = np.zeros((self._image.height, self._image.width, 3), np.uint8)
        try:
            ida = self._sync.preparer.prepare(image_source(camera, message), out, model)
        except InvalidInput as error:
            report.problems.append(str(error).removeprefix(f"{report.name}: "))
            return
        report.preview = out
        if np.percentile(out, 99) < DARK:
            report.problems.append("its image is black")
        if model is None:
            return
        report.lens = model.distortion_model if model.distorted else "pinhole"
        report.size = (model.width, model.height)
        report.lens_deg, report.used_deg = field_of_view(model, ida, self._image.width)
        if report.used_deg < 0.7 * report.lens_deg and model.distortion_model != EQUIDISTANT:
            report.problems.append(f"only {report.used_deg:.0f} of its {report.lens_deg:.0f} degrees are used")
        if report.camera2ego is not None:
            report.ego2img = geometry.camera_matrix(model.prepared(ida), geometry.inverse(report.camera2ego))
            if not report.problems:
                self._find_horizon(report)

    def _find_horizon(self, report: CameraReport) -> None:
        """Report a crop that misses the road ahead: of a tilted camera, or of an image with unusual proportions."""
        assert report.camera2ego is not None
        assert report.ego2img is not None
        axis = report.camera2ego[:2, 2] / np.linalg.norm(report.camera2ego[:2, 2])
        far = np.append(report.camera2ego[:2, 3] + FAR * axis, 0.8)
        row = float(geometry.project(report.ego2img, far[None])[0][0, 1])
        if not 0.0 <= row < self._image.height:
            report.problems.append(f"what stands {FAR:.0f} m away is cropped off: the camera looks up or down")

    # --- the vehicle

    @staticmethod
    def _find_twins(cameras: tuple[CameraReport, ...]) -> None:
        """Report cameras with identical poses, caused by a copied extrinsic."""
        for i, first in enumerate(cameras):
            for second in cameras[i + 1 :]:
                a, b = first.camera2ego, second.camera2ego
                if a is not None and b is not None and np.allclose(a, b, atol=1e-3):
                    second.problems.append(f"has exactly the pose of {first.name}")

    def _ego_problems(self, images: bool) -> list[str]:
        out = []
        topic = self._profile.odometry_topic
        if topic and self._topics.get(topic) != ODOMETRY_TYPE:
            found = self._topics.get(topic)
            out.append(
                f"there is no topic {topic}" if found is None else f"{topic} carries {found}, not {ODOMETRY_TYPE}"
            )
        for where in ("/tf", "/tf_static", topic):
            out += [f"{where}: {text} ({n} times)" for text, n in self._refused[where].most_common(2)] if where else []
        for reason in sorted(_SET_REASONS & set(self._drops)):
            if self._drops[reason] > 0.2 * (self._sets + self._drops[reason]):
                out.append(f"{self._drops[reason]} frame sets were refused ({reason.value}): {self._reasons[reason]}")
        if images and not self._sets and not out:
            why = next(iter(self._reasons.values()), "no camera's images could be matched")
            out.append(f"not one frame set was made: {why}")
        return out
