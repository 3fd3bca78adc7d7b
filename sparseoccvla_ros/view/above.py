"""Bird's-eye view of occupancy and plan: the ego at the centre, forward up, left on the left."""

from __future__ import annotations

import cv2
import numpy as np

from ..core.classes import FLAT, FREE, NUM_CLASSES
from ..core.errors import InvalidInput
from ..core.types import STEP_SECONDS, Command, Plan
from ..core.vehicle import NUSCENES_CAR, Vehicle
from ..core.voxels import SparseVoxels
from .canvas import BOLD, LINE, MUTED, SHOWN_PALETTE, SUNKEN, TEXT, Colour, Rect, blank, draw_text, mix, plated, veil
from .ground_path import centre_line, path_colour, ribbon, score_colours

RANGE = 40.0
"""m from the ego to each edge of the picture."""
_SHIFT = 4
_FLAT = np.isin(np.arange(NUM_CLASSES), FLAT)


def metres_to_pixels(points: np.ndarray, size: int) -> np.ndarray:
    """Convert base_link [..., 2] m to float64 pixels [..., 2] (u right, v down) of a square image of `size` pixels."""
    points = np.asarray(points, np.float64)
    scale = size / (2 * RANGE)
    return np.stack([size / 2 - points[..., 1] * scale, size / 2 - points[..., 0] * scale], axis=-1) - 0.5


def _fixed(points: np.ndarray, size: int) -> np.ndarray:
    pixels = np.clip(metres_to_pixels(points, size), -20 * size, 20 * size)
    return np.round(pixels * (1 << _SHIFT)).astype(np.int32)


def top_labels(voxels: SparseVoxels) -> tuple[np.ndarray, np.ndarray]:
    """Return the topmost voxel per column: labels uint8 [X, Y] (17 where the column is free), z index int16 [X, Y]."""
    shape = voxels.grid.shape[:2]
    labels, heights = np.full(shape, FREE, np.uint8), np.zeros(shape, np.int16)
    order = np.argsort(voxels.indices[:, 2], kind="stable")
    x, y, z = voxels.indices[order].T
    labels[x, y], heights[x, y] = voxels.labels[order], z
    return labels, heights


def column_colours(voxels: SparseVoxels) -> np.ndarray:
    """Return the class colour per column, uint8 [X, Y, 3]; low objects darker than tall ones, ground undimmed."""
    labels, heights = top_labels(voxels)
    colours = np.concatenate([SHOWN_PALETTE, [SUNKEN]])[labels]
    flat = np.append(_FLAT, False)[labels]
    lift = np.clip(heights / max(voxels.grid.shape[2] - 1, 1) * 2.0, 0, 1)
    share = np.where(flat | (labels == FREE), 1.0, 0.72 + 0.28 * lift)
    return (colours * share[..., None]).astype(np.uint8)


def draw_columns(voxels: SparseVoxels, size: int) -> np.ndarray:
    """Render the columns as uint8 [size, size, 3]; each pixel takes the colour of the column it lies in."""
    scale = 2 * RANGE / size
    along = RANGE - (np.arange(size) + 0.5) * scale
    grid = voxels.grid
    x = np.floor((along - grid.lower[0]) / grid.size).astype(np.int64)
    y = np.floor((along - grid.lower[1]) / grid.size).astype(np.int64)
    inside = ((x >= 0) & (x < grid.shape[0]))[:, None] & ((y >= 0) & (y < grid.shape[1]))[None]
    image = column_colours(voxels)[x.clip(0, grid.shape[0] - 1)[:, None], y.clip(0, grid.shape[1] - 1)[None]]
    image[~inside] = SUNKEN
    return image


def draw_rings(image: np.ndarray, labelled: bool = True) -> None:
    """Draw range rings every 10 m around the ego, a cross through it, and distance labels."""
    size = image.shape[0]
    over = image.copy()
    centre = tuple(int(v) for v in _fixed(np.zeros(2), size))
    radii = np.arange(10.0, RANGE + 0.5, 10.0)
    for radius in radii:
        cv2.circle(over, centre, round(radius * size / (2 * RANGE) * 16), MUTED, 1, cv2.LINE_AA, _SHIFT)
    for ends in (((-RANGE, 0), (RANGE, 0)), ((0, -RANGE), (0, RANGE))):
        cv2.polylines(over, [_fixed(np.array(ends), size)], False, LINE, 1, cv2.LINE_AA, _SHIFT)
    cv2.addWeighted(over, 0.6, image, 0.4, 0, dst=image)
    if labelled:
        for radius in radii:
            offset = radius * np.sqrt(0.5)
            u, v = (int(c) for c in metres_to_pixels(np.array((-offset, -offset)), size))
            plated(image, f"{radius:.0f} m", (u, v))


def draw_ego(image: np.ndarray, body: Vehicle = NUSCENES_CAR) -> None:
    """Draw the vehicle's footprint with a windscreen near its front."""
    size = image.shape[0]
    outline = _fixed(body.footprint(), size)
    cv2.fillConvexPoly(image, outline, (244, 247, 250), cv2.LINE_AA, _SHIFT)
    cv2.polylines(image, [outline], True, (10, 12, 16), 1, cv2.LINE_AA, _SHIFT)
    x, half = body.front_m, body.width_m / 2
    glass = np.array([(x - 0.9, half - 0.2), (x - 1.7, half - 0.3), (x - 1.7, 0.3 - half), (x - 0.9, 0.2 - half)])
    cv2.fillConvexPoly(image, _fixed(glass, size), (60, 72, 88), cv2.LINE_AA, _SHIFT)


def draw_future_ego(image: np.ndarray, plan: Plan, seconds: float, body: Vehicle) -> None:
    """Draw the vehicle's outline at its planned pose `seconds` ahead; forecasts stay in base_link at the stamp."""
    step = round(seconds / STEP_SECONDS) - 1
    if not 0 <= step < len(plan.waypoints):
        return
    cosine, sine = np.cos(plan.heading[step]), np.sin(plan.heading[step])
    corners = body.footprint() @ np.array([(cosine, sine), (-sine, cosine)]) + plan.waypoints[step]
    outline = [_fixed(corners, image.shape[0])]
    cv2.polylines(image, outline, True, (8, 10, 14), 4, cv2.LINE_AA, _SHIFT)
    cv2.polylines(image, outline, True, (255, 255, 255), 2, cv2.LINE_AA, _SHIFT)


def draw_plan(image: np.ndarray, plan: Plan, body: Vehicle = NUSCENES_CAR, detail: bool = True) -> None:
    """Draw candidates thin and coloured by score, the best on top; the chosen path thick with a dot per waypoint.

    Without `detail` only the path is drawn: no candidates, no swept width, no dots.
    """
    size = image.shape[0]
    colours = score_colours(plan.scores)
    for index in np.argsort(plan.scores, kind="stable") if detail else ():
        if np.isfinite(plan.candidates[index]).all():
            line = _fixed(np.concatenate([np.zeros((1, 2)), plan.candidates[index]]), size)
            cv2.polylines(image, [line], False, colours[index], 2, cv2.LINE_AA, _SHIFT)
    line = centre_line(plan.waypoints)
    if not len(line):
        return
    colour = path_colour(plan)
    pixels = [_fixed(line, size)]
    thickness = 4 if detail else 2
    if detail:
        left, right = ribbon(plan.waypoints, body.width_m)
        over = image.copy()
        for quad in np.stack([left[:-1], left[1:], right[1:], right[:-1]], axis=1):
            cv2.fillConvexPoly(over, _fixed(quad, size), colour, cv2.LINE_8, _SHIFT)
        cv2.addWeighted(over, 0.4, image, 0.6, 0, dst=image)
    cv2.polylines(image, pixels, False, (8, 10, 14), thickness + 3, cv2.LINE_AA, _SHIFT)
    cv2.polylines(image, pixels, False, colour, thickness, cv2.LINE_AA, _SHIFT)
    for point in _fixed(plan.waypoints, size) if detail else ():
        centre = (int(point[0]), int(point[1]))
        cv2.circle(
            image, centre, (thickness + 1) << (_SHIFT - 1), mix(colour, (255, 255, 255), 0.75), -1, cv2.LINE_AA, _SHIFT
        )


def draw_command(image: np.ndarray, command: Command, at: tuple[int, int], size: int, colour: Colour) -> None:
    """Draw a road-sign arrow (left, straight or right) in a square of `size` pixels whose top left corner is `at`."""
    stem = (
        np.array([(0.5, 0.92), (0.5, 0.2)]) if command is Command.STRAIGHT else np.array([(0.62, 0.92), (0.62, 0.52)])
    )
    if command is not Command.STRAIGHT:
        arc = np.linspace(0, np.pi / 2, 9)
        bend = np.stack([0.42 + 0.2 * np.cos(arc), 0.52 - 0.2 * np.sin(arc)], axis=1)
        stem = np.concatenate([stem, bend, [(0.2, 0.32)]])
    head = np.array([(0.5, 0.02), (0.74, 0.32), (0.26, 0.32)])
    if command is not Command.STRAIGHT:
        head = np.array([(0.02, 0.32), (0.32, 0.08), (0.32, 0.56)])
    for shape, closed in ((stem, False), (head, True)):
        points = shape if command is not Command.RIGHT else shape * (-1, 1) + (1, 0)
        pixels = np.round((points * size + at) * 16).astype(np.int32)
        if closed:
            cv2.fillConvexPoly(image, pixels, colour, cv2.LINE_AA, _SHIFT)
        else:
            cv2.polylines(image, [pixels], False, colour, max(2, size // 8), cv2.LINE_AA, _SHIFT)


def view_from_above(
    voxels: SparseVoxels,
    plan: Plan | None,
    size: int,
    body: Vehicle = NUSCENES_CAR,
    ahead: float = 0.0,
) -> np.ndarray:
    """Render occupancy and plan from above as uint8 [size, size, 3] RGB.

    ahead: seconds from the plan's stamp to the time of `voxels`. At 0 the image includes distance labels, candidates
    and the command; a forecast (ahead > 0) omits them and adds the vehicle's planned outline at that time.
    """
    if size < 16:
        raise InvalidInput("size", f"{size} pixels are too few")
    image = draw_columns(voxels, size) if len(voxels) else blank(size, size, SUNKEN)
    detail = ahead == 0
    draw_rings(image, labelled=detail)
    if plan is not None:
        draw_plan(image, plan, body, detail)
    draw_ego(image, body)
    if plan is not None and ahead:
        draw_future_ego(image, plan, ahead, body)
    if detail:
        plated(image, "front", (size // 2, 14), 12, MUTED)
    if detail and plan is not None:
        plate = Rect(10, 10, 74, 80)
        veil(image, plate, SUNKEN, 0.72)
        draw_command(image, plan.command, (plate.x + 14, plate.y + 6), 46, TEXT)
        draw_text(image, plan.command.value.upper(), (plate.x + 37, plate.y + 71), 13, TEXT, BOLD, "centre")
    return image
