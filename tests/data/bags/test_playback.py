import itertools
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.data.bags.playback import Clock, Playback
from sparseoccvla_ros.data.bags.reader import BagMessage, BagReader
from sparseoccvla_ros.data.bags.writer import BagWriter

START = 1_700_000_000_000_000_123
NS = 1_000_000_000


@pytest.fixture
def reader(drive):
    with BagReader(drive()) as reader:
        yield reader


def run(playback: Playback, now: float = 50.0, limit: float = 1e9):
    """Drive the schedule on a clock that jumps exactly to each due time; returns (time, event) pairs."""
    playback.start(now)
    seen = []
    while not playback.finished and now <= limit:
        seen += [(now, event) for event in playback.due(now)]
        upcoming = playback.next_time()
        if upcoming is None:
            break
        assert upcoming >= now - 1e-9, "an event that was due was not handed out"
        # The clock of a computer is no real number: land just behind the due time.
        now = max(now, upcoming) + 1e-9
    return seen


def messages(seen, topic=None):
    return [(t, e) for t, e in seen if isinstance(e, BagMessage) and (topic is None or e.topic == topic)]


@pytest.mark.parametrize("rate", [0.5, 1.0, 3.0])
def test_messages_come_when_they_are_due(reader, rate):
    seen = run(Playback(reader, rate=rate))
    assert len(messages(seen)) == reader.message_count
    for time, event in messages(seen):
        assert time - 50.0 == pytest.approx((event.stamp - START) / NS / rate, abs=1e-6)
    order = [e.stamp for _, e in messages(seen)]
    assert order == sorted(order)


@pytest.mark.parametrize("rate", [0.5, 1.0, 3.0])
def test_clock_ticks_at_the_callers_rate_and_never_lies(reader, rate):
    seen = run(Playback(reader, rate=rate, clock_hz=50.0))
    clocks = [(t, e.stamp) for t, e in seen if isinstance(e, Clock)]
    assert len(clocks) == pytest.approx(50.0 / rate + 1, abs=1)
    assert clocks[0][1] == START
    assert clocks[-1][1] == START + NS
    for time, stamp in clocks:
        assert stamp - START == pytest.approx((time - 50.0) * rate * NS, abs=2000)
    newest = 0
    for _, event in seen:
        if isinstance(event, Clock):
            assert event.stamp > newest
            newest = event.stamp
        else:
            # A consumer may look up transforms at a message's stamp: the clock is at most one tick behind it.
            assert newest <= event.stamp <= newest + NS / 50.0 * rate + 1


def test_no_clock_when_not_wanted(reader):
    seen = run(Playback(reader, clock_hz=0.0))
    assert len(seen) == reader.message_count
    assert all(isinstance(e, BagMessage) for _, e in seen)


def test_late_caller_gets_everything_in_order_but_one_tick_between_messages(reader):
    playback = Playback(reader, clock_hz=100.0)
    playback.start(0.0)
    events = list(playback.due(10.0))
    assert len([e for e in events if isinstance(e, BagMessage)]) == reader.message_count
    assert not any(isinstance(a, Clock) and isinstance(b, Clock) for a, b in itertools.pairwise(events))
    assert playback.finished
    assert playback.next_time() is None
    assert list(playback.due(20.0)) == []


def test_loop_restarts_at_the_same_stamps_one_period_later(reader):
    playback = Playback(reader, loop=True, clock_hz=100.0)
    seen = run(playback, now=0.0, limit=2.5)
    counts = messages(seen, "/count")
    first, second = counts[:11], counts[11:22]
    assert [e.stamp for _, e in first] == [e.stamp for _, e in second]
    assert [e.raw for _, e in first] == [e.raw for _, e in second]
    for (a, _), (b, _) in zip(first, second, strict=True):
        assert b - a == pytest.approx(1.01, abs=1e-6)
    assert playback.passes == 3
    backwards = [
        (a, b) for (_, a), (_, b) in itertools.pairwise(seen) if isinstance(b, Clock) and b.stamp == START and a != b
    ]
    assert len(backwards) == 2
    assert all(a.stamp == START + NS for a, _ in backwards)
    assert len(messages(seen, "/tf_static")) == 3, "the latched message comes once with every pass"


def test_a_late_caller_does_not_make_loops_drift(reader):
    playback = Playback(reader, loop=True, clock_hz=100.0)
    playback.start(0.0)
    for k in range(1, 300):
        list(playback.due(k * 0.037))
    # Passes begin every 1.01 s, whenever the caller happens to look.
    now = 299 * 0.037
    expected = now - 1.01 * (playback.passes - 1)
    assert playback.passes == 11
    assert (playback.position(now) - START) / NS == pytest.approx(min(expected, 1.0), abs=1e-6)


def test_one_message_bag_loops_without_spinning(tmp_path):
    with BagWriter(tmp_path / "one") as bag:
        bag.string("/count", START, "0")
    with BagReader(tmp_path / "one") as reader:
        for clock_hz in (0.0, 100.0):
            seen = run(Playback(reader, loop=True, clock_hz=clock_hz), now=0.0, limit=1.0)
            assert 95 <= len(messages(seen)) <= 102


def test_offset_delivers_latched_messages_first_and_the_rest_from_there(reader):
    seen = run(Playback(reader, start_offset=0.35), now=0.0)
    events = [e for _, e in seen]
    begin = START + 350_000_000
    assert events[0] == Clock(begin)
    assert (events[1].topic, events[1].stamp) == ("/tf_static", begin)
    assert [e.stamp for _, e in messages(seen, "/count")] == [START + k * 100_000_000 for k in range(4, 11)]
    assert messages(seen, "/count")[0][0] == pytest.approx(0.05, abs=1e-6)


def test_offset_in_a_loop_repeats_only_that_part(reader):
    seen = run(Playback(reader, start_offset=0.8, loop=True), now=0.0, limit=0.5)
    assert len(messages(seen, "/tf_static")) == 3
    assert {e.stamp for _, e in messages(seen, "/count")} == {START + k * 100_000_000 for k in (8, 9, 10)}


def test_duration_ends_early_and_topics_filter(reader):
    seen = run(Playback(reader, duration=0.25, topics=["/count"]))
    assert [e.stamp - START for _, e in messages(seen)] == [0, 100_000_000, 200_000_000]
    assert seen[-1][1] == Clock(START + 250_000_000)


def test_pause_stops_time_and_resume_goes_on_where_it_stood(reader):
    playback = Playback(reader)
    playback.start(0.0)
    list(playback.due(0.25))
    playback.pause(0.25)
    assert list(playback.due(100.0)) == []
    assert playback.next_time() is None
    assert playback.position(100.0) == START + 250_000_000
    playback.resume(100.0)
    assert playback.position(100.04) == pytest.approx(START + 290_000_000, abs=300)
    assert list(playback.due(100.04)), "ticks go on"
    late = [e for e in playback.due(100.06) if isinstance(e, BagMessage)]
    assert {e.stamp for e in late} == {START + 300_000_000}


def test_step_gives_exactly_one_message(reader):
    playback = Playback(reader, topics=["/count"])
    playback.start(0.0, paused=True)
    assert playback.next_time() is None
    for k in range(11):
        playback.step()
        assert playback.next_time() is not None
        clock, message = playback.due(0.0)
        assert clock == Clock(message.stamp)
        assert message.stamp == START + k * 100_000_000
        assert playback.next_time() is None
        assert list(playback.due(0.0)) == []
    playback.step()
    assert list(playback.due(0.0)) == []
    assert playback.finished


def test_step_wraps_around_in_a_loop_and_resume_follows_it(reader):
    playback = Playback(reader, topics=["/count"], loop=True)
    playback.start(0.0, paused=True)
    for _ in range(12):
        playback.step()
    stamps = [e.stamp - START for e in playback.due(0.0) if isinstance(e, BagMessage)]
    assert stamps == [k * 100_000_000 for k in range(11)] + [0]
    playback.resume(5.0)
    assert [e.stamp - START for e in playback.due(5.1001) if isinstance(e, BagMessage)] == [100_000_000]


def test_step_while_playing_is_refused(reader):
    playback = Playback(reader)
    playback.start(0.0)
    with pytest.raises(InvalidInput, match="not paused"):
        playback.step()


@pytest.mark.parametrize(
    "wrong",
    [
        {"rate": 0.0},
        {"rate": -1.0},
        {"rate": float("nan")},
        {"start_offset": 1.1},
        {"start_offset": -0.1},
        {"start_offset": float("nan")},
        {"duration": 0.0},
        {"clock_hz": -1.0},
        {"topics": ["/nothing"]},
        {"topics": []},
    ],
)
def test_wrong_arguments_name_themselves(reader, wrong):
    with pytest.raises(InvalidInput) as caught:
        Playback(reader, **wrong)
    assert caught.value.field == next(iter(wrong))


@pytest.fixture(scope="module")
def uneven(tmp_path_factory) -> Iterator[BagReader]:
    path = tmp_path_factory.mktemp("uneven") / "bag"
    gaps = [0, 0, 1, 7_000_000, 300_000_000, 5, 90_000_001, 33_333_333, 33_333_333, 0, 250_000_000]
    with BagWriter(path) as bag:
        for k, offset in enumerate(itertools.accumulate(gaps)):
            bag.string("/a" if k % 3 else "/b", START + offset, str(k))
    with BagReader(path) as reader:
        yield reader


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["wait", "wait", "wait", "pause", "resume", "rate", "step"]),
        st.floats(0.0, 0.4, allow_nan=False),
    ),
    max_size=40,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actions=ACTIONS, clock_hz=st.sampled_from([0.0, 7.0, 100.0]))
def test_whatever_the_controls_every_message_comes_once_in_order_and_never_early(uneven, actions, clock_hz):
    expected = [(m.topic, m.stamp, m.raw) for m in uneven.messages()]
    playback = Playback(uneven, clock_hz=clock_hz)
    now, got, told = 0.0, [], 0
    playback.start(now)
    for action, amount in [*actions, ("resume", 0.0), ("wait", 1e4)]:
        if action == "pause":
            playback.pause(now)
        elif action == "resume":
            playback.resume(now)
        elif action == "step" and playback.paused:
            playback.step()
        now += amount if action == "wait" else 0.0
        position = playback.position(now)
        for event in playback.due(now):
            assert event.stamp <= position + 2 or playback.paused
            if isinstance(event, Clock):
                assert event.stamp >= told
                told = event.stamp
            else:
                got.append((event.topic, event.stamp, event.raw))
    assert got == expected
    assert playback.finished
