"""Camera models from sensor_msgs/CameraInfo fields or a calibration file, tolerating the defects of real bags."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from ..core import geometry
from ..core.errors import InvalidInput
from ..core.files import read_yaml

PLUMB_BOB = "plumb_bob"
RATIONAL = "rational_polynomial"
EQUIDISTANT = "equidistant"
_COEFFICIENTS = {PLUMB_BOB: (4, 5), RATIONAL: (8, 12, 14), EQUIDISTANT: (4,)}
_ALIASES = {"fisheye": EQUIDISTANT, "kannala_brandt4": EQUIDISTANT, "radtan": PLUMB_BOB}
_FORMAT = "cameras-1"
VIEW_DEG = 90.0
"""Horizontal field of view of a view out of a wide lens; a wider pinhole image is stretched at its edges."""
_OUTSIDE = -1e4
"""Pixel coordinate outside any image."""


class CalibrationMismatch(InvalidInput):
    """The size of an image differs from the one its camera was calibrated for."""


@dataclass(frozen=True, eq=False)
class CameraModel:
    """Intrinsics, distortion and mount of one camera.

    name: its name in frame sets; frame_id: its optical frame (z forward, x right, y down; REP-103) in tf, may be
    empty if camera2ego is given; width, height: native pixels, 0 if unknown; intrinsics: float64 [3, 3], pixels,
    (0, 0) is the centre of the top left pixel; camera2ego: float64 [4, 4], or None to look it up in tf; distortion:
    float64 [n] coefficients, empty if images are undistorted; distortion_model: plumb_bob, rational_polynomial or
    equidistant; rectification: float64 [3, 3], rotation from the optical frame to that of the rectified image or view;
    lens: float64 [3, 3], for a `view` the intrinsics of the native image it is cut from (its own are `intrinsics`),
    else None.
    """

    name: str
    frame_id: str
    width: int
    height: int
    intrinsics: np.ndarray
    camera2ego: np.ndarray | None = None
    distortion: np.ndarray = field(default_factory=lambda: np.zeros(0))
    distortion_model: str = PLUMB_BOB
    rectification: np.ndarray = field(default_factory=lambda: np.eye(3))
    lens: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not self.name:
            raise InvalidInput("camera", "has no name")
        sizes = (self.width, self.height)
        integers = all(isinstance(v, (int, np.integer)) and not isinstance(v, bool) for v in sizes)
        if not integers or min(sizes) < 0 or (min(sizes) == 0) != (max(sizes) == 0) or max(sizes) > 2**16:
            raise InvalidInput(self.name, f"{sizes[0]}x{sizes[1]} is no image size")
        object.__setattr__(self, "intrinsics", _intrinsics(self.intrinsics, self.name, *sizes))
        object.__setattr__(self, "distortion", np.asarray(self.distortion, np.float64).ravel())
        if self.distortion.size and not np.isfinite(self.distortion).all():
            raise InvalidInput(self.name, "distortion holds a number that is not finite")
        if not _is_rotation(self.rectification):
            raise InvalidInput(self.name, "the rectification is no rotation")
        if self.camera2ego is not None:
            matrix = np.asarray(self.camera2ego, np.float64)
            if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or not _is_rotation(matrix[:3, :3]):
                raise InvalidInput(self.name, "camera2ego is no rigid transform")
            object.__setattr__(self, "camera2ego", matrix)

    @property
    def distorted(self) -> bool:
        """Whether images have to be undistorted."""
        return bool(self.distortion.any()) or self.distortion_model == EQUIDISTANT or self.lens is not None

    @property
    def taken(self) -> np.ndarray:
        """Intrinsics of the native image, float64 [3, 3]: `lens` for a view, else `intrinsics`."""
        return self.intrinsics if self.lens is None else self.lens

    def prepared(self, ida: np.ndarray) -> np.ndarray:
        """Return intrinsics of the prepared (undistorted, resized, cropped) image; ida: [3, 3], native to prepared."""
        return ida @ self.intrinsics

    def same_as(self, other: CameraModel | None) -> bool:
        """Whether all fields are equal; an unchanged CameraInfo is published with every image."""
        if other is None:
            return False
        plain = ("name", "frame_id", "width", "height", "distortion_model")
        arrays = ("intrinsics", "distortion", "rectification", "camera2ego", "lens")
        return all(getattr(self, n) == getattr(other, n) for n in plain) and all(
            _equal(getattr(self, n), getattr(other, n)) for n in arrays
        )

    def mounted(self, camera2ego: np.ndarray) -> CameraModel:
        """Return the same camera with the given mount, float64 [4, 4]."""
        return replace(self, camera2ego=camera2ego)

    def view(self, name: str, yaw_deg: float) -> CameraModel:
        """Return a pinhole camera cut out of a wide lens: `VIEW_DEG` wide, turned left about the optical y axis.

        Raises InvalidInput if the native size is unknown, or the image is already rectified or a view.
        """
        if not self.width or not np.array_equal(self.rectification, np.eye(3)) or self.lens is not None:
            raise InvalidInput(name, f"no view can be taken out of {self.name}: its native size or lens is not known")
        c, s = math.cos(math.radians(yaw_deg)), math.sin(math.radians(yaw_deg))
        turned = np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])
        focal = 0.5 * self.width / math.tan(math.radians(0.5 * VIEW_DEG))
        pinhole = np.array([[focal, 0, 0.5 * (self.width - 1)], [0, focal, 0.5 * (self.height - 1)], [0, 0, 1.0]])
        return replace(self, name=name, intrinsics=pinhole, rectification=turned, lens=self.intrinsics)


def from_fields(
    name: str,
    frame_id: str,
    width: int,
    height: int,
    k: Sequence[float],
    p: Sequence[float] = (),
    r: Sequence[float] = (),
    d: Sequence[float] = (),
    model: str = "",
    rectified: bool = False,
    binning: tuple[int, int] = (0, 0),
    roi: tuple[int, int, int, int] = (0, 0, 0, 0),
) -> CameraModel:
    """Build a camera model from the fields of a sensor_msgs/CameraInfo.

    k: 9 numbers, p: 12, r: 9, d: distortion coefficients of `model`. rectified: the image topic carries rectified
    images, so P (with R) describes them; otherwise K does and D is undone. binning: (x, y) and roi: (x_offset,
    y_offset, width, height) as in REP-104: the image is this region of the full sensor with `binning` pixels merged
    into one; 0 means full sensor and no binning. Tolerated because published recordings have them: R or P zero or
    missing, D zero or empty (any `model` but a fisheye then counts as undistorted).
    Raises InvalidInput for a K that is zero or not finite, wrong lengths, a region outside the sensor, and distortion
    of an unknown model.
    """
    matrix = _numbers(k, (9,), name, "K").reshape(3, 3)
    projection = _numbers(p, (0, 12), name, "P").reshape(-1, 4)
    rotation = _numbers(r, (0, 9), name, "R").reshape(-1, 3)
    distortion = _numbers(d, None, name, "D")
    crop, width, height = _region(name, width, height, binning, roi)
    matrix = crop @ matrix
    projection = crop @ projection if projection.size else projection
    if rectified and projection.any():
        turned = rotation if rotation.any() else np.eye(3)
        if not _is_rotation(turned):
            raise InvalidInput(name, "R is no rotation")
        return CameraModel(name, frame_id, width, height, projection[:, :3], rectification=turned)
    if rectified and distortion.any():
        raise InvalidInput(name, "the image is said to be rectified but P is empty")
    known = _ALIASES.get(model, model)
    if known == EQUIDISTANT and not distortion.size and not rectified:
        distortion = np.zeros(4)
    if not distortion.any() and (rectified or known != EQUIDISTANT):
        return CameraModel(name, frame_id, width, height, matrix)
    if known not in _COEFFICIENTS:
        raise InvalidInput(
            name, f"distortion model {str(model)[:40]!r} is not supported; these are: {', '.join(_COEFFICIENTS)}"
        )
    if distortion.size not in _COEFFICIENTS[known]:
        wanted = " or ".join(map(str, _COEFFICIENTS[known]))
        raise InvalidInput(name, f"{known} has {wanted} coefficients, got {distortion.size}")
    return CameraModel(name, frame_id, width, height, matrix, distortion=distortion, distortion_model=known)


def _region(
    name: str, width: int, height: int, binning: tuple[int, int], roi: tuple[int, int, int, int]
) -> tuple[np.ndarray, int, int]:
    """Return the matrix [3, 3] from full-sensor to image pixels, and width and height of the image."""
    x, y, wide, high = roi if any(roi[2:]) else (0, 0, width, height)
    bx, by = (max(1, b) for b in binning)
    if min(x, y) < 0 or (any(roi) and (x + wide > width or y + high > height or min(wide, high) < max(bx, by))):
        raise InvalidInput(name, f"region of interest {wide}x{high} at {x}, {y} is not inside {width}x{height}")
    if max(bx, by) == 1 and (x, y, wide, high) == (0, 0, width, height):
        return np.eye(3), width, height
    # A binned pixel's centre is the mean of the centres it merges: (u + 0.5) / b - 0.5.
    matrix = np.array([[1 / bx, 0, (0.5 - x) / bx - 0.5], [0, 1 / by, (0.5 - y) / by - 0.5], [0, 0, 1.0]])
    return matrix, wide // bx, high // by


def is_fisheye(model: str) -> bool:
    """Whether a CameraInfo's distortion_model names a fisheye lens."""
    return _ALIASES.get(model, model) == EQUIDISTANT


def rectifying_maps(
    model: CameraModel, scaling: np.ndarray, ida: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return maps for cv2.remap from a scaled, distorted image to the prepared, undistorted one, float32 [H, W] each.

    scaling, ida: [3, 3], native to scaled and to prepared pixels; size: (H, W). Distortion acts on directions, not
    on pixels, so scaling the intrinsics on both sides is sufficient.
    """
    source, target = scaling @ model.taken, model.prepared(ida)
    if model.distortion_model == EQUIDISTANT:
        return _fisheye_maps(model, source, target, size)
    maps = cv2.initUndistortRectifyMap(source, model.distortion, model.rectification, target, size[::-1], cv2.CV_32FC1)
    x, y, z = _rays(model, target, size)
    # Mask rays behind the pinhole, which project mirrored, and rays where the distortion polynomial folds back.
    unseen = (z <= 1e-9) | (np.hypot(x, y) > _widest(model.distortion) * z)
    for part in maps[:2]:
        part[unseen] = _OUTSIDE
    return maps[0], maps[1]


def _rays(model: CameraModel, target: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the ray in the optical frame of every pixel of an image with intrinsics `target`, float64 [3, H, W]."""
    rows, columns = np.indices(size, np.float64)
    pixels = np.stack([columns, rows, np.ones(size)], -1)
    return np.moveaxis(pixels @ (np.linalg.inv(target).T @ model.rectification), -1, 0)


def _widest(distortion: np.ndarray) -> float:
    """Return the tangent of the largest angle from the axis up to which the radius of OpenCV's pinhole distortion
    models increases."""
    at = np.tan(np.linspace(0.0, 0.499 * np.pi, 2000))
    k1, k2, _, _, k3, k4, k5, k6 = np.resize(np.append(distortion, np.zeros(8)), 8)
    square = at**2
    radius = at * (1 + square * (k1 + square * (k2 + square * k3))) / (1 + square * (k4 + square * (k5 + square * k6)))
    return _end_of_rise(at, radius)


def _end_of_rise(at: np.ndarray, radius: np.ndarray) -> float:
    """Return the place where a sampled lens polynomial first stops increasing; it is invalid beyond."""
    return float(at[np.argmax(np.append(np.diff(radius) <= 0, True))])


def _fisheye_maps(
    model: CameraModel, source: np.ndarray, target: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Like cv2.fisheye.initUndistortRectifyMap, but also for rays beside and behind the lens."""
    x, y, z = _rays(model, target, size)
    radius = np.hypot(x, y)
    reached = fisheye_radius(np.arctan2(radius, z), model.distortion) / np.maximum(radius, 1e-12)
    u = source[0, 0] * reached * x + source[0, 2]
    v = source[1, 1] * reached * y + source[1, 2]
    return u.astype(np.float32), v.astype(np.float32)


def fisheye_radius(theta: np.ndarray, distortion: np.ndarray) -> np.ndarray:
    """Return the radius in focal lengths at an angle from the axis, rad (Kannala-Brandt); 1e3 beyond its range."""
    at = np.linspace(0.0, np.pi, 2000)
    last = _end_of_rise(at, _kannala_brandt(at, distortion))
    return np.where(theta <= last, _kannala_brandt(theta, distortion), 1e3)


def _kannala_brandt(theta: np.ndarray, distortion: np.ndarray) -> np.ndarray:
    return theta * (1.0 + sum(k * theta ** (2 * i + 2) for i, k in enumerate(distortion.tolist())))


def _equal(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    return a is b or (a is not None and b is not None and np.array_equal(a, b))


def load_calibration(path: str | Path) -> dict[str, CameraModel]:
    """Load the camera models of a calibration file, by name.

    YAML: `format: cameras-1`, then `cameras: NAME: {width, height, k [9], translation [3] m, rotation_xyzw [4],
    frame_id, d [n], model}`; translation and rotation are the optical frame's pose in the ego frame and optional
    together (tf is then used and needs frame_id); d and model are optional. Raises InvalidInput with camera and key.
    """
    path = Path(path)
    content = read_yaml(path, "calibration")
    cameras = content.get("cameras") if isinstance(content, dict) else None
    if not isinstance(cameras, dict) or not cameras:
        raise InvalidInput("calibration", f"{path} has no `cameras`")
    if content.get("format", _FORMAT) != _FORMAT:
        raise InvalidInput("calibration", f"{path} has format {content['format']!r}, want {_FORMAT}")
    return {str(name): _from_entry(str(name), entry) for name, entry in cameras.items()}


def save_calibration(path: str | Path, cameras: Mapping[str, CameraModel]) -> None:
    """Write a lossless calibration file for `load_calibration`. Raises InvalidInput for views and rectified cameras."""
    entries = {}
    for name, model in cameras.items():
        if not np.array_equal(model.rectification, np.eye(3)) or model.lens is not None:
            raise InvalidInput(name, "a view or rectifying rotation has no place in the file; fold it into camera2ego")
        entry: dict[str, Any] = {"width": int(model.width), "height": int(model.height)}
        entry["k"] = model.intrinsics.ravel().tolist()
        if model.camera2ego is not None:
            entry["translation"] = model.camera2ego[:3, 3].tolist()
            entry["rotation_xyzw"] = geometry.quaternion(model.camera2ego).tolist()
        if model.frame_id:
            entry["frame_id"] = model.frame_id
        if model.distorted:
            entry["d"] = model.distortion.tolist()
            entry["model"] = model.distortion_model
        entries[name] = entry
    text = yaml.safe_dump({"format": _FORMAT, "cameras": entries}, sort_keys=False, default_flow_style=None)
    Path(path).write_text(text)


_KEYS = {"width", "height", "k", "translation", "rotation_xyzw", "frame_id", "d", "model"}


def _from_entry(name: str, entry: Any) -> CameraModel:
    if not isinstance(entry, dict):
        raise InvalidInput(name, "want a mapping of calibration values")
    unknown = sorted(map(str, set(entry) - _KEYS))
    if unknown:
        raise InvalidInput(name, f"unknown keys {', '.join(unknown)}; these are known: {', '.join(sorted(_KEYS))}")
    for key in ("width", "height", "k"):
        if key not in entry:
            raise InvalidInput(name, f"{key} is missing")
    if ("translation" in entry) != ("rotation_xyzw" in entry):
        raise InvalidInput(name, "translation and rotation_xyzw belong together")
    frame_id, model = entry.get("frame_id", ""), entry.get("model", PLUMB_BOB)
    if not isinstance(frame_id, str) or not isinstance(model, str):
        raise InvalidInput(name, "frame_id and model are names")
    camera = from_fields(name, frame_id, entry["width"], entry["height"], entry["k"], d=entry.get("d", ()), model=model)
    if "translation" not in entry:
        if not frame_id:
            raise InvalidInput(name, "has neither a pose nor a frame_id to look one up")
        return camera
    translation = _numbers(entry["translation"], (3,), name, "translation")
    rotation = _numbers(entry["rotation_xyzw"], (4,), name, "rotation_xyzw")
    return camera.mounted(geometry.transform(translation, rotation, field=f"{name}.rotation_xyzw"))


def _numbers(values: Any, lengths: tuple[int, ...] | None, name: str, what: str) -> np.ndarray:
    try:
        array = np.asarray(values, np.float64).ravel()
    except (TypeError, ValueError):
        raise InvalidInput(name, f"{what} holds something that is no number") from None
    if lengths is not None and array.size not in lengths:
        raise InvalidInput(name, f"{what} has {array.size} numbers, want {max(lengths)}")
    if not np.isfinite(array).all():
        raise InvalidInput(name, f"{what} holds a number that is not finite")
    return array


def _intrinsics(matrix: Any, name: str, width: int, height: int) -> np.ndarray:
    """Check a pinhole matrix: positive focal lengths, last row 0 0 1, principal point not far outside the image."""
    k = _numbers(matrix, (9,), name, "K").reshape(3, 3)
    if not k.any():
        raise InvalidInput(name, "K is zero: the camera is not calibrated")
    if min(k[0, 0], k[1, 1]) <= 0 or k[1, 0] != 0 or not np.allclose(k[2], (0, 0, 1)):
        raise InvalidInput(name, "K is no pinhole matrix (fx, fy > 0; last row 0 0 1)")
    if width and not (-width < k[0, 2] < 2 * width and -height < k[1, 2] < 2 * height):
        raise InvalidInput(name, f"K has its centre at {k[0, 2]:.0f}, {k[1, 2]:.0f}, far outside {width}x{height}")
    return k


def _is_rotation(matrix: np.ndarray) -> bool:
    m = np.asarray(matrix)
    if m.shape != (3, 3) or not np.isfinite(m).all() or np.abs(m).max() > 1.5:
        return False
    return bool(np.abs(m @ m.T - np.eye(3)).max() < 1e-2 and math.isclose(np.linalg.det(m), 1.0, abs_tol=5e-2))
