"""The trace of a frame set begins with the arrival of its images."""

from dataclasses import replace

import numpy as np

from sparseoccvla_ros.camera_sync.arrival_times import KEPT, ArrivalTimes
from sparseoccvla_ros.core.types import CameraFrames, EgoState


def test_reference_and_last_image():
    stamps = np.array([50, 20, 70])
    made = CameraFrames(
        50, 0, ("front", "left", "right"), stamps, np.ones(3, bool), np.zeros((3, 2, 2, 3), np.uint8),
        np.tile(np.eye(4), (3, 1, 1)), EgoState(np.eye(4), np.zeros(6), "map"),
    )  # fmt: skip
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
