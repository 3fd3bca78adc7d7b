"""Forms frame sets from the images of cameras that are not synchronised.

It works on stamps and has no clock of its own. For each image of the reference camera, it takes the images of the other
cameras that are nearest in time, with all stamps of the set within `tolerance`. Stamps also decide whether a set is
final: a camera that has moved past the set cannot improve it any more, and a silent one is not waited for. The cost per
image is a few comparisons per camera, not a product over queues.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from dataclasses import dataclass
from typing import Any

from ..core.errors import InvalidInput
from .clock_jump import JumpGuard
from .config import MissingPolicy, SyncConfig
from .drop_reasons import DropReason, SyncStatistics

__all__ = ["DropReason", "FrameSet", "MissingPolicy", "Synchroniser"]


@dataclass(frozen=True, eq=False)
class FrameSet:
    """Images of all cameras at one moment.

    stamp: ns, of the leader (the reference camera, or while that is silent the first camera in order that is not);
    images: camera -> (its own stamp ns, payload), valid and held ones; missing: cameras without any image; held:
    cameras whose last image is reused; spread_ns: newest minus oldest stamp of the valid images; epoch: incremented
    at every clock jump and reset.
    """

    stamp: int
    images: dict[str, tuple[int, Any]]
    missing: tuple[str, ...]
    held: tuple[str, ...]
    spread_ns: int
    epoch: int
    leader: str

    @property
    def complete(self) -> bool:
        """Whether every camera has a valid image."""
        return not self.missing and not self.held


class _Queue:
    """Images of one camera, oldest first, with distinct stamps."""

    __slots__ = ("hold", "last", "payloads", "stamps")

    def __init__(self, hold: bool) -> None:
        self.hold = hold
        self.stamps: list[int] = []
        self.payloads: list[Any] = []
        self.last: tuple[int, Any] | None = None
        """Newest image that left the queue; its payload is kept only if the policy reuses it."""

    def insert(self, stamp: int, payload: Any) -> bool:
        at = bisect_left(self.stamps, stamp)
        if at < len(self.stamps) and self.stamps[at] == stamp:
            return False
        self.stamps.insert(at, stamp)
        self.payloads.insert(at, payload)
        return True

    def cut(self, count: int) -> None:
        """Drop the `count` oldest."""
        if count:
            self.last = (self.stamps[count - 1], self.payloads[count - 1] if self.hold else None)
            del self.stamps[:count]
            del self.payloads[:count]


class Synchroniser:
    """Approximate-time synchroniser of named cameras. Not thread-safe."""

    def __init__(self, config: SyncConfig | None = None) -> None:
        self.config = config or SyncConfig()
        self.epoch = 0
        self.statistics = SyncStatistics(self.config.cameras)
        self.events: deque[tuple[DropReason, str]] = deque(maxlen=64)
        """Dropped sets and clock jumps, for the log; the reader clears it."""
        self._tolerance = round(self.config.tolerance * 1e9)
        self._patience = round(self.config.patience * 1e9)
        self._max_hold = round(self.config.max_hold * 1e9)
        self._order = (self.config.reference, *(c for c in self.config.cameras if c != self.config.reference))
        self._guard = JumpGuard(self.config)
        self._queues = {c: _Queue(self.config.policy is MissingPolicy.HOLD) for c in self.config.cameras}
        self._last_set: int | None = None
        self._started: int | None = None
        self._polled: int | None = None
        self._base: tuple[int, int] | None = None
        """Time according to stamps, and the polled clock when that time was first seen."""

    def add(self, camera: str, stamp_ns: int, payload: Any) -> list[FrameSet]:
        """Add an image; returns the sets it completed, oldest first.

        stamp_ns: the image's header stamp. Raises InvalidInput for a camera that is not configured or a stamp <= 0.
        """
        if camera not in self._queues:
            raise InvalidInput("camera", f"{camera!r} is not one of {list(self.config.cameras)}")
        stamp = int(stamp_ns)
        if stamp <= 0:
            raise InvalidInput("stamp", f"{camera}: {stamp} ns is no time")
        judgement = self._guard.judge(camera, stamp, payload)
        if judgement.refused:
            self._drop(DropReason.FOREIGN_CLOCK, judgement.refused)
        if judgement.jump is not None:
            self._flush(judgement.jump)
        for name, at, image in judgement.accepted:
            self._insert(name, at, image)
        return self._drain() if judgement.accepted else []

    def poll(self, now_ns: int) -> list[FrameSet]:
        """Advance the time: decides sets that only wait for a silent camera; returns those completed.

        now_ns: the time of the node's clock (system or simulated time). Only its progress since the newest image
        counts, so neither transport delay nor a clock unrelated to the stamps matters.
        """
        now = int(now_ns)
        last, self._polled = self._polled, now
        stamps = self._stamp_time()
        if stamps is None:
            return []
        turned = last is not None and now < last - round(self.config.backward_jump * 1e9)
        if turned and last is not None and stamps > now and abs(stamps - last) < self._comparable:
            self.reset(DropReason.CLOCK_BACKWARD, now)
            return []
        if self._base is None and abs(now - stamps) < self._comparable:
            self._base = (stamps, stamps)
        elif self._base is None or self._base[0] != stamps or turned:
            self._base = (stamps, now)
        return self._drain()

    def flush(self) -> list[FrameSet]:
        """Decide all waiting sets, as at the end of a recording; returns those completed."""
        return self._drain(wait=False)

    def reset(self, reason: DropReason = DropReason.RESET, now_ns: int | None = None) -> None:
        """Empty all queues and start a new epoch.

        now_ns: the new time, if the clock jumped; images that continue the old clock are then refused.
        """
        if now_ns is not None:
            self._drop(DropReason.FOREIGN_CLOCK, self._guard.turn(int(now_ns)))
        self._flush(reason)

    @property
    def time(self) -> int | None:
        """Newest time known from stamps and polls, ns; None before the first image."""
        stamps = self._stamp_time()
        if stamps is None or self._base is None or self._base[0] != stamps or self._polled is None:
            return stamps
        return stamps + max(0, self._polled - self._base[1])

    def _stamp_time(self) -> int | None:
        """Return the common time of the cameras: the upper median of their newest stamps.

        With the maximum, a single camera whose clock runs ahead would end every wait for the others.
        """
        newest = self._guard.newest
        stamps = sorted((newest[c] for c in self._guard.delivering() if c in newest), reverse=True)
        return stamps[(len(stamps) - 1) // 2] if stamps else self._guard.newest_all

    @property
    def _comparable(self) -> int:
        return round(self.config.forward_jump * 1e9)

    def _drop(self, reason: DropReason, count: int = 1) -> None:
        if count:
            self.statistics.drops[reason] += count

    def _flush(self, reason: DropReason) -> None:
        for queue in self._queues.values():
            self._drop(reason, len(queue.stamps))
            queue.cut(len(queue.stamps))
            queue.last = None
        self.epoch += 1
        self.events.append((reason, f"queues emptied, epoch {self.epoch} begins"))
        self._last_set = None
        self._started = None
        self._base = None
        self.statistics.turned()

    def _insert(self, camera: str, stamp: int, payload: Any) -> None:
        queue = self._queues[camera]
        if self._started is None:
            self._started = stamp
        self.statistics.arrived(camera, stamp)
        if queue.last is not None and stamp == queue.last[0]:
            self._drop(DropReason.DUPLICATE)
            return
        too_old = self._last_set is not None and stamp <= self._last_set - self._tolerance
        if too_old or (queue.last is not None and stamp < queue.last[0]):
            self._drop(DropReason.LATE)
            return
        if not queue.insert(stamp, payload):
            self._drop(DropReason.DUPLICATE)
            return
        excess = len(queue.stamps) - self.config.queue_depth
        if excess > 0:
            self._drop(DropReason.QUEUE_FULL, excess)
            queue.cut(excess)

    def _silence(self, camera: str) -> int:
        """Return the time without image after which a camera is silent, ns: `patience`, longer for slow cameras."""
        period = self.statistics.period(camera)
        if period is None:
            return self._patience if self.statistics.last_stamp[camera] is None else max(self._patience, 10**9)
        return max(self._patience, 3 * period // 2)

    def _silent(self, camera: str, time: int) -> bool:
        newest = self._guard.newest.get(camera, self._started)
        return newest is None or time - newest > self._silence(camera)

    def _drain(self, wait: bool = True) -> list[FrameSet]:
        time = self.time
        sets: list[FrameSet] = []
        if time is None:
            return sets
        silent = {c for c in self._order if self._silent(c, time)}
        while (leader := self._leader(silent if wait else set(self._order))) is not None:
            queue = self._queues[leader]
            stamp = queue.stamps[0]
            if self._last_set is not None and stamp <= self._last_set:
                self._drop(DropReason.LATE)
                queue.cut(1)
                continue
            chosen = self._choose(leader, stamp)
            if wait and not self._final(stamp, chosen, silent, time):
                break
            made = self._form(leader, stamp, chosen)
            if made is not None:
                sets.append(made)
        self._trim(time)
        self.statistics.missing = tuple(c for c in self.config.cameras if c in silent)
        return sets

    def _leader(self, silent: set[str]) -> str | None:
        """Return the first camera in order with a waiting image; None if one before it may still deliver."""
        for camera in self._order:
            if self._queues[camera].stamps:
                return camera
            if camera not in silent:
                return None
        return None

    def _choose(self, leader: str, stamp: int) -> dict[str, int]:
        """Choose the best window of `tolerance` that contains the leader's stamp: most cameras, then least spread.

        Returns camera -> index in its queue.
        """
        near: dict[str, tuple[int, int]] = {}
        starts = {stamp}
        for camera in self._order:
            if camera == leader:
                continue
            stamps = self._queues[camera].stamps
            first = bisect_left(stamps, stamp - self._tolerance)
            last = bisect_right(stamps, stamp + self._tolerance, first)
            if first < last:
                near[camera] = (first, last)
                starts.update(s for s in stamps[first:last] if s < stamp)
        best: dict[str, int] = {leader: 0}
        best_rank = (1, 0)
        for start in sorted(starts, reverse=True):
            chosen, low, high = {leader: 0}, stamp, stamp
            for camera, (first, last) in near.items():
                stamps = self._queues[camera].stamps
                index = bisect_left(stamps, stamp, first, last)
                if index == last or (
                    index > first and stamps[index - 1] >= start and stamp - stamps[index - 1] <= stamps[index] - stamp
                ):
                    index -= 1
                if not start <= stamps[index] <= start + self._tolerance:
                    index = bisect_right(stamps, start + self._tolerance, first, last) - 1
                    if index < first or stamps[index] < start:
                        continue
                chosen[camera] = index
                low, high = min(low, stamps[index]), max(high, stamps[index])
            rank = (len(chosen), low - high)
            if rank > best_rank:
                best, best_rank = chosen, rank
        return best

    def _final(self, stamp: int, chosen: dict[str, int], silent: set[str], time: int) -> bool:
        """Whether no image that may still arrive could improve the set."""
        if time >= stamp + self._patience:
            return True
        passed = time >= stamp + self._tolerance
        for camera in self._order:
            queue = self._queues[camera]
            own = self._guard.newest.get(camera)
            if camera in silent or (own is not None and own > stamp + self._tolerance):
                continue
            index = chosen.get(camera)
            if index is None:
                return False
            gap = stamp - queue.stamps[index]
            if gap <= 0 or passed or index + 1 < len(queue.stamps):
                continue
            period = self.statistics.period(camera)
            if period is None and gap > self._tolerance // 2:
                return False
            if period is not None and abs(queue.stamps[index] + period - stamp) < gap:
                return False
        return True

    def _form(self, leader: str, stamp: int, chosen: dict[str, int]) -> FrameSet | None:
        """Build the set and remove its images from the queues; None if the policy drops it."""
        complete = len(chosen) == len(self._order)
        images: dict[str, tuple[int, Any]] = {}
        missing, held = [], []
        for camera in self.config.cameras:
            queue = self._queues[camera]
            index = chosen.get(camera)
            if index is not None:
                images[camera] = (queue.stamps[index], queue.payloads[index])
                continue
            last = self._hold(queue, stamp) if self.config.policy is MissingPolicy.HOLD else None
            if last is None:
                missing.append(camera)
            else:
                images[camera] = last
                held.append(camera)
        valid = [images[c][0] for c in chosen]
        spread = max(valid) - min(valid)
        if not complete and self.config.policy is MissingPolicy.STRICT:
            near = [c for c in self._order if c in chosen or self._near(self._queues[c].stamps, stamp)]
            reason = DropReason.SPREAD if len(near) == len(self._order) else DropReason.MISSING_CAMERA
            absent = " ".join(c for c in self.config.cameras if c not in chosen)
            self.events.append((reason, f"set at {stamp} ns: nothing within {self.config.tolerance} s of {absent}"))
            self._drop(reason)
            self._queues[leader].cut(1)
            return None
        for camera, index in chosen.items():
            self._drop(DropReason.UNMATCHED, index)
            self._queues[camera].cut(index + 1)
        self._last_set = stamp
        self.statistics.formed(spread, complete)
        return FrameSet(stamp, images, tuple(missing), tuple(held), spread, self.epoch, leader)

    def _near(self, stamps: list[int], stamp: int) -> bool:
        at = bisect_left(stamps, stamp - self._tolerance)
        return at < len(stamps) and stamps[at] <= stamp + self._tolerance

    def _hold(self, queue: _Queue, stamp: int) -> tuple[int, Any] | None:
        """Return the camera's newest image up to the set's stamp plus `tolerance`; None if older than `max_hold`."""
        at = bisect_right(queue.stamps, stamp + self._tolerance)
        last = (queue.stamps[at - 1], queue.payloads[at - 1]) if at else queue.last
        return last if last is not None and stamp - last[0] <= self._max_hold else None

    def _trim(self, time: int) -> None:
        """Drop images that no future set can use."""
        oldest = time - 2 * max(map(self._silence, self._order)) - self._tolerance
        if self._last_set is not None:
            oldest = max(oldest, self._last_set - self._tolerance + 1)
        for queue in self._queues.values():
            count = bisect_left(queue.stamps, oldest)
            self._drop(DropReason.UNMATCHED, count)
            queue.cut(count)
