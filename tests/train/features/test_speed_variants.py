"""The expert's plans at other speeds."""

import numpy as np
import pytest

from sparseoccvla_ros.eval.closed_loop.expert import Expert
from sparseoccvla_ros.eval.closed_loop.road_map import WorldMap
from sparseoccvla_ros.planning.ego_history import FEATURE_NAMES
from sparseoccvla_ros.train.features.speed_variants import speed_variants
from sparseoccvla_ros.world.scene import Scene
from sparseoccvla_ros.world.sim.simulator import Simulator

SEED = 40
VX, X1 = FEATURE_NAMES.index("vx"), FEATURE_NAMES.index("x(-1s)")


@pytest.fixture(scope="module")
def simulator() -> Simulator:
    """Three seconds into the recorded drive."""
    out = Simulator(SEED)
    while out.time < 2.95:
        out.follow(out.recorded_state(out.time + 0.1))
    return out


def test_a_simulation_that_follows_the_record_is_the_record(simulator: Simulator) -> None:
    scene = Scene.generate(SEED, 20.0)
    recorded = np.stack([m.mover.rectangle(simulator.time) for m in scene.moving])
    assert np.abs(recorded[:, :2] - simulator.rectangles()[:, :2]).max() < 0.5
    np.testing.assert_allclose(simulator.ego.at(simulator.time)[0], scene.ego.at(simulator.time)[0], atol=1e-6)


def test_each_speed_has_its_own_plan_and_the_world_is_left_alone(simulator: Simulator) -> None:
    world = WorldMap(simulator.scene.streets, simulator.route, simulator.begin, simulator.end)
    expert, before = Expert(simulator, world), simulator.state
    rng = np.random.default_rng(0)
    found = [speed_variants(expert, simulator, rng) for _ in range(4)]
    assert simulator.state is before
    ego = np.concatenate([f["other_ego"] for f in found])
    future = np.concatenate([f["other_future"] for f in found])
    assert len({round(float(v), 3) for v in ego[:, VX]}) > 6
    half_second = future[:, 0, 0, 3]
    assert np.abs(half_second - 0.5 * ego[:, VX]).max() < 0.9, "within half a second a plan keeps to its speed"
    assert (np.abs(ego[:, X1] + ego[:, VX]) < 2.1).all(), "a second ago it was a second behind"
    assert (ego[:, X1] <= 0.0).all()
