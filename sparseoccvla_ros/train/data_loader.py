"""Order of the training samples, and prefetching of batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from ..data.dataset import DrivingSamples

B = TypeVar("B")


@dataclass(frozen=True)
class SamplerState:
    """Position in the data: epoch, and number of its batches done."""

    epoch: int = 0
    batches: int = 0


def epoch_batches(count: int, batch_size: int, seed: int, epoch: int) -> np.ndarray:
    """Returns the sample indices of an epoch's batches, int64 [batches, batch_size]: a permutation without the
    remainder.

    If there are fewer samples than `batch_size`, some are repeated.
    """
    order = np.random.default_rng([seed, epoch]).permutation(count)
    order = np.resize(order, batch_size) if count < batch_size else order[: count // batch_size * batch_size]
    return order.reshape(-1, batch_size)


class BatchLoader(Iterator[tuple[B, SamplerState]]):
    """Endless iterator over batches from a place on: augmented, collated, prefetched by threads, in a fixed order.

    The augmentation of a sample is seeded by (seed, epoch, position), independent of the loading thread and of
    interruptions. The dataset is refreshed at the start of each epoch. rank, world: index of this process and number
    of processes; a process gets every world-th batch.
    """

    def __init__(
        self,
        data: DrivingSamples,
        collate: Callable[[list[Any]], B],
        augment: Callable[[Any, np.random.Generator], Any] | None,
        batch_size: int,
        seed: int,
        place: SamplerState | None = None,
        num_workers: int = 1,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self._data, self._collate, self._augment = data, collate, augment
        self._batch_size, self._seed, self._rank, self._world = batch_size, seed, rank, world
        self._pool = ThreadPoolExecutor(num_workers, thread_name_prefix="load")
        self._ahead = num_workers + 1
        self._waiting: deque[tuple[Future[B], SamplerState, list[int]]] = deque()
        self._place = place or SamplerState()
        self._order = self._epoch()
        self.samples = data.state()

    def __next__(self) -> tuple[B, SamplerState]:
        """Returns the next batch and the place after it; sets `samples` to the dataset's state in that epoch."""
        while len(self._waiting) < self._ahead:
            self._submit()
        future, place, self.samples = self._waiting.popleft()
        return future.result(), place

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _epoch(self) -> np.ndarray:
        return epoch_batches(len(self._data), self._batch_size, self._seed, self._place.epoch)

    def _submit(self) -> None:
        here = self._place
        first = here.batches + self._rank
        if first >= len(self._order):
            self._place = here = SamplerState(here.epoch + 1, 0)
            # Pending loads finish first: they use indices into the old state.
            for future, _, _ in self._waiting:
                future.exception()
            self._data.refresh()
            self._order = self._epoch()
            first = min(self._rank, len(self._order) - 1)
        rows = self._order[first]
        self._place = SamplerState(here.epoch, here.batches + self._world)
        future = self._pool.submit(self._load, rows, here.epoch, first)
        self._waiting.append((future, self._place, self._data.state()))

    def _load(self, rows: np.ndarray, epoch: int, number: int) -> B:
        samples = []
        for k, index in enumerate(rows):
            sample = self._data[int(index)]
            if self._augment is not None:
                sample = self._augment(sample, np.random.default_rng([self._seed, epoch, number, k]))
            samples.append(sample)
        return self._collate(samples)
