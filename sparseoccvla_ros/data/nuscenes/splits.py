"""Train, validation and test splits of the scenes of a nuScenes version.

The lists are those of the nuScenes devkit (Caesar et al. 2020; nuscenes/utils/splits.py, Apache-2.0). The training
split of v1.0-trainval consists of all its scenes that are not in VAL.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ...core.errors import InvalidInput

SPLITS = ("train", "val", "test")
SPLITS_FILE = "splits.json"
"""Optional file of a data root that overrides its splits: {"train": [scene names], "val": [...], "test": [...]}."""


def _names(numbers: str) -> frozenset[str]:
    return frozenset(f"scene-{n}" for n in numbers.split())


MINI_VAL = _names("0103 0916")
MINI_TRAIN = _names("0061 0553 0655 0757 0796 1077 1094 1100")
VAL = _names("""
    0003 0012 0013 0014 0015 0016 0017 0018 0035 0036 0038 0039 0092 0093 0094 0095 0096 0097 0098 0099 0100 0101 0102
    0103 0104 0105 0106 0107 0108 0109 0110 0221 0268 0269 0270 0271 0272 0273 0274 0275 0276 0277 0278 0329 0330 0331
    0332 0344 0345 0346 0519 0520 0521 0522 0523 0524 0552 0553 0554 0555 0556 0557 0558 0559 0560 0561 0562 0563 0564
    0565 0625 0626 0627 0629 0630 0632 0633 0634 0635 0636 0637 0638 0770 0771 0775 0777 0778 0780 0781 0782 0783 0784
    0794 0795 0796 0797 0798 0799 0800 0802 0904 0905 0906 0907 0908 0909 0910 0911 0912 0913 0914 0915 0916 0917 0919
    0920 0921 0922 0923 0924 0925 0926 0927 0928 0929 0930 0931 0962 0963 0966 0967 0968 0969 0971 0972 1059 1060 1061
    1062 1063 1064 1065 1066 1067 1068 1069 1070 1071 1072 1073
""")
"""The 150 scenes of the validation split. Two of MINI_TRAIN are among them (0553, 0796): train on one version only."""


def scene_splits(root: Path, version: str, scenes: Sequence[str]) -> list[str]:
    """The split of each scene of a version: one of SPLITS, or "" for a scene in none.

    Raises InvalidInput("split") for a version with unknown splits and for a malformed SPLITS_FILE.
    """
    own = root / SPLITS_FILE
    if own.is_file():
        lists = _read(own)
        return [next((s for s in SPLITS if name in lists.get(s, ())), "") for name in scenes]
    if version == "v1.0-mini":
        return ["val" if s in MINI_VAL else "train" if s in MINI_TRAIN else "" for s in scenes]
    if version == "v1.0-trainval":
        return ["val" if s in VAL else "train" for s in scenes]
    if version == "v1.0-test":
        return ["test"] * len(scenes)
    raise InvalidInput("split", f"{version} has no known splits; list its scenes by split in {own}")


def _read(path: Path) -> dict[str, list[str]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInput("split", f"{path} is no JSON: {error}") from None
    good = isinstance(content, dict) and set(content) <= set(SPLITS)
    if not good or not all(isinstance(v, list) and all(isinstance(n, str) for n in v) for v in content.values()):
        raise InvalidInput("split", f"{path}: want lists of scene names under {', '.join(SPLITS)}")
    names = [n for v in content.values() for n in v]
    if len(set(names)) < len(names):
        raise InvalidInput("split", f"{path} names a scene twice")
    return content
