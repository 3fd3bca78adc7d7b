"""Decodes camera images and scales them to the size of a preset, with the matching pixel transform (Ida).

Pixel coordinates are those of calibration: (0, 0) is the centre of the top left pixel. Scaling by s therefore maps u
to (u + 0.5) * s - 0.5, as the resize of OpenCV and Pillow does with pixel centres.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import Any

import cv2
import numpy as np

from ..core.errors import InvalidInput
from .calibration import CalibrationMismatch, CameraModel, rectifying_maps
from .config import ImageConfig
from .encodings import ENCODINGS, mosaic_code, pixels
from .image_header import check_size, read_header
from .jpeg_scan import check_scans

REDUCTIONS = (8, 4, 2)
_REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


@dataclass(frozen=True, eq=False)
class CompressedImage:
    """A JPEG or PNG file. data: any buffer of bytes; format: "ENCODING; CODEC compressed TARGET" of image_transport,
    which tells whether grey pixels are a Bayer mosaic."""

    data: Any
    format: str = ""


@dataclass(frozen=True, eq=False)
class RawImage:
    """Pixels as in sensor_msgs/Image: height rows of `step` bytes."""

    data: Any
    height: int
    width: int
    step: int
    encoding: str
    is_bigendian: int = 0


Fallback = Callable[[RawImage], np.ndarray]
"""Converts an encoding outside ENCODINGS to uint8 [H, W, 3] RGB (cv_bridge, if installed)."""
Source = CompressedImage | RawImage | np.ndarray | Callable[[], np.ndarray]
"""Sources of an image; an array, also one returned by a callable, is uint8 [H, W, 3] RGB."""


def decode_compressed(data: Any, field: str = "image", format: str = "") -> np.ndarray:
    """Decode a JPEG or PNG file to uint8 [H, W, 3] RGB in the pixel order of the sensor (EXIF orientation is ignored).

    Raises InvalidInput for other formats and for files that are truncated, damaged or empty; and, before anything is
    allocated, for files that would decode to more than 64 MiB.
    """
    image, code = _decode(CompressedImage(data, format), 1, field)
    return image if code is None else cv2.cvtColor(image, code)


def decode_raw(
    data: Any,
    height: int,
    width: int,
    step: int,
    encoding: str,
    is_bigendian: int = 0,
    field: str = "image",
    fallback: Fallback | None = None,
) -> np.ndarray:
    """Convert a raw image to uint8 [H, W, 3] RGB; rgb8 is returned as a view of the data.

    Raises InvalidInput for encodings outside ENCODINGS (unless `fallback` converts them), for a step or length that
    does not fit, and for empty or oversized images.
    """
    image, code = _view(RawImage(data, height, width, step, encoding, is_bigendian), field, fallback)
    return image if code is None else cv2.cvtColor(image, code)


def _bytes(data: Any, field: str) -> memoryview:
    try:
        return memoryview(data).cast("B")
    except (TypeError, ValueError):
        raise InvalidInput(field, f"want a contiguous buffer of bytes, got {type(data).__name__}") from None


def _decode(source: CompressedImage, reduction: int, field: str) -> tuple[np.ndarray, int | None]:
    """Decode to BGR, a JPEG at 1/reduction of its size, and return it with the conversion to RGB; a mosaic to RGB."""
    data = _bytes(source.data, field)
    header = read_header(data, field, source.format)
    if header.kind == "jpeg":
        check_scans(bytes(data), field)
    mosaic = mosaic_code(source.format) if header.grey else None
    flags = _REDUCED[reduction if header.kind == "jpeg" else 1] if mosaic is None else cv2.IMREAD_GRAYSCALE
    flags |= cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise InvalidInput(field, f"{header.kind} cannot be decoded: {error.err or error}") from None
    if image is None:
        raise InvalidInput(field, f"{header.kind} cannot be decoded")
    if mosaic is not None:
        if image.shape != (header.height, header.width) or min(image.shape) < 2:
            raise InvalidInput(field, f"{header.kind} decodes to {image.shape}, its header says otherwise")
        return cv2.cvtColor(image, mosaic), None
    divisor = reduction if header.kind == "jpeg" else 1
    if image.shape != (-(-header.height // divisor), -(-header.width // divisor), 3):
        raise InvalidInput(field, f"{header.kind} decodes to {image.shape}, its header says otherwise")
    return image, cv2.COLOR_BGR2RGB


def _view(source: RawImage, field: str, fallback: Fallback | None) -> tuple[np.ndarray, int | None]:
    """Return the pixels uint8 [H, W, C], a view where possible, and the remaining conversion to RGB."""
    sizes = (source.height, source.width, source.step)
    if not all(isinstance(v, (int, np.integer)) and not isinstance(v, bool) for v in sizes):
        raise InvalidInput(field, f"height, width and step must be integers, got {sizes}")
    height, width, step = (int(v) for v in sizes)
    if source.encoding not in ENCODINGS:
        if fallback is None:
            raise InvalidInput(
                field, f"encoding {str(source.encoding)[:40]!r} is not supported; these are: {', '.join(ENCODINGS)}"
            )
        check_size(height, width, 3, field)
        return _foreign(fallback, field, source), None
    encoding = ENCODINGS[source.encoding]
    check_size(height, width, max(3, encoding.bytes_per_pixel), field)
    data = _bytes(source.data, field)
    return pixels(data, height, width, step, encoding, bool(source.is_bigendian), field)


def _rgb(image: Any, field: str) -> np.ndarray:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise InvalidInput(field, f"want uint8 [H, W, 3] RGB, got {found}")
    check_size(image.shape[0], image.shape[1], 3, field)
    return image


def _foreign(convert: Callable[..., Any], field: str, *arguments: Any) -> np.ndarray:
    """Call an external converter; any exception it raises becomes InvalidInput."""
    try:
        image = convert(*arguments)
    except InvalidInput:
        raise
    except Exception as error:
        raise InvalidInput(field, f"{type(error).__name__}: {str(error)[:200]}") from error
    return _rgb(image, field)


@dataclass(frozen=True, eq=False)
class Geometry:
    """Scaling and crop from one native size to the prepared size.

    reduction: integer factor of the first step; resized: (rows, columns) after the second; top, left: the crop;
    scaling: [3, 3], native to resized pixels; ida: [3, 3], native to prepared pixels.
    """

    reduction: int
    resized: tuple[int, int]
    top: int
    left: int
    scaling: np.ndarray
    ida: np.ndarray


class ImagePreparer:
    """Decodes, undistorts, scales and crops images of any native size to [height, width]; thread-safe."""

    def __init__(self, config: ImageConfig, threads: int | None = None, fallback: Fallback | None = None) -> None:
        self.config = config
        self._fallback = fallback
        self._geometries: dict[tuple[int, int, bool], Geometry] = {}
        self._maps: dict[str, tuple[CameraModel, Geometry, tuple[np.ndarray, np.ndarray]]] = {}
        self._lock = Lock()
        self._pool = ThreadPoolExecutor(threads or min(6, os.cpu_count() or 1), thread_name_prefix="prepare")

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown(wait=True)

    def warm_up(self) -> None:
        """Prepare one JPEG, because the first one of a process waits for the compiled JPEG check to load."""
        shape = (self.config.height, self.config.width, 3)
        _, data = cv2.imencode(".jpg", np.zeros(shape, np.uint8))
        self.prepare(CompressedImage(data), np.empty(shape, np.uint8))

    def geometry(self, height: int, width: int, rounds_up: bool = False) -> Geometry:
        """Return scaling and crop from a native size to the prepared one, cached.

        rounds_up: the reduced image keeps partial blocks at its right and lower edge, as JPEG decoders do.
        """
        key = (height, width, rounds_up)
        known = self._geometries.get(key)
        if known is not None:
            return known
        check_size(height, width, 3, "image")
        want_h, want_w = self.config.height, self.config.width
        scale = max(want_h / height, want_w / width)
        rows, columns = max(want_h, round(height * scale)), max(want_w, round(width * scale))
        reduction = next((r for r in REDUCTIONS if height // r >= rows and width // r >= columns), 1)
        reduced_h, reduced_w = (-(-n // reduction) if rounds_up else n // reduction for n in (height, width))
        sy, sx = rows / (reduced_h * reduction), columns / (reduced_w * reduction)
        # An image taller than 16:9 is treated as its central 16:9 part, because the horizon is in its middle.
        taller = max(0, rows - round(columns * 9 / 16))
        top, left = max(0, rows - want_h - taller // 2), (columns - want_w) // 2
        scaling = np.array([[sx, 0, 0.5 * sx - 0.5], [0, sy, 0.5 * sy - 0.5], [0, 0, 1.0]])
        ida = scaling.copy()
        ida[:2, 2] -= (left, top)
        for matrix in (scaling, ida):
            matrix.setflags(write=False)
        geometry = Geometry(reduction, (rows, columns), top, left, scaling, ida)
        if len(self._geometries) < 64:
            self._geometries[key] = geometry
        return geometry

    def prepare(self, source: Source, out: np.ndarray, model: CameraModel | None = None) -> np.ndarray:
        """Write the prepared image into `out` uint8 [height, width, 3] RGB; returns Ida float64 [3, 3].

        Ida maps native (with a distorted `model`: undistorted native) pixels to prepared ones. Raises InvalidInput
        when the image cannot be decoded, CalibrationMismatch when its size differs from that of `model`.
        """
        field = model.name if model is not None else "image"
        image, code, geometry = self._reduced(source, model, field)
        rows, columns = geometry.resized
        if image.shape[:2] != (rows, columns):
            shrinks = rows <= image.shape[0] and columns <= image.shape[1]
            image = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        if model is not None and model.distorted:
            maps = self._rectifying(model, geometry)
            image = cv2.remap(image, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
        else:
            bottom, right = geometry.top + self.config.height, geometry.left + self.config.width
            image = image[geometry.top : bottom, geometry.left : right]
        if code is None:
            np.copyto(out, image)
        else:
            out[...] = cv2.cvtColor(image, code)
        return geometry.ida

    def prepare_all(
        self, jobs: Sequence[tuple[Source, np.ndarray, CameraModel | None]]
    ) -> list[np.ndarray | InvalidInput]:
        """Run `prepare` for several images in parallel; for a refused image, the result is its InvalidInput."""

        def one(job: tuple[Source, np.ndarray, CameraModel | None]) -> np.ndarray | InvalidInput:
            try:
                return self.prepare(*job)
            except InvalidInput as refused:
                return refused

        return list(self._pool.map(one, jobs)) if len(jobs) > 1 else [one(job) for job in jobs]

    def _reduced(
        self, source: Source, model: CameraModel | None, field: str
    ) -> tuple[np.ndarray, int | None, Geometry]:
        """Return the image after the integer reduction, the remaining conversion to RGB, and its geometry."""
        if isinstance(source, CompressedImage):
            header = read_header(_bytes(source.data, field), field, source.format)
            _fits(model, header.height, header.width)
            shrinks = header.kind == "jpeg" and not (header.grey and mosaic_code(source.format) is not None)
            geometry = self.geometry(header.height, header.width, rounds_up=shrinks)
            image, code = _decode(source, geometry.reduction, field)
            if shrinks:
                return image, code, geometry
        else:
            if isinstance(source, RawImage):
                image, code = _view(source, field, self._fallback)
            else:
                image, code = (_foreign(source, field) if callable(source) else _rgb(source, field)), None
            _fits(model, *image.shape[:2])
            geometry = self.geometry(*image.shape[:2])
        reduction = geometry.reduction
        if reduction > 1:
            # Reducing by an integer first is five times faster than scaling by the full ratio at once.
            rows, columns = (n // reduction for n in image.shape[:2])
            whole = image[: rows * reduction, : columns * reduction]
            image = cv2.resize(whole, (columns, rows), interpolation=cv2.INTER_AREA)
        return image if image.ndim == 3 else image[..., None], code, geometry

    def _rectifying(self, model: CameraModel, geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
        """Return the maps that undistort the resized image straight into the crop, cached per camera."""
        with self._lock:
            known = self._maps.get(model.name)
            if known is not None and known[0] is model and known[1] is geometry:
                return known[2]
        maps = rectifying_maps(model, geometry.scaling, geometry.ida, (self.config.height, self.config.width))
        with self._lock:
            self._maps[model.name] = (model, geometry, maps)
        return maps


def _fits(model: CameraModel | None, height: int, width: int) -> None:
    if model is not None and model.width and (model.height, model.width) != (height, width):
        raise CalibrationMismatch(
            model.name, f"image has {width}x{height} pixels, the calibration is for {model.width}x{model.height}"
        )
