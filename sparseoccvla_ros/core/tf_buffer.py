"""Timed transform tree with the semantics of tf2, in pure Python.

Same rules as tf2's BufferCore: every child has one parent, dynamic edges keep `cache_seconds` of history and are
interpolated (lerp and slerp) at the requested stamp, static edges are valid at all times, time 0 means the newest time
common to all edges, and nothing is ever extrapolated. It computes with scalars instead of arrays: for a chain of two
edges, numpy's call overhead alone would exceed the cost of the whole lookup.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from threading import RLock

import numpy as np

from .errors import InvalidInput
from .quaternion import (
    IDENTITY,
    ROTATION_TOLERANCE,
    Pose,
    Quaternion,
    Vector,
    invert,
    is_rigid,
    matrix_of,
    multiply,
    quaternion_of,
    slerp,
)


class TransformError(Exception):
    """Raised when a transform is not available; the message names both frames, the requested stamp and the reason."""

    def __init__(self, target: str, source: str, stamp_ns: int, reason: str) -> None:
        self.target = target
        self.source = source
        self.stamp_ns = stamp_ns
        super().__init__(f"{target} <- {source} at {_seconds(stamp_ns)}: {reason}")


class LookupFailed(TransformError):
    """A frame is unknown: no transform has named it."""


class NotConnected(TransformError):
    """Both frames are known but no chain of transforms connects them."""


class Extrapolation(TransformError):
    """The stamp lies outside the samples of an edge of the chain.

    in_future: the stamp is newer than the edge's newest sample, or the edge has none, so waiting can help.
    """

    def __init__(self, target: str, source: str, stamp_ns: int, reason: str, in_future: bool) -> None:
        self.in_future = in_future
        super().__init__(target, source, stamp_ns, reason)


DISPUTE = 4
"""Changes from or to each of several parents at which they count as a conflict between publishers."""


class _Edge:
    """One parent <- child edge: sorted stamps with their translations and quaternions."""

    __slots__ = ("child", "parent", "quaternions", "stamps", "static", "translations")

    def __init__(self, parent: str, child: str, static: bool) -> None:
        self.parent = parent
        self.child = child
        self.static = static
        self.stamps: list[int] = []
        self.translations: list[Vector] = []
        self.quaternions: list[Quaternion] = []

    def insert(self, stamp: int, translation: Vector, quaternion: Quaternion, cache_ns: int) -> bool:
        if self.static:
            self.stamps, self.translations, self.quaternions = [0], [translation], [quaternion]
            return True
        stamps = self.stamps
        if stamps and stamp < stamps[-1] - cache_ns:
            return False
        at = bisect_left(stamps, stamp)
        if at < len(stamps) and stamps[at] == stamp:
            self.translations[at], self.quaternions[at] = translation, quaternion
            return True
        stamps.insert(at, stamp)
        self.translations.insert(at, translation)
        self.quaternions.insert(at, quaternion)
        self.keep(bisect_left(stamps, stamps[-1] - cache_ns), len(stamps))
        return True

    def keep(self, first: int, last: int) -> None:
        """Keep samples first..last-1."""
        for samples in (self.stamps, self.translations, self.quaternions):
            del samples[last:]
            del samples[:first]

    def at(self, stamp: int) -> Pose | None:
        """Return the pose at a stamp; None outside the samples."""
        if self.static:
            return self.translations[0], self.quaternions[0]
        stamps = self.stamps
        after = bisect_left(stamps, stamp)
        if after == len(stamps):
            return None
        if stamps[after] == stamp:
            return self.translations[after], self.quaternions[after]
        if after == 0:
            return None
        before = after - 1
        fraction = (stamp - stamps[before]) / (stamps[after] - stamps[before])
        x0, y0, z0 = self.translations[before]
        x1, y1, z1 = self.translations[after]
        translation = (x0 + fraction * (x1 - x0), y0 + fraction * (y1 - y0), z0 + fraction * (z1 - z0))
        return translation, slerp(self.quaternions[before], self.quaternions[after], fraction)


class TransformBuffer:
    """A thread-safe tree of timed transforms.

    cache_seconds: history kept per dynamic edge, counted back from that edge's newest stamp (tf2's default is 10).
    """

    def __init__(self, cache_seconds: float = 10.0) -> None:
        if not (math.isfinite(cache_seconds) and cache_seconds > 0):
            raise InvalidInput("cache_seconds", f"want a positive number, got {cache_seconds}")
        self._cache_ns = round(cache_seconds * 1e9)
        self._edges: dict[str, _Edge] = {}
        self._known: set[str] = set()
        self._paths: dict[tuple[str, str], tuple[list[_Edge], list[_Edge]]] = {}
        self._disputes: dict[str, Counter[str]] = {}
        self._lock = RLock()

    def set(self, parent: str, child: str, stamp_ns: int, matrix: np.ndarray, static: bool = False) -> bool:
        """Store child2parent (the pose of `child` in `parent`), float [4, 4], metres.

        Returns False if the sample is older than the cache and was not stored. A repeated stamp replaces the sample;
        samples may arrive in any order. A new parent replaces the old edge and its history, unless a dynamic sample is
        older than the old edge's newest one (False). Raises InvalidInput for numbers that are not finite, a matrix
        that is no rigid transform, a negative stamp, an empty frame name, or an edge that would close a loop.
        """
        m = np.asarray(matrix)
        if m.shape != (4, 4) or m.dtype.kind not in "fiu":
            raise InvalidInput("transform", f"{parent} <- {child}: want numbers of shape [4, 4], got {m.shape}")
        rows = m.tolist()
        values = [value for row in rows for value in row]
        if not all(map(math.isfinite, values)):
            raise InvalidInput("transform", f"{parent} <- {child}: holds a number that is not finite")
        if not is_rigid(rows):
            raise InvalidInput("transform", f"{parent} <- {child}: the matrix is no rigid transform")
        return self.insert(
            parent, child, stamp_ns, (rows[0][3], rows[1][3], rows[2][3]), quaternion_of(rows), static=static
        )

    def insert(
        self,
        parent: str,
        child: str,
        stamp_ns: int,
        translation: Sequence[float],
        quaternion: Sequence[float],
        static: bool = False,
    ) -> bool:
        """Like `set`, with translation [3] m and quaternion [4] x, y, z, w as in a message.

        Raises InvalidInput also when the quaternion's norm deviates from 1 by more than 1e-2.
        """
        parent, child = _frame(parent), _frame(child)
        tx, ty, tz = (float(v) for v in translation)
        qx, qy, qz, qw = (float(v) for v in quaternion)
        if not all(map(math.isfinite, (tx, ty, tz, qx, qy, qz, qw))):
            raise InvalidInput("transform", f"{parent} <- {child}: holds a number that is not finite")
        norm = math.sqrt(qx * qx + qy * qy + qz * qz + qw * qw)
        if abs(norm - 1.0) > ROTATION_TOLERANCE:
            raise InvalidInput("transform", f"{parent} <- {child}: quaternion has norm {norm:.3f}, want 1")
        stamp = int(stamp_ns)
        if stamp < 0:
            raise InvalidInput("transform", f"{parent} <- {child}: stamp {stamp} ns is negative")
        unit = (qx / norm, qy / norm, qz / norm, qw / norm)
        with self._lock:
            edge = self._edges.get(child)
            if edge is None or edge.parent != parent or edge.static != static:
                if edge is not None and edge.parent != parent:
                    self._disputes.setdefault(child, Counter()).update((edge.parent, parent))
                stale = edge is not None and not edge.static and edge.stamps and stamp < edge.stamps[-1]
                if stale and not static:
                    return False
                self._refuse_loop(parent, child)
                edge = self._edges[child] = _Edge(parent, child, static)
                self._known.update((parent, child))
                self._paths.clear()
            return edge.insert(stamp, (tx, ty, tz), unit, self._cache_ns)

    def lookup(self, target: str, source: str, stamp_ns: int) -> np.ndarray:
        """Return source2target at a stamp: float64 [4, 4], maps points from `source` to `target`.

        stamp_ns 0 means the newest time common to all edges between the two. Raises LookupFailed, NotConnected or
        Extrapolation (all TransformError).
        """
        target, source = _frame(target), _frame(source)
        with self._lock:
            up, down = self._path(target, source, stamp_ns)
            stamp = stamp_ns if stamp_ns else self._newest_common(up, down, target, source, stamp_ns)
            return matrix_of(self._evaluate(up, down, target, source, stamp))

    def latest(self, target: str, source: str) -> tuple[int, np.ndarray]:
        """Return the newest common stamp (ns; 0 if every edge is static) and source2target at it, float64 [4, 4]."""
        target, source = _frame(target), _frame(source)
        with self._lock:
            up, down = self._path(target, source, 0)
            stamp = self._newest_common(up, down, target, source, 0)
            return stamp, matrix_of(self._evaluate(up, down, target, source, stamp))

    def newest_before(self, target: str, source: str, stamp_ns: int) -> int:
        """Return the newest stamp at which every edge between the frames is known from samples up to `stamp_ns`.

        A pose looked up there uses no samples after `stamp_ns`, as causal differentiation requires. Returns `stamp_ns`
        if every edge is static. Raises TransformError: Extrapolation if an edge starts later.
        """
        target, source = _frame(target), _frame(source)
        with self._lock:
            up, down = self._path(target, source, stamp_ns)
            newest = stamp_ns
            for edge in (*up, *down):
                if edge.static:
                    continue
                at = bisect_right(edge.stamps, stamp_ns)
                if at == 0:
                    raise _outside(edge, target, source, stamp_ns)
                newest = min(newest, edge.stamps[at - 1])
            return newest

    def oldest_common(self, target: str, source: str) -> int:
        """Return the oldest stamp covered by the samples of every edge between the frames; 0 if all are static."""
        target, source = _frame(target), _frame(source)
        with self._lock:
            up, down = self._path(target, source, 0)
            dynamic = [edge for edge in (*up, *down) if not edge.static]
            for edge in dynamic:
                if not edge.stamps:
                    raise _outside(edge, target, source, 0)
            return max((edge.stamps[0] for edge in dynamic), default=0)

    def newest(self, parent: str, child: str) -> int | None:
        """Return the newest stamp of a dynamic edge; None if the edge does not exist or has no sample."""
        with self._lock:
            edge = self._edges.get(_frame(child))
            if edge is None or edge.static or edge.parent != _frame(parent) or not edge.stamps:
                return None
            return edge.stamps[-1]

    def parent_conflicts(self) -> dict[str, tuple[str, ...]]:
        """Return frames whose parent keeps changing between publishers, with the conflicting parents.

        A single change counts as a handover; tf2 reports neither.
        """
        with self._lock:
            return {c: tuple(sorted(seen)) for c, seen in self._disputes.items() if min(seen.values()) >= DISPUTE}

    def frames(self) -> tuple[str, ...]:
        """Return all known frames, sorted."""
        with self._lock:
            return tuple(sorted(self._known))

    def clear(self, everything: bool = False) -> None:
        """Drop all dynamic samples; static edges stay, as in tf2 (they are latched and not published again).

        everything: also drop static edges and frame names.
        """
        with self._lock:
            self._disputes.clear()
            if everything:
                self._edges.clear()
                self._known.clear()
                self._paths.clear()
            for edge in self._edges.values():
                if not edge.static:
                    edge.keep(0, 0)

    def keep_only(self, oldest_ns: int, newest_ns: int) -> None:
        """Drop dynamic samples outside oldest_ns..newest_ns: after a clock jump they belong to another run."""
        with self._lock:
            for edge in self._edges.values():
                if not edge.static:
                    edge.keep(bisect_left(edge.stamps, oldest_ns), bisect_right(edge.stamps, newest_ns))

    def forget(self, child: str) -> None:
        """Drop the samples of the dynamic edge above `child`, e.g. after its publisher restarted."""
        with self._lock:
            edge = self._edges.get(_frame(child))
            if edge is not None and not edge.static:
                edge.keep(0, 0)

    def _refuse_loop(self, parent: str, child: str) -> None:
        frame = parent
        while True:
            if frame == child:
                raise InvalidInput("transform", f"{parent} <- {child} would close a loop")
            edge = self._edges.get(frame)
            if edge is None:
                return
            frame = edge.parent

    def _path(self, target: str, source: str, stamp: int) -> tuple[list[_Edge], list[_Edge]]:
        """Return the edges from source, and those from target, up to the common ancestor."""
        known = self._paths.get((target, source))
        if known is not None:
            return known
        for frame in (target, source):
            if frame not in self._known:
                held = ", ".join(sorted(self._known)) or "none"
                raise LookupFailed(target, source, stamp, f"frame {frame} is unknown (frames held: {held})")
        above_source = self._ancestors(source)
        above_target = self._ancestors(target)
        height = {frame: index for index, frame in enumerate([target, *(e.parent for e in above_target)])}
        for index, frame in enumerate([source, *(e.parent for e in above_source)]):
            if frame in height:
                path = (above_source[:index], above_target[: height[frame]])
                self._paths[target, source] = path
                return path
        raise NotConnected(target, source, stamp, "no chain of transforms joins the two frames")

    def _ancestors(self, frame: str) -> list[_Edge]:
        chain = []
        while (edge := self._edges.get(frame)) is not None:
            chain.append(edge)
            frame = edge.parent
        return chain

    def _newest_common(self, up: list[_Edge], down: list[_Edge], target: str, source: str, stamp: int) -> int:
        newest: int | None = None
        for edge in (*up, *down):
            if edge.static:
                continue
            if not edge.stamps:
                raise _outside(edge, target, source, stamp)
            newest = edge.stamps[-1] if newest is None else min(newest, edge.stamps[-1])
        return newest or 0

    @staticmethod
    def _evaluate(up: list[_Edge], down: list[_Edge], target: str, source: str, stamp: int) -> Pose:
        rising = _compose(up, target, source, stamp)
        if not down:
            return rising
        return multiply(invert(_compose(down, target, source, stamp)), rising)


def _compose(edges: Iterable[_Edge], target: str, source: str, stamp: int) -> Pose:
    pose = IDENTITY
    for edge in edges:
        step = edge.at(stamp)
        if step is None:
            raise _outside(edge, target, source, stamp)
        pose = step if pose is IDENTITY else multiply(step, pose)
    return pose


def _outside(edge: _Edge, target: str, source: str, stamp: int) -> Extrapolation:
    name = f"{edge.parent} <- {edge.child}"
    if not edge.stamps:
        return Extrapolation(target, source, stamp, f"{name} holds no sample", in_future=True)
    span = f"{name} holds {_seconds(edge.stamps[0])} to {_seconds(edge.stamps[-1])}"
    return Extrapolation(target, source, stamp, span, in_future=stamp > edge.stamps[-1])


def _seconds(stamp_ns: int) -> str:
    return f"{stamp_ns // 10**9}.{stamp_ns % 10**9:09d} s"


def _frame(name: str) -> str:
    """Strip the leading slash of ROS 1 frame names, which tf2 does not use. Raises InvalidInput if nothing is left."""
    plain = name[1:] if name[:1] == "/" else name
    if not plain:
        raise InvalidInput("frame", "the frame name is empty")
    return plain
