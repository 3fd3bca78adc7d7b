"""Recorded drives of the world."""

import numpy as np

from sparseoccvla_ros.data.synthetic.drives import load_drive, record
from sparseoccvla_ros.world.scene import Scene


def test_a_drive_follows_its_route_and_comes_back_from_the_cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SPARSEOCCVLA_CACHE", str(tmp_path))
    scene = Scene.generate(12, 10.0)
    drive = record(scene)
    gap = np.hypot(*(drive.route[:, None] - drive.pose[:, :2]).transpose(2, 0, 1)).min(0)
    assert gap.max() < 1.01, "its points are 2 m apart"
    ahead = np.hypot(*np.diff(drive.route, axis=0).T).sum() - np.hypot(*np.diff(drive.pose[:, :2], axis=0).T).sum()
    assert ahead > 40.0, "it goes on behind the end of the drive"
    first, again = load_drive(12, 10.0, scene), load_drive(12, 10.0)
    for name in ("time", "pose", "motion", "command", "route"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
