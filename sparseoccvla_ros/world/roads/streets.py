"""Ground model: two streets that meet, with lanes, markings, crosswalks, sidewalks and the land beside them.

The junction is the origin of the map frame; there the main street runs along x and the cross street leaves along +y, -y
or both; either may bend further out. Traffic keeps right. Everything is a closed form of x and y, so renderer, labels
and scene generator agree because they use the same functions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ..kernels import ground
from ..kernels.ground import CROSSWALK, SIDEWALK, STOP_LINE, GroundTable, StreetTable
from .curves import Curve, Piece

__all__ = ["CROSSWALK", "SIDEWALK", "STOP_LINE", "Street", "Streets", "reversed_piece"]

CORNER = 5.0


@dataclass(frozen=True)
class Street:
    """A centreline with its cross-section; offsets are metres from the centreline, mirrored to both sides.

    pieces: the centreline; half_width: curb to centreline; lanes: offsets of the driven lane centres (right-hand side
    positive here); median: half width of a raised island, 0 for none; dashed: offsets of dashed lane lines; solid:
    offsets of solid white lines; parking: offset of the parking lane's centre, 0 for none; cycling: offset at which
    cyclists ride, 0 for none; built: arc lengths between which the land beside it is built up.
    """

    pieces: tuple[Piece, ...]
    half_width: float
    lanes: tuple[float, ...]
    median: float = 0.0
    dashed: tuple[float, ...] = ()
    solid: tuple[float, ...] = ()
    parking: float = 0.0
    cycling: float = 0.0
    built: tuple[float, float] = (-150.0, 150.0)

    def table(self, dtype: type[np.floating]) -> StreetTable:
        """Return the street for kernels of this float type."""
        rows = [
            (p.s0, p.s1, p.x, p.y, np.cos(p.yaw), np.sin(p.yaw), 1.0 / abs(p.curvature) if p.curvature else 0.0,
             np.sign(p.curvature))
            for p in self.pieces
        ]  # fmt: skip
        return StreetTable(
            np.array(rows, dtype), dtype(self.half_width), np.array(self.lanes, dtype), dtype(self.median),
            np.array(self.dashed, dtype), np.array(self.solid, dtype), dtype(self.parking),
        )  # fmt: skip

    def locate(self, points: np.ndarray) -> np.ndarray:
        """Return arc length (0 at the junction) and lateral offset (left positive) float64 [N, 2] of points [N, 2].

        The offset of a point beside no piece is FAR (kernels.ground).
        """
        out = np.empty((len(points), 2))
        ground.offsets(self._table.pieces, np.ascontiguousarray(points, np.float64), out)
        return out

    @cached_property
    def _table(self) -> StreetTable:
        return self.table(np.float64)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return arc length and lateral offset of one point, as `locate` does."""
        s, lateral = self.locate(np.array([[x, y]]))[0]
        return float(s), float(lateral)

    def pose(self, s: np.ndarray | float, offset: np.ndarray | float = 0.0) -> np.ndarray:
        """Return x, y, yaw float64 [..., 3] at arc length s, `offset` metres to the left."""
        s = np.asarray(s, np.float64)
        out = np.zeros((*s.shape, 3))
        for piece in self.pieces:
            x, y, yaw = piece.pose(s)
            inside = (s >= piece.s0) & (s <= piece.s1)
            out[inside] = np.stack([x, y, yaw], -1)[inside]
        out[..., 0] -= np.sin(out[..., 2]) * offset
        out[..., 1] += np.cos(out[..., 2]) * offset
        return out

    def lane(self, offset: float, start: float, end: float, step: float = 0.25) -> Curve:
        """Return a path along the street at a lateral offset; it runs backwards if end < start."""
        s = np.linspace(start, end, max(int(abs(end - start) / step), 1) + 1)
        poses = self.pose(s, offset)
        yaw = poses[:, 2] + (np.pi if end < start else 0.0)
        return Curve(poses[:, :2], yaw)


@dataclass(frozen=True)
class Streets:
    """The road network of one world; `main` along x, `cross` through the origin along y.

    A cross street with one arm ends at the main street's far kerb: its pieces begin (or end) there.
    """

    main: Street
    cross: Street
    worn: float = field(default=0.25)
    """Share of paint worn off by traffic, 0..1."""
    arms: tuple[float, ...] = (1.0, -1.0)
    """Sides of the main street on which the cross street leaves: both at a crossing, one at a T-junction."""
    corner: float = CORNER
    """Radius of the kerb at the corners of the junction, metres."""
    asphalt: float = 1.0
    """Brightness of the road relative to new asphalt."""
    shift: tuple[float, float] = (0.0, 0.0)
    """Offset of the ground textures in m; it differs between worlds to vary the stains."""
    striped: bool = False
    """Whether kerbs are painted black and white."""
    dryness: float = 0.0
    """From green lawns (-0.4) to bare, dry land (1)."""

    def table(self, dtype: type[np.floating]) -> GroundTable:
        """Return the streets for kernels of this float type."""
        arm = self.arms[0] if len(self.arms) == 1 else 0.0
        numbers = (arm, self.corner, self.worn, self.asphalt, self.striped, self.dryness, *self.shift)
        return GroundTable(self.main.table(dtype), self.cross.table(dtype), *(dtype(n) for n in numbers))

    @cached_property
    def _tables(self) -> dict[np.dtype, GroundTable]:
        return {np.dtype(t): self.table(t) for t in (np.float32, np.float64)}

    def edge(self, points: np.ndarray) -> np.ndarray:
        """Return the signed distance in metres [N] of points [N, 2] to the edge of the paved road, negative on it."""
        points = np.ascontiguousarray(points, np.float64)
        out = np.empty(len(points))
        ground.edges(self._tables[points.dtype], points, out)
        return out

    def label(self, points: np.ndarray) -> np.ndarray:
        """Return the Occ3D class uint8 [N] of the ground at points float32 or float64 [N, 2]."""
        out = np.empty(len(points), np.uint8)
        ground.labels(self._tables[points.dtype], np.ascontiguousarray(points), out)
        return out


def reversed_piece(piece: Piece) -> Piece:
    """Return the piece driven backwards, with negated arc lengths."""
    x, y, yaw = (float(v) for v in piece.pose(np.array(piece.s1)))
    return Piece(-piece.s1, -piece.s0, x, y, yaw + np.pi, -piece.curvature)
