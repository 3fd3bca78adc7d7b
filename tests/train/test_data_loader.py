"""Order of samples: every sample once an epoch, the same from any place on, disjoint over processes."""

from __future__ import annotations

from itertools import islice

import numpy as np

from sparseoccvla_ros.data.dataset import Augmentation, Sample
from sparseoccvla_ros.train.data_loader import BatchLoader, SamplerState, epoch_batches
from tests.train.conftest import Boxes


def names(samples: list[Sample]) -> list[str]:
    return [s.name for s in samples]


def test_every_sample_comes_once_an_epoch() -> None:
    batches = epoch_batches(11, 3, 1, 0)
    assert batches.shape == (3, 3)
    assert len(set(batches.ravel())) == 9
    assert not np.array_equal(batches, epoch_batches(11, 3, 1, 1))
    assert epoch_batches(2, 4, 1, 0).shape == (1, 4)


def test_a_loader_goes_on_where_it_stopped() -> None:
    loader = BatchLoader(Boxes(5), list, Augmentation(), 2, 7)
    whole = [(names(b), [s.images.sum() for s in b], p) for b, p in islice(loader, 6)]
    loader.close()
    for done in (1, 2, 3):
        place = whole[done - 1][2]
        rest = BatchLoader(Boxes(5), list, Augmentation(), 2, 7, place, num_workers=3)
        again = [(names(b), [s.images.sum() for s in b], p) for b, p in islice(rest, 6 - done)]
        rest.close()
        assert again == whole[done:]


def test_processes_share_an_epoch() -> None:
    found = []
    for rank in range(2):
        loader = BatchLoader(Boxes(8), names, None, 2, 7, rank=rank, world=2)
        found += [n for b, _ in islice(loader, 2) for n in b]
        loader.close()
    assert sorted(found) == [f"box {i}" for i in range(8)]


def test_what_was_added_comes_in_the_next_epoch() -> None:
    class Growing(Boxes):
        def refresh(self, state: list[int] | None = None) -> None:
            self.count = state[0] if state else self.count + 2

    loader = BatchLoader(Growing(2), names, None, 2, 7)
    assert len({n for b, _ in islice(loader, 1) for n in b}) == 2
    assert loader.samples == [2]
    assert len({n for b, _ in islice(loader, 2) for n in b}) == 4
    assert loader.samples == [4]
    loader.close()
    assert SamplerState(0, 0) == SamplerState()
