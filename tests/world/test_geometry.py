"""Streets, curves and solids against independent computations."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseoccvla_ros.core.classes import LABEL
from sparseoccvla_ros.world.agents.traffic import overlap
from sparseoccvla_ros.world.kernels.ground import FAR, surface
from sparseoccvla_ros.world.kernels.solids import NO_HIT, enter, normal
from sparseoccvla_ros.world.roads.curves import Piece, chain, turn
from sparseoccvla_ros.world.roads.streets import Street, Streets, reversed_piece
from sparseoccvla_ros.world.shapes.solids import Kind

real = st.floats(-1.0, 1.0)


@settings(max_examples=60)
@given(st.sampled_from([0.0, 0.01, -0.015, 0.02]), real, real, real, st.floats(0.01, 0.99), st.floats(-20, 20))
def test_piece_locates_the_points_it_places(curvature, x, y, yaw, share, lateral):
    piece = Piece(5.0, 65.0, 50 * x, 50 * y, 3 * yaw, curvature)
    s = 5.0 + 60.0 * share
    px, py, heading = piece.pose(np.array(s))
    street = Street((piece,), 5.0, (2.0,))
    got_s, got_l = street.at(px - lateral * np.sin(heading), py + lateral * np.cos(heading))
    assert got_s == pytest.approx(s, abs=1e-6)
    assert got_l == pytest.approx(lateral, abs=1e-6)
    assert street.at(*(float(v) for v in piece.pose(np.array(1.0))[:2]))[1] == FAR


@pytest.fixture
def streets():
    """A straight four-lane street with a median along x, and a narrower one along y that bends away from it."""
    arms = [
        chain([(30.0, 0.0), (40.0, b), (400.0, 0.0)], 0.0, 0.0, yaw)
        for b, yaw in ((0.014, np.pi / 2), (-0.011, -np.pi / 2))
    ]
    cross = (*(reversed_piece(p) for p in reversed(arms[1])), *arms[0])
    main = tuple(chain([(800.0, 0.0)], -400.0, 0.0, 0.0, s0=-400.0))
    return Streets(
        main=Street(main, 7.7, (2.45, 5.75), median=0.7, dashed=(4.1,), solid=(7.4,)),
        cross=Street(cross, 6.0, (1.8,), solid=(3.55,), parking=4.75),
    )


def test_street_is_smooth_where_its_pieces_meet(streets):
    street = streets.cross
    assert len(street.pieces) == 6
    for piece in street.pieces[1:]:
        a, b = street.pose(piece.s0 - 1e-6), street.pose(piece.s0 + 1e-6)
        np.testing.assert_allclose(a[:2], b[:2], atol=1e-4)
        assert np.cos(a[2] - b[2]) == pytest.approx(1.0, abs=1e-9)


def test_ground_across_the_main_street(streets):
    y = np.array([0.0, 2.4, 5.7, 7.6, 8.0, 11.0, 11.3, 30.0])
    label = streets.label(np.stack([np.full_like(y, -40.0), y], -1)).tolist()
    names = ["other_flat", *["driveable_surface"] * 3, *["sidewalk"] * 2, *["terrain"] * 2]
    assert label == [LABEL[n] for n in names]
    assert streets.label(np.zeros((1, 2), np.float32)).item() == LABEL["driveable_surface"]


def test_paint_covers_what_a_pixel_sees_of_it(streets):
    table = streets.table(np.float32)
    y = np.linspace(-7.6, 7.6, 4001, dtype=np.float32)
    sharp, wide = (
        np.array([surface(table, np.float32(-39.0), v, np.float32(blur))[2:4] for v in y]) for blur in (0.001, 0.4)
    )
    for paint in range(2):
        assert sharp[:, paint].sum() > 0
        assert wide[:, paint].sum() == pytest.approx(sharp[:, paint].sum(), rel=0.1)
    assert wide[:, 0].max() < 0.5 < sharp[:, 0].max()


def test_turn_starts_and_ends_straight_and_bends_one_way():
    curve = turn(np.array([0.0, 0.0, 0.0]), np.array([12.0, 12.0, np.pi / 2]))
    assert abs(curve.curvature[0]) < 0.02
    assert abs(curve.curvature[-1]) < 0.02
    assert curve.curvature.min() > -1e-3
    assert curve.yaw[-1] == pytest.approx(np.pi / 2)
    assert 1 / curve.curvature.max() > 8.0


@settings(max_examples=40)
@given(st.lists(st.tuples(real, real, real), min_size=2, max_size=2), st.floats(0.5, 6), st.floats(0.5, 6))
def test_overlap_agrees_with_sampled_areas(poses, length, width):
    a, b = (np.array([6 * x, 6 * y, 3 * t, length, width]) for x, y, t in poses)
    grid = np.stack(np.meshgrid(*[np.linspace(-0.5, 0.5, 41)] * 2), -1).reshape(-1, 2) * [length, width]

    def turned(p, angle):
        c, s = np.cos(angle), np.sin(angle)
        return np.stack([c * p[:, 0] - s * p[:, 1], s * p[:, 0] + c * p[:, 1]], -1)

    inside = np.abs(turned(turned(grid, a[2]) + a[:2] - b[:2], -b[2])) <= np.array([length, width]) / 2
    if inside.all(-1).any():
        assert overlap(a, b)
    elif not overlap(a, b, 0.3):
        assert not overlap(a, b)
    far = b + np.array([40.0, 0, 0, 0, 0])
    assert not overlap(a, far)


HALF, TAPER = np.array([1.0, 0.6, 0.8], np.float32), np.array([0.4, 0.2, 0.15], np.float32)


def inside(kind, p):
    """Whether points [..., 3] lie in a solid, from its definition."""
    x, y, z = np.moveaxis(p, -1, 0)
    hx, hy, hz = HALF.tolist()
    rise = z + hz
    if kind == Kind.BOX:
        return (abs(x) <= hx) & (abs(y) <= hy) & (abs(z) <= hz)
    if kind == Kind.WEDGE:
        sides = (x <= hx - 0.4 * rise) & (x >= -hx + 0.2 * rise) & (abs(y) <= hy - 0.15 * rise)
        return sides & (abs(z) <= hz)
    if kind == Kind.CONE:
        return (np.hypot(x, y) <= hx * (1 - 0.4 * rise / (2 * hz))) & (abs(z) <= hz)
    if kind == Kind.ELLIPSOID:
        return (x / hx) ** 2 + (y / hy) ** 2 + (z / hz) ** 2 <= 1
    return (np.hypot(x, z) <= hx) & (abs(y) <= hy)


@pytest.mark.parametrize("kind", list(Kind))
def test_rays_enter_solids_where_marching_finds_them(kind):
    rng = np.random.default_rng(int(kind))
    count, step = 400, 0.004
    origin = rng.normal(size=(count, 3))
    origin *= 4.0 / np.linalg.norm(origin, axis=1, keepdims=True)
    direction = rng.uniform(-1.5, 1.5, (count, 3)) - origin
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    if kind == Kind.CONE:  # steeper rays than its mantle never occur: cameras and sun stand low
        flat = abs(direction[:, 2]) < 0.85
        origin, direction = origin[flat], direction[flat]
    origin, direction = origin.astype(np.float32), direction.astype(np.float32)
    t = np.arange(0, 8, step, dtype=np.float32)[None, :, None]
    found = inside(kind, origin[:, None] + t * direction[:, None])
    expected = np.where(found.any(1), t[0, found.argmax(1), 0], NO_HIT)
    rays = list(zip(origin, direction, strict=True))
    got = np.array([enter(int(kind), *o, *d, HALF, TAPER) for o, d in rays])
    hit = expected < NO_HIT
    assert 50 < hit.sum() < len(hit)
    # A ray that only grazes the solid may slip between two marching steps.
    assert ((got < NO_HIT) != hit).mean() < 0.02
    both = hit & (got < NO_HIT)
    assert (abs(got[both] - expected[both]) < 2 * step).mean() > 0.98

    point = origin[both] + got[both, None].astype(np.float32) * direction[both]
    facing = np.array([normal(int(kind), *p, HALF, TAPER) for p in point])
    np.testing.assert_allclose(np.linalg.norm(facing, axis=1), 1.0, atol=1e-5)
    assert ((facing * direction[both]).sum(-1) < 1e-3).mean() > 0.99
    assert (~inside(kind, point + 0.01 * facing)).mean() > 0.99
