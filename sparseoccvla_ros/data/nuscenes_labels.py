"""Label files beside the nuScenes tables: Occ3D occupancy and OmniDrive language.

Occ3D-nuScenes (Tian et al., NeurIPS 2023): gts/<scene>/<sample token>/labels.npz. OmniDrive (Wang et al., CVPR 2025;
NVIDIA licence, non-commercial): conv, desc, keywords and vqa, each with {train,val}/<sample token>.json.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import InvalidInput
from ..core.occ3d import FREE
from ..core.voxels import OCC3D_GRID

OCC3D_FOLDERS = ("gts", "occ3d")
"""Names of the label folder: as Occ3D is distributed, and as SparseOcc renames it."""
OMNIDRIVE = ("conv", "desc", "keywords", "vqa")


@dataclass(frozen=True, eq=False)
class Occ3dLabels:
    """One label file, in the ego frame at the keyframe's lidar stamp.

    semantics uint8 [200, 200, 16], 17 = free; lidar, camera bool [200, 200, 16]: observed by the lidar, seen by a
    camera (scores count the latter only). Height is only good to about a metre: roads of real files lie at index 0.
    """

    semantics: np.ndarray
    lidar: np.ndarray
    camera: np.ndarray


def occ3d_folder(root: Path) -> Path | None:
    """Where the labels of a data root lie, None where it has none."""
    return next((root / name for name in OCC3D_FOLDERS if (root / name).is_dir()), None)


def occ3d_file(scene: str, token: str) -> str:
    """Path of a sample's labels below `occ3d_folder`."""
    return f"{scene}/{token}/labels.npz"


def load_occ3d(path: Path) -> Occ3dLabels:
    """Read a label file; never unpickles. Raises InvalidInput("occ3d", ...) for a missing, damaged or foreign one."""
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


@dataclass(frozen=True)
class Language:
    """What OmniDrive says of one sample; pairs are (question, answer). Empty where a file is missing."""

    description: str = ""
    action: str = ""
    keywords: str = ""
    conversation: tuple[tuple[str, str], ...] = ()
    what_if: tuple[tuple[str, str], ...] = ()


def load_language(root: Path, split: str, token: str) -> Language:
    """The OmniDrive files of a sample. Raises InvalidInput("omnidrive", ...) for one in another form."""
    described = _json(root, "desc", split, token) or {}
    if not isinstance(described, dict):
        raise InvalidInput("omnidrive", f"desc/{split}/{token}.json: want an object with description and action")
    keywords = _json(root, "keywords", split, token) or ""
    if not isinstance(keywords, str):
        raise InvalidInput("omnidrive", f"keywords/{split}/{token}.json: want one string")
    return Language(
        str(described.get("description", "")),
        str(described.get("action", "")),
        keywords,
        _pairs(root, "conv", split, token),
        _pairs(root, "vqa", split, token),
    )


def _pairs(root: Path, kind: str, split: str, token: str) -> tuple[tuple[str, str], ...]:
    content = _json(root, kind, split, token) or []
    if not isinstance(content, list) or not all(
        isinstance(c, dict) and {"question", "answer"} <= c.keys() for c in content
    ):
        raise InvalidInput("omnidrive", f"{kind}/{split}/{token}.json: want a list of question and answer")
    return tuple((str(c["question"]), str(c["answer"])) for c in content)


def _json(root: Path, kind: str, split: str, token: str) -> Any:
    path = root / kind / split / f"{token}.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise InvalidInput("omnidrive", f"{path} is no JSON: {error}") from None
