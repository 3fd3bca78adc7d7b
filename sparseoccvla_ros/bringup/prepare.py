"""One-time work that would delay the first drive: converts the language model and compiles the numba functions.

./run does it during setup; nodes that find it missing do it when they start.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable

import cv2

from ..camera_sync.jpeg_scan import check_scans
from ..core.paths import cache_folder
from ..data.synthetic.scenes import WorldSettings, rig_of
from ..pipeline import SparseOccVLA
from ..reasoning.llm import smollm2
from ..world.render.renderer import Renderer
from ..world.render.weather import Weather
from ..world.sim.simulator import Simulator

PRESET = "tiny"


def convert() -> None:
    """Convert the language model's file into the cache if its package is installed."""
    if smollm2.package_file() is not None:
        smollm2.converted_folder(cache_folder(), lambda text: None)


def compile_loops() -> None:
    """Compile the numba functions by using them once: camera rendering, JPEG scan, encoder."""
    simulator, (camera, *_) = Simulator(0), rig_of(0, WorldSettings(other_rigs=0.0))
    pose, _ = simulator.ego.at(0.0)
    renderer = Renderer(simulator.scene, Weather.generate(0))
    image = renderer.render(camera.scaled(36, 64), pose @ camera.camera2ego, 36, 64, 0.0, 1).rgb
    check_scans(cv2.imencode(".jpg", image)[1].tobytes(), "image")
    SparseOccVLA.from_preset(PRESET, stages=("occupancy",))


def main(work: tuple[Callable[[], None], ...] = (convert, compile_loops)) -> int:
    """Run every function of `work` in its own process; returns 1 if one failed (it prints its error), else 0."""
    spawned = multiprocessing.get_context("spawn")
    processes = [spawned.Process(target=one) for one in work]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return int(any(process.exitcode for process in processes))


if __name__ == "__main__":
    sys.exit(main())
