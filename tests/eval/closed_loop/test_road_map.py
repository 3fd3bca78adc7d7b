"""The surfaces of the scores agree with the world's own ground."""

from __future__ import annotations

import numpy as np
import pytest

from sparseoccvla_ros.core.classes import LABEL
from sparseoccvla_ros.eval.closed_loop.expert import ZOE
from sparseoccvla_ros.eval.closed_loop.road_map import WorldMap
from sparseoccvla_ros.eval.metrics.driving.traffic_scene import DriveAreas
from sparseoccvla_ros.world import generator, scenario


@pytest.mark.parametrize("seed", range(20_000, 20_006))
def test_drivable_area_is_the_road(seed):
    plan = scenario.draw(np.random.default_rng([seed, 29]), None)
    route = generator.route(plan, "main", 1.0, plan.lane, plan.maneuver, 70.0 - plan.start, 440.0)
    begin, _ = route.nearest(*plan.streets.main.pose(plan.start, -plan.streets.main.lanes[plan.lane])[:2].tolist())
    world = WorldMap(plan.streets, route, begin, begin + 150.0)
    points = np.stack(np.meshgrid(np.arange(-60, 60, 1.3), np.arange(-60, 60, 1.3)), -1).reshape(-1, 2)
    label, edge = plan.streets.label(points), plan.streets.edge(points)
    # Arcs are chords here and the median's nose is square: a decimetre at kerbs, the nose itself left out.
    sure = (np.abs(edge) > 0.15) & (label != LABEL["other_flat"])
    road = label == LABEL["driveable_surface"]
    held = world.road.drivable.hold(points)
    assert (road != held)[sure].mean() < 0.002
    areas = DriveAreas(route.at(np.arange(begin, begin + 150.0, 1.0)), world.road, ZOE)
    assert not areas.non_drivable.any()
    assert areas.oncoming.mean() < 0.05
