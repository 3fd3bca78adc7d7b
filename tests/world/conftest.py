"""One world for all tests of this room; building it takes a second."""

import pytest

from sparseoccvla_ros.world.render.renderer import Renderer
from sparseoccvla_ros.world.scene import Scene


@pytest.fixture(scope="session")
def scene():
    return Scene.generate(11)


@pytest.fixture(scope="session")
def renderer(scene):
    return Renderer(scene)
