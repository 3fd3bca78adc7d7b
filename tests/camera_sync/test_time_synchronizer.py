"""No wrong pairing, whatever the stamps do; each policy; statistics."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseoccvla_ros.camera_sync.config import SyncConfig
from sparseoccvla_ros.camera_sync.time_synchronizer import DropReason, MissingPolicy, Synchroniser
from sparseoccvla_ros.core.classes import CAMERAS
from sparseoccvla_ros.core.errors import InvalidInput

MS = 10**6
S = 10**9
START = 1000 * S
FIRING = {"CAM_FRONT_LEFT": 0, "CAM_FRONT": 8, "CAM_FRONT_RIGHT": 15, "CAM_BACK_RIGHT": 23, "CAM_BACK": 32}
FIRING["CAM_BACK_LEFT"] = 43
"""When the lidar's sweep fires each camera, ms (nuScenes keyframes)."""


@pytest.mark.parametrize("skew", [0, 60, 61, 200])
def test_constant_skew_completes_iff_within_tolerance(stream, feed, check, skew):
    """At 2 Hz the next image is too far to stand in, so the skew alone decides."""
    for camera in CAMERAS:
        sync = Synchroniser(SyncConfig(tolerance=0.060, policy=MissingPolicy.STRICT))
        sets = feed(sync, stream(CAMERAS, START, 60, 500 * MS, {camera: skew * MS}))
        check(sets, 60 * MS, CAMERAS)
        if skew <= 60:
            assert len(sets) >= 59, camera
            assert all(made.complete and made.spread_ns == skew * MS for made in sets), camera
        else:
            assert not sets, camera
            assert sync.statistics.drops[DropReason.MISSING_CAMERA] >= 58, camera


@settings(max_examples=100)
@given(
    seed=st.integers(0, 2**32),
    skew=st.sampled_from([0, 10, 50, 100, 200]),
    jitter=st.integers(0, 40),
    loss=st.sampled_from([0.0, 0.05, 0.3]),
    window=st.integers(0, 12),
    policy=st.sampled_from(list(MissingPolicy)),
    period=st.sampled_from([33, 83, 250, 500]),
)
def test_no_wrong_pairing(stream, feed, check, seed, skew, jitter, loss, window, policy, period):
    """Skew, jitter, loss, duplicates and disorder in one: about 40 sets an example, thousands in all."""
    rng = random.Random(seed)
    images = []
    for camera, stamp, _ in stream(CAMERAS, START, 40, period * MS, {c: rng.randint(0, skew) * MS for c in CAMERAS}):
        stamp += rng.randint(-jitter, jitter) * MS
        if rng.random() < loss:
            continue
        images += [(camera, stamp, (camera, stamp, 0))] * (2 if rng.random() < 0.05 else 1)
    keyed = sorted(range(len(images)), key=lambda i: i + rng.randint(0, window))
    sync = Synchroniser(SyncConfig(policy=policy))
    sets = feed(sync, [images[i] for i in keyed])
    sets += sync.flush()
    check(sets, 60 * MS, CAMERAS)
    taken = sum(len(made.images) - len(made.held) for made in sets)
    lost = sum(sync.statistics.drops[r] for r in DropReason)
    sets_dropped = sync.statistics.drops[DropReason.MISSING_CAMERA] + sync.statistics.drops[DropReason.SPREAD]
    queued = sum(len(queue.stamps) for queue in sync._queues.values()) + len(sync._guard._parked)
    assert taken + lost + queued == len(images), "an image was lost without a reason"
    assert sync.statistics.sets == len(sets)
    if policy is not MissingPolicy.STRICT:
        assert sets_dropped == 0


@settings(max_examples=60)
@given(order=st.permutations(range(30)))
def test_wild_shuffles_never_pair_wrongly(stream, feed, check, order):
    images = stream(CAMERAS, START, 5)
    sync = Synchroniser(SyncConfig(policy=MissingPolicy.BLACK))
    check(feed(sync, [images[i] for i in order]), 60 * MS, CAMERAS)


def without(images, camera, start, end):
    return [image for image in images if not (image[0] == camera and start <= image[1] < end)]


@pytest.mark.parametrize("camera", CAMERAS)
@pytest.mark.parametrize("policy", list(MissingPolicy))
def test_camera_gone_for_two_seconds(stream, check, camera, policy):
    gone, back = START + 2 * S, START + 4 * S
    offsets = {c: o * MS for c, o in FIRING.items()}
    images = without(stream(CAMERAS, START, 72, 83 * MS, offsets), camera, gone, back)
    sync = Synchroniser(SyncConfig(policy=policy, max_hold=1.0))
    made, noticed, recovered = [], None, None
    for name, stamp, payload in images:
        sets = sync.add(name, stamp, payload)
        made += sets
        if noticed is None and stamp >= gone and camera in sync.statistics.missing:
            noticed = stamp - gone
        if recovered is None and stamp >= back + 43 * MS:
            new = [s for s in made if s.stamp >= back]
            if any(s.complete for s in new):
                recovered = next(i for i, s in enumerate(new) if s.complete)
    check(made, 60 * MS, CAMERAS)
    assert noticed is not None
    assert noticed <= 300 * MS + 83 * MS
    assert recovered is not None
    assert recovered <= 1, "complete again within two sets"
    assert not sync.statistics.missing
    outage = [s for s in made if gone + 100 * MS <= s.stamp < back - 100 * MS]
    if policy is MissingPolicy.STRICT:
        assert not outage
        assert sync.statistics.drops[DropReason.MISSING_CAMERA] >= 20
        return
    assert len(outage) >= 18
    for s in outage:
        assert s.leader == (CAMERAS[1] if camera == CAMERAS[0] else CAMERAS[0])
        age = s.stamp - gone
        if policy is MissingPolicy.BLACK:
            assert s.missing == (camera,)
            assert not s.held
        elif age < 900 * MS:
            assert s.held == (camera,)
            assert s.images[camera][0] < gone + 43 * MS, "a held image keeps its own stamp"
            assert s.stamp - s.images[camera][0] <= S
        elif age > 1100 * MS:
            assert s.missing == (camera,), "older than max_hold: black"


def test_one_lost_frame_delays_nothing_for_long(stream):
    """The next image of the camera proves the gap; no need to sit the patience out."""
    images = stream(CAMERAS, START, 20, 83 * MS)
    lost = ("CAM_BACK", START + 10 * 83 * MS)
    sync = Synchroniser(SyncConfig(policy=MissingPolicy.BLACK))
    for camera, stamp, payload in images:
        if (camera, stamp) == lost:
            continue
        for made in sync.add(camera, stamp, payload):
            if made.missing:
                assert made.stamp == lost[1]
                assert stamp - made.stamp <= 83 * MS
    assert sync.statistics.incomplete_sets == 1


def test_nearest_images_are_paired_not_the_first_that_fit(stream, feed):
    """At 12 Hz both neighbours of a rear camera lie within the tolerance of the front camera."""
    offsets = {c: o * MS for c, o in FIRING.items()}
    sync = Synchroniser()
    sets = feed(sync, stream(CAMERAS, START, 48, 83 * MS, offsets))
    assert len(sets) >= 46
    assert all(made.spread_ns == 43 * MS for made in sets[1:])


def test_mixed_rates(stream, feed, check):
    """Others at 30 Hz, reference at 12 Hz: one set per reference image, the rest unmatched and counted."""
    images = stream(CAMERAS[:1], START, 60, 83 * MS) + stream(CAMERAS[1:], START, 150, 33 * MS)
    sync = Synchroniser()
    sets = feed(sync, sorted(images, key=lambda image: image[1]))
    check(sets, 60 * MS, CAMERAS)
    assert len(sets) >= 58
    assert all(made.spread_ns <= 20 * MS for made in sets[2:])
    assert sync.statistics.drops[DropReason.UNMATCHED] > 300


def test_poll_completes_a_set_when_everything_went_quiet(stream, feed):
    sync = Synchroniser(SyncConfig(policy=MissingPolicy.BLACK, patience=0.2))
    feed(sync, stream(CAMERAS, START, 10))
    stamp = START + 10 * 250 * MS
    assert not sync.add("CAM_FRONT", stamp, ("CAM_FRONT", stamp, 0))
    assert not sync.poll(stamp + 50 * MS)
    assert not sync.poll(stamp + 100 * MS)
    made = sync.poll(stamp + 400 * MS)
    assert [m.stamp for m in made] == [stamp]
    assert set(made[0].missing) == set(CAMERAS[1:])


def test_poll_with_a_clock_that_is_not_the_stamps(stream):
    """Wall time against an old bag: the delay since the last image counts, the offset does not."""
    sync = Synchroniser(SyncConfig(policy=MissingPolicy.BLACK))
    wall = 1_700_000_000 * S
    images = stream(CAMERAS, START, 10, 83 * MS, {c: o * MS for c, o in FIRING.items()})
    sets = []
    for camera, stamp, payload in images:
        sets += sync.add(camera, stamp, payload) + sync.poll(wall + stamp)
    assert len(sets) == 10
    assert all(made.complete for made in sets)
    stamp = START + S
    sync.add("CAM_FRONT", stamp, ("CAM_FRONT", stamp, 0))
    assert not sync.poll(wall + stamp)
    assert len(sync.poll(wall + stamp + 300 * MS)) == 1


def test_slow_transport_is_no_missing_camera(stream):
    """Images that all arrive half a second after their stamps still make complete sets."""
    sync = Synchroniser(SyncConfig(policy=MissingPolicy.BLACK))
    sets = []
    for camera, stamp, payload in stream(CAMERAS, START, 30, 83 * MS, {c: o * MS for c, o in FIRING.items()}):
        sets += sync.add(camera, stamp, payload)
        if stamp > START + 50 * MS:
            sets += sync.poll(stamp + 500 * MS)
    assert len(sets) >= 29
    assert sum(not made.complete for made in sets) <= 1


def test_duplicates_and_late_images_are_counted(stream, feed):
    sync = Synchroniser()
    images = stream(CAMERAS, START, 3)
    feed(sync, images)
    feed(sync, images[-1:])
    assert sync.statistics.drops[DropReason.DUPLICATE] == 1
    feed(sync, images[6:7])
    assert sync.statistics.drops[DropReason.LATE] == 1


def test_a_burst_of_one_camera_stays_bounded(stream, feed):
    sync = Synchroniser(SyncConfig(queue_depth=4))
    feed(sync, stream(["CAM_BACK"], START, 100, MS))
    assert sync.statistics.drops[DropReason.QUEUE_FULL] == 96


def test_statistics(stream, feed):
    sync = Synchroniser()
    feed(sync, stream(CAMERAS, START, 48, 83 * MS, {c: o * MS for c, o in FIRING.items()}))
    flat = sync.statistics.flat()
    assert flat["sets"] == sync.statistics.sets >= 46
    assert flat["spread_p50_ms"] == pytest.approx(43)
    assert sum(v for k, v in flat.items() if k.startswith("spread_from_")) == flat["sets"]
    assert flat["CAM_BACK.rate_hz"] == pytest.approx(12.05, abs=0.1)
    assert flat["dropped.late"] == 0
    assert all(isinstance(value, (int, float, str)) for value in flat.values())


def test_refusals():
    sync = Synchroniser()
    with pytest.raises(InvalidInput, match="camera"):
        sync.add("CAM_ROOF", START, None)
    with pytest.raises(InvalidInput, match="stamp"):
        sync.add("CAM_FRONT", 0, None)
    for wrong in (
        {"policy": "guess"},
        {"cameras": ()},
        {"cameras": ("a", "a")},
        {"reference": "CAM_ROOF"},
        {"tolerance": float("nan")},
        {"queue_depth": 0},
        {"backward_jump": 0.01},
        {"forward_jump": 0},
        {"base_frame": ""},
    ):
        with pytest.raises(InvalidInput):
            SyncConfig(**wrong)
    assert SyncConfig(policy="hold", cameras=list(CAMERAS)).policy is MissingPolicy.HOLD
