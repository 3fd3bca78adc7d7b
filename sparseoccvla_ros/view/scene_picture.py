"""Overview image of a frame set and all results of the stack."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ..core.classes import CLASSES
from ..core.errors import InvalidInput
from ..core.types import HORIZONS, CameraFrames, Plan, PlanStatus
from ..core.vehicle import NUSCENES_CAR, Vehicle
from ..core.voxels import SparseVoxels
from .above import view_from_above
from .behind import view_from_behind
from .camera_panel import camera_mosaic
from .canvas import (
    BAD,
    BOLD,
    LINE,
    MEDIUM,
    MUTED,
    PANEL,
    SHOWN_PALETTE,
    SUNKEN,
    TEXT,
    Rect,
    blank,
    draw_text,
    fitted,
    hatch,
    mix,
    panel,
    rounded,
    text_width,
    wrapped,
)
from .ground_path import STATUS_COLOURS, ground_height

WIDTH = 1920
MARGIN, GAP = 24, 12
HEADER, BANNER, TITLE, FOOTER = 78, 46, 34, 178
VIEW = 612
"""Side of a square view from above, pixels."""
UNTRAINED = "UNTRAINED WEIGHTS — shows the wiring, not understanding"


@dataclass(frozen=True)
class PageLayout:
    """Rectangles of the page's elements, pixels."""

    header: Rect
    banner: Rect | None
    cameras: Rect
    above: Rect
    labels: Rect | None
    behind: Rect
    forecasts: tuple[Rect, ...]
    legend: Rect
    notes: Rect
    height: int


def page_layout(camera_height: int, labelled: bool, trained: bool) -> PageLayout:
    """Lay out a page whose camera block is `camera_height` pixels tall."""
    inner = WIDTH - 2 * MARGIN
    header = Rect(MARGIN, 14, inner, HEADER)
    y = header.y + header.height + 10
    banner = None
    if not trained:
        banner = Rect(MARGIN, y, inner, BANNER)
        y += BANNER + GAP
    cameras = Rect(MARGIN, y, inner, camera_height)
    y += camera_height + GAP
    tall = VIEW + TITLE + 6
    above = Rect(MARGIN, y, VIEW + 12, tall)
    x = above.x + above.width + GAP
    labels = None
    if labelled:
        labels = Rect(x, y, VIEW + 12, tall)
        x = labels.x + labels.width + GAP
    rest = WIDTH - MARGIN - x
    if labelled:
        small = (rest - 2 * GAP) // 3
        low = small - 12 + TITLE + 6
        behind = Rect(x, y, rest, tall - low - GAP)
        forecasts = tuple(Rect(x + i * (small + GAP), y + tall - low, small, low) for i in range(len(HORIZONS)))
    else:
        low = (tall - 2 * GAP) // 3
        small = low - TITLE - 6 + 12
        behind = Rect(x, y, rest - small - GAP, tall)
        forecasts = tuple(Rect(WIDTH - MARGIN - small, y + i * (low + GAP), small, low) for i in range(len(HORIZONS)))
    y += tall + GAP
    legend = Rect(MARGIN, y, VIEW + 12, FOOTER)
    notes = Rect(legend.x + legend.width + GAP, y, inner - legend.width - GAP, FOOTER)
    return PageLayout(header, banner, cameras, above, labels, behind, forecasts, legend, notes, y + FOOTER + 18)


def scene_picture(
    frames: CameraFrames,
    voxels: SparseVoxels,
    plan: Plan | None,
    forecasts: tuple[SparseVoxels, ...] = (),
    labels: SparseVoxels | None = None,
    notes: Mapping[str, str] | None = None,
    trained: bool = False,
    body: Vehicle = NUSCENES_CAR,
) -> np.ndarray:
    """Render the page as uint8 [H, 1920, 3] RGB; the same input gives the same pixels.

    frames: camera images; the plan is projected into the forward-facing ones by their ego2img. voxels and plan: at
    frames.stamp in base_link (plan None: no plan). forecasts: voxels at HORIZONS seconds, or empty. labels: ground
    truth shown beside the prediction. notes: short name -> text, as in {"latency": "310 ms", "answer": "..."};
    "latency" goes to the status line. trained: False adds the banner. body: vehicle drawn to scale.
    Raises InvalidInput("forecasts") unless it has no element or one per horizon.
    """
    if len(forecasts) not in (0, len(HORIZONS)):
        raise InvalidInput("forecasts", f"want {len(HORIZONS)} horizons or none, got {len(forecasts)}")
    notes = dict(notes or {})
    cameras = camera_mosaic(frames, plan, WIDTH - 2 * MARGIN, body)
    layout = page_layout(cameras.shape[0], labels is not None, trained)
    page = blank(WIDTH, layout.height)
    layout.cameras.of(page)[:] = cameras
    _draw_header(page, layout.header, frames, plan, notes.pop("latency", ""))
    if layout.banner is not None:
        _draw_banner(page, layout.banner)
    count = f"{len(voxels):,} voxels"
    title = "Occupancy from above"
    inside = panel(page, layout.above, title + (", predicted" if labels is not None else ""), count)
    _put(page, inside, view_from_above(voxels, plan, inside.width, body))
    if labels is not None and layout.labels is not None:
        inside = panel(page, layout.labels, title + ", label", f"{len(labels):,} voxels")
        _put(page, inside, view_from_above(labels, None, inside.width, body))
    inside = panel(page, layout.behind, "Occupancy from behind the vehicle")
    ground = ground_height(voxels)
    _put(page, inside, view_from_behind(voxels, plan, inside.width, inside.height, ground, body))
    for index, (place, seconds) in enumerate(zip(layout.forecasts, HORIZONS, strict=True)):
        inside = panel(page, place, f"Forecast +{seconds:g} s")
        if forecasts:
            _put(page, inside, view_from_above(forecasts[index], plan, min(inside[2:]), body, ahead=seconds))
        else:
            inside.of(page)[:] = SUNKEN
            hatch(page, inside, PANEL)
            middle = (inside.x + inside.width // 2, inside.y + inside.height // 2 + 5)
            draw_text(page, "no forecast", middle, 14, MUTED, MEDIUM, "centre")
    _draw_legend(page, layout.legend, (voxels, *forecasts, *([labels] if labels is not None else [])))
    _draw_notes(page, layout.notes, plan, frames, notes)
    return page


def _put(page: np.ndarray, place: Rect, picture: np.ndarray) -> None:
    height, width = picture.shape[:2]
    left = place.x + (place.width - width) // 2
    Rect(left, place.y, width, height).of(page)[:] = picture


def _draw_header(page: np.ndarray, place: Rect, frames: CameraFrames, plan: Plan | None, latency: str) -> None:
    middle = place.y + place.height // 2
    draw_text(page, "SparseOccVLA", (place.x, middle + 2), 32, TEXT, BOLD)
    draw_text(page, "six cameras to occupancy, forecast and plan", (place.x + 1, middle + 25), 14, MUTED)
    status = "NO PLAN" if plan is None else f"PLAN {plan.status.value.upper()}"
    colour = MUTED if plan is None else STATUS_COLOURS[plan.status]
    x = place.x + 352
    width = text_width(status, 20, BOLD) + 36
    rounded(page, Rect(x, middle - 21, width, 42), colour, 21)
    draw_text(page, status, (x + 18, middle + 7), 20, SUNKEN, BOLD)
    x += width + 34
    facts = [("SPEED", f"{frames.ego.speed:.1f} m/s")]
    if plan is not None:
        facts.append(("COMMAND", f"{plan.command.value}, from {plan.command_source.value}"))
        if len(plan.speed):
            facts.append(("PLANNED AT +3 s", f"{plan.speed[-1]:.1f} m/s"))
        candidate = f"none of {len(plan.scores)}"
        if plan.chosen >= 0:
            candidate = f"{plan.chosen + 1} of {len(plan.scores)}, score {plan.scores[plan.chosen]:.2f}"
        facts.append(("CANDIDATE", candidate))
        facts.append(("SCORED BY", plan.score_source))
    if latency:
        facts.append(("LATENCY", latency))
    facts.append(("STAMP", f"{frames.stamp // 10**9}.{frames.stamp % 10**9 // 10**6:03d} s"))
    right = place.x + place.width
    for caption, value in facts:
        room = right - x
        if room < 60:
            break
        value = fitted(value, room, 19, MEDIUM)
        draw_text(page, caption, (x, middle - 10), 12, MUTED, MEDIUM)
        used = draw_text(page, value, (x, middle + 15), 19, TEXT, MEDIUM)
        x += max(used, text_width(caption, 12, MEDIUM)) + 32


def _draw_banner(page: np.ndarray, place: Rect) -> None:
    amber, dark = (255, 190, 30), (26, 20, 4)
    rounded(page, place, amber, 8)
    pixels = place.of(page)
    middle = place.width // 2
    half = text_width(UNTRAINED, 25, BOLD) // 2 + 30
    for side in (range(14, middle - half - 42, 44), range(middle + half, place.width - 40, 44)):
        for start in side:
            stripe = np.array(
                [(start, place.height - 1), (start + 20, place.height - 1), (start + 42, 0), (start + 22, 0)]
            )
            cv2.fillConvexPoly(pixels, stripe.astype(np.int32), dark, cv2.LINE_AA)
    draw_text(page, UNTRAINED, (place.x + middle, place.y + 32), 25, dark, BOLD, "centre")


def _draw_legend(page: np.ndarray, place: Rect, scenes: tuple[SparseVoxels, ...]) -> None:
    counts = np.zeros(len(CLASSES), np.int64)
    for scene in scenes:
        counts += np.bincount(scene.labels, minlength=len(CLASSES))
    present = np.flatnonzero(counts)
    inside = panel(page, place, "Classes in this picture", f"{len(present)} of {len(CLASSES)}")
    if not len(present):
        draw_text(page, "no occupied voxel", (inside.x + 10, inside.y + 20), 14, MUTED)
    rows = 6
    column = inside.width // 3
    for slot, label in enumerate(present):
        x, y = inside.x + 8 + slot // rows * column, inside.y + 4 + slot % rows * 22
        rounded(page, Rect(x, y, 16, 16), tuple(int(c) for c in SHOWN_PALETTE[label]), 4)
        draw_text(page, CLASSES[label].replace("_", " "), (x + 24, y + 13), 14, TEXT)


def _draw_notes(
    page: np.ndarray, place: Rect, plan: Plan | None, frames: CameraFrames, notes: Mapping[str, str]
) -> None:
    """Draw the plan's reasons, then the caller's notes: short notes share a line, long ones wrap."""
    inside = panel(page, place, "Notes")
    left, right = inside.x + 8, inside.x + inside.width - 8
    bottom = inside.y + inside.height
    y = inside.y + 15
    reasons = list(plan.reasons) if plan is not None else ["no plan was made for this frame set"]
    if frames.missing:
        reasons.append("missing: " + ", ".join(frames.missing))
    if reasons:
        colour = BAD if plan is None or plan.status in (PlanStatus.BRAKING, PlanStatus.REJECTED) else (255, 204, 110)
        for line in wrapped("; ".join(reasons), right - left, 15, 2):
            draw_text(page, line, (left, y), 15, colour, MEDIUM)
            y += 21
    entries = [(fitted(str(k), 260, 14, MEDIUM), str(v)) for k, v in notes.items()]
    short = [(k, v) for k, v in entries if len(v) <= 40]
    x = left
    for name, value in short:
        value = fitted(value, 420, 14)
        width = text_width(name, 14, MEDIUM) + text_width(value, 14) + 38
        if x > left and x + width > right:
            x, y = left, y + 22
        if y > bottom:
            return
        x += draw_text(page, name, (x, y), 14, MUTED, MEDIUM) + 8
        x += draw_text(page, value, (x, y), 14, TEXT) + 30
    if short:
        y += 24
    for name, value in (e for e in entries if len(e[1]) > 40):
        lines = max(0, (bottom - y) // 20 + 1)
        if not lines:
            return
        indent = draw_text(page, name, (left, y), 14, MUTED, MEDIUM) + 12
        for line in wrapped(value, right - left - indent, 14, min(3, lines)):
            draw_text(page, line, (left + indent, y), 14, mix(TEXT, LINE, 0.05))
            y += 20
        y += 4


def save_png(path: str | os.PathLike[str], image: np.ndarray) -> Path:
    """Write uint8 [H, W, 3] RGB as PNG atomically, creating missing folders."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise InvalidInput("image", "want uint8 [H, W, 3]")
    target = Path(path)
    good, encoded = cv2.imencode(".png", np.ascontiguousarray(image[..., ::-1]))
    if not good:
        raise InvalidInput("image", f"{list(image.shape)} cannot be encoded")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".part")
    partial.write_bytes(encoded.tobytes())
    partial.replace(target)
    return target
