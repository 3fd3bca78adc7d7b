"""No wrong pairing, whatever the stamps do; each policy; clock jumps; statistics."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseoccvla_ros.camera_sync.config import SyncConfig
from sparseoccvla_ros.camera_sync.synchroniser import DropReason, MissingPolicy, Synchroniser
from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.occ3d import CAMERAS

MS = 10**6
S = 10**9
START = 1000 * S
FIRING = {"CAM_FRONT_LEFT": 0, "CAM_FRONT": 8, "CAM_FRONT_RIGHT": 15, "CAM_BACK_RIGHT": 23, "CAM_BACK": 32}
FIRING["CAM_BACK_LEFT"] = 43
"""When the lidar's sweep fires each camera, ms (nuScenes keyframes)."""


def stream(cameras, start, count, period=250 * MS, offsets=None, loop=0):
    """Images in the order of their stamps: (camera, stamp, payload); the payload says what it is."""
    offsets = offsets or {}
    images = [
        (
            camera,
            start + k * period + offsets.get(camera, 0),
            (camera, start + k * period + offsets.get(camera, 0), loop),
        )
        for k in range(count)
        for camera in cameras
    ]
    return sorted(images, key=lambda image: image[1])


def feed(sync, images):
    return [made for image in images for made in sync.add(*image)]


def check(sets, tolerance, cameras):
    """What must hold of every output, whatever went in."""
    used, last = set(), {}
    for made in sets:
        valid = [c for c in made.images if c not in made.held]
        stamps = [made.images[c][0] for c in valid]
        assert max(stamps) - min(stamps) == made.spread_ns <= tolerance
        assert made.stamp == made.images[made.leader][0]
        assert made.leader in valid
        assert set(made.images) | set(made.missing) == set(cameras)
        assert not set(made.images) & set(made.missing)
        for camera, (stamp, payload) in made.images.items():
            assert payload[:2] == (camera, stamp), "the payload of another image"
        for camera in valid:
            key = (made.epoch, camera, made.images[camera][0])
            assert key not in used, "one image in two sets"
            used.add(key)
        assert made.stamp > last.get(made.epoch, 0), "stamps of sets must rise within an epoch"
        assert made.epoch >= max(last, default=0)
        last[made.epoch] = made.stamp


@pytest.mark.parametrize("skew", [0, 10, 50, 60, 61, 100, 200])
@pytest.mark.parametrize("camera", CAMERAS)
def test_constant_skew_completes_iff_within_tolerance(skew, camera):
    """At 2 Hz the next image is too far to stand in, so the skew alone decides."""
    sync = Synchroniser(SyncConfig(tolerance=0.060))
    sets = feed(sync, stream(CAMERAS, START, 60, 500 * MS, {camera: skew * MS}))
    check(sets, 60 * MS, CAMERAS)
    if skew <= 60:
        assert len(sets) >= 59
        assert all(made.complete and made.spread_ns == skew * MS for made in sets)
    else:
        assert not sets
        assert sync.statistics.drops[DropReason.MISSING_CAMERA] >= 58


@settings(deadline=None, max_examples=250)
@given(
    seed=st.integers(0, 2**32),
    skew=st.sampled_from([0, 10, 50, 100, 200]),
    jitter=st.integers(0, 40),
    loss=st.sampled_from([0.0, 0.05, 0.3]),
    window=st.integers(0, 12),
    policy=st.sampled_from(list(MissingPolicy)),
    period=st.sampled_from([33, 83, 250, 500]),
)
def test_no_wrong_pairing(seed, skew, jitter, loss, window, policy, period):
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


@settings(deadline=None, max_examples=60)
@given(order=st.permutations(range(30)))
def test_wild_shuffles_never_pair_wrongly(order):
    images = stream(CAMERAS, START, 5)
    sync = Synchroniser(SyncConfig(policy=MissingPolicy.BLACK))
    check(feed(sync, [images[i] for i in order]), 60 * MS, CAMERAS)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    back=st.sampled_from([1, 5, 20, 300]),
    flight=st.integers(0, 150),
    policy=st.sampled_from(list(MissingPolicy)),
)
def test_bag_loop_three_times(seed, back, flight, policy):
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


def test_first_set_after_a_loop_comes_within_a_second():
    images = stream(CAMERAS, START, 60, 83 * MS)
    sync = Synchroniser()
    feed(sync, images)
    first = next(index for index, image in enumerate(images) if sync.add(*image))
    assert first <= 12
    assert images[first][1] - START < S


def test_large_forward_jump_starts_an_epoch():
    sync = Synchroniser()
    before = feed(sync, stream(CAMERAS, START, 20, 83 * MS))
    after = feed(sync, stream(CAMERAS, START + 60 * S, 20, 83 * MS))
    assert {made.epoch for made in before} == {0}
    assert {made.epoch for made in after} == {1}
    assert len(after) >= 19
    assert sync.statistics.resets == 1


def test_some_cameras_come_back_after_a_pause():
    """The others died in the pause: the clock is told by those that deliver."""
    sync = Synchroniser(SyncConfig(policy=MissingPolicy.BLACK))
    feed(sync, stream(CAMERAS, START, 20, 83 * MS))
    after = feed(sync, stream(CAMERAS[:2], START + 10 * S, 30, 83 * MS))
    check(after, 60 * MS, CAMERAS)
    assert len(after) >= 15
    assert {made.epoch for made in after} == {1}


@pytest.mark.parametrize("policy", list(MissingPolicy))
@pytest.mark.parametrize("offset", [10 * S, -10 * S, 3 * S])
def test_one_camera_with_a_foreign_clock_does_not_disturb_the_others(policy, offset):
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


def test_one_corrupt_stamp_is_dropped_and_nothing_else():
    sync = Synchroniser()
    images = stream(CAMERAS, START, 40, 83 * MS)
    camera, _, payload = images[100]
    images[100] = (camera, 2**62, payload)
    sets = feed(sync, images)
    assert sync.epoch == 0
    assert len(sets) >= 38
    assert sync.statistics.drops[DropReason.FOREIGN_CLOCK] == 1


def test_two_cameras_stepping_do_not_move_the_clock():
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


def without(images, camera, start, end):
    return [image for image in images if not (image[0] == camera and start <= image[1] < end)]


@pytest.mark.parametrize("camera", CAMERAS)
@pytest.mark.parametrize("policy", list(MissingPolicy))
def test_camera_gone_for_two_seconds(camera, policy):
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


def test_one_lost_frame_delays_nothing_for_long():
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


def test_nearest_images_are_paired_not_the_first_that_fit():
    """At 12 Hz both neighbours of a rear camera lie within the tolerance of the front camera."""
    offsets = {c: o * MS for c, o in FIRING.items()}
    sync = Synchroniser()
    sets = feed(sync, stream(CAMERAS, START, 48, 83 * MS, offsets))
    assert len(sets) >= 46
    assert all(made.spread_ns == 43 * MS for made in sets[1:])


def test_mixed_rates():
    """Others at 30 Hz, reference at 12 Hz: one set per reference image, the rest unmatched and counted."""
    images = stream(CAMERAS[:1], START, 60, 83 * MS) + stream(CAMERAS[1:], START, 150, 33 * MS)
    sync = Synchroniser()
    sets = feed(sync, sorted(images, key=lambda image: image[1]))
    check(sets, 60 * MS, CAMERAS)
    assert len(sets) >= 58
    assert all(made.spread_ns <= 20 * MS for made in sets[2:])
    assert sync.statistics.drops[DropReason.UNMATCHED] > 300


def test_poll_completes_a_set_when_everything_went_quiet():
    sync = Synchroniser(SyncConfig(policy=MissingPolicy.BLACK, patience=0.2))
    feed(sync, stream(CAMERAS, START, 10))
    stamp = START + 10 * 250 * MS
    assert not sync.add("CAM_FRONT", stamp, ("CAM_FRONT", stamp, 0))
    assert not sync.poll(stamp + 50 * MS)
    assert not sync.poll(stamp + 100 * MS)
    made = sync.poll(stamp + 400 * MS)
    assert [m.stamp for m in made] == [stamp]
    assert set(made[0].missing) == set(CAMERAS[1:])


def test_poll_with_a_clock_that_is_not_the_stamps():
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


def test_slow_transport_is_no_missing_camera():
    """Images that all arrive half a second after their stamps still make complete sets."""
    sync = Synchroniser(SyncConfig(policy=MissingPolicy.BLACK))
    sets = []
    for camera, stamp, payload in stream(CAMERAS, START, 30, 83 * MS, {c: o * MS for c, o in FIRING.items()}):
        sets += sync.add(camera, stamp, payload)
        if stamp > START + 50 * MS:
            sets += sync.poll(stamp + 500 * MS)
    assert len(sets) >= 29
    assert sum(not made.complete for made in sets) <= 1


def test_clock_turned_back_under_poll():
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


def test_reset_with_a_wrong_time_heals():
    """A caller that names a time the cameras know nothing of delays the sets but does not end them."""
    sync = Synchroniser()
    feed(sync, stream(CAMERAS, START, 10, 83 * MS))
    sync.reset(DropReason.RESET, now_ns=5 * S)
    assert len(feed(sync, stream(CAMERAS, START + S, 20, 83 * MS))) >= 14


def test_reset_empties_and_counts():
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


def test_duplicates_and_late_images_are_counted():
    sync = Synchroniser()
    images = stream(CAMERAS, START, 3)
    feed(sync, images)
    feed(sync, images[-1:])
    assert sync.statistics.drops[DropReason.DUPLICATE] == 1
    feed(sync, images[6:7])
    assert sync.statistics.drops[DropReason.LATE] == 1


def test_a_burst_of_one_camera_stays_bounded():
    sync = Synchroniser(SyncConfig(queue_depth=4))
    feed(sync, stream(["CAM_BACK"], START, 100, MS))
    assert sync.statistics.drops[DropReason.QUEUE_FULL] == 96


def test_statistics():
    sync = Synchroniser()
    feed(sync, stream(CAMERAS, START, 48, 83 * MS, {c: o * MS for c, o in FIRING.items()}))
    flat = sync.statistics.flat()
    assert flat["sets"] == sync.statistics.sets >= 46
    assert flat["spread_p50_ms"] == pytest.approx(43)
    assert sum(sync.statistics.spread_histogram().values()) == flat["sets"]
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


def test_single_camera():
    sync = Synchroniser(SyncConfig(cameras=("eye",), reference="eye"))
    sets = feed(sync, [("eye", START + k * S, k) for k in range(5)] + [("eye", START + k * S, k) for k in range(5)])
    assert [made.epoch for made in sets[:5]] == [0] * 5
    assert len(sets) >= 8
    assert sets[-1].epoch == 1
