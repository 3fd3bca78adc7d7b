"""The six cameras of a simulated drive: one rig per seed, all exposed at one moment; images may arrive late."""

from __future__ import annotations

from collections import deque

import numpy as np

from ...data.synthetic.scenes import WorldSettings, prepared_intrinsics, prepared_size, rig_of
from ...world.render.renderer import Renderer
from ...world.render.weather import Weather
from ...world.sim.simulator import Simulator


class SimulatedCameras:
    """Renders what the cameras see.

    Attributes: rig (Camera of each), intrinsics (float64 [3, 3] of each, in pixels of the images).

    Args:
        simulator: Of the drive.
        height, width: Of the images, px.
        weather: One of weather.WORDS; the seed's where empty.
        whole: The cameras' whole field of view, as a driver publishes it; otherwise scaled and cropped as camera_sync
            prepares it.
    """

    def __init__(self, simulator: Simulator, height: int, width: int, whole: bool = False, weather: str = "") -> None:
        self._simulator, self._height, self._width = simulator, height, width
        self.rig = rig_of(simulator.scene.seed, WorldSettings(other_rigs=0.0))
        # The whole view is rendered in any case: a pixel that rounds otherwise leads the chain another way in the end.
        self._sizes = [(height, width) if whole else prepared_size(c, height, width) for c in self.rig]
        self._rendered = [c.scaled(*size) for c, size in zip(self.rig, self._sizes, strict=True)]
        self.intrinsics = self._rendered if whole else [prepared_intrinsics(c, height, width) for c in self.rig]
        self._renderer = Renderer(simulator.scene, Weather.generate(simulator.scene.seed, weather))

    def images(self) -> np.ndarray:
        """uint8 [C, H, W, 3] RGB of now."""
        simulator = self._simulator
        pose, _ = simulator.ego.at(simulator.time)
        out = np.empty((len(self.rig), self._height, self._width, 3), np.uint8)
        for image, camera, k, (rows, columns) in zip(out, self.rig, self._rendered, self._sizes, strict=True):
            seen = self._renderer.render(k, pose @ camera.camera2ego, rows, columns, simulator.time, 1).rgb
            left = (columns - self._width) // 2
            image[:] = seen[rows - self._height :, left : left + self._width]
        return out


class LateImages:
    """Images uint8 [C, H, W, 3] between exposure and arrival, with their stamps in ns."""

    def __init__(self) -> None:
        self._taken: deque[tuple[int, np.ndarray]] = deque()

    def add(self, stamp: int, images: np.ndarray) -> None:
        """Images that were taken at `stamp`."""
        self._taken.append((stamp, images))

    def newest(self, stamp: int) -> tuple[int, np.ndarray] | None:
        """Stamp and images of the newest taken up to `stamp`, once; those before them are dropped."""
        found = None
        while self._taken and self._taken[0][0] <= stamp:
            found = self._taken.popleft()
        return found
