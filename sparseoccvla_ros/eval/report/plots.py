"""Bar plots of a report's numbers with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sparseoccvla_ros.core.classes import CLASSES

WIDTH, LABELS, VALUES, ROW = 900, 300, 210, 22
_PAPER, _INK, _FAINT = (255, 255, 255), (40, 40, 40), (205, 205, 205)
_COLOURS = ((31, 119, 180), (255, 127, 14), (44, 160, 44), (148, 103, 189), (140, 86, 75))


@dataclass(frozen=True)
class Bar:
    """One bar. value: None is drawn as missing; interval: its 95 % interval or None; series: selects the colour."""

    label: str
    value: float | None
    interval: tuple[float, float] | None = None
    series: int = 0


def draw(title: str, bars: Sequence[Bar]) -> np.ndarray:
    """Draws horizontal bars from zero, followed by their values: uint8 [H, W, 3] RGB."""
    image = np.full((ROW * (len(bars) + 2), WIDTH, 3), _PAPER, np.uint8)
    _text(image, title, 8, 0, 0.5)
    largest = max((v for b in bars if b.value is not None for v in (b.value, *(b.interval or ()))), default=0.0)
    scale = (WIDTH - LABELS - VALUES) / largest if largest > 0 else 0.0

    def column(value: float) -> int:
        return LABELS + round(scale * max(value, 0.0))

    for number, bar in enumerate(bars, 1):
        top = ROW * number
        _text(image, bar.label[:44], 8, top, 0.42)
        if bar.value is None:
            _text(image, "-", LABELS + 6, top, 0.42)
            continue
        colour = _COLOURS[bar.series % len(_COLOURS)]
        cv2.rectangle(image, (LABELS, top + 4), (column(bar.value), top + ROW - 5), colour, -1)
        said = f"{bar.value:.2f}"
        if bar.interval is not None:
            low, high = (column(v) for v in bar.interval)
            middle = top + ROW // 2
            cv2.line(image, (low, middle), (high, middle), _INK, 2)
            said += f" [{bar.interval[0]:.2f}, {bar.interval[1]:.2f}]"
        _text(image, said, max(column(v) for v in (bar.value, *(bar.interval or ()))) + 8, top, 0.42)
    cv2.line(image, (LABELS, ROW), (LABELS, ROW * (len(bars) + 1)), _FAINT, 1)
    return image


def save_plots(numbers: dict[str, Any], folder: Path) -> list[tuple[str, str]]:
    """Writes the PNGs for the tasks of a report's plain numbers; returns (title, file name) of each."""
    out = []
    for name, title, bars in _plots(numbers):
        file = f"plot-{name}.png"
        cv2.imwrite(str(folder / file), draw(title, bars)[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])
        out.append((title, file))
    return out


def _plots(numbers: dict[str, Any]) -> list[tuple[str, str, list[Bar]]]:
    found = []
    if rows := numbers.get("occupancy", {}).get("rows"):
        found.append(("occupancy", "Occupancy, percent", [
            _bar(f"{kind}, {row}", values[key], 100, series)
            for key, kind in (("miou", "mIoU"), ("iou", "IoU"), ("ray_iou", "RayIoU"))
            for series, (row, values) in enumerate(rows.items())
        ]))  # fmt: skip
        found.append(("classes", "IoU per class, percent", [
            Bar(f"{name}, {row}", _percent(values["per_class"][name]), None, series)
            for name in CLASSES for series, (row, values) in enumerate(rows.items())
        ]))  # fmt: skip
    if rows := numbers.get("forecast", {}).get("rows"):
        found.append(("forecast", "Forecasts, IoU in percent", [
            _bar(f"{at}, {row}", values[f"iou_{at}"], 100, series)
            for series, (row, values) in enumerate(rows.items()) for at in ("1s", "2s", "3s")
        ]))  # fmt: skip
    if planned := numbers.get("planning", {}).get("all"):
        for key, title, scale in (("l2", "L2 in m", 1), ("collision", "collisions in percent", 100)):
            found.append((f"plans-{key}", f"Plans, {title}, mean over 1, 2 and 3 s", [
                _bar(f"{row['protocol']}: {row['method']}", {"value": row[key]["average"], **row[key]}, scale, series)
                for series, protocol in enumerate(planned["protocols"]) for row in planned["rows"]
                if row["protocol"] == protocol and not row["self_test"]
            ]))  # fmt: skip
    if ablated := numbers.get("planning", {}).get("ablations"):
        found.append(("ablations", "Plans without gate, L2 in m by OmniDrive's protocol", [
            _bar(row["method"], {"value": row["l2"]["average"], **row["l2"]}, 1, 0)
            for row in ablated["rows"] if not row["self_test"]
        ]))  # fmt: skip
    if rows := numbers.get("language", {}).get("rows"):
        found.append(("language", "Closed questions, percent right", [
            _bar(row, values["accuracy"]["all"], 100, 0) for row, values in rows.items()
        ]))  # fmt: skip
    return found


def _bar(label: str, estimate: dict[str, Any], scale: float, series: int) -> Bar:
    value, span = estimate["value"], estimate["interval"]
    interval = None if span is None else (scale * span[0], scale * span[1])
    return Bar(label, None if value is None else scale * value, interval, series)


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _text(image: np.ndarray, text: str, x: int, top: int, size: float) -> None:
    cv2.putText(image, text, (x, top + ROW - 7), cv2.FONT_HERSHEY_SIMPLEX, size, _INK, 1, cv2.LINE_AA)
