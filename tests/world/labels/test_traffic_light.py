"""Lit lamps in the image of the front camera, against the signals of the world."""

from __future__ import annotations

import numpy as np
import pytest

from sparseoccvla_ros.core.types import LIGHT_COLOURS
from sparseoccvla_ros.world.labels.traffic_light import lit_lamps
from sparseoccvla_ros.world.render.camera_rig import load_rig
from sparseoccvla_ros.world.render.raster import PinholeRays
from sparseoccvla_ros.world.scene import Scene

HEIGHT, WIDTH, CUT = 128, 352, 70
"""Images of the tiny preset: 198 rows of which the lower 128 are kept."""
SEEDS = (40000, 40002, 40005)


def look(scene: Scene, time: float):
    camera = load_rig("n015")[0]
    k = camera.scaled(HEIGHT + CUT, WIDTH)
    k[1, 2] -= CUT
    pose, _ = scene.ego.at(time)
    return lit_lamps(scene, time, PinholeRays(k, pose @ camera.camera2ego, HEIGHT, WIDTH))


@pytest.mark.parametrize("seed", SEEDS)
def test_lamps_say_the_signal_and_the_way_to_its_line(seed):
    scene = Scene.generate(seed)
    (line, approach), mover = scene.ego.mover.stops[0], scene.ego.mover
    seen = 0
    for time in np.arange(0.5, 15.0, 1.0):
        room = line - float(mover.motion(time)[0]) - mover.front
        if not 0.5 < room < 50.0:
            continue
        lamps = look(scene, time)
        seen += bool(lamps)
        assert len(lamps) <= 2, "one on the pole, one over the road"
        for lamp in lamps:
            assert LIGHT_COLOURS[lamp.colour] == scene.signals.colour(approach, time)
            assert lamp.distance == pytest.approx(room, abs=1.0)
            assert 0 <= lamp.row < HEIGHT / 2
            assert 0 <= lamp.column < WIDTH
            assert lamp.pixels >= 1
    assert seen >= 3


def test_nothing_is_lit_on_a_street_without_a_crossing():
    scene = Scene.generate(40004)
    assert not scene.ego.mover.stops
    assert not any(look(scene, time) for time in (1.0, 8.0, 15.0))
