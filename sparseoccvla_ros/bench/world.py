"""CPU cost of the synthetic world: per frame set for training, and per simulated second in closed loop."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.table import Table

from ..data.synthetic.dataset import world_settings
from ..data.synthetic.scenes import WorldSettings, render_scene
from ..eval.closed_loop.cameras import SimulatedCameras
from ..eval.closed_loop.policies import ExpertPolicy
from ..eval.closed_loop.rollout import Episode
from ..planning.trajectory_follower import TimedPath, TrajectoryFollower
from ..runtime.presets import load_preset
from ..world.scene import Scene
from ..world.sim.vehicle import Action

SEEDS = (17, 34, 6)
"""A straight drive, a red light at a crossing, a night."""
DRIVE_SECONDS = 6.0
"""Simulated length of each drive."""


def bench_world(console: Console, preset: str) -> dict[str, Any]:
    """Measure CPU seconds per frame set as training renders it, without compilation on first use, and the drives."""
    found = load_preset(preset)
    settings = world_settings("train", found.image.height, found.image.width, found.occupancy.frames)
    render_scene(SEEDS[0], WorldSettings(settings.height, settings.width, clips=1, sets=1))
    table = Table(
        "seed", "frame sets", "CPU s per set", "of it the scene itself", title="Rendering the world, one thread"
    )
    rows = []
    for seed in SEEDS:
        begin = time.process_time()
        Scene.generate(seed, settings.seconds)
        generated = time.process_time() - begin
        scene = render_scene(seed, settings)
        spent = time.process_time() - begin - generated
        sets = len(scene.time)
        rows.append({"seed": seed, "sets": sets, "cpu_s_per_set": spent / sets, "generate_s_per_set": generated / sets})
        table.add_row(str(seed), str(sets), f"{spent / sets:.3f}", f"{generated / sets:.3f}")
    console.print(table)
    return {"preset": preset, "scenes": rows, "drives": _drives(console, settings.height, settings.width)}


def _drives(console: Console, height: int, width: int) -> list[dict[str, float]]:
    """Measure the closed loop with the expert and six images per 0.5 s: simulated s per CPU s, shares of CPU time."""
    table = Table("seed", "simulated s per CPU s", "traffic", "rendering", "expert", title="Simulating, one thread")
    rows = []
    for seed in SEEDS:
        spent = dict.fromkeys(("traffic", "rendering", "expert"), 0.0)
        episode = Episode(seed, score_every=0, longest=DRIVE_SECONDS)
        simulator, follower, policy = episode.simulator, TrajectoryFollower(), ExpertPolicy()
        cameras = SimulatedCameras(simulator, height, width)
        policy.begin(simulator, episode.expert)
        path: TimedPath | None = None
        mark = time.process_time()

        def lap(name: str, spent: dict[str, float] = spent) -> None:
            nonlocal mark
            mark, before = time.process_time(), mark
            spent[name] += mark - before

        while episode.observe() is None:
            if episode.plan_due:
                lap("traffic")
                cameras.images()
                lap("rendering")
                path = policy.plan()
                lap("expert")
            control = follower.control(path, simulator.time, simulator.state.pose, simulator.state.speed)
            simulator.step(Action(control.acceleration, control.steering))
        lap("traffic")
        total = sum(spent.values())
        shares = {name: value / total for name, value in spent.items()}
        rows.append({"seed": seed, "simulated_s_per_cpu_s": simulator.time / total, **shares})
        table.add_row(str(seed), f"{simulator.time / total:.2f}", *(f"{100 * s:.0f} %" for s in shares.values()))
    console.print(table)
    return rows
