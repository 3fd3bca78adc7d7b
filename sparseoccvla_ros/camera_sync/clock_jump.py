"""Distinguishes a jump of the clock from a wrong stamp.

A looping bag turns the clock of every camera back, and images from before the jump may still arrive after the first
ones that follow it; a single camera may also have a clock of its own that is off, or one corrupt stamp. A stamp that
does not continue its camera's stream is therefore parked, and the clock counts as jumped only when more than half of
the delivering cameras agree on the new time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .config import SyncConfig
from .drop_reasons import DropReason

Image = tuple[str, int, Any]
"""(camera, stamp in ns, payload)"""


@dataclass
class Judgement:
    """Decision about one image: images to accept now, the jump to apply first, and how many were refused."""

    accepted: list[Image] = field(default_factory=list)
    jump: DropReason | None = None
    refused: int = 0


class JumpGuard:
    """Tracks the stamps of every camera across clock jumps."""

    def __init__(self, config: SyncConfig) -> None:
        self._backward = round(config.backward_jump * 1e9)
        self._forward = round(config.forward_jump * 1e9)
        self._memory = 3 * len(config.cameras)
        self.newest_all: int | None = None
        """Newest stamp since the last jump, ns."""
        self.newest: dict[str, int] = {}
        """Newest stamp per camera since the last jump, ns."""
        self._before: dict[str, int] = {}
        self._parked: dict[str, tuple[int, Any, int]] = {}
        self._arrivals = 0
        self._arrived_at: dict[str, int] = {}
        self._turned_at = 0

    def judge(self, camera: str, stamp: int, payload: Any) -> Judgement:
        """Judge one image; call it in order of arrival."""
        self._arrivals += 1
        self._arrived_at[camera] = self._arrivals
        if self._continues(camera, stamp):
            refused = 1 if self._parked.pop(camera, None) else 0
            self._note(camera, stamp)
            return Judgement([(camera, stamp, payload)], refused=refused)
        if self._is_from_before(camera, stamp):
            self._before[camera] = max(self._before[camera], stamp)
            return Judgement(refused=1)
        previous = self._parked.get(camera)
        repeated = previous[2] + 1 if previous and abs(previous[0] - stamp) <= self._agreement else 1
        self._parked[camera] = (stamp, payload, repeated)
        refused = 1 if previous else 0
        agreeing = [c for c, (s, _, _) in self._parked.items() if abs(s - stamp) <= self._agreement]
        messages = sum(self._parked[c][2] for c in agreeing)
        if messages < 2 or 2 * len(agreeing) <= len(self.delivering()):
            return Judgement(refused=refused)
        assert self.newest_all is not None
        backward = stamp < self.newest_all
        images = sorted(((c, *self._parked[c][:2]) for c in agreeing), key=lambda image: image[1])
        refused += len(self._parked) - len(agreeing)
        self.turn(images[0][1])
        for accepted, at, _ in images:
            self._note(accepted, at)
        reason = DropReason.CLOCK_BACKWARD if backward else DropReason.CLOCK_FORWARD
        return Judgement(images, jump=reason, refused=refused)

    def turn(self, now_ns: int) -> int:
        """Set the clock to `now_ns`; old streams count as foreign. Drops the parked images and returns their number."""
        self._before.update(self.newest)
        self.newest.clear()
        self.newest_all = now_ns
        self._turned_at = self._arrivals
        dropped = len(self._parked)
        self._parked.clear()
        return dropped

    @property
    def _agreement(self) -> int:
        return 2 * self._backward

    def _note(self, camera: str, stamp: int) -> None:
        self._before.pop(camera, None)
        self.newest[camera] = max(stamp, self.newest.get(camera, stamp))
        self.newest_all = stamp if self.newest_all is None else max(self.newest_all, stamp)

    def _continues(self, camera: str, stamp: int) -> bool:
        if self.newest_all is None:
            return True
        own = self.newest.get(camera)
        if own is not None:
            return own - self._backward <= stamp <= self.newest_all + self._forward
        if camera in self._before:
            # An image still in flight from before a backward jump is at least backward_jump minus the transport's
            # delay ahead of the new clock, so half of backward_jump separates the two.
            return self.newest_all - self._backward <= stamp <= self.newest_all + self._backward // 2
        return abs(stamp - self.newest_all) <= self._forward

    def _is_from_before(self, camera: str, stamp: int) -> bool:
        """Whether the image was still in flight when the clock jumped, which is possible only shortly afterwards."""
        old = self._before.get(camera)
        recent = self._arrivals - self._turned_at <= self._memory
        return recent and old is not None and old - self._backward <= stamp <= old + self._forward

    def delivering(self) -> list[str]:
        """Return the cameras that deliver at present, whatever their clock: those among the last few arrivals."""
        return [c for c, at in self._arrived_at.items() if self._arrivals - at < self._memory]
