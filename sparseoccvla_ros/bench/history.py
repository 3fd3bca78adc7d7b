"""History of bench results on this machine, one JSON line per run, to detect regressions."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

KEPT = 12
"""Number of most recent earlier runs that a run is compared with."""
SLOWER = 1.3
"""Multiple of the earlier runs' median above which a number counts as a regression; these machines are noisy."""


def compare_and_append(file: Path, what: str, numbers: Mapping[str, float], details: Mapping[str, Any]) -> list[str]:
    """Append a run to the history and return a line for each number (smaller is better) that has become worse.

    what: name of the bench with everything that must be equal to compare (preset, machine); other lines are ignored.
    """
    earlier = [line for line in _lines(file) if line.get("what") == what][-KEPT:]
    worse = []
    for name, value in numbers.items():
        known = [line["numbers"][name] for line in earlier if name in line["numbers"]]
        if known and value > SLOWER * statistics.median(known):
            usual = statistics.median(known)
            worse.append(f"{name}: {value:.1f}, the median of {len(known)} earlier runs is {usual:.1f}")
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as stream:
        stream.write(json.dumps({"what": what, "numbers": dict(numbers), **details}) + "\n")
    return worse


def _lines(file: Path) -> list[dict[str, Any]]:
    if not file.is_file():
        return []
    lines = []
    for line in file.read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue  # the line of a run that was killed while writing
    return lines
