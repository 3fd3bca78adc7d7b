"""The ground: two streets that meet, their lanes, paint, crosswalks, sidewalks and the land beside them.

The junction is the origin of the map frame; there the main street runs along x and the cross street leaves along +y, -y
or both; either may bend further out. Traffic keeps right. Everything is a closed form of x and y, so the renderer, the
labels and the scene generator ask the same functions and agree.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from ...core.classes import LABEL
from .curves import FAR, Curve, Piece, chain

SIDEWALK = 3.4
"""Width of the sidewalks, curb included, metres."""
CURB = 0.22
CORNER = 5.0
CROSSWALK = (1.0, 4.0)
"""Crosswalk: band between these distances from the edge of the crossed street, metres."""
STOP_LINE = (5.0, 5.4)
MEDIAN_START = 7.5
"""Distance from the edge of the crossed street at which a raised median begins, metres."""


@dataclass(frozen=True)
class Street:
    """A centreline and what lies across it; offsets are metres from the centreline, mirrored to both sides.

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

    def locate(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Arc length (0 at the junction) and lateral offset (left positive) of points; offset FAR beside no piece."""
        s, lateral = self.pieces[0].locate(x, y)
        for piece in self.pieces[1:]:
            other_s, other = piece.locate(x, y)
            closer = other.abs() < lateral.abs()
            s, lateral = torch.where(closer, other_s, s), torch.where(closer, other, lateral)
        return s, lateral

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Arc length and lateral offset of one point, as `locate`."""
        s, lateral = self.locate(*torch.tensor([[x], [y]], dtype=torch.float64))
        return float(s), float(lateral)

    def pose(self, s: np.ndarray | float, offset: np.ndarray | float = 0.0) -> np.ndarray:
        """x, y, yaw float64 [..., 3] at arc length s, `offset` metres to the left."""
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
        """Path along the street at a lateral offset; it runs backwards when end < start."""
        s = np.linspace(start, end, max(int(abs(end - start) / step), 1) + 1)
        poses = self.pose(s, offset)
        yaw = poses[:, 2] + (np.pi if end < start else 0.0)
        return Curve(poses[:, :2], yaw)


@dataclass(frozen=True)
class Surface:
    """What the ground is at points [N]; all tensors on the points' device.

    label: uint8 Occ3D class; edge: metres to the edge of the road, negative on it; white, yellow: share of paint 0..1;
    along, across: street coordinates of the nearer street in metres; main: that street is the main one; lane: metres to
    the middle of its nearest lane, signed.
    """

    label: torch.Tensor
    edge: torch.Tensor
    white: torch.Tensor
    yellow: torch.Tensor
    along: torch.Tensor
    across: torch.Tensor
    main: torch.Tensor
    lane: torch.Tensor


def _band(distance: torch.Tensor, half: float, blur: torch.Tensor) -> torch.Tensor:
    """Coverage 0..1 of a stripe |distance| < half seen with pixels `blur` metres wide (box filter)."""
    upper = torch.minimum(distance.abs() + 0.5 * blur, torch.full_like(blur, half))
    lower = torch.maximum(distance.abs() - 0.5 * blur, torch.full_like(blur, -half))
    return ((upper - lower) / blur).clamp(0.0, 1.0)


def _repeat(value: torch.Tensor, period: float) -> torch.Tensor:
    """Signed distance to the nearest multiple of `period`."""
    return value - period * torch.round(value / period)


@dataclass(frozen=True)
class Streets:
    """The road network of one world; `main` along x, `cross` through the origin along y.

    A cross street with one arm ends at the main street's far kerb: its pieces begin (or end) there.
    """

    main: Street
    cross: Street
    worn: float = field(default=0.25)
    """Share of paint that traffic has rubbed off, 0..1."""
    arms: tuple[float, ...] = (1.0, -1.0)
    """Sides of the main street on which the cross street leaves: both at a crossing, one at a T-junction."""
    corner: float = CORNER
    """Radius of the kerb at the corners of the junction, metres."""
    asphalt: float = 1.0
    """Brightness of the road against that of new asphalt."""
    shift: tuple[float, float] = (0.0, 0.0)
    """Metres by which the ground's textures are moved, so that worlds are not stained in the same places."""

    @classmethod
    def generate(cls, rng: np.random.Generator) -> Streets:
        """A junction with a four-lane main street and a narrower cross street that bends 25 to 40 m away from it."""
        north, south = (
            [(float(rng.uniform(26, 36)), 0.0), (float(rng.uniform(30, 45)), float(sign / rng.uniform(55, 90)))]
            for sign in rng.choice([-1.0, 1.0], 2)
        )
        forward = chain([*north, (400.0, 0.0)], 0.0, 0.0, np.pi / 2)
        backward = chain([*south, (400.0, 0.0)], 0.0, 0.0, -np.pi / 2)
        cross = [reversed_piece(p) for p in reversed(backward)] + forward
        main = chain([(800.0, 0.0)], -400.0, 0.0, 0.0, s0=-400.0)
        return cls(
            main=Street(tuple(main), 7.7, (2.45, 5.75), median=0.7, dashed=(4.1,), solid=(7.4,)),
            cross=Street(tuple(cross), 6.0, (1.8,), solid=(3.55,), parking=4.75),
        )

    def edge(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Signed distance in metres to the edge of the paved road, negative on it, with rounded corners."""
        return self._edge(self.main.locate(x, y)[1], *self.cross.locate(x, y))

    def _edge(self, main: torch.Tensor, s_cross: torch.Tensor, cross: torch.Tensor) -> torch.Tensor:
        a, b = main.abs() - self.main.half_width, cross.abs() - self.cross.half_width
        if len(self.arms) == 1:  # opposite the arm the main street's kerb runs on
            b = torch.where(s_cross * self.arms[0] < 0, torch.full_like(b, FAR), b)
        # Union of two half planes with a fillet.
        corner = self.corner
        u, v = (corner - a).clamp(min=0), (corner - b).clamp(min=0)
        rounded = torch.maximum(torch.full_like(a, corner), torch.minimum(a, b)) - torch.hypot(u, v)
        return torch.where((a < 0) | (b < 0), torch.minimum(a, b).clamp(max=0), rounded)

    def label(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Occ3D class uint8 of the ground at points."""
        main, (s_cross, cross) = self.main.locate(x, y)[1], self.cross.locate(x, y)
        return self._label(self._edge(main, s_cross, cross), self._island(main, cross))

    def _island(self, main: torch.Tensor, cross: torch.Tensor) -> torch.Tensor:
        """Metres to the raised median, negative on it; its nose is round. FAR where there is none."""
        if not self.main.median:
            return torch.full_like(main, FAR)
        beyond = self.cross.half_width + MEDIAN_START + self.main.median - cross.abs()
        return torch.hypot(main, beyond.clamp(min=0)) - self.main.median

    def _label(self, edge: torch.Tensor, island: torch.Tensor) -> torch.Tensor:
        out = torch.full_like(edge, LABEL["terrain"], dtype=torch.uint8)
        out[edge < SIDEWALK] = LABEL["sidewalk"]
        out[edge < 0] = LABEL["driveable_surface"]
        out[(island < 0) & (edge < 0)] = LABEL["other_flat"]
        return out

    def surface(self, x: torch.Tensor, y: torch.Tensor, blur: torch.Tensor) -> Surface:
        """Class and paint at points [N]; blur [N]: width of the pixel on the ground in metres, for smooth edges."""
        blur = blur.clamp(min=1e-3)
        s_main, main = self.main.locate(x, y)
        s_cross, cross = self.cross.locate(x, y)
        edge, island = self._edge(main, s_cross, cross), self._island(main, cross)
        white, yellow = torch.zeros_like(x), torch.zeros_like(x)
        # Distance from the other street's edge decides where the marks of a street end.
        for street, along, across, gap in (
            (self.main, s_main, main, cross.abs() - self.cross.half_width),
            (self.cross, s_cross, cross, main.abs() - self.main.half_width),
        ):
            beside = across.abs()
            open_road = (gap > STOP_LINE[1]).float()
            for offset in street.solid:
                white = torch.maximum(white, open_road * _band(beside - offset, 0.06, blur))
            dash = _band(_repeat(along, 7.5), 1.5, blur)
            for offset in street.dashed:
                white = torch.maximum(white, open_road * dash * _band(beside - offset, 0.07, blur))
            if street.parking:
                bay = _band(_repeat(along, 6.0), 0.05, blur) * (beside > street.solid[-1]).float()
                white = torch.maximum(white, open_road * bay * (gap > 12.0).float() * (edge < 0).float())
            centre = beside - (street.median + 0.25 if street.median else 0.13)
            yellow = torch.maximum(yellow, open_road * _band(centre, 0.06, blur))
            zebra = _band(_repeat(across - 0.5, 1.1), 0.28, blur)
            middle = 0.5 * (CROSSWALK[0] + CROSSWALK[1])
            zebra = zebra * _band(gap - middle, CROSSWALK[1] - middle, blur) * (beside < street.half_width - 0.4)
            white = torch.maximum(white, zebra)
            # Traffic keeps right: it approaches the junction on the side where along and across have one sign.
            incoming = (along * across > 0) & (beside > street.median) & (beside < street.half_width - 0.3)
            if street.parking:
                incoming = incoming & (beside < street.solid[0])
            middle = 0.5 * (STOP_LINE[0] + STOP_LINE[1])
            white = torch.maximum(white, incoming * _band(gap - middle, STOP_LINE[1] - middle, blur))
        on_road = (edge < 0) & (island > 0.0)
        nearer = main.abs() < cross.abs()
        across = torch.where(nearer, main, cross).clamp(-FAR, FAR)
        return Surface(
            label=self._label(edge, island),
            edge=torch.where(edge < 0, torch.maximum(edge, -island), edge),
            white=white * on_road,
            yellow=yellow * on_road,
            along=torch.where(nearer, s_main, s_cross),
            across=across,
            main=nearer,
            lane=torch.where(nearer, _to_lane(across, self.main.lanes), _to_lane(across, self.cross.lanes)),
        )


def _to_lane(across: torch.Tensor, lanes: tuple[float, ...]) -> torch.Tensor:
    """Metres from the middle of the nearest of one or two lanes a side, up to its sign."""
    if len(lanes) == 1:
        return across.abs() - lanes[0]
    return (across.abs() - 0.5 * (lanes[0] + lanes[-1])).abs() - 0.5 * (lanes[-1] - lanes[0])


def reversed_piece(piece: Piece) -> Piece:
    """The same piece driven backwards, with arc lengths negated."""
    x, y, yaw = (float(v) for v in piece.pose(np.array(piece.s1)))
    return Piece(-piece.s1, -piece.s0, x, y, yaw + np.pi, -piece.curvature)
