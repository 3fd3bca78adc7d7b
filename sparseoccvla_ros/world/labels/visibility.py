"""Voxel visibility from depth images: the world's counterpart of Occ3D's `mask_camera`.

Occ3D (Tian et al., NeurIPS 2023) traces the rays of all pixels through the voxels up to the first occupied one: voxels
passed are observed free, the last one observed occupied, all others unobserved. Here each voxel is projected into the
depth images instead, which costs a few operations per voxel regardless of the image size.
"""

from __future__ import annotations

import numpy as np

from ...core.errors import InvalidInput
from ...core.geometry import inverse
from ...core.voxels import OCC3D_GRID, VoxelGrid
from ..kernels.voxels import observe

MARGIN = 0.5
"""Default margin in voxel edges. A voxel is labelled at its centre, so the surface may lie half an edge in front of its
face. Compared with tracing 16 rays per pixel (occupied voxels), half an edge has 94 % recall at 96 % precision; half a
diagonal, 0.87, adds 1 % of recall and costs 4 % of precision."""


def _matrices(values: np.ndarray, shape: tuple[int, ...], field: str) -> np.ndarray:
    out = np.asarray(values)
    if out.shape != shape:
        raise InvalidInput(field, f"want {shape}, got {out.shape}")
    if not np.isfinite(out).all():
        raise InvalidInput(field, "holds a number that is not finite")
    return out.astype(np.float64)


def camera_visibility(
    depths: np.ndarray,
    intrinsics: np.ndarray,
    camera2ego: np.ndarray,
    grid: VoxelGrid = OCC3D_GRID,
    margin: float | None = None,
) -> np.ndarray:
    """Return the voxels that at least one camera observes, free or occupied: bool [X, Y, Z].

    depths: float [N, H, W], metres along the optical axis, inf for the sky, NaN for a pixel without measurement (it
    observes nothing). intrinsics: [N, 3, 3], pixels of these images (integer coordinates are pixel centres; a crop
    shifts the principal point). camera2ego: [N, 4, 4], optical frame (z forward, x right, y down) to base_link at the
    frame's stamp. margin: metres a voxel may lie behind the measured depth, default MARGIN voxel edges.

    A voxel is observed if its centre, or the centre of one of its three faces towards the camera, projects inside an
    image and is no further than the depth there plus the margin. The centre alone would miss walls at a grazing angle:
    the ray to the centre hits the wall metres earlier, although the voxel's face is visible. The depth at a projection
    is the furthest of the four surrounding pixels because of the ground: at 40 m one row of a small image spans 4 m of
    road, but no pixel is wider than half a voxel.

    Raises InvalidInput naming the field for wrong shapes, matrices that are not finite or a negative margin.
    """
    depths = np.asarray(depths)
    if depths.ndim != 3 or min(depths.shape[1:]) < 2 or not np.issubdtype(depths.dtype, np.floating):
        raise InvalidInput("depths", f"want float [N, H >= 2, W >= 2], got {depths.dtype} {depths.shape}")
    count = len(depths)
    k = _matrices(intrinsics, (count, 3, 3), "intrinsics")
    pose = _matrices(camera2ego, (count, 4, 4), "camera2ego")
    margin = MARGIN * grid.size if margin is None else margin
    if not margin >= 0:
        raise InvalidInput("margin", f"{margin} m is negative")
    projections = (k @ inverse(pose)[:, :3]).astype(np.float32)
    furthest = np.maximum(depths[:, :-1], depths[:, 1:])
    furthest = (np.maximum(furthest[:, :, :-1], furthest[:, :, 1:]) + margin).astype(np.float32)
    half = np.float32(0.5 * grid.size)
    x, y, z = (
        np.float32(lo) + half + np.float32(grid.size) * np.arange(n, dtype=np.float32)
        for lo, n in zip(grid.lower, grid.shape, strict=True)
    )
    seen = np.zeros(grid.shape, bool)
    for projection, eye, reach in zip(projections, pose[:, :3, 3].astype(np.float32), furthest, strict=True):
        observe(projection, eye, reach, x, y, z, half, seen)
    return seen
