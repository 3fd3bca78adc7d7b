"""Question and answer templates and how positions and trajectories are written in text.

Families follow OmniDrive (Wang et al., CVPR 2025): description, attention, conversation, keywords, action,
counterfactual and planning. A trajectory in text is `[PT, (+x.xx, +y.yy), ...]`: metres, base_link, 0.5 s apart. A
position is one such pair, or three numbers with the height, outside a trajectory.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from functools import lru_cache
from importlib.resources import files
from string import Formatter

import numpy as np
import yaml

from ..core.errors import InvalidInput

FORMAT_VERSION = 1
MAX_PARSED_POINTS = 64
MAX_COORDINATE = 1e4
"""Metres; a larger number in text is no waypoint."""

# Quantifiers are bounded, so that hostile text cannot make the search slow.
_NUMBER = r"[+-]?(?:\d{1,9}(?:\.\d{0,9})?|\.\d{1,9})"
_PAIR = rf"\(\s{{0,8}}({_NUMBER})\s{{0,8}},\s{{0,8}}({_NUMBER})"
_POINT = re.compile(rf"{_PAIR}\s{{0,8}}\)", re.ASCII)
_POSITION = re.compile(rf"{_PAIR}(?:\s{{0,8}},\s{{0,8}}({_NUMBER}))?\s{{0,8}}\)", re.ASCII)


@lru_cache(maxsize=1)
def templates() -> dict[str, tuple[str, ...]]:
    """Question templates per family, from prompts.yaml beside this file."""
    return _read("families")


@lru_cache(maxsize=1)
def answer_templates() -> dict[str, tuple[str, ...]]:
    """Answer templates per family, from the same file."""
    return _read("answers")


def _read(section: str) -> dict[str, tuple[str, ...]]:
    data = yaml.safe_load(files(__package__).joinpath("prompts.yaml").read_text(encoding="utf-8"))
    if data["format_version"] != FORMAT_VERSION:
        raise InvalidInput("prompts.format_version", f"want {FORMAT_VERSION}, got {data['format_version']!r}")
    families = {family: tuple(texts) for family, texts in data[section].items()}
    for family, texts in families.items():
        if not texts or not all(isinstance(text, str) for text in texts):
            raise InvalidInput(f"prompts.{section}.{family}", "want a list of strings")
    return families


def render(family: str, variant: int = 0, **fields: str) -> str:
    """The question of a family; `variant` counts modulo the family's templates, `fields` fill its places.

    Raises InvalidInput for an unknown family, or fields that are missing or that the template does not have.
    """
    return _fill(templates(), family, variant, fields)


def render_answer(family: str, variant: int = 0, **fields: str) -> str:
    """The answer of a family, filled like a question; `fields` are texts (`position_text`, `trajectory_text`).

    Raises InvalidInput as `render` does.
    """
    return _fill(answer_templates(), family, variant, fields)


def _fill(known: dict[str, tuple[str, ...]], family: str, variant: int, fields: dict[str, str]) -> str:
    if family not in known:
        raise InvalidInput("family", f"want one of {sorted(known)}, got {family!r}")
    template = known[family][variant % len(known[family])]
    wanted = {name for _, name, _, _ in Formatter().parse(template) if name}
    if wanted != set(fields):
        raise InvalidInput("fields", f"{family} {variant} wants {sorted(wanted)}, got {sorted(fields)}")
    return template.format(**fields)


def trajectory_text(waypoints: np.ndarray) -> str:
    """`[PT, (+1.00, +0.00), ...]` of waypoints [S, 2] m in base_link.

    Two decimals with a sign; values within 0.01 m of zero are written as +0.00 (OmniDrive writes 0.0).
    """
    points = np.asarray(waypoints, np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise InvalidInput("waypoints", f"want finite [S, 2], got {list(points.shape)}")
    return "[PT, " + ", ".join(map(_point_text, points)) + "]"


def position_text(point: np.ndarray) -> str:
    """`(+12.30, -0.45)` of a point [2] or, with the height, [3] m in base_link, written like a waypoint."""
    values = np.asarray(point, np.float64)
    if values.shape not in ((2,), (3,)) or not np.isfinite(values).all():
        raise InvalidInput("point", f"want finite [2] or [3], got {list(values.shape)}")
    return _point_text(values)


def _point_text(values: np.ndarray) -> str:
    return "(" + ", ".join(f"{value:+.2f}" for value in np.where(np.abs(values) <= 0.01, 0.0, values)) + ")"


def parse_trajectory(text: str) -> list[tuple[float, float]]:
    """Waypoints (x, y) in metres found in text, in order; empty where there is none. Never raises.

    Reads from the first "PT" on where there is one, else from the start, up to the closing bracket or the first point
    out of bounds. Signs, decimals and blanks are optional: OmniDrive's own reader breaks on "(1, 0)".
    """
    if not isinstance(text, str):
        return []
    start = text.find("PT")
    if start >= 0:
        end = text.find("]", start)
        text = text[start : end if end >= 0 else len(text)]
    out: list[tuple[float, float]] = []
    for match in _POINT.finditer(text):
        x, y = float(match[1]), float(match[2])
        if not (math.isfinite(x) and math.isfinite(y)) or max(abs(x), abs(y)) > MAX_COORDINATE:
            break
        out.append((x, y))
        if len(out) == MAX_PARSED_POINTS:
            break
    return out


def parse_positions(text: str) -> list[tuple[float, ...]]:
    """Positions (x, y) or (x, y, z) in metres that stand in text outside trajectories, in order. Never raises.

    Numbers as in parse_trajectory; a position out of bounds is left out, and after MAX_PARSED_POINTS no more are read.
    """
    if not isinstance(text, str):
        return []
    out: list[tuple[float, ...]] = []
    for piece in _outside_trajectories(text):
        for match in _POSITION.finditer(piece):
            point = tuple(float(number) for number in match.groups() if number is not None)
            if max(map(abs, point)) <= MAX_COORDINATE:
                out.append(point)
            if len(out) == MAX_PARSED_POINTS:
                return out
    return out


def _outside_trajectories(text: str) -> Iterator[str]:
    """The pieces between "[PT" and the bracket that closes it; an open one reaches to the end."""
    first, *rest = text.split("[PT")
    yield first
    for piece in rest:
        yield piece.partition("]")[2]
