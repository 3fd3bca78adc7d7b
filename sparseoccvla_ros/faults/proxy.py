"""Message faults between a source and the nodes: dropped, delayed, repeated, reordered, damaged or wrong stamps.

A FaultProxy applies the currently set faults to every message passed through it. It depends on neither ROS nor
threads: tests put it in front of a CameraSync, the storm in front of the ROS topics. It is seeded, and counts every
fault, so that each loss can be accounted for.
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
    """A message. stamp: of the header in ns; data: the payload, never parsed; damaged: a part was overwritten."""

    topic: str
    stamp: int
    data: bytes
    damaged: bool = False


@dataclass(frozen=True)
class Fault:
    """A fault on the messages of some topics.

    topics: full names; empty means every topic. Probabilities per message: drop, duplicate, corrupt (a part of the
    payload is overwritten), reorder (it is sent after the next one of its topic). skew_ns: added to stamps, for a
    camera whose clock is off; jitter_ns: standard deviation of an additional stamp error; jump_ns: added to stamps as
    well, for a jump of the machine's clock; delay: seconds by which messages are late, with unchanged stamps.
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
        """Whether the fault applies to a topic."""
        return not self.topics or topic in self.topics


class FaultProxy:
    """Forwards samples with the current faults applied; counts: (event, topic) -> number of samples."""

    def __init__(self, seed: int = 0) -> None:
        self.faults: tuple[Fault, ...] = ()
        self.counts: Counter[tuple[str, str]] = Counter()
        self._rng = random.Random(seed)
        self._held: dict[str, list[Sample]] = {}
        self._late: list[tuple[float, int, Sample]] = []
        self._serial = 0

    def set(self, *faults: Fault) -> None:
        """Replace the current faults; without arguments, clear them."""
        self.faults = faults

    def put(self, sample: Sample, now: float = 0.0) -> list[Sample]:
        """Process a sample that arrives at `now` seconds; returns the samples to forward now, in order."""
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
        """Yields the delayed samples due at `now` seconds."""
        ready = sorted(entry for entry in self._late if entry[0] <= now)
        self._late = [entry for entry in self._late if entry[0] > now]
        yield from self._passed([sample for _, _, sample in ready])

    def drain(self) -> list[Sample]:
        """Return all samples still held: reordered ones that wait for a successor, and delayed ones."""
        waiting = [*itertools.chain(*self._held.values()), *(sample for _, _, sample in sorted(self._late))]
        self._held.clear()
        self._late.clear()
        return self._passed(waiting)

    def play(self, samples: Iterable[Sample]) -> list[Sample]:
        """Process a whole stream, with its stamps as the current time."""
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
    """Little-endian CDR bytes of a message that begins with a Header, with its stamp replaced (ns)."""
    sec, nanosec = divmod(stamp, 10**9)
    return raw[:4] + _STAMP.pack(max(-(2**31), min(sec, 2**31 - 1)), nanosec) + raw[12:]
