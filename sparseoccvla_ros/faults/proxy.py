"""Faults between a source of messages and the nodes: dropped, delayed, repeated, reordered, damaged, on a wrong clock.

A FaultProxy is told what to do for a while; whatever passes through it then comes out as that says. It knows neither
ROS nor threads: tests put it before a CameraSync, the storm before the topics of the graph. It is seeded, and counts
what it did, so that every loss can be accounted for.
"""

from __future__ import annotations

import itertools
import random
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

_STAMP = struct.Struct("<iI")


@dataclass(frozen=True)
class Sample:
    """topic; stamp: of the header in ns; data: the payload, never looked into; damaged: a part was overwritten."""

    topic: str
    stamp: int
    data: bytes
    damaged: bool = False


@dataclass(frozen=True)
class Fault:
    """What happens to the messages of some topics.

    topics: whole names; empty means every topic. Shares are probabilities per message: drop, duplicate, corrupt (a part
    of the payload is overwritten), reorder (it comes behind the next one of its topic). skew_ns: added to stamps, for a
    camera whose clock is off; jitter_ns: standard deviation of a further error; jump_ns: the same of every topic's
    stamps, as where the clock of the machine is set; delay: seconds that a message comes later, with its stamp kept.
    """

    topics: frozenset[str] = frozenset()
    drop: float = 0.0
    duplicate: float = 0.0
    corrupt: float = 0.0
    reorder: float = 0.0
    skew_ns: int = 0
    jitter_ns: int = 0
    jump_ns: int = 0
    delay: float = 0.0

    def concerns(self, topic: str) -> bool:
        """Whether the fault is about a topic."""
        return not self.topics or topic in self.topics


class FaultProxy:
    """Passes samples on as the present faults say; `counts` tells (what, topic) -> how often."""

    def __init__(self, seed: int = 0) -> None:
        self.faults: tuple[Fault, ...] = ()
        self.counts: Counter[tuple[str, str]] = Counter()
        self._rng = random.Random(seed)
        self._held: dict[str, list[Sample]] = {}
        self._late: list[tuple[float, int, Sample]] = []
        self._serial = 0

    def set(self, *faults: Fault) -> None:
        """What happens from now on; nothing without arguments."""
        self.faults = faults

    def put(self, sample: Sample, now: float = 0.0) -> list[Sample]:
        """A sample comes in at `now` seconds; what goes on at once, in order."""
        self.counts["in", sample.topic] += 1
        out = [*self.due(now)]
        delay = 0.0
        copies = 1
        behind = False
        for fault in self.faults:
            if not fault.concerns(sample.topic):
                continue
            if self._happens(fault.drop):
                self.counts["drop", sample.topic] += 1
                return out
            error = round(self._rng.gauss(0.0, fault.jitter_ns)) if fault.jitter_ns else 0
            sample = replace(sample, stamp=sample.stamp + fault.skew_ns + fault.jump_ns + error)
            if self._happens(fault.corrupt):
                self.counts["corrupt", sample.topic] += 1
                sample = replace(sample, data=self._corrupted(sample.data), damaged=True)
            copies += self._happens(fault.duplicate)
            behind = behind or self._happens(fault.reorder)
            delay += fault.delay
        if copies > 1:
            self.counts["duplicate", sample.topic] += copies - 1
        held = self._held.pop(sample.topic, [])
        if behind and not held:
            self.counts["reorder", sample.topic] += 1
            self._held[sample.topic] = [sample] * copies
            return out
        following = [sample] * copies + held
        if delay:
            self.counts["delay", sample.topic] += len(following)
            for one in following:
                self._serial += 1
                self._late.append((now + delay, self._serial, one))
            return out
        return out + self._passed(following)

    def due(self, now: float) -> Iterator[Sample]:
        """Delayed samples whose time has come."""
        ready = sorted(entry for entry in self._late if entry[0] <= now)
        self._late = [entry for entry in self._late if entry[0] > now]
        yield from self._passed([sample for _, _, sample in ready])

    def drain(self) -> list[Sample]:
        """Everything still held back: samples that wait for a successor, and delayed ones."""
        waiting = [*itertools.chain(*self._held.values()), *(sample for _, _, sample in sorted(self._late))]
        self._held.clear()
        self._late.clear()
        return self._passed(waiting)

    def play(self, samples: Iterable[Sample]) -> list[Sample]:
        """All of a stream, its stamps taken as the time that passes."""
        out: list[Sample] = []
        for sample in samples:
            out += self.put(sample, sample.stamp / 1e9)
        return out + self.drain()

    def _happens(self, share: float) -> bool:
        return share > 0.0 and self._rng.random() < share

    def _passed(self, samples: list[Sample]) -> list[Sample]:
        for sample in samples:
            self.counts["out", sample.topic] += 1
        return samples

    def _corrupted(self, data: bytes) -> bytes:
        if not data:
            return data
        at = self._rng.randrange(len(data))
        return data[:at] + self._rng.randbytes(min(64, len(data) - at)) + data[at + 64 :]


def restamped(raw: bytes, stamp: int) -> bytes:
    """CDR bytes, little endian, of a message that begins with a Header, with another stamp in ns."""
    sec, nanosec = divmod(stamp, 10**9)
    return raw[:4] + _STAMP.pack(max(-(2**31), min(sec, 2**31 - 1)), nanosec) + raw[12:]
