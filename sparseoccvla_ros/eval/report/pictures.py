"""Pictures of an evaluation: predictions in the upper row, truth in the lower, from above, now and up to 3 s ahead."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from sparseoccvla_ros.core.voxels import SparseVoxels
from sparseoccvla_ros.eval.tasks.evaluator import Visualization
from sparseoccvla_ros.view.above import draw_columns, draw_ego, metres_to_pixels, view_from_above

SIZE, CAMERAS_WIDTH = 300, 800
_GROUND, _TEXT, _DRIVEN = 24, (230, 230, 230), (255, 255, 255)


def save_pictures(shown: Sequence[Visualization], folder: Path) -> list[tuple[str, str]]:
    """Writes a PNG per scene; returns (title, file name) of each."""
    out = []
    for number, scene in enumerate(shown, 1):
        name = f"scene-{number}.png"
        cv2.imwrite(str(folder / name), draw(scene)[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])
        out.append((scene.name, name))
    return out


def draw(scene: Visualization) -> np.ndarray:
    """Draws uint8 [2 * SIZE, .., 3] RGB: cameras, then predictions above the truth, now and at each horizon."""
    upper = [_present(scene)]
    lower = [_true_present(scene)]
    for k in range(3):
        guess = None if scene.forecasts is None else scene.forecasts[k]
        upper.append(_titled(_above(guess), f"forecast +{k + 1} s" if guess else "no forecast"))
        truth = None if scene.future is None else SparseVoxels.from_dense(scene.future[k])
        lower.append(_titled(_above(truth), f"true +{k + 1} s" if truth else ""))
    right = np.concatenate([np.concatenate(upper, 1), np.concatenate(lower, 1)], 0)
    return np.concatenate([_cameras(scene), right], 1)


def _above(voxels: SparseVoxels | None) -> np.ndarray:
    if voxels is None:
        return np.full((SIZE, SIZE, 3), _GROUND, np.uint8)
    image = draw_columns(voxels, SIZE)
    draw_ego(image)
    return image


def _present(scene: Visualization) -> np.ndarray:
    if scene.predicted is None:
        return _titled(_above(None), "the network takes no part")
    return view_from_above(scene.predicted, scene.plan, SIZE)


def _true_present(scene: Visualization) -> np.ndarray:
    image = _above(None if scene.seen is None else SparseVoxels.from_dense(scene.seen))
    line = np.concatenate([np.zeros((1, 2)), scene.waypoints])
    pixels = np.round(metres_to_pixels(line, SIZE)).astype(np.int32)
    cv2.polylines(image, [pixels], False, (8, 10, 14), 4, cv2.LINE_AA)
    cv2.polylines(image, [pixels], False, _DRIVEN, 2, cv2.LINE_AA)
    return _titled(image, "driven" if scene.seen is None else "true, seen voxels, and driven")


def _titled(image: np.ndarray, text: str) -> np.ndarray:
    cv2.putText(image, text, (8, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.45, _TEXT, 1, cv2.LINE_AA)
    return image


def _cameras(scene: Visualization) -> np.ndarray:
    """Draws the six images in two columns: front cameras on the left, back cameras on the right, each left to right."""
    ahead, back = (np.concatenate(list(scene.images[order]), 0) for order in ([2, 0, 1], [4, 3, 5]))
    tiles = np.concatenate([ahead, back], 1)
    height = min(round(tiles.shape[0] * CAMERAS_WIDTH / tiles.shape[1]), 2 * SIZE - 30)
    panel = np.full((2 * SIZE, CAMERAS_WIDTH, 3), _GROUND, np.uint8)
    panel[:height] = cv2.resize(tiles, (CAMERAS_WIDTH, height), interpolation=cv2.INTER_AREA)
    cv2.putText(panel, scene.name, (8, 2 * SIZE - 10), cv2.FONT_HERSHEY_SIMPLEX, 0.5, _TEXT, 1, cv2.LINE_AA)
    return panel
