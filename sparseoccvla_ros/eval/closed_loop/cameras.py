"""The six cameras of a simulated drive: one rig per seed, all exposed simultaneously; images may arrive late."""

from __future__ import annotations

from collections import deque

import numpy as np

from ...data.synthetic.scenes import WorldSettings, prepared_intrinsics, prepared_size, rig_of
from ...world.render.renderer import Renderer
from ...world.render.weather import Weather
from ...world.sim.simulator import Simulator


class SimulatedCameras:
    """Renders the images of all cameras at the simulator's current time.

    Attributes: rig (one Camera each), intrinsics (float64 [3, 3] each, in pixels of the returned images).

    Args:
        simulator: The drive's simulator.
        height, width: Image size, px.
        weather: One of weather.WORDS; empty uses the seed's weather.
        whole: Return the full field of view, as a camera driver publishes it; otherwise scaled and cropped as
            camera_sync prepares it.
    """

    def __init__(self, simulator: Simulator, height: int, width: int, whole: bool = False, weather: str = "") -> None:
        self._simulator, self._height, self._width = simulator, height, width
        self.rig = rig_of(simulator.scene.seed, WorldSettings(other_rigs=0.0))
        # The full view is always rendered: one pixel that rounds differently eventually changes what the chain drives.
        self._sizes = [(height, width) if whole else prepared_size(c, height, width) for c in self.rig]
        self._rendered = [c.scaled(*size) for c, size in zip(self.rig, self._sizes, strict=True)]
        self.intrinsics = self._rendered if whole else [prepared_intrinsics(c, height, width) for c in self.rig]
        self._renderer = Renderer(simulator.scene, Weather.generate(simulator.scene.seed, weather))

    def images(self) -> np.ndarray:
        """Returns the current images, uint8 [C, H, W, 3] RGB."""
        simulator = self._simulator
        pose, _ = simulator.ego.at(simulator.time)
        out = np.empty((len(self.rig), self._height, self._width, 3), np.uint8)
        for image, camera, k, (rows, columns) in zip(out, self.rig, self._rendered, self._sizes, strict=True):
            seen = self._renderer.render(k, pose @ camera.camera2ego, rows, columns, simulator.time, 1).rgb
            left = (columns - self._width) // 2
            image[:] = seen[rows - self._height :, left : left + self._width]
        return out


class LateImages:
    """Queue of images (uint8 [C, H, W, 3], stamp in ns) between exposure and arrival."""

    def __init__(self) -> None:
        self._taken: deque[tuple[int, np.ndarray]] = deque()

    def add(self, stamp: int, images: np.ndarray) -> None:
        """Adds the images taken at `stamp`."""
        self._taken.append((stamp, images))

    def newest(self, stamp: int) -> tuple[int, np.ndarray] | None:
        """Removes and returns the newest images taken up to `stamp`, with their stamp; drops older ones."""
        found = None
        while self._taken and self._taken[0][0] <= stamp:
            found = self._taken.popleft()
        return found
