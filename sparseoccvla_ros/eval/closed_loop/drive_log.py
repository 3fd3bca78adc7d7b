"""Log of finished drives, one JSON line each: a run that was killed resumes at the interrupted drive."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, fields
from pathlib import Path

from ...core.errors import InvalidInput
from .scores import DriveScores

log = logging.getLogger(__name__)


class DriveLog:
    """Results by policy name, version, seed and scenario.

    Args:
        file: JSON lines; created with its folder at the first result. None keeps results in memory only.

    Raises:
        InvalidInput: A line other than the last is not a valid result.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._rows: dict[tuple, DriveScores] = {}
        self._seconds: dict[str, list[float]] = {}
        if file is not None and file.is_file():
            self._read(file)

    def find(self, name: str, version: str, seed: int, scenario: str | None) -> DriveScores | None:
        """Returns the logged result, or None; `version` identifies the world and weights (see version_of)."""
        return self._rows.get((name, version, seed, scenario))

    def add(self, name: str, version: str, scores: DriveScores, seconds: float) -> None:
        """Adds a result and its wall-clock seconds; it is on disk when this returns."""
        self._keep(name, version, scores, seconds)
        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            line = {"name": name, "version": version, "wall_seconds": round(seconds, 2), "scores": asdict(scores)}
            with self._file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line, allow_nan=False) + "\n")

    def seconds(self, name: str) -> float | None:
        """Returns the mean wall-clock seconds of a policy's drives, or None before the first."""
        known = self._seconds.get(name)
        return sum(known) / len(known) if known else None

    def _keep(self, name: str, version: str, scores: DriveScores, seconds: float) -> None:
        self._rows[name, version, scores.seed, scores.scenario] = scores
        self._seconds.setdefault(name, []).append(seconds)

    def _read(self, file: Path) -> None:
        text = file.read_text(encoding="utf-8")
        lines = text.splitlines()
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                known = {f.name for f in fields(DriveScores)}
                values = {**row["scores"], "infractions": tuple(row["scores"]["infractions"])}
                if set(values) != known:
                    continue  # from another version of this package: driven again
                self._keep(row["name"], row["version"], DriveScores(**values), float(row["wall_seconds"]))
            except (ValueError, KeyError, TypeError) as error:
                if number < len(lines):
                    raise InvalidInput("out", f"line {number} of {file} is no result of a drive: {error}") from None
                log.warning("%s: the last line was cut off; that drive is driven again", file)
                file.write_text("".join(f"{kept}\n" for kept in lines[:-1]), encoding="utf-8")
                return
        if text and not text.endswith("\n"):
            file.write_text(text + "\n", encoding="utf-8")
