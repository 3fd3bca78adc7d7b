"""The trace of a frame set begins with the arrival of its images."""

from dataclasses import replace

from sparseoccvla_ros.camera_sync.arrival_times import KEPT, ArrivalTimes


def test_reference_and_last_image(frames):
    made = frames(0)
    known = ArrivalTimes("camera_sync")
    assert known.trace(made) == ()
    for name, stamp in reversed(list(zip(made.names, made.stamps.tolist(), strict=True))):
        known.add(name, stamp)
    (first, received), (last, complete) = known.trace(made)
    assert (first, last) == ("camera_sync/received", "camera_sync/complete")
    assert received <= complete
    assert known.trace(replace(made, stamp=made.stamp + 1)) == (), "no image of the reference's stamp"
    for stamp in range(KEPT):
        known.add("other", stamp)
    assert known.trace(made) == ()
