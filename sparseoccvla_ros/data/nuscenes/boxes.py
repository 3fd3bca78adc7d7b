"""Annotated boxes of a nuScenes version (tables sample_annotation, instance and category)."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...core import geometry
from ...core.errors import InvalidInput
from .tables import OnRead, rows, table_quaternion

ANNOTATION_TABLES = ("sample_annotation", "instance", "category")


@dataclass(frozen=True, eq=False)
class Annotation:
    """One box. token, sample: of the annotation and its keyframe; instance, category: rows of those tables; pose:
    box2global float64 [4, 4]; size: length, width, height m; visibility: 1 (least) .. 4, 0 unknown; points: lidar
    points inside."""

    token: str
    sample: str
    instance: int
    category: int
    pose: np.ndarray
    size: tuple[float, float, float]
    visibility: int
    points: int


def has_annotations(folder: Path) -> bool:
    """Whether a table folder has annotations; v1.0-test has none."""
    return all((folder / f"{name}.json").is_file() for name in ANNOTATION_TABLES)


def category_names(folder: Path) -> list[str]:
    """Category names, in table order."""
    return [str(row.get("name", "")) for row in rows(folder / "category.json")]


def annotations(folder: Path, samples: Container[str], on_read: OnRead | None = None) -> Iterator[Annotation]:
    """Yields boxes of some keyframes, in table order. Raises InvalidInput("sample_annotation") for a malformed row."""
    category = {row["token"]: k for k, row in enumerate(rows(folder / "category.json"))}
    instances = {
        row["token"]: (k, category[row["category_token"]]) for k, row in enumerate(rows(folder / "instance.json"))
    }
    for row in rows(folder / "sample_annotation.json", on_read):
        if row.get("sample_token") not in samples:
            continue
        try:
            instance, kind = instances[row["instance_token"]]
            pose = geometry.transform(np.asarray(row["translation"]), table_quaternion(row["rotation"]))
            width, length, height = (float(v) for v in row["size"])
            seen, points = int(row.get("visibility_token") or 0), int(row.get("num_lidar_pts", 0))
            token = str(row["token"])
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInput("sample_annotation", f"row {row.get('token')} is no box: {error!r}") from error
        yield Annotation(token, row["sample_token"], instance, kind, pose, (length, width, height), seen, points)
