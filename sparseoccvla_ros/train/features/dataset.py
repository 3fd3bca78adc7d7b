"""Cached features as a dataset for the later training stages; see synthetic.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ...core.errors import InvalidInput
from .synthetic import STATE_FIELDS, read_arrays


@dataclass(frozen=True, eq=False)
class FeatureSample:
    """One instant with cached features and its ground truth.

    seed: of the drive (nuScenes: number of the scene); time: s in the drive; drive: its name; ego: float32 [F], causal
    (planning.ego_history); twist: float32 [6]; command: index into COMMANDS; future: float32 [6, 4, 4], base_link at
    FUTURE_SECONDS to present base_link; arrays: the requested QUERY_FIELDS as in SceneQueries (float32, labels uint8)
    and the arrays of `extra`.
    """

    seed: int
    time: float
    ego: np.ndarray
    twist: np.ndarray
    command: int
    future: np.ndarray
    arrays: dict[str, Any] = field(default_factory=dict)
    drive: str = ""

    @property
    def name(self) -> str:
        return f"{self.drive or f'world {self.seed}'} at {self.time:.2f} s"

    @property
    def waypoints(self) -> np.ndarray:
        """True waypoints float32 [6, 2] m in present base_link."""
        return self.future[:, :2, 3]


class Cache(Protocol):
    """Feature cache with one file of arrays per scene, by number (world: seed)."""

    def folder(self) -> Path:
        """Returns the folder of the features."""
        ...

    def file(self, seed: int) -> Path:
        """Returns the feature file of a scene."""
        ...

    def name(self, seed: int) -> str:
        """Returns the name of a scene."""
        ...


class FeatureSamples:
    """Dataset of the frame sets of cached scenes.

    seeds: of the scenes; fields: QUERY_FIELDS to load; rows: frame sets to use, the same for every scene or a function
    of its number, all if None; extra: further arrays of a seed with these rows as first axis (reasoning tokens, future
    labels), or None if they are not cached, in which case the scene is skipped.
    """

    def __init__(
        self,
        cache: Cache,
        seeds: Sequence[int],
        fields: Sequence[str] = ("features", "centres"),
        rows: Sequence[int] | Callable[[int], Sequence[int]] | None = None,
        extra: Callable[[int], dict[str, np.ndarray] | None] | None = None,
    ) -> None:
        self.cache, self.fields = cache, tuple(fields)
        self._wanted, self._extra = list(seeds), extra
        self._scenes: dict[int, dict[str, np.ndarray]] = {}
        self._seeds: list[int] = []
        self._places: list[tuple[int, int]] = []
        self._rows = rows
        self.refresh()

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> FeatureSample:
        seed, row = self._places[index]
        arrays = {k: v[row] for k, v in self._scene(seed).items()}
        state = {k: arrays.pop(k) for k in STATE_FIELDS}
        return FeatureSample(
            seed, float(state["time"]), state["ego"], state["twist"], int(state["command"]),
            state["future"], {k: _full(v) for k, v in arrays.items()}, self.cache.name(seed),
        )  # fmt: skip

    def state(self) -> list[int]:
        """Returns the seeds in use."""
        return list(self._seeds)

    def refresh(self, state: list[int] | None = None) -> None:
        """Add scenes cached in the meantime, or use exactly the seeds of `state`; InvalidInput if one is missing."""
        if state is None:
            self._seeds = [s for s in self._wanted if self.cache.file(s).is_file() and self._scene(s, missing=True)]
        else:
            self._take(state)
        self._places = [(seed, k) for seed in self._seeds for k in range(len(self._scene(seed)["time"]))]

    def _take(self, state: list[int]) -> None:
        gone = [s for s in state if not self.cache.file(s).is_file()]
        if gone:
            raise InvalidInput("cache", f"features of seeds {gone[:5]} are gone: run ./run train cache again")
        self._seeds = list(state)

    def _scene(self, seed: int, missing: bool = False) -> dict[str, np.ndarray]:
        """Returns a scene's arrays, kept in memory; with `missing`, empty if its extra arrays are not cached."""
        found = self._scenes.get(seed)
        if found is None:
            extra = self._extra(seed) if self._extra else {}
            if extra is None:
                if missing:
                    return {}
                raise InvalidInput("cache", f"what belongs to seed {seed} is gone: run ./run train cache again")
            arrays = read_arrays(self.cache.file(seed), (*self.fields, *STATE_FIELDS))
            rows = self._rows(seed) if callable(self._rows) else self._rows
            found = (arrays if rows is None else {k: v[list(rows)] for k, v in arrays.items()}) | extra
            self._scenes[seed] = found
        return found


def _full(value: Any) -> Any:
    return value.astype(np.float32) if isinstance(value, np.ndarray) and value.dtype == np.float16 else value
