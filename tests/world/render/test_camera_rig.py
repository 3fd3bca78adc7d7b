"""The rigs' numbers against the headings of the two nuScenes cars and, where it is there, real calibration."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from sparseoccvla_ros.core.classes import CAMERAS
from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.geometry import transform
from sparseoccvla_ros.world.render.camera_rig import load_rig

DATA = Path(os.environ.get("SPARSEOCCVLA_DATA", Path(__file__).resolve().parents[4] / "shared" / "data"))
HEADINGS = {"n015": (0.3, -56.4, 55.2, 179.9, 108.6, -110.8), "n008": (0.6, -57.6, 55.3, 179.5, 108.6, -112.5)}


@pytest.mark.parametrize("car", ["n015", "n008"])
def test_cameras_look_where_they_should(car):
    rig = load_rig(car)
    assert tuple(c.name for c in rig) == CAMERAS
    for camera, heading in zip(rig, HEADINGS[car], strict=True):
        forward, down = camera.camera2ego[:3, 2], camera.camera2ego[:3, 1]
        assert np.degrees(np.arctan2(forward[1], forward[0])) == pytest.approx(heading, abs=0.15)
        assert abs(np.degrees(np.arcsin(forward[2]))) < 1.3
        assert down[2] < -0.99
        view = 2 * np.degrees(np.arctan(800 / camera.intrinsics[0, 0]))
        assert view == pytest.approx(90 if camera.name == "CAM_BACK" else 65, abs=1.0)


def test_scaling_keeps_the_field_of_view():
    camera = load_rig("n015")[0]
    k = camera.scaled(198, 352)
    np.testing.assert_allclose(k[:2], camera.intrinsics[:2] * 0.22)
    with pytest.raises(InvalidInput, match="image size"):
        camera.scaled(0, 352)


def test_unknown_car_is_refused():
    with pytest.raises(InvalidInput, match="n999"):
        load_rig("n999")


def test_rounded_numbers_match_the_recorded_calibration():
    path = DATA / "nuscenes-poses-0061" / "poses.json"
    if not path.is_file():
        pytest.skip("shared data is not here")
    sensors = json.loads(path.read_text())["sensors"]
    for camera in load_rig("n015"):
        recorded = sensors[camera.name]
        w, x, y, z = recorded["rotation_wxyz"]
        exact = transform(np.array(recorded["translation"]), np.array([x, y, z, w]))
        np.testing.assert_allclose(camera.camera2ego, exact, atol=1e-4)
        np.testing.assert_allclose(camera.intrinsics, recorded["K"], atol=1e-3)
