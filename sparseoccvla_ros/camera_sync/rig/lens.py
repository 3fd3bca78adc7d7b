"""Horizontal fields of view of a lens and of the prepared image."""

from __future__ import annotations

import cv2
import numpy as np

from ..calibration import EQUIDISTANT, CameraModel, fisheye_radius


def field_of_view(model: CameraModel, ida: np.ndarray, width: int) -> tuple[float, float]:
    """Return the horizontal field of view of the native and the prepared image, degrees, at the principal point's row.

    Args:
        model: the camera; if its native size is 0, both values are those of the prepared image.
        ida: float64 [3, 3], (undistorted) native to prepared pixels.
        width: width of the prepared image, pixels.
    """
    k = model.taken
    ends = np.linalg.inv(model.prepared(ida)) @ np.array([[-0.5, width - 0.5], [0.0, 0.0], [1.0, 1.0]])
    used = float(np.degrees(np.diff(np.arctan(ends[0]))[0]))
    if not model.width:
        return used, used
    borders = np.array([[-0.5, k[1, 2]], [model.width - 0.5, k[1, 2]]])
    if model.distortion_model == EQUIDISTANT:
        angles = np.sign(borders[:, 0] - k[0, 2]) * _fisheye_angle(np.abs(borders[:, 0] - k[0, 2]) / k[0, 0], model)
    elif model.distorted:
        angles = np.arctan(cv2.undistortPoints(borders[:, None], k, model.distortion)[:, 0, 0])
    else:
        angles = np.arctan((borders[:, 0] - k[0, 2]) / k[0, 0])
    whole = float(np.degrees(angles[1] - angles[0]))
    return whole, min(used, whole)


def _fisheye_angle(radius: np.ndarray, model: CameraModel) -> np.ndarray:
    """Return the angle from the axis, rad, at which the Kannala-Brandt polynomial reaches a radius in focal lengths."""
    theta = np.linspace(0.0, np.pi, 2000)
    return np.interp(radius, fisheye_radius(theta, model.distortion), theta)
