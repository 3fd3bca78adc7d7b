"""Protocols on cases worked out by hand, and what must hold for any case."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.types import WAYPOINT_TIMES
from sparseoccvla_ros.eval.protocols import grids, planning
from sparseoccvla_ros.eval.protocols.planning import PROTOCOLS, Reduction, SampleScorer
from sparseoccvla_ros.eval.tasks.planning_samples import AgentBoxes, Prediction, Sample
from sparseoccvla_ros.planning.ego_history import FEATURE_NAMES

STRAIGHT = np.stack([np.arange(1.0, 7.0), np.zeros(6)], -1)
each_protocol = pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda p: p.name)


def flags(text: str) -> list[bool]:
    return [letter == "T" for letter in text]


@pytest.mark.parametrize(
    ("resolution", "ahead", "count", "forward", "lateral"),
    [
        (0.5, 0.5, 32, (97, 104), (98, 101)),
        (0.5, 1.485793, 32, (99, 106), (98, 101)),
        (0.1, 0.5, 720, (485, 524), (491, 508)),
        (0.1, 1.485793, 738, (494, 534), (491, 508)),
    ],
)
def test_footprint_cells(resolution, ahead, count, forward, lateral):
    cells = grids.footprint(resolution, ahead)
    assert len(cells) == count
    assert (cells[:, 0].min(), cells[:, 0].max()) == forward
    assert (cells[:, 1].min(), cells[:, 1].max()) == lateral


@pytest.mark.parametrize(
    ("row", "expected"),
    [(104, "TTTFFF"), (105, "TTTTFF"), (107, "FTTTTF"), (110, "FFTTTT"), (116, "FFFFFT"), (117, "FFFFFF")],
)
def test_one_cell_on_the_way(row, expected):
    grid = np.zeros((6, 200, 200), bool)
    grid[:, row, 99] = True
    cells = grids.shifted_cells(STRAIGHT.astype(np.float32), 0.5)
    assert grids.covered(grid, cells).tolist() == flags(expected)


@pytest.mark.parametrize(("column", "hit"), [(97, False), (98, True), (101, True), (102, False)])
def test_standing_beside_a_cell(column, hit):
    grid = np.zeros((6, 200, 200), bool)
    grid[:, 100, column] = True
    cells = grids.shifted_cells(np.zeros((6, 2), np.float32), 0.5)
    assert grids.covered(grid, cells).all() == hit


def test_reductions():
    error = np.arange(1, 7) / 10
    np.testing.assert_allclose(Reduction.AT(error), (0.2, 0.4, 0.6))
    np.testing.assert_allclose(Reduction.MEAN(error), (0.15, 0.25, 0.35))
    once = np.array(flags("FFFTFF"))
    np.testing.assert_allclose(Reduction.AT(once), (0, 1, 0))
    np.testing.assert_allclose(Reduction.MEAN(once), (0, 0.25, 1 / 6))
    np.testing.assert_allclose(Reduction.ANY(once), (0, 1, 1))


@each_protocol
def test_a_car_across_the_way(protocol, make_sample, parked):
    """The truth stops 5 m short of a parked car, the prediction drives through it."""
    stops = np.stack([np.minimum(5 * WAYPOINT_TIMES, 4.0), np.zeros(6)], -1)
    sample = make_sample(truth=stops, agents=parked((13.0, 0.0), yaw=np.pi / 2))
    score = SampleScorer(protocol, sample).score(np.stack([5 * WAYPOINT_TIMES, np.zeros(6)], -1))
    # the nose reaches 12 m from 8.5 m on, the tail leaves 14 m at 14.6 m: steps 4 and 5 for sure, never 1 and 2
    assert score.hit[3:5].all()
    assert not score.hit[:2].any()
    assert not score.truth_hit.any()
    np.testing.assert_array_equal(score.collision, score.hit)
    np.testing.assert_allclose(score.l2, (0, 1, 3.5, 6, 8.5, 11), atol=1e-6)


@each_protocol
def test_where_the_truth_collides_nothing_counts(protocol, make_sample, parked):
    sample = make_sample(agents=parked((10.0, 0.0)))
    score = SampleScorer(protocol, sample).score(sample.truth + np.array([0.3, 0.0]))
    assert score.truth_hit.any()
    assert not (score.collision & score.truth_hit).any()


KEPT = {  # protocol: does it see a car that comes later, a hardly visible one, a person, an ambulance, a cone
    "UniAD": "TTFFF",
    "ST-P3": "FFTTF",
    "VAD": "FTTTF",
    "BEV-Planner": "TTFFF",
    "OmniDrive": "FTFTF",
    "SparseDrive": "TTTTT",
}


@each_protocol
@pytest.mark.parametrize(
    ("which", "what"),
    enumerate(
        [
            {"absent": (0,)},
            {"visibility": 1},
            {"category": "human.pedestrian.adult"},
            {"category": "vehicle.emergency.ambulance"},
            {"category": "movable_object.trafficcone"},
        ]
    ),
)
def test_what_counts_as_an_obstacle(protocol, which, what, make_sample, parked):
    sample = make_sample(truth=np.zeros((6, 2)), agents=parked((12.0, 0.0), **what))
    hits = SampleScorer(protocol, sample).score(STRAIGHT * 2).hit
    assert hits.any() == flags(KEPT[protocol.name])[which]


@each_protocol
def test_an_agent_that_vanishes_and_returns(protocol, make_sample, parked):
    sample = make_sample(truth=np.zeros((6, 2)), agents=parked((12.0, 0.0), absent=(2,)))
    hits = SampleScorer(protocol, sample).score(STRAIGHT * 2).hit
    assert hits.any() == (protocol.name not in ("VAD", "OmniDrive"))


def test_turning_footprints_sweep_other_cells(make_sample, parked):
    """Driving left, the nose points left: only protocols that turn the footprint see the box there."""
    left = np.stack([np.full(6, 0.5), 2.0 * np.arange(1, 7)], -1)
    sample = make_sample(truth=np.zeros((6, 2)), agents=parked((0.5, 15.0), size=(1.0, 1.0)))
    hit = {p.name: SampleScorer(p, sample).score(left).hit[-1] for p in PROTOCOLS}
    assert hit == {name: name in ("BEV-Planner", "OmniDrive", "SparseDrive") for name in hit}


def test_masked_steps(make_sample):
    mask = np.array(flags("TTTTFF"))
    sample = make_sample(mask=mask)
    score = SampleScorer(planning.UNIAD, sample).score(sample.truth + np.array([1.0, 0.0]))
    np.testing.assert_allclose(score.l2, mask.astype(float), atol=1e-6)
    assert score.truth_hit.tolist() == (~mask).tolist()
    assert not score.collision.any()
    for protocol in PROTOCOLS[1:]:
        assert not protocol.counts(sample)
        with pytest.raises(InvalidInput, match=r"sample\.mask"):
            SampleScorer(protocol, sample)


def test_curbs_and_road_boundary(make_sample):
    road = np.zeros((1000, 1000), bool)
    road[470:530] = True  # 3 m to either side
    lines = tuple(np.array([(-40.0, y), (40.0, y)], np.float32) for y in (-3.0, 3.0))
    sample = make_sample(drivable=road, boundaries=lines)
    drifting = np.stack([5 * WAYPOINT_TIMES, np.array([0, 0, 1.0, 2.5, 2.5, 2.5])], -1)
    for protocol in (planning.BEV_PLANNER, planning.OMNIDRIVE):
        scorer = SampleScorer(protocol, sample)
        assert not scorer.score(sample.truth).road.any()
        road_hits = scorer.score(drifting).road
        assert road_hits[3:].all()
        assert not road_hits[:2].any()
    beside = make_sample(drivable=~road, boundaries=lines)
    assert not SampleScorer(planning.OMNIDRIVE, beside).score(drifting).road.any()  # off the road from the start
    assert SampleScorer(planning.OMNIDRIVE, make_sample()).score(drifting).road is None


def test_far_predictions_are_clamped_not_a_crash(make_sample, parked):
    sample = make_sample(agents=parked((49.0, 0.0), size=(10.0, 4.0)), drivable=np.ones((1000, 1000), bool))
    far = np.full((6, 2), 1e12) * (1, 0)
    for protocol in PROTOCOLS:
        score = SampleScorer(protocol, sample).score(far)
        assert score.hit.all() == (protocol.name != "SparseDrive")
        assert np.isfinite(score.l2).all()


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("agents.categories", {"categories": ("car",)}),
        ("agents.centres", {"centres": np.full((1, 7, 2), np.nan)}),
        ("agents.yaws", {"yaws": np.zeros((1, 6))}),
        ("agents.present", {"present": np.ones((1, 7))}),
        ("agents.visibility", {"visibility": np.array([4])}),
    ],
)
def test_bad_agents_are_refused_by_name(field, change, parked):
    good = vars(parked((0.0, 0.0)))
    with pytest.raises(InvalidInput, match=field):
        AgentBoxes(**{**good, **change})


def test_bad_samples_and_predictions_are_refused_by_name(make_sample):
    for field, change in (
        ("sample.token", {"token": ""}),
        ("sample.truth", {"truth": np.full((6, 2), np.nan)}),
        ("sample.mask", {"mask": np.ones(5, bool)}),
        ("sample.drivable", {"drivable": np.ones((200, 200), bool)}),
    ):
        with pytest.raises(InvalidInput, match=field):
            make_sample(**change)
    with pytest.raises(InvalidInput, match=r"prediction\.waypoints"):
        Prediction(np.zeros((5, 2)))
    with pytest.raises(InvalidInput, match="waypoints"):
        SampleScorer(planning.VAD, make_sample()).score(np.full((6, 2), np.inf))


numbers = st.floats(-40, 40, allow_nan=False)
paths = st.lists(st.tuples(numbers, numbers), min_size=6, max_size=6).map(np.array)
boxes = st.lists(st.tuples(numbers, numbers, st.floats(-3, 3), st.floats(0.5, 12), st.floats(0.5, 3)), max_size=4)


def sample_of(truth: np.ndarray, placed: list[tuple[float, ...]]) -> Sample:
    table = np.array(placed).reshape(-1, 5)
    count = len(table)
    agents = AgentBoxes(
        np.repeat(table[:, None, :2], 7, 1), np.repeat(table[:, None, 2], 7, 1), np.ones((count, 7), bool),
        table[:, 3:], ("vehicle.car",) * count, np.full(count, 4, np.int8),
    )  # fmt: skip
    features = np.zeros(len(FEATURE_NAMES), np.float32)
    return Sample("a", "s", truth, np.ones(6, bool), agents, features)


@settings(max_examples=40)
@given(truth=paths, placed=boxes)
def test_the_truth_scores_zero(truth, placed):
    sample = sample_of(truth, placed)
    for protocol in PROTOCOLS:
        score = SampleScorer(protocol, sample).score(truth)
        assert not score.l2.any()
        assert not score.collision.any()


@settings(max_examples=40)
@given(truth=paths, predicted=paths, x=numbers, y=numbers, yaw=st.floats(-3.2, 3.2))
def test_rigid_motion_of_everything_leaves_l2_unchanged(truth, predicted, x, y, yaw):
    turn = np.array([[np.cos(yaw), np.sin(yaw)], [-np.sin(yaw), np.cos(yaw)]])
    for protocol in PROTOCOLS:
        before = SampleScorer(protocol, sample_of(truth, [])).score(predicted).l2
        after = SampleScorer(protocol, sample_of(truth @ turn + (x, y), [])).score(predicted @ turn + (x, y)).l2
        np.testing.assert_allclose(before, after, atol=3e-5)  # float32 at a hundred metres


@settings(max_examples=40)
@given(truth=paths, predicted=paths, placed=boxes, x=st.floats(-20, 20), y=st.floats(-20, 20))
def test_another_box_never_takes_a_hit_away(truth, predicted, placed, x, y):
    for protocol in PROTOCOLS:
        fewer = SampleScorer(protocol, sample_of(truth, placed)).score(predicted).hit
        more = SampleScorer(protocol, sample_of(truth, [*placed, (x, y, 0.3, 4.0, 2.0)])).score(predicted).hit
        assert (more >= fewer).all()
