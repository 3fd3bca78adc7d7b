"""The expert's plans from a frame set at other speeds than the one that was driven.

In recorded drives the future follows from the past motion, and a planner that is trained on nothing else continues it
and ignores the scene (causal confusion, de Haan et al., NeurIPS 2019). Here the same scene has several speeds and
accelerations, each with the plan that it calls for. It is ChauffeurNet's perturbation (Bansal et al., RSS 2019), of the
speed only: the images would show another place, but not another speed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...core import geometry
from ...core.paths import cache_folder
from ...core.types import WAYPOINT_TIMES
from ...data.synthetic.scenes import WORLD_VERSION, WorldSettings, load_scene
from ...eval.closed_loop.expert import Expert
from ...eval.closed_loop.road_map import WorldMap
from ...planning.ego_history import FEATURE_NAMES, PAST_SECONDS
from ...world.agents.traffic import STEP
from ...world.sim.simulator import Simulator
from ...world.sim.vehicle import EgoVehicleState
from .synthetic import read_arrays, write_arrays

VARIANTS = 3
"""Variants of each frame set."""
FIELDS = ("other_ego", "other_future")
FORMAT_VERSION = 2
FASTEST = 15.0
"""m/s; the highest speed of a variant."""
_STANDING = 0.15
"""Share of variants that stand still."""
_ROWS = np.round(WAYPOINT_TIMES / STEP).astype(int)


def speed_variants(expert: Expert, simulator: Simulator, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Returns FIELDS for the simulator's present state, which is left as it was.

    other_ego: float32 [VARIANTS, F], features of planning.ego_history; other_future: float32 [VARIANTS, 6, 4, 4], the
    expert's plan, base_link at FUTURE_SECONDS to present base_link.
    """
    now = simulator.state
    features, futures = [], []
    for _ in range(VARIANTS):
        speed = float(np.clip(now.speed * rng.uniform(0.5, 1.3) + rng.uniform(-1.5, 1.5), 0.0, FASTEST))
        acceleration = float(np.clip(rng.normal(0.0, 1.2), -4.0, 2.0))
        if rng.random() < _STANDING or speed < 0.1:
            speed = acceleration = 0.0
        simulator.ego.states[-1] = EgoVehicleState(now.x, now.y, now.yaw, speed, acceleration, now.steering)
        try:
            features.append(_features(simulator, speed, acceleration))
            futures.append(future_of(now.pose, expert.plan()))
        finally:
            simulator.ego.states[-1] = now
    return dict(zip(FIELDS, (np.stack(features), np.stack(futures)), strict=True))


def future_of(pose: np.ndarray, planned: np.ndarray) -> np.ndarray:
    """Returns a plan [41, 3] of the expert as float32 [6, 4, 4] relative to the pose [3] that it starts from."""
    back = geometry.inverse(geometry.planar(*pose))
    return np.stack([back @ geometry.planar(*planned[k]) for k in _ROWS]).astype(np.float32)


def _features(simulator: Simulator, speed: float, acceleration: float) -> np.ndarray:
    """Returns the ego features of a vehicle that came along the route to the present pose with this acceleration."""
    out = dict.fromkeys(FEATURE_NAMES, 1.0)  # nothing is missing
    here = simulator.route.at(simulator.along)
    back = geometry.inverse(geometry.planar(*here))
    for age in PAST_SECONDS:
        # It did not reverse: before it stood still, if it accelerated from there.
        moved = min(age, speed / acceleration) if acceleration > 0 else age
        there = simulator.route.at(max(simulator.along - (speed * moved - 0.5 * acceleration * moved**2), 0.0))
        past = back @ geometry.planar(*there)
        out |= {f"x(-{age:g}s)": past[0, 3], f"y(-{age:g}s)": past[1, 3], f"yaw(-{age:g}s)": geometry.yaw_of(past)}
    state = simulator.state
    out |= {"vx": speed, "vy": 0.0, "yaw_rate": state.yaw_rate, "ax": acceleration, "ay": 0.0}
    return np.array([out[name] for name in FEATURE_NAMES], np.float32)


@dataclass(frozen=True)
class SpeedVariants:
    """Variants of the frame sets of rendered scenes, cached per seed. world: settings of the scenes."""

    world: WorldSettings

    def file(self, item: int) -> Path:
        """Returns the file of a seed."""
        name = f"{FORMAT_VERSION}-{WORLD_VERSION}-{self.world.key}"
        return cache_folder() / "speed_variants" / name / f"{item:08d}.safetensors"

    def read(self, seed: int) -> dict[str, np.ndarray]:
        """Reads FIELDS with the scene's frame sets as first axis; {} if they are not cached."""
        return read_arrays(self.file(seed), FIELDS) if self.file(seed).is_file() else {}

    def make(self, item: int) -> None:
        """Drive a seed as recorded, plan at the simulation step nearest to each frame set, and write its file."""
        scene = load_scene(item, self.world)
        simulator = Simulator(item)
        rng = np.random.default_rng([item, 71])
        expert = Expert(simulator, WorldMap(simulator.scene.streets, simulator.route, simulator.begin, simulator.end))
        rows: list[dict[str, np.ndarray]] = []
        for time in scene.time:  # in order, as are clips and their sets
            while simulator.time < time - 0.5 * STEP:
                simulator.follow(simulator.recorded_state(simulator.time + STEP))
            rows.append(speed_variants(expert, simulator, rng))
        arrays = {name: np.stack([row[name] for row in rows]) for name in FIELDS}
        write_arrays(self.file(item), arrays, {"seed": str(item)})
