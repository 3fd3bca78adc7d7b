"""Report of a recipe run as one page: loss curves, validation curves and validation results of its steps."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from .plan import Recipe

_WIDTH, _HEIGHT, _LEFT, _TOP = 860, 260, 70, 30
_PAPER, _INK, _FAINT = (255, 255, 255), (40, 40, 40), (225, 225, 225)
_COLOURS = ((180, 119, 31), (14, 127, 255), (44, 160, 44))
SCORES = ("both", "miou", "iou", "l2_avg", "l2_no_reasoning_avg", "iou_2s", "accuracy")
"""Validation numbers that are plotted for stages that have them."""


def read_log(file: Path) -> dict[str, dict[int, dict[str, Any]]]:
    """Reads a log.jsonl by kind and step; if a step was repeated after an interruption, the last line counts."""
    out: dict[str, dict[int, dict[str, Any]]] = {"train": {}, "validation": {}}
    if not file.is_file():
        return out
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            found = json.loads(line)
        except ValueError:  # truncated line of a killed process
            continue
        out.setdefault(found["kind"], {})[int(found["step"])] = found
    return out


def curve(title: str, lines: dict[str, list[tuple[float, float]]]) -> np.ndarray:
    """Plots lines of (step, value), with axis labels for their range: uint8 [H, W, 3] BGR."""
    image = np.full((_HEIGHT, _WIDTH, 3), _PAPER, np.uint8)
    points = np.array([p for line in lines.values() for p in line], float).reshape(-1, 2)
    _write(image, title, 8, 18)
    if not len(points):
        return image
    low, high = points.min(0), points.max(0)
    span = np.maximum(high - low, 1e-9)
    box = np.array([_WIDTH - _LEFT - 20, _HEIGHT - _TOP - 30])
    for share in (0.0, 0.5, 1.0):
        y = round(_TOP + box[1] * (1 - share))
        cv2.line(image, (_LEFT, y), (_WIDTH - 20, y), _FAINT, 1)
        _write(image, f"{low[1] + share * span[1]:.4g}", 6, y + 4)
    _write(image, f"{low[0]:.0f}", _LEFT, _HEIGHT - 8)
    _write(image, f"{high[0]:.0f} steps", _WIDTH - 110, _HEIGHT - 8)
    for number, (name, line) in enumerate(lines.items()):
        at = (np.array(line, float).reshape(-1, 2) - low) / span
        pixels = np.stack([_LEFT + at[:, 0] * box[0], _TOP + (1 - at[:, 1]) * box[1]], -1).round().astype(np.int32)
        colour = _COLOURS[number % len(_COLOURS)]
        cv2.polylines(image, [pixels], False, colour, 1, cv2.LINE_AA)
        _write(image, name, _WIDTH - 220 + 90 * number, 18, colour)
    return image


def write_report(recipe: Recipe, out: Path, folder: Path) -> Path:
    """Write folder/report.html and curves.png from the steps' files in `out`; returns the page."""
    panels: list[np.ndarray] = []
    rows: list[str] = []
    for step in recipe.steps:
        place = recipe.folder(out, step.name)
        done = _json(place / "done.json")
        log = read_log(place / "log.jsonl")
        if log["train"]:
            panels.append(curve(f"{step.name}: loss", {"mean": _smooth(log["train"])}))
        scores = {
            name: [(s, v[name]) for s, v in sorted(log["validation"].items()) if v.get(name) is not None]
            for name in SCORES
        }
        if any(scores.values()):
            panels.append(curve(f"{step.name}: validation", {n: v for n, v in scores.items() if v}))
        said = ", ".join(f"{k} {v}" for k, v in done.items() if k not in ("step", "seconds"))
        hours = f"{done['seconds'] / 3600:.2f}" if "seconds" in done else "-"
        rows.append(f"<tr><td>{step.name}<td>{hours}<td>{step.hours:g}<td>{html.escape(said)}</tr>")
    if panels:
        cv2.imwrite(str(folder / "curves.png"), np.concatenate(panels, 0))
    names = [step.name for step in recipe.steps]
    numbers = _json(recipe.folder(out, "validation") / "numbers.json") if "validation" in names else {}
    page = folder / "report.html"
    page.write_text(
        f"<!doctype html><meta charset=utf-8><title>{recipe.preset.name}</title>"
        "<style>body{font:14px sans-serif;max-width:60em;margin:2em}td{padding:2px 10px}</style>"
        f"<h1>Recipe of {html.escape(recipe.preset.name)}</h1><table><tr><th>step<th>hours<th>budget<th>result</tr>"
        + "".join(rows) + "</table>" + ("<img src=curves.png>" if panels else "")
        + (f"<h2>Validation</h2><pre>{html.escape(json.dumps(numbers, indent=1))}</pre>" if numbers else ""),
        encoding="utf-8",
    )  # fmt: skip
    return page


def _smooth(lines: dict[int, dict[str, Any]], most: int = 400) -> list[tuple[float, float]]:
    """Returns means of the loss over at most `most` equal segments."""
    found = np.array([(s, v["loss"]) for s, v in sorted(lines.items()) if v.get("loss") is not None], float)
    return [tuple(part.mean(0)) for part in np.array_split(found, min(most, len(found))) if len(part)]


def _json(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _write(image: np.ndarray, text: str, x: int, y: int, colour: tuple[int, int, int] = _INK) -> None:
    cv2.putText(image, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, 1, cv2.LINE_AA)
