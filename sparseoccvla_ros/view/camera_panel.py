"""Mosaic of a frame set's camera images with the planned path drawn on the road."""

from __future__ import annotations

import cv2
import numpy as np

from ..core.errors import InvalidInput
from ..core.types import WAYPOINT_TIMES, CameraFrames, Plan
from ..core.vehicle import NUSCENES_CAR, Vehicle
from .canvas import (
    BAD,
    LINE,
    MUTED,
    PANEL,
    SUNKEN,
    TEXT,
    Colour,
    Rect,
    blank,
    draw_text,
    hatch,
    mix,
    plated,
    text_width,
    veil,
)
from .ground_path import path_colour, ribbon

NEAR = 0.3
"""m; ground closer to the camera plane than this is not drawn."""
SLOTS: tuple[tuple[str, ...], ...] = (
    ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT"),
    ("CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT"),
)


def arrangement(frames: CameraFrames) -> list[list[str]]:
    """Return camera names by row and column, three per row.

    nuScenes names have fixed cells. Other rigs are ordered by viewing direction: forward-facing cameras from left to
    right first, then the others; '' marks an empty cell.
    """
    if all(name in sum(SLOTS, ()) for name in frames.names):
        return [list(row) for row in SLOTS]
    axis = frames.ego2img[:, 2, :2]
    yaw = np.arctan2(axis[:, 1], axis[:, 0])
    front = np.abs(yaw) <= np.pi / 2
    order = sorted(range(len(yaw)), key=lambda i: (not front[i], -yaw[i] if front[i] else yaw[i] % (2 * np.pi)))
    names = [frames.names[i] for i in order]
    rows = [names[i : i + 3] for i in range(0, len(names), 3)]
    return [row + [""] * (3 - len(row)) for row in rows]


def looks_forward(ego2img: np.ndarray) -> bool:
    """Return whether the optical axis points forward in base_link; only such images can show the path."""
    return bool(ego2img[2, 0] > 0.1 * np.linalg.norm(ego2img[2, :3]))


def draw_path(image: np.ndarray, ego2img: np.ndarray, plan: Plan, body: Vehicle = NUSCENES_CAR) -> None:
    """Draw the planned path into an image [H, W, 3] as a translucent strip of vehicle width on z = 0.

    ego2img: float64 [4, 4], base_link to pixels of this image. Bars mark the waypoints; whole seconds are labelled
    beside the strip.
    """
    left, right = ribbon(plan.waypoints, body.width_m)
    if not len(left):
        return
    edges = np.stack([left, right])
    pixels, visible = _ground_to_pixels(edges, ego2img, image.shape)
    colour = path_colour(plan)
    cover = np.zeros(image.shape[:2], np.uint8)
    whole = visible.all(axis=0)
    drawn = np.flatnonzero(whole[:-1] & whole[1:])
    quads = np.stack([pixels[0, drawn], pixels[0, drawn + 1], pixels[1, drawn + 1], pixels[1, drawn]], axis=1)
    for quad, index in zip(quads, drawn, strict=True):
        cv2.fillConvexPoly(cover, quad, round(150 - 70 * index / len(left)), shift=4)
    share = cover[..., None] * (1 / 255.0)
    image[:] = (image * (1 - share) + np.array(colour) * share).astype(np.uint8)
    thickness = max(1, round(image.shape[1] / 300))
    for side, seen in zip(pixels, visible, strict=True):
        _draw_visible(image, side, seen, colour, thickness)
    _draw_waypoints(image, ego2img, plan, (left, right), colour)


def _ground_to_pixels(points: np.ndarray, ego2img: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Project ground points [..., 2] m to int32 1/16 pixels; also return which lie ahead and near the image, [...]."""
    camera = points @ ego2img[:3, :2].T + ego2img[:3, 3]
    depth = camera[..., 2]
    pixels = camera[..., :2] / np.maximum(depth, NEAR)[..., None]
    limit = 4.0 * max(shape[:2])
    visible = (depth > NEAR) & (np.abs(pixels) < limit).all(axis=-1)
    return np.round(np.clip(pixels, -limit, limit) * 16).astype(np.int32), visible


def _draw_visible(image: np.ndarray, line: np.ndarray, visible: np.ndarray, colour: Colour, thickness: int) -> None:
    """Draw the visible runs of a polyline."""
    cuts = np.flatnonzero(np.diff(visible.astype(np.int8))) + 1
    runs = [run for run, seen in zip(np.split(line, cuts), np.split(visible, cuts), strict=True) if seen.all()]
    cv2.polylines(image, [run for run in runs if len(run) > 1], False, colour, thickness, cv2.LINE_AA, shift=4)


def _draw_waypoints(
    image: np.ndarray, ego2img: np.ndarray, plan: Plan, edges: tuple[np.ndarray, np.ndarray], colour: Colour
) -> None:
    per_step = (len(edges[0]) - 1) // len(plan.waypoints)
    bars = np.stack(edges)[:, per_step::per_step]
    pixels, visible = _ground_to_pixels(bars, ego2img, image.shape)
    bright = mix(colour, (255, 255, 255), 0.45)
    for step, seconds in enumerate(WAYPOINT_TIMES):
        if not visible[:, step].all():
            continue
        cv2.polylines(image, [pixels[:, step].copy()], False, bright, 1, cv2.LINE_AA, shift=4)
        (x1, y1), (x2, y2) = pixels[:, step] >> 4
        if float(seconds).is_integer() and abs(x2 - x1) > 14 and 0 <= min(y1, y2) < image.shape[0]:
            plated(image, f"{seconds:.0f} s", (int(max(x1, x2)) + 18, int(max(y1, y2))), 12, bright)


def scaled_ego2img(ego2img: np.ndarray, scale: tuple[float, float], offset: tuple[float, float]) -> np.ndarray:
    """Return ego2img [4, 4] for the image resized by `scale` (u, v) and moved to `offset` (pixel centres at .0)."""
    resize = np.eye(4)
    for axis in range(2):
        resize[axis, axis] = scale[axis]
        resize[axis, 2] = (scale[axis] - 1) / 2 + offset[axis]
    return resize @ ego2img


def draw_camera(
    canvas: np.ndarray,
    place: Rect,
    frames: CameraFrames,
    name: str,
    plan: Plan | None,
    body: Vehicle = NUSCENES_CAR,
) -> None:
    """Draw one camera image into `place`, scaled to fit without distortion, with the path if it faces forward."""
    canvas_part = place.of(canvas)
    canvas_part[:] = SUNKEN
    here = Rect(0, 0, place.width, place.height)
    title = name.removeprefix("CAM_").replace("_", " ")
    if name not in frames.names:
        hatch(canvas_part, here, PANEL)
        if name:
            draw_text(canvas_part, title, (place.width // 2, place.height // 2 - 4), 15, MUTED, 600, "centre")
            draw_text(
                canvas_part,
                "not in this frame set",
                (place.width // 2, place.height // 2 + 16),
                13,
                LINE,
                500,
                "centre",
            )
        return
    index = frames.names.index(name)
    source = frames.images[index]
    height, width = source.shape[:2]
    if not (height and width):
        raise InvalidInput("images", f"{name} has no pixels")
    scale = min(place.width / width, place.height / height)
    new = (max(1, round(width * scale)), max(1, round(height * scale)))
    left, top = (place.width - new[0]) // 2, (place.height - new[1]) // 2
    picture = canvas_part[top : top + new[1], left : left + new[0]]
    picture[:] = cv2.resize(source, new, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    if plan is not None and len(plan.waypoints) and looks_forward(frames.ego2img[index]):
        draw_path(picture, scaled_ego2img(frames.ego2img[index], (new[0] / width, new[1] / height), (0, 0)), plan, body)
    if not frames.valid[index]:
        veil(canvas_part, here, SUNKEN, 0.65)
        hatch(canvas_part, here, (70, 34, 36))
        draw_text(canvas_part, "MISSING", (place.width // 2, place.height // 2 + 8), 24, BAD, 750, "centre")
    plate = Rect(8, 8, min(text_width(title, 13, 600) + 16, place.width - 8), min(23, place.height - 8))
    veil(canvas_part, plate, SUNKEN, 0.6)
    draw_text(canvas_part, title, (16, 24), 13, TEXT, 600)


def mosaic_size(frames: CameraFrames, width: int, gap: int = 6) -> tuple[int, int]:
    """Return width and height in pixels of one cell, with three cells per row of `width`."""
    cell = (width - 2 * gap) // 3
    height, wide = frames.images.shape[1:3]
    return cell, int(np.clip(round(cell * height / max(wide, 1)), cell // 4, round(cell * 0.6)))


def camera_mosaic(
    frames: CameraFrames, plan: Plan | None = None, width: int = 1056, body: Vehicle = NUSCENES_CAR, gap: int = 6
) -> np.ndarray:
    """Render all cameras of a frame set as uint8 [H, width, 3] RGB, rows as in `arrangement`, missing ones marked."""
    if width < 96:
        raise InvalidInput("width", f"{width} pixels are too few for three cameras")
    rows = arrangement(frames)
    cell_width, cell_height = mosaic_size(frames, width, gap)
    out = blank(width, len(rows) * (cell_height + gap) - gap)
    for r, row in enumerate(rows):
        for c, name in enumerate(row):
            place = Rect(c * (cell_width + gap), r * (cell_height + gap), cell_width, cell_height)
            draw_camera(out, place, frames, name, plan, body)
    return out
