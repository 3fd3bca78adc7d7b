"""Occ3D-nuScenes label files (Tian et al., NeurIPS 2023): gts/<scene>/<sample token>/labels.npz.

OmniDrive's language files are read by data.nuscenes.omnidrive.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...core.classes import FREE
from ...core.errors import InvalidInput
from ...core.voxels import OCC3D_GRID

OCC3D_FOLDERS = ("gts", "occ3d")
"""Names of the label folder: as Occ3D is distributed, and as SparseOcc renames it."""


@dataclass(frozen=True, eq=False)
class Occ3dLabels:
    """One label file, in the ego frame at the keyframe's lidar stamp.

    semantics uint8 [200, 200, 16], 17 = free; lidar, camera bool [200, 200, 16]: observed by the lidar, visible to a
    camera (only the latter is scored). Heights are accurate to about a metre: roads of real files are at index 0.
    """

    semantics: np.ndarray
    lidar: np.ndarray
    camera: np.ndarray


def occ3d_folder(root: Path) -> Path | None:
    """Label folder of a data root, None if missing."""
    return next((root / name for name in OCC3D_FOLDERS if (root / name).is_dir()), None)


def occ3d_file(scene: str, token: str) -> str:
    """Path of a sample's label file, relative to `occ3d_folder`."""
    return f"{scene}/{token}/labels.npz"


def load_occ3d(path: Path) -> Occ3dLabels:
    """Read a label file without unpickling. Raises InvalidInput("occ3d") if it is missing, damaged or malformed."""
    names = ("semantics", "mask_lidar", "mask_camera")
    try:
        with np.load(path, allow_pickle=False) as stored:
            missing = [n for n in names if n not in stored.files]
            if missing:
                raise InvalidInput("occ3d", f"{path} lacks {', '.join(missing)}")
            arrays = [stored[n] for n in names]
    except FileNotFoundError:
        raise InvalidInput("occ3d", f"{path} is missing; the Occ3D gts archive holds it") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput("occ3d", f"{path} cannot be read: {error}") from error
    for name, array in zip(names, arrays, strict=True):
        limit = FREE if name == "semantics" else 1
        if array.shape != OCC3D_GRID.shape or array.dtype.kind not in "uib" or int(array.max()) > limit:
            found = f"{array.dtype} {list(array.shape)} up to {array.max()}"
            raise InvalidInput("occ3d", f"{path}: {name} is {found}, want 0..{limit} of {list(OCC3D_GRID.shape)}")
    semantics, lidar, camera = arrays
    return Occ3dLabels(semantics.astype(np.uint8), lidar.astype(bool), camera.astype(bool))
