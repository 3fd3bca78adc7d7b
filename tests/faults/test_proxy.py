"""The proxy does what it is told, counts all of it, and the synchroniser behind it pairs nothing wrongly."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseoccvla_ros.camera_sync.config import SyncConfig
from sparseoccvla_ros.camera_sync.time_synchronizer import Synchroniser
from sparseoccvla_ros.core.classes import CAMERAS
from sparseoccvla_ros.faults.proxy import Fault, FaultProxy, Sample, restamped

MS = 10**6
START = 10**18


def drive(count: int = 40) -> list[Sample]:
    """Six cameras at 12 Hz whose payload names the frame set."""
    return [Sample(c, START + k * 83 * MS + i * MS, b"%d" % k) for k in range(count) for i, c in enumerate(CAMERAS)]


shares = st.floats(0.0, 1.0)
faults = st.builds(
    Fault,
    topics=st.sampled_from([frozenset(), frozenset(CAMERAS[:1]), frozenset(CAMERAS[2:4])]),
    drop=shares, duplicate=shares, corrupt=shares, reorder=shares,
    jitter_ns=st.integers(0, 5 * MS), delay=st.sampled_from([0.0, 0.05, 0.4]),
)  # fmt: skip


@settings(max_examples=60)
@given(seed=st.integers(0, 2**31), wanted=st.lists(faults, max_size=3))
def test_03_whatever_comes_out_is_accounted_for_and_paired_rightly(seed: int, wanted: list[Fault]) -> None:
    proxy = FaultProxy(seed)
    proxy.set(*wanted)
    out = proxy.play(drive())
    total: Counter[str] = Counter()
    for (what, _), number in proxy.counts.items():
        total[what] += number
    assert total["in"] + total["duplicate"] - total["drop"] == total["out"] == len(out)
    sync = Synchroniser(SyncConfig())
    sets = [made for s in out for made in sync.add(s.topic, s.stamp, s.data)] + sync.flush()
    for made in sets:
        stamps = [stamp for stamp, _ in made.images.values()]
        assert max(stamps) - min(stamps) <= 2 * sync.config.tolerance * 1e9 or made.held
    for earlier, later in itertools.pairwise(sets):
        assert later.epoch > earlier.epoch or later.stamp > earlier.stamp


def test_each_fault_does_what_it_says() -> None:
    samples = [s for s in drive(10) if s.topic == "CAM_FRONT"]

    def played(**fault: float) -> list[Sample]:
        proxy = FaultProxy(1)
        proxy.set(Fault(**fault))
        return proxy.play(samples)

    assert played() == samples
    assert played(drop=1.0) == []
    assert [s.data for s in played(duplicate=1.0)] == [s.data for s in samples for _ in range(2)]
    assert [s.data for s in played(reorder=1.0)][:4] == [samples[k].data for k in (1, 0, 3, 2)]
    assert [s.stamp - t.stamp for s, t in zip(played(skew_ns=7), samples, strict=True)] == [7] * 10
    assert played(jump_ns=-(10**9))[0].stamp == samples[0].stamp - 10**9
    assert all(s.damaged and s.data != t.data for s, t in zip(played(corrupt=1.0), samples, strict=True))
    assert played(delay=0.4) == samples, "late, with the stamp kept"
    proxy = FaultProxy()
    proxy.set(Fault(delay=0.4))
    assert proxy.put(samples[0], 0.0) == []
    assert list(proxy.due(0.3)) == []
    assert list(proxy.due(0.5)) == [samples[0]]


@pytest.mark.parametrize("stamp", [0, 10**18 + 5, -(10**9), 2**80])
def test_a_new_stamp_in_serialised_bytes(stamp: int) -> None:
    raw = bytes([0, 1, 0, 0]) + bytes(8) + b"the rest"
    out = restamped(raw, stamp)
    assert (out[:4], out[12:]) == (raw[:4], b"the rest")
    if abs(stamp) < 2**60:
        got = int.from_bytes(out[4:8], "little", signed=True) * 10**9 + int.from_bytes(out[8:12], "little")
        assert got == stamp
