"""Looping bags, foreign clocks, corrupt stamps: no stamp from before a jump appears in a set after it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseoccvla_ros.camera_sync.config import SyncConfig
from sparseoccvla_ros.camera_sync.time_synchronizer import DropReason, MissingPolicy, Synchroniser
from sparseoccvla_ros.core.classes import CAMERAS

MS = 10**6
S = 10**9
START = 1000 * S
FIRING = {"CAM_FRONT_LEFT": 0, "CAM_FRONT": 8, "CAM_FRONT_RIGHT": 15, "CAM_BACK_RIGHT": 23, "CAM_BACK": 32}
FIRING["CAM_BACK_LEFT"] = 43
"""When the lidar's sweep fires each camera, ms (nuScenes keyframes)."""


@settings(max_examples=24)
@given(
    seed=st.integers(0, 2**32),
    back=st.sampled_from([1, 5, 20]),
    flight=st.integers(0, 150),
    policy=st.sampled_from(list(MissingPolicy)),
)
def test_bag_loop_three_times(stream, feed, check, seed, back, flight, policy):
    """Each camera's messages keep their order, but some overtake others across the loop's seam."""
    rng = random.Random(seed)
    length = max(back, 3)
    delay = {c: rng.randint(0, flight) * MS for c in CAMERAS}
    arrivals = []
    for loop in range(3):
        at = START + (length - back) * S if loop else START
        count = round((length if loop == 0 else back) * 12)
        if count > 120:
            at, count = at + (count - 120) * 83 * MS, 120
        begin = arrivals[-1][0] if arrivals else 0
        images = stream(CAMERAS, at, count, 83 * MS, {c: o * MS for c, o in FIRING.items()}, loop)
        for image in images:
            arrivals.append((begin + image[1] - at + 83 * MS, image))
    arrivals = [(when + delay[image[0]], image) for when, image in arrivals]
    arrivals.sort(key=lambda pair: pair[0])
    sync = Synchroniser(SyncConfig(policy=policy))
    sets = feed(sync, [image for _, image in arrivals]) + sync.flush()
    check(sets, 60 * MS, CAMERAS)
    newest = 0
    for made in sets:
        loops = {payload[2] for _, payload in made.images.values()}
        assert len(loops) == 1, "images of two loops in one set"
        assert loops.pop() >= newest, "a set of an older loop after one of a newer"
        newest = max(payload[2] for _, payload in made.images.values())
    for loop in range(3):
        assert sum(1 for made in sets if next(iter(made.images.values()))[1][2] == loop) >= 10
    assert sync.epoch == 2
    assert len({made.epoch for made in sets}) == 3


def test_first_set_after_a_loop_comes_within_a_second(stream, feed):
    images = stream(CAMERAS, START, 60, 83 * MS)
    sync = Synchroniser()
    feed(sync, images)
    first = next(index for index, image in enumerate(images) if sync.add(*image))
    assert first <= 12
    assert images[first][1] - START < S


def test_large_forward_jump_starts_an_epoch(stream, feed):
    sync = Synchroniser()
    before = feed(sync, stream(CAMERAS, START, 20, 83 * MS))
    after = feed(sync, stream(CAMERAS, START + 60 * S, 20, 83 * MS))
    assert {made.epoch for made in before} == {0}
    assert {made.epoch for made in after} == {1}
    assert len(after) >= 19
    assert sync.statistics.resets == 1


def test_some_cameras_come_back_after_a_pause(stream, feed, check):
    """The others died in the pause: the clock is told by those that deliver."""
    sync = Synchroniser(SyncConfig(policy=MissingPolicy.BLACK))
    feed(sync, stream(CAMERAS, START, 20, 83 * MS))
    after = feed(sync, stream(CAMERAS[:2], START + 10 * S, 30, 83 * MS))
    check(after, 60 * MS, CAMERAS)
    assert len(after) >= 15
    assert {made.epoch for made in after} == {1}


@pytest.mark.parametrize("policy", list(MissingPolicy))
@pytest.mark.parametrize("offset", [10 * S, -10 * S, 3 * S])
def test_one_camera_with_a_foreign_clock_does_not_disturb_the_others(stream, feed, check, policy, offset):
    """Neither ahead nor behind, neither first nor last: the other five go on, no reset."""
    sync = Synchroniser(SyncConfig(policy=policy))
    sets = feed(sync, stream(CAMERAS, START, 60, 83 * MS))
    images = []
    for camera, stamp, _ in stream(CAMERAS, START + 60 * 83 * MS, 60, 83 * MS):
        shifted = stamp + offset if camera == "CAM_BACK" else stamp
        images.append((camera, shifted, (camera, shifted, 0)))
    later = feed(sync, images)
    check(sets + later, 60 * MS, CAMERAS)
    assert sync.epoch == 0
    if policy is MissingPolicy.STRICT:
        assert not later
    else:
        assert len(later) >= 55
        assert all(set(made.missing) | set(made.held) == {"CAM_BACK"} for made in later[5:])


def test_one_corrupt_stamp_is_dropped_and_nothing_else(stream, feed):
    sync = Synchroniser()
    images = stream(CAMERAS, START, 40, 83 * MS)
    camera, _, payload = images[100]
    images[100] = (camera, 2**62, payload)
    sets = feed(sync, images)
    assert sync.epoch == 0
    assert len(sets) >= 38
    assert sync.statistics.drops[DropReason.FOREIGN_CLOCK] == 1


def test_two_cameras_stepping_do_not_move_the_clock(stream, feed):
    """Two of six whose computer's clock is set ahead by a minute: they are foreign, the other four go on."""
    sync = Synchroniser(SyncConfig(policy=MissingPolicy.BLACK))
    feed(sync, stream(CAMERAS, START, 20, 83 * MS))
    images = []
    for camera, stamp, _ in stream(CAMERAS, START + 20 * 83 * MS, 40, 83 * MS):
        stamp += 60 * S if camera in CAMERAS[4:] else 0
        images.append((camera, stamp, (camera, stamp, 0)))
    sets = feed(sync, images)
    assert sync.epoch == 0
    assert all(made.stamp < START + 30 * S for made in sets)
    assert set(sets[-1].missing) == set(CAMERAS[4:])


def test_clock_turned_back_under_poll(stream, feed):
    sync = Synchroniser()
    for image in stream(CAMERAS, START + 20 * S, 10, 83 * MS):
        sync.add(*image)
        sync.poll(image[1] + 10 * MS)
    stale = [(c, s + 830 * MS, ("old", s, 0)) for c, s, _ in stream(CAMERAS, START + 20 * S, 1, 83 * MS)]
    sync.poll(START)
    assert sync.epoch == 1
    for image in stale:
        assert not sync.add(*image)
    sets = feed(sync, stream(CAMERAS, START, 10, 83 * MS, loop=1))
    assert len(sets) >= 9
    assert sync.epoch == 1, "one jump, one epoch, whoever saw it first"
    assert all(p[2] == 1 for made in sets for _, p in made.images.values())


def test_reset_with_a_wrong_time_heals(stream, feed):
    """A caller that names a time the cameras know nothing of delays the sets but does not end them."""
    sync = Synchroniser()
    feed(sync, stream(CAMERAS, START, 10, 83 * MS))
    sync.reset(DropReason.RESET, now_ns=5 * S)
    assert len(feed(sync, stream(CAMERAS, START + S, 20, 83 * MS))) >= 14


def test_reset_empties_and_counts(stream, feed):
    sync = Synchroniser()
    for camera in CAMERAS[:3]:
        sync.add(camera, START, (camera, START, 0))
    sync.reset()
    assert sync.epoch == 1
    assert sync.statistics.drops[DropReason.RESET] == 3
    assert not feed(sync, [(c, START, (c, START, 0)) for c in CAMERAS[3:]])
    sets = feed(sync, stream(CAMERAS, START + S, 2))
    assert all(made.epoch == 1 for made in sets)
    assert len(sets) == 2


def test_single_camera(feed):
    sync = Synchroniser(SyncConfig(cameras=("eye",), reference="eye"))
    sets = feed(sync, [("eye", START + k * S, k) for k in range(5)] + [("eye", START + k * S, k) for k in range(5)])
    assert [made.epoch for made in sets[:5]] == [0] * 5
    assert len(sets) >= 8
    assert sets[-1].epoch == 1
