"""What a frame set of the synthetic world costs: rendering, labels, visibility, files."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.table import Table

from ..data.synthetic.dataset import world_settings
from ..data.synthetic.scenes import WorldSettings, render_scene
from ..runtime.presets import load_preset
from ..world.scene import Scene

SEEDS = (17, 34, 6)
"""A straight drive, a red light at a crossing, a night."""


def bench_world(console: Console, preset: str) -> dict[str, Any]:
    """CPU seconds per frame set as training renders it; what is compiled on first use does not count."""
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
    return {"preset": preset, "scenes": rows}
