"""Streets, curves and solids against independent computations."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseoccvla_ros.core.classes import LABEL
from sparseoccvla_ros.world.agents.traffic import overlap
from sparseoccvla_ros.world.roads.curves import FAR, Piece, turn
from sparseoccvla_ros.world.roads.streets import Streets
from sparseoccvla_ros.world.shapes.solids import NO_HIT, Kind, intersect, normals

real = st.floats(-1.0, 1.0)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from([0.0, 0.01, -0.015, 0.02]), real, real, real, st.floats(0.01, 0.99), st.floats(-20, 20))
def test_piece_locates_the_points_it_places(curvature, x, y, yaw, share, lateral):
    piece = Piece(5.0, 65.0, 50 * x, 50 * y, 3 * yaw, curvature)
    s = 5.0 + 60.0 * share
    px, py, heading = piece.pose(np.array(s))
    point = torch.tensor([[px - lateral * np.sin(heading), py + lateral * np.cos(heading)]], dtype=torch.float64)
    got_s, got_l = piece.locate(point[:, 0], point[:, 1])
    assert float(got_s) == pytest.approx(s, abs=1e-6)
    assert float(got_l) == pytest.approx(lateral, abs=1e-6)
    before = torch.tensor([float(v) for v in piece.pose(np.array(1.0))[:2]], dtype=torch.float64)
    assert float(piece.locate(before[:1], before[1:])[1]) == FAR


def test_street_is_smooth_where_its_pieces_meet():
    street = Streets.generate(np.random.default_rng(4)).cross
    assert len(street.pieces) == 6
    for piece in street.pieces[1:]:
        a, b = street.pose(piece.s0 - 1e-6), street.pose(piece.s0 + 1e-6)
        np.testing.assert_allclose(a[:2], b[:2], atol=1e-4)
        assert np.cos(a[2] - b[2]) == pytest.approx(1.0, abs=1e-9)


def test_ground_across_the_main_street():
    streets = Streets.generate(np.random.default_rng(0))
    y = torch.tensor([0.0, 2.4, 5.7, 7.6, 8.0, 11.0, 11.3, 30.0])
    label = streets.label(torch.full_like(y, -40.0), y).tolist()
    names = ["other_flat", *["driveable_surface"] * 3, *["sidewalk"] * 2, *["terrain"] * 2]
    assert label == [LABEL[n] for n in names]
    assert streets.label(torch.zeros(1), torch.zeros(1)).item() == LABEL["driveable_surface"]


def test_paint_covers_what_a_pixel_sees_of_it():
    streets = Streets.generate(np.random.default_rng(0))
    y = torch.linspace(-7.6, 7.6, 4001)
    x = torch.full_like(y, -39.0)
    sharp = streets.surface(x, y, torch.full_like(x, 0.001))
    wide = streets.surface(x, y, torch.full_like(x, 0.4))
    for got, want in ((wide.white, sharp.white), (wide.yellow, sharp.yellow)):
        assert float(want.sum()) > 0
        assert float(got.sum()) == pytest.approx(float(want.sum()), rel=0.1)
    assert float(wide.white.max()) < 0.5 < float(sharp.white.max())


def test_turn_starts_and_ends_straight_and_bends_one_way():
    curve = turn(np.array([0.0, 0.0, 0.0]), np.array([12.0, 12.0, np.pi / 2]))
    assert abs(curve.curvature[0]) < 0.02
    assert abs(curve.curvature[-1]) < 0.02
    assert curve.curvature.min() > -1e-3
    assert curve.yaw[-1] == pytest.approx(np.pi / 2)
    assert 1 / curve.curvature.max() > 8.0


@settings(deadline=None, max_examples=40)
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


HALF, TAPER = torch.tensor([1.0, 0.6, 0.8]), torch.tensor([0.4, 0.2, 0.15])


def inside(kind, p):
    """Whether points [N, 3] lie in a solid, from its definition."""
    x, y, z = p.unbind(-1)
    hx, hy, hz = HALF.tolist()
    rise = z + hz
    if kind == Kind.BOX:
        return (x.abs() <= hx) & (y.abs() <= hy) & (z.abs() <= hz)
    if kind == Kind.WEDGE:
        sides = (x <= hx - 0.4 * rise) & (x >= -hx + 0.2 * rise) & (y.abs() <= hy - 0.15 * rise)
        return sides & (z.abs() <= hz)
    if kind == Kind.CONE:
        return (torch.hypot(x, y) <= hx * (1 - 0.4 * rise / (2 * hz))) & (z.abs() <= hz)
    if kind == Kind.ELLIPSOID:
        return (x / hx) ** 2 + (y / hy) ** 2 + (z / hz) ** 2 <= 1
    return (torch.hypot(x, z) <= hx) & (y.abs() <= hy)


@pytest.mark.parametrize("kind", list(Kind))
def test_rays_enter_solids_where_marching_finds_them(kind):
    generator = torch.Generator().manual_seed(int(kind))
    count, step = 400, 0.004
    origin = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1) * 4.0
    target = (torch.rand(count, 3, generator=generator) - 0.5) * 3.0
    direction = torch.nn.functional.normalize(target - origin, dim=-1)
    if kind == Kind.CONE:  # steeper rays than its mantle never occur: cameras and sun stand low
        flat = direction[:, 2].abs() < 0.85
        origin, direction = origin[flat], direction[flat]
    t = torch.arange(0, 8, step)
    found = inside(kind, origin[:, None] + t[:, None] * direction[:, None])
    expected = torch.where(found.any(1), t[found.float().argmax(1)], torch.full((len(origin),), NO_HIT))
    half, taper = HALF[:, None].expand(3, len(origin)), TAPER[:, None].expand(3, len(origin))
    got = intersect(kind, origin.T, direction.T, half, taper)
    hit = expected < NO_HIT
    assert 50 < int(hit.sum()) < len(hit)
    # A ray that only grazes the solid may slip between two marching steps.
    assert ((got < NO_HIT) != hit).float().mean() < 0.02
    both = hit & (got < NO_HIT)
    close = (got[both] - expected[both]).abs() < 2 * step
    assert close.float().mean() > 0.98

    point = origin[both] + got[both, None] * direction[both]
    rows = int(both.sum())
    normal = normals(torch.full((rows,), int(kind)), point, HALF.expand(rows, 3), TAPER.expand(rows, 3))
    assert torch.allclose(normal.norm(dim=-1), torch.ones(rows), atol=1e-5)
    assert ((normal * direction[both]).sum(-1) < 1e-3).float().mean() > 0.99
    assert (~inside(kind, point + 0.01 * normal)).float().mean() > 0.99
