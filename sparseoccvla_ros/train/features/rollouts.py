"""Features of roll-outs (closed-loop drives of the stack), in addition to those of the world's recorded drives."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from ...core.errors import InvalidInput
from ...data.synthetic.scenes import WorldSettings
from .synthetic import FeatureCache, write_arrays

FORMAT = "2"
"""Version of the arrays."""
FIRST = 1_000_000_000
"""First number of roll-outs, above all seeds of the world."""


@dataclass(frozen=True, eq=False)
class RolloutFeatures:
    """Feature cache of a split plus roll-outs, whose numbers do not depend on the order of their folders.

    base: cache of the split; files: roll-outs by number; seeds: the world's seed of each.
    """

    base: FeatureCache
    files: dict[int, Path]
    seeds: dict[int, int]

    @classmethod
    def of(cls, base: FeatureCache, folders: Sequence[Path]) -> RolloutFeatures:
        """Returns the cache of a split plus the roll-outs in folders written by `./run train rollouts`.

        Raises:
            InvalidInput: A folder contains none, or they were made with another encoder.
        """
        files, seeds = {}, {}
        for folder in folders:
            found = sorted(folder.glob("*.safetensors"))
            if not found:
                raise InvalidInput("rollouts", f"{folder} holds none: ./run train rollouts makes them")
            for file in found:
                told = _metadata(file)
                if told.get("encoder") != base.weights:
                    raise InvalidInput("rollouts", f"{file} was driven with another encoder: make it anew")
                if told.get("format") != FORMAT:
                    raise InvalidInput("rollouts", f"{file} is of another version of this package: make it anew")
                number = int(told["number"])
                files[number], seeds[number] = file, int(told["seed"])
        return cls(base, files, seeds)

    @property
    def key(self) -> str:
        """Key of the split: cached reasoning features stay valid, and a roll-out's number identifies its content."""
        return self.base.key

    @property
    def world(self) -> WorldSettings:
        """Settings of the split's scenes."""
        return self.base.world

    def folder(self) -> Path:
        """Returns the folder of the split's features."""
        return self.base.folder()

    def file(self, seed: int) -> Path:
        """Returns the feature file of a scene or a roll-out."""
        return self.files[seed] if seed >= FIRST else self.base.file(seed)

    def name(self, seed: int) -> str:
        """Returns the name of a scene or roll-out, for logs and pictures."""
        return f"roll-out {self.files[seed].stem}" if seed >= FIRST else self.base.name(seed)


def write_rollout(file: Path, arrays: dict[str, np.ndarray], told: dict[str, str]) -> None:
    """Write a roll-out file. told: its metadata, with the digest of the encoder's weights as "encoder" and the world's
    seed as "seed"; metadata and arrays are hashed to the number under which its reasoning features are cached."""
    told = told | {"format": FORMAT}
    digest = hashlib.sha256("\n".join(f"{name}={told[name]}" for name in sorted(told)).encode())
    for name in sorted(arrays):
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    number = FIRST + int(digest.hexdigest()[:12], 16)
    write_arrays(file, arrays, told | {"number": str(number)})


def driven(file: Path) -> str:
    """Returns how a roll-out went."""
    return _metadata(file).get("driven", "")


def _metadata(file: Path) -> dict[str, str]:
    try:
        with safe_open(file, framework="numpy") as opened:
            told = opened.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise InvalidInput("rollouts", f"{file} cannot be read ({error}); delete it") from None
    if not told.get("number", "").isdecimal():
        raise InvalidInput("rollouts", f"{file} is no roll-out")
    return told
