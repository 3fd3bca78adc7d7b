"""What would otherwise keep the first drive waiting: the language model converted, loops over pixels compiled.

./run does it once while it sets up; nodes that find it missing do it at their start.
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
    """The language model's file into the cache, where its package is installed."""
    if smollm2.package_file() is not None:
        smollm2.converted_folder(cache_folder(), lambda text: None)


def compile_loops() -> None:
    """Whatever numba compiles on first use, by using it: cameras, scans of JPEGs, the encoder."""
    simulator, (camera, *_) = Simulator(0), rig_of(0, WorldSettings(other_rigs=0.0))
    pose, _ = simulator.ego.at(0.0)
    renderer = Renderer(simulator.scene, Weather.generate(0))
    image = renderer.render(camera.scaled(36, 64), pose @ camera.camera2ego, 36, 64, 0.0, 1).rgb
    check_scans(cv2.imencode(".jpg", image)[1].tobytes(), "image")
    SparseOccVLA.from_preset(PRESET, stages=("occupancy",))


def main(work: tuple[Callable[[], None], ...] = (convert, compile_loops)) -> int:
    """All of it side by side; 1 where something failed, which says so itself."""
    spawned = multiprocessing.get_context("spawn")
    processes = [spawned.Process(target=one) for one in work]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return int(any(process.exitcode for process in processes))


if __name__ == "__main__":
    sys.exit(main())
