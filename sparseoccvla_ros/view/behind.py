"""Chase view of occupancy and plan: shaded cubes in perspective, drawn far to near (painter's algorithm)."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ..core.classes import FLAT
from ..core.errors import InvalidInput
from ..core.geometry import project
from ..core.types import Plan
from ..core.vehicle import NUSCENES_CAR, Vehicle
from ..core.voxels import SparseVoxels
from .canvas import SHOWN_PALETTE, Colour, mix
from .ground_path import centre_line, path_colour, ribbon, score_colours

SKY_TOP: Colour = (16, 20, 28)
HORIZON: Colour = (38, 46, 60)
NEAR = 0.6
MAX_FACES = 60_000
"""Largest number of faces per call of `_paint`, nearest first; bounds the rendering time for any model output."""
OVERSAMPLE = 2

_NORMALS = np.array([(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)])
_LIGHT = np.array([0.50, 0.62, 0.74, 0.56, 1.0, 0.4], np.float32)
_CORNERS = np.array(
    [
        [(1, 0, 0), (1, 1, 0), (1, 1, 1), (1, 0, 1)],
        [(0, 0, 0), (0, 0, 1), (0, 1, 1), (0, 1, 0)],
        [(0, 1, 0), (0, 1, 1), (1, 1, 1), (1, 1, 0)],
        [(0, 0, 0), (1, 0, 0), (1, 0, 1), (0, 0, 1)],
        [(0, 0, 1), (1, 0, 1), (1, 1, 1), (0, 1, 1)],
        [(0, 0, 0), (0, 1, 0), (1, 1, 0), (1, 0, 0)],
    ],
    np.float64,
)
"""Corners of a unit cube's six faces, in the order of _NORMALS."""


EYE, TARGET = (-13.5, 0.0, 10.0), (10.0, 0.0, 0.0)
"""Places of the camera behind the vehicle and of what it looks at: m in base_link, above the road."""
VIEW_ANGLE = 68.0
"""Horizontal field of view, degrees."""


def _ego2img(width: int, height: int, ground: float) -> np.ndarray:
    """Return float64 [4, 4], base_link to pixels; above aspect ratio 1.55 the vertical view angle is kept."""
    eye, target = (np.add(place, (0.0, 0.0, ground)) for place in (EYE, TARGET))
    forward = target - eye
    right = np.cross(forward, (0, 0, 1))
    forward, right = forward / np.linalg.norm(forward), right / np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    focal = min(width, 1.55 * height) / 2 / np.tan(np.radians(VIEW_ANGLE) / 2)
    intrinsics = np.array([(focal, 0, width / 2), (0, focal, height / 2), (0, 0, 1)])
    out = np.eye(4)
    out[:3, :3] = intrinsics @ rotation
    out[:3, 3] = out[:3, :3] @ -eye
    return out


@dataclass(frozen=True, eq=False)
class _Faces:
    """Quadrilateral faces: corners float64 [F, 4, 3] m, colours float32 [F, 3], flat bool [F] (ground classes)."""

    corners: np.ndarray
    colours: np.ndarray
    flat: np.ndarray


def visible_faces(voxels: SparseVoxels, eye: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the voxel faces that border free space and are turned towards `eye` [3] m.

    Returns voxel index int64 [F] and side int64 [F] (0..5: +x, -x, +y, -y, +z, -z).
    """
    filled = np.zeros(tuple(n + 2 for n in voxels.grid.shape), bool)
    index = voxels.indices.astype(np.int64) + 1
    filled[tuple(index.T)] = True
    centres = voxels.centres().astype(np.float64)
    half = voxels.grid.size / 2
    owners, sides = [], []
    for side, normal in enumerate(_NORMALS):
        open_side = ~filled[tuple((index + normal).T)]
        turned = (eye - centres) @ normal > half
        owner = np.flatnonzero(open_side & turned)
        owners.append(owner)
        sides.append(np.full(len(owner), side))
    return np.concatenate(owners), np.concatenate(sides)


def _voxel_faces(voxels: SparseVoxels, eye: np.ndarray) -> _Faces:
    owner, side = visible_faces(voxels, eye)
    corners = (voxels.indices[owner, None] + _CORNERS[side]) * voxels.grid.size + voxels.grid.lower
    flat = np.isin(voxels.labels[owner], FLAT)
    # Brightness rises with height, which makes walls and tree crowns readable.
    lift = 0.86 + 0.14 * voxels.indices[owner, 2] / max(voxels.grid.shape[2] - 1, 1)
    light = _LIGHT[side] * lift
    return _Faces(corners, SHOWN_PALETTE[voxels.labels[owner]] * light[:, None].astype(np.float32), flat)


def _box_faces(lower: np.ndarray, upper: np.ndarray, colour: Colour, eye: np.ndarray) -> _Faces:
    corners = _CORNERS * (upper - lower) + lower
    turned = ((eye - corners.mean(axis=1)) * _NORMALS).sum(axis=1) > 0
    shade = (np.array(colour) * _LIGHT[:, None]).astype(np.float32)
    return _Faces(corners[turned], shade[turned], np.zeros(int(turned.sum()), bool))


def _vehicle_faces(body: Vehicle, ground: float, eye: np.ndarray) -> _Faces:
    """Return hull and cabin, enough to show which way the vehicle points."""
    half, waist = body.width_m / 2, ground + 0.58 * body.height_m
    hull = _box_faces(
        np.array((-body.rear_overhang_m, -half, ground + 0.2)),
        np.array((body.front_m, half, waist)),
        (240, 244, 248),
        eye,
    )
    cabin = _box_faces(
        np.array((-body.rear_overhang_m + 0.15 * body.length_m, -half + 0.15, waist)),
        np.array((body.front_m - 0.3 * body.length_m, half - 0.15, ground + body.height_m)),
        (128, 142, 160),
        eye,
    )
    return _joined(hull, cabin)


def _joined(*parts: _Faces) -> _Faces:
    return _Faces(
        np.concatenate([p.corners for p in parts]),
        np.concatenate([p.colours for p in parts]),
        np.concatenate([p.flat for p in parts]),
    )


def _paint(image: np.ndarray, faces: _Faces, ego2img: np.ndarray, eye: np.ndarray) -> None:
    """Draw faces far to near; near ones get a darker outline that separates the cubes."""
    height, width = image.shape[:2]
    pixels, depth = project(ego2img, faces.corners, NEAR)
    low, high = pixels.min(axis=1), pixels.max(axis=1)
    with np.errstate(invalid="ignore"):
        seen = (depth > NEAR).all(axis=1) & (high >= 0).all(axis=1) & (low < (width, height)).all(axis=1)
        seen &= (np.abs(pixels) < 16 * max(width, height)).all(axis=(1, 2))
    distance = np.linalg.norm(faces.corners.mean(axis=1) - eye, axis=1)
    chosen = np.flatnonzero(seen)
    chosen = chosen[np.argsort(-distance[chosen], kind="stable")][-MAX_FACES:]
    fog = np.clip((distance[chosen] - 22) / 70, 0, 0.62)[:, None]
    colours = faces.colours[chosen] * (1 - fog) + np.array(HORIZON) * fog
    outlined = (high - low)[chosen].min(axis=1) > 5 * OVERSAMPLE
    corners = np.round(pixels[chosen] * 16).astype(np.int32)
    edges = (colours * 0.66).astype(int).tolist()
    fill, draw, antialias = cv2.fillConvexPoly, cv2.polylines, cv2.LINE_AA
    for polygon, colour, edge, outline in zip(
        corners, colours.astype(int).tolist(), edges, outlined.tolist(), strict=True
    ):
        fill(image, polygon, colour, cv2.LINE_8, 4)
        if outline:
            draw(image, [polygon], True, edge, 1, antialias, 4)


def _background(width: int, height: int, ego2img: np.ndarray, ground: float) -> np.ndarray:
    """Draw a sky gradient and a 10 m ground grid, which gives scale where nothing is occupied."""
    far, _ = project(ego2img, np.array([(2000.0, 0.0, ground)]))
    horizon = float(np.clip(far[0, 1], 1, height - 1))
    rows = np.arange(height)
    share = np.where(rows < horizon, rows / horizon, 1 - 0.85 * (rows - horizon) / (height - horizon))
    column = np.array(SKY_TOP) + (np.array(HORIZON) - SKY_TOP) * share[:, None]
    image = np.repeat(column.astype(np.uint8)[:, None], width, axis=1)
    for offset in np.arange(-40, 41, 10.0):
        steps = np.linspace(-40, 40, 81)
        for line in (
            np.stack([steps, np.full(81, offset), np.full(81, ground)], axis=1),
            np.stack([np.full(81, offset), steps, np.full(81, ground)], axis=1),
        ):
            _draw_line(image, line, ego2img, (46, 55, 69), 1)
    return image


def _draw_line(image: np.ndarray, points: np.ndarray, ego2img: np.ndarray, colour: Colour, thickness: int) -> None:
    pixels, depth = project(ego2img, points, NEAR)
    reach = 16 * max(image.shape)
    kept = (depth > NEAR) & (np.abs(np.nan_to_num(pixels, nan=reach)) < reach).all(axis=1)
    cuts = np.flatnonzero(np.diff(kept.astype(np.int8))) + 1
    for run, inside in zip(np.split(pixels, cuts), np.split(kept, cuts), strict=True):
        if len(run) > 1 and inside.all():
            cv2.polylines(image, [np.round(run * 16).astype(np.int32)], False, colour, thickness, cv2.LINE_AA, 4)


def _on_ground(points: np.ndarray, height: float) -> np.ndarray:
    return np.concatenate([points, np.full((len(points), 1), height)], axis=1)


def _draw_plan(image: np.ndarray, plan: Plan, body: Vehicle, ego2img: np.ndarray, ground: float) -> None:
    for index in np.argsort(plan.scores, kind="stable"):
        line = np.concatenate([np.zeros((1, 2)), plan.candidates[index]])
        if np.isfinite(line).all() and np.abs(line).max() < 200:
            _draw_line(image, _on_ground(line, ground + 0.05), ego2img, score_colours(plan.scores)[index], OVERSAMPLE)
    left, right = ribbon(plan.waypoints, body.width_m)
    if not len(left) or np.abs(left).max() > 200:
        return
    colour = path_colour(plan)
    corners = np.stack([left[:-1], left[1:], right[1:], right[:-1]], axis=1)
    pixels, depth = project(ego2img, np.concatenate([corners, np.full((*corners.shape[:2], 1), ground)], axis=2), NEAR)
    over = image.copy()
    for quad in np.round(pixels[(depth > NEAR).all(axis=1)] * 16).astype(np.int32):
        cv2.fillConvexPoly(over, quad, colour, cv2.LINE_8, 4)
    cv2.addWeighted(over, 0.6, image, 0.4, 0, dst=image)
    for edge in (left, right):
        _draw_line(image, _on_ground(edge, ground), ego2img, mix(colour, (255, 255, 255), 0.25), OVERSAMPLE)
    _draw_line(image, _on_ground(centre_line(plan.waypoints), ground), ego2img, (255, 255, 255), OVERSAMPLE)


def _draw_through(
    image: np.ndarray, plan: Plan | None, vehicle: _Faces, body: Vehicle, ego2img: np.ndarray, ground: float
) -> None:
    """Draw faint outlines of vehicle and path over everything, because a tree beside the road must not hide them."""
    over = image.copy()
    for corners in vehicle.corners:
        _draw_line(over, np.concatenate([corners, corners[:1]]), ego2img, (255, 255, 255), OVERSAMPLE)
    if plan is not None:
        for edge in ribbon(plan.waypoints, body.width_m):
            if np.abs(edge).max(initial=0) < 200:
                _draw_line(over, _on_ground(edge, ground), ego2img, path_colour(plan), OVERSAMPLE)
    cv2.addWeighted(over, 0.45, image, 0.55, 0, dst=image)


def view_from_behind(
    voxels: SparseVoxels,
    plan: Plan | None,
    width: int,
    height: int,
    ground: float = 0.0,
    body: Vehicle = NUSCENES_CAR,
) -> np.ndarray:
    """Render voxels, the path on the ground and the vehicle from behind as uint8 [height, width, 3] RGB.

    ground: z of the road in `voxels`, m (see ground_height). Ground classes are drawn first, then the path, then all
    other classes: obstacles cover the path, and only its faint outline shows through.
    """
    if min(width, height) < 16:
        raise InvalidInput("size", f"{width} x {height} pixels are too few")
    eye = np.add(EYE, (0.0, 0.0, ground))
    ego2img = _ego2img(width * OVERSAMPLE, height * OVERSAMPLE, ground)
    image = _background(width * OVERSAMPLE, height * OVERSAMPLE, ego2img, ground)
    faces = _voxel_faces(voxels, eye)
    low = faces.flat
    _paint(image, _Faces(faces.corners[low], faces.colours[low], low[low]), ego2img, eye)
    if plan is not None:
        _draw_plan(image, plan, body, ego2img, ground)
    standing = _Faces(faces.corners[~low], faces.colours[~low], low[~low])
    vehicle = _vehicle_faces(body, ground, eye)
    _paint(image, _joined(standing, vehicle), ego2img, eye)
    _draw_through(image, plan, vehicle, body, ego2img, ground)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
