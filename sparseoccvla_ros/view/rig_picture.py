"""Overview of a camera rig: ground coverage per camera from above, and every prepared image."""

from __future__ import annotations

import cv2
import numpy as np

from ..camera_sync.rig.check import CameraReport, RigReport
from ..core import geometry
from .canvas import BACKGROUND, BAD, GOOD, LINE, MUTED, TEXT, Colour, Rect, blank, draw_text, fitted, mix

REACH = 40.0
"""m from the vehicle to each side, the extent of the encoder's grid."""
SIZE, MARGIN, THUMB = 720, 24, 264
HUES: tuple[Colour, ...] = (
    (66, 165, 245), (255, 167, 38), (102, 187, 106), (236, 64, 122), (171, 71, 188), (255, 238, 88), (38, 198, 218),
    (255, 112, 67),
)  # fmt: skip
EYE_LEVEL = 0.8
"""m above the ground at which coverage is tested, half the height of a car."""


def coverage(cameras: tuple[CameraReport, ...], cells: int = 160) -> np.ndarray:
    """Count the cameras that cover each ground cell, int [cells, cells]: x forward on the first axis, y left."""
    return _seen(cameras, cells).sum(0)


def _seen(cameras: tuple[CameraReport, ...], cells: int) -> np.ndarray:
    """Return coverage per camera, bool [cameras, cells, cells]: x forward on the second axis, y left on the third."""
    edge = (np.arange(cells) + 0.5) / cells * 2 * REACH - REACH
    points = np.stack([*np.meshgrid(edge, edge, indexing="ij"), np.full((cells, cells), EYE_LEVEL)], -1)
    out = np.zeros((len(cameras), cells, cells), bool)
    for row, camera in zip(out, cameras, strict=True):
        row[:] = _covers(camera, points)
    return out


def _covers(camera: CameraReport, points: np.ndarray) -> np.ndarray:
    """Whether a camera covers each of points [..., 3] m in base_link, bool [...]; none before it is calibrated."""
    if camera.ego2img is None or camera.preview is None:
        return np.zeros(points.shape[:-1], bool)
    pixels, depth = geometry.project(camera.ego2img, points)
    height, width = camera.preview.shape[:2]
    with np.errstate(invalid="ignore"):
        return (depth > 0.1) & (pixels >= -0.5).all(-1) & (pixels < (width - 0.5, height - 0.5)).all(-1)


def blind_directions(cameras: tuple[CameraReport, ...], distance: float = 15.0) -> list[tuple[int, int]]:
    """Return ranges in degrees, left positive, without coverage at `distance` m from the origin of base_link."""
    angles = np.radians(np.arange(-180, 180))
    points = np.stack([distance * np.cos(angles), distance * np.sin(angles), np.full(360, EYE_LEVEL)], -1)
    seen = np.zeros(360, bool)
    for camera in cameras:
        seen |= _covers(camera, points)
    if seen.all():
        return []
    if not seen.any():
        return [(-180, 180)]
    start = int(seen.argmax())
    turned = np.roll(seen, -start)
    changes = np.flatnonzero(np.diff(turned.astype(np.int8), append=1))
    wrap = lambda degrees: (degrees + start) % 360 - 180  # noqa: E731
    return [(int(wrap(a + 1)), int(wrap(b))) for a, b in zip(changes[::2], changes[1::2], strict=True)]


def rig_picture(report: RigReport) -> np.ndarray:
    """Render uint8 [H, W, 3] RGB: coverage from above on the left, forward up; every prepared image on the right."""
    rows = -(-len(report.cameras) // 2)
    thumb_height = round(THUMB * report.image.height / report.image.width)
    height = max(SIZE + 2 * MARGIN + 40, MARGIN + rows * (thumb_height + 58))
    page = blank(SIZE + 3 * MARGIN + 2 * THUMB + 12, height)
    _draw_map(Rect(MARGIN, MARGIN + 28, SIZE, SIZE).of(page), report.cameras)
    draw_text(
        page,
        f"{report.profile.name}: ground that the encoder is shown, {REACH:.0f} m each way",
        (MARGIN, 34),
        17,
        TEXT,
        600,
    )
    for i, camera in enumerate(report.cameras):
        left = SIZE + 2 * MARGIN + (i % 2) * (THUMB + 12)
        _draw_camera(
            page, camera, HUES[i], Rect(left, MARGIN + 28 + (i // 2) * (thumb_height + 58), THUMB, thumb_height)
        )
    return page


def _draw_map(canvas: np.ndarray, cameras: tuple[CameraReport, ...]) -> None:
    seen = _seen(cameras, 240)
    # Forward is up and left is left, so both image axes run opposite to x and y.
    hues = np.array(HUES[: len(cameras)], np.float64)
    count = seen.sum(0)
    colour = np.tensordot(seen, hues, ((0,), (0,))) / np.maximum(count, 1)[..., None]
    strength = np.where(count > 0, 0.30 + 0.14 * np.minimum(count, 4), 0.0)[..., None]
    shown = colour * strength + np.array(BACKGROUND) * (1 - strength)
    canvas[:] = cv2.resize(shown[::-1, ::-1].astype(np.uint8), canvas.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    scale, middle = SIZE / (2 * REACH), SIZE / 2
    for radius in (10, 20, 30, 40):
        cv2.circle(canvas, (SIZE // 2, SIZE // 2), round(radius * scale), LINE, 1, cv2.LINE_AA)
        draw_text(canvas, f"{radius} m", (SIZE // 2 + 4, round(middle - radius * scale) + 16), 12, MUTED)
    corners = np.array([[3.9, 0.95], [3.9, -0.95], [-1.0, -0.95], [-1.0, 0.95]])
    cv2.polylines(canvas, [np.round(middle - corners[:, ::-1] * scale).astype(np.int32)], True, TEXT, 2, cv2.LINE_AA)
    for camera, hue in zip(cameras, HUES, strict=False):
        if camera.camera2ego is None:
            continue
        place, axis = camera.camera2ego[:2, 3], camera.camera2ego[:2, 2]
        from_, to = (np.round(middle - p[::-1] * scale).astype(int) for p in (place, place + 5.0 * axis))
        if np.abs(place).max() < REACH:
            cv2.arrowedLine(canvas, from_.tolist(), to.tolist(), hue, 2, cv2.LINE_AA, tipLength=0.25)


def _draw_camera(page: np.ndarray, camera: CameraReport, hue: Colour, place: Rect) -> None:
    part = place.of(page)
    if camera.preview is None:
        part[:] = mix(BACKGROUND, BAD, 0.2)
    else:
        part[:] = cv2.resize(camera.preview, (place.width, place.height), interpolation=cv2.INTER_AREA)
    cv2.rectangle(page, (place.x, place.y), (place.x + place.width - 1, place.y + place.height - 1), hue, 2)
    what = f"{camera.lens} {camera.used_deg:.0f} of {camera.lens_deg:.0f} deg" if camera.lens else "not calibrated"
    below = place.y + place.height + 18
    title = fitted(f"{camera.name}  {camera.rate:.1f} Hz  {what}", place.width, 13, 600)
    draw_text(page, title, (place.x, below), 13, TEXT, 600)
    state = fitted("; ".join(camera.problems) or "sound", place.width, 12)
    draw_text(page, state, (place.x, below + 18), 12, BAD if camera.problems else GOOD)
