"""Scheduling of bag playback, without ROS and without a clock of its own.

The caller passes in the current time of any monotonic clock, in seconds; Playback returns which events are due and when
the next one will be. A typical loop:

    playback.start(now())
    while not playback.finished:
        for event in playback.due(now()):
            publish(event)
        wait_until(playback.next_time())      # None while paused
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from ...core.errors import InvalidInput
from ...core.types import NANOSECONDS
from .reader import BagMessage, BagReader

RATE_LIMIT = 100.0


@dataclass(frozen=True)
class Clock:
    """Time to publish on /clock: stamp in ns of bag time."""

    stamp: int


Event = Clock | BagMessage


class Playback:
    """Schedules the messages of a bag on the caller's clock.

    reader: an open bag. rate: bag seconds per second, > 0. loop: restart at the end, with the same stamps, so bag time
    jumps backwards. start_offset: seconds into the bag. duration: seconds of bag time to play (None = to the end).
    clock_hz: Clock events per second of the caller's time (0 = none); late ticks are merged. topics: only these.

    Every pass begins with Clock(first stamp), then the latched messages recorded before the offset (such as
    /tf_static), then the messages in record order, and ends with Clock(last stamp). The next pass of a loop begins one
    clock period after the last stamp.

    One message is read ahead. Not thread safe: lock it if services call it from another thread. Raises InvalidInput
    for a rate, offset, duration or topic that does not fit the bag, and for an empty bag.
    """

    def __init__(
        self,
        reader: BagReader,
        rate: float = 1.0,
        loop: bool = False,
        start_offset: float = 0.0,
        duration: float | None = None,
        clock_hz: float = 100.0,
        topics: Collection[str] | None = None,
    ) -> None:
        if reader.message_count == 0:
            raise InvalidInput("bag", f"{reader.path} holds no messages")
        if not 0.0 <= start_offset <= reader.duration:
            raise InvalidInput("start_offset", f"{start_offset} s is outside the bag's {reader.duration:.3f} s")
        if duration is not None and not (math.isfinite(duration) and duration > 0.0):
            raise InvalidInput("duration", f"want more than 0 s, got {duration}")
        if not 0.0 <= clock_hz <= 10_000.0:
            raise InvalidInput("clock_hz", f"want 0 (none) to 10000, got {clock_hz}")
        if topics is not None and not set(topics) <= set(reader.topics):
            raise InvalidInput("topics", f"the bag lacks {sorted(set(topics) - set(reader.topics))}")
        if topics is not None and not topics:
            raise InvalidInput("topics", "none is chosen")
        if not 0.0 < rate <= RATE_LIMIT:
            raise InvalidInput("rate", f"want more than 0 and at most {RATE_LIMIT:g}, got {rate}")
        self.reader = reader
        self.loop = loop
        self.passes = 0
        """Number of passes begun so far."""
        self.finished = False
        self.paused = False
        self._rate = float(rate)
        self._topics = None if topics is None else tuple(topics)
        # Internal bag time is ns since the bag's start: a float64 of ns since the epoch only resolves 256 ns.
        self._zero = reader.start
        self._first = round(start_offset * NANOSECONDS)
        whole = reader.end - reader.start
        self._last = whole if duration is None else min(self._first + round(duration * NANOSECONDS), whole)
        self._period = 1.0 / clock_hz if clock_hz > 0 else 0.0
        self._anchor: tuple[float, float] | None = None  # (caller's seconds, bag time) of the same instant
        self._held = float(self._first)  # bag time while paused or before the start
        self._steps = 0
        self._source: Iterator[BagMessage] = iter(())
        self._ahead: BagMessage | None = None
        self._tick: float = math.inf
        self._told: int | None = None  # bag time of the newest Clock
        self._final_clock = False

    # -- control -------------------------------------------------------------------------------------------------

    def start(self, now: float, paused: bool = False) -> None:
        """Begin the first pass, or restart, at the caller's time `now`, in seconds."""
        self.paused = paused
        self._steps = 0
        self._begin(now)

    def pause(self, now: float) -> None:
        """Stop bag time; nothing is due until resume() or step()."""
        if not self.paused:
            self._rebase(now)
            self.paused = True

    def resume(self, now: float) -> None:
        """Continue bag time from where it was paused."""
        if self.paused:
            self.paused = False
            self._steps = 0
            if self._anchor is not None:
                self._anchor = (now, self._held)

    def step(self) -> None:
        """Make one more message due, with its Clock. Raises InvalidInput("step") unless paused."""
        if not self.paused:
            raise InvalidInput("step", "playback is not paused")
        self._steps += 1

    def position(self, now: float) -> int:
        """Bag time in ns at the caller's time `now`."""
        return self._zero + min(max(round(self._bag_time(now)), self._first), self._last)

    # -- events --------------------------------------------------------------------------------------------------

    def due(self, now: float) -> Iterator[Event]:
        """Yields events up to the caller's time `now`, in order and each once.

        Control calls between two events take effect at once.
        """
        while self._anchor is not None and not self.finished:
            if self.paused:
                if not self._steps:
                    return
                self._steps -= 1
                yield from self._single()
                continue
            limit = self._bag_time(now)
            message = self._ahead
            due_at = self._last if message is None else message.stamp - self._zero
            bound = min(limit, due_at)
            if self._tick <= bound:
                # Of several missed ticks only the latest is published.
                step = self._tick_step()
                tick = self._tick + math.floor((bound - self._tick) / step) * step
                self._tick = tick + step
                yield self._clock(round(tick))
            elif message is not None and due_at <= limit:
                self._ahead = next(self._source, None)
                yield message
            elif message is None and limit >= self._last and not self._final_clock:
                self._final_clock = True
                if self._period and self._told != self._last:
                    yield self._clock(self._last)
            elif message is None and not self.loop and self._final_clock:
                self.finished = True
            elif message is None and self.loop and limit >= self._pass_end():
                # The new pass begins where the old one ended on the caller's clock, so that loops do not drift.
                self._begin(self._wall_time(self._pass_end()))
            else:
                return

    def next_time(self) -> float | None:
        """Caller's time in seconds of the next event (possibly in the past); None while paused, or when finished."""
        if self._anchor is None or self.finished:
            return None
        if self.paused:
            return self._anchor[0] if self._steps else None
        message = self._ahead
        if message is not None:
            return self._wall_time(min(float(message.stamp - self._zero), self._tick))
        if not self._final_clock:
            return self._wall_time(min(float(self._last), self._tick))
        return self._wall_time(self._pass_end())

    # -- inside --------------------------------------------------------------------------------------------------

    def _begin(self, now: float) -> None:
        self.finished = False
        self._final_clock = False
        self.passes += 1
        stamp = self._zero + self._first
        before = self.reader.latched(stamp, self._topics) if self._first > 0 else []
        stream = self.reader.messages(self._topics, start=stamp, stop=self._zero + self._last + 1)
        self._source = _chain(before, stamp, stream)
        self._ahead = next(self._source, None)
        self._held = float(self._first)
        self._anchor = (now, self._held)
        self._tick = self._held if self._period else math.inf

    def _single(self) -> Iterator[Event]:
        message = self._ahead
        if message is None:
            if self.loop:
                self._begin(self._anchor[0] if self._anchor else 0.0)
                message = self._ahead
            if message is None:
                self._held = float(self._last)
                self.finished = not self.loop
                return
        self._ahead = next(self._source, None)
        self._held = float(message.stamp - self._zero)
        if self._period:
            self._tick = self._held + self._tick_step()
            yield self._clock(message.stamp - self._zero)
        yield message

    def _clock(self, bag_time: int) -> Clock:
        self._told = bag_time
        return Clock(self._zero + bag_time)

    def _tick_step(self) -> float:
        return self._period * self._rate * NANOSECONDS

    def _pass_end(self) -> float:
        # The pause between passes also keeps the loop of a one-message bag from spinning.
        return self._last + (self._period or 0.01) * self._rate * NANOSECONDS

    def _bag_time(self, now: float) -> float:
        if self._anchor is None or self.paused:
            return self._held
        wall, bag = self._anchor
        return bag + (now - wall) * self._rate * NANOSECONDS

    def _wall_time(self, bag_time: float) -> float:
        assert self._anchor is not None
        wall, bag = self._anchor
        return wall + (bag_time - bag) / (self._rate * NANOSECONDS)

    def _rebase(self, now: float) -> None:
        if self._anchor is not None and not self.paused:
            self._held = min(self._bag_time(now), self._pass_end())
            self._anchor = (now, self._held)


def _chain(before: list[BagMessage], stamp: int, stream: Iterator[BagMessage]) -> Iterator[BagMessage]:
    """Yields the earlier latched messages, restamped to `stamp`, then the stream."""
    for message in before:
        yield BagMessage(message.topic, message.type, stamp, message.raw)
    yield from stream
