"""Features of drives of the chain itself, beside those of the world's recorded drives."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from ...core.errors import InvalidInput
from .synthetic import FeatureCache, write_arrays

FIRST = 1_000_000_000
"""Numbers of roll-outs begin here; the world's seeds lie below."""


@dataclass(frozen=True, eq=False)
class RolloutFeatures:
    """The features of a split, and those of roll-outs, which keep their number in whatever order they are given.

    base: of the split; files: by number.
    """

    base: FeatureCache
    files: dict[int, Path]

    @classmethod
    def of(cls, base: FeatureCache, folders: Sequence[Path]) -> RolloutFeatures:
        """Beside a split, the roll-outs in folders of `./run train rollouts`.

        Raises:
            InvalidInput: A folder holds none, or they are of another encoder.
        """
        files = {}
        for folder in folders:
            found = sorted(folder.glob("*.safetensors"))
            if not found:
                raise InvalidInput("rollouts", f"{folder} holds none: ./run train rollouts makes them")
            for file in found:
                told = _metadata(file)
                if told.get("encoder") != base.weights:
                    raise InvalidInput("rollouts", f"{file} was driven with another encoder: make it anew")
                files[int(told["number"])] = file
        return cls(base, files)

    @property
    def key(self) -> str:
        """As the split's: what is read of its scenes stays, and a roll-out's number is its own."""
        return self.base.key

    def folder(self) -> Path:
        """Folder of the split's features."""
        return self.base.folder()

    def file(self, seed: int) -> Path:
        """Where the features of a scene or a roll-out lie."""
        return self.files[seed] if seed >= FIRST else self.base.file(seed)

    def name(self, seed: int) -> str:
        """For logs and pictures."""
        return f"roll-out {self.files[seed].stem}" if seed >= FIRST else self.base.name(seed)


def write_rollout(file: Path, arrays: dict[str, np.ndarray], told: dict[str, str]) -> None:
    """Keep a roll-out. told: what it came from, which with its arrays gives it its number, under which readings are
    cached; "encoder": digest of its weights."""
    digest = hashlib.sha256("\n".join(f"{name}={told[name]}" for name in sorted(told)).encode())
    for name in sorted(arrays):
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    number = FIRST + int(digest.hexdigest()[:12], 16)
    write_arrays(file, arrays, told | {"number": str(number)})


def _metadata(file: Path) -> dict[str, str]:
    try:
        with safe_open(file, framework="numpy") as opened:
            told = opened.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise InvalidInput("rollouts", f"{file} cannot be read ({error}); delete it") from None
    if not told.get("number", "").isdecimal():
        raise InvalidInput("rollouts", f"{file} is no roll-out")
    return told
