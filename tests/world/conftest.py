"""One world for all tests of this room; building it takes a second."""

import pytest

from sparseoccvla_ros.world.render.renderer import Renderer
from sparseoccvla_ros.world.scene import Scene

SEED = 34
"""A hazy day; the ego comes to a red light at a crossing of two-lane streets, waits, and drives on."""


@pytest.fixture(scope="session")
def scene():
    return Scene.generate(SEED)


@pytest.fixture(scope="session")
def renderer(scene):
    return Renderer(scene)
