"""Scene data for the cockpit page: camera images, occupancy, path and candidates, ready for JSON."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from ..core.classes import PALETTES, legend
from ..core.types import HORIZONS, CameraFrames, Plan
from ..core.vehicle import NUSCENES_CAR, Vehicle
from ..core.voxels import SparseVoxels
from .camera_panel import arrangement
from .ground_path import path_colour, ribbon

JPEG_QUALITY = 80
PALETTE = "live"


def scene_event(
    frames: CameraFrames,
    voxels: SparseVoxels,
    forecasts: Sequence[SparseVoxels],
    plan: Plan,
    body: Vehicle = NUSCENES_CAR,
) -> dict[str, Any]:
    """Return everything the page shows for one stamp; positions in base_link, m."""
    left, right = ribbon(plan.waypoints, body.width_m)
    grid = voxels.grid
    return {
        "stamp": str(frames.stamp),  # exceeds the precision of a JavaScript number
        "speed": round(frames.ego.speed, 2),
        "command": plan.command.value,
        "source": plan.command_source.value,
        "status": plan.status.value,
        "reasons": list(plan.reasons),
        "scores": plan.score_source,
        "rows": arrangement(frames),
        "cameras": {name: _camera(frames, i) for i, name in enumerate(frames.names)},
        "path": np.round(np.concatenate([left, right[::-1]]), 2).tolist(),
        "colour": "#{:02x}{:02x}{:02x}".format(*path_colour(plan)),
        "candidates": [
            {"points": np.round(points, 2).tolist(), "score": round(float(score), 4), "chosen": i == plan.chosen}
            for i, (points, score) in enumerate(zip(plan.candidates, plan.scores, strict=True))
        ],
        "occupancy": [
            {"seconds": t, "above": _png(top_view(v)), "voxels": _packed(v)}
            for t, v in zip((0.0, *HORIZONS), (voxels, *forecasts), strict=False)
        ],
        "lower": list(grid.lower),
        "voxel": grid.size,
        "palette": ["#{:02x}{:02x}{:02x}".format(*rgb) for rgb in PALETTES[PALETTE].tolist()],
        "reach": [grid.lower[0], grid.upper[0], grid.lower[1], grid.upper[1]],
        "vehicle": {
            "front": body.front_m,
            "rear": -body.rear_overhang_m,
            "width": body.width_m,
            "height": body.height_m,
        },
        "legend": [{"name": name, "colour": "#{:02x}{:02x}{:02x}".format(*rgb)} for name, rgb in legend(PALETTE)],
    }


def top_view(voxels: SparseVoxels) -> np.ndarray:
    """Return uint8 [X, Y, 4] RGBA: the topmost voxel of each column, transparent where the column is free.

    Row 0 is farthest ahead and column 0 farthest left.
    """
    nx, ny, nz = voxels.grid.shape
    page = np.zeros((nx, ny, 4), np.uint8)
    order = np.argsort(voxels.indices[:, 2], kind="stable")
    x, y, z = voxels.indices[order].T.astype(np.int64)
    # Brightness rises with height, which sets a wall off from the ground in front of it.
    light = 0.8 + 0.4 * z / max(1, nz - 1)
    colours = np.clip(PALETTES[PALETTE][voxels.labels[order]] * light[:, None], 0, 255)
    page[nx - 1 - x, ny - 1 - y] = np.concatenate([colours, np.full((len(order), 1), 255)], 1).astype(np.uint8)
    return page


def _packed(voxels: SparseVoxels) -> str:
    """Return base64 of a zlib stream of uint16 [N, 4]: x, y, z index and class of each voxel."""
    rows = np.column_stack([voxels.indices, voxels.labels]).astype("<u2")
    return base64.b64encode(zlib.compress(rows.tobytes(), 1)).decode()


def _camera(frames: CameraFrames, index: int) -> dict[str, Any]:
    image = frames.images[index]
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return {
        "jpeg": base64.b64encode(data.tobytes()).decode(),
        "width": image.shape[1],
        "height": image.shape[0],
        "seen": bool(frames.valid[index]),
        "matrix": np.round(frames.ego2img[index], 6).ravel().tolist(),
    }


def _png(rgba: np.ndarray) -> str:
    _, data = cv2.imencode(".png", cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGRA))
    return base64.b64encode(data.tobytes()).decode()
