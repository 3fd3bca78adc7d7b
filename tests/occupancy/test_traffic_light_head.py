"""The traffic-light head: which camera it looks through, what the rays tell it, and what it reports."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sparseoccvla_ros.core.classes import CAMERAS
from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.types import LIGHT_COLOURS
from sparseoccvla_ros.occupancy.heads.traffic_light_head import METRES, STRIDE, TrafficLightHead, ahead_camera

from .conftest import ego2img_of

SIZE = 64, 96


def projections(names=CAMERAS) -> np.ndarray:
    return np.stack([ego2img_of(name, *SIZE) for name in names])


def test_the_camera_that_looks_most_ahead_is_used():
    every = np.ones(6, bool)
    assert CAMERAS[ahead_camera(projections(), every)] == "CAM_FRONT"
    without = np.array([name != "CAM_FRONT" for name in CAMERAS])
    assert CAMERAS[ahead_camera(projections(), without)] in ("CAM_FRONT_LEFT", "CAM_FRONT_RIGHT")
    behind = np.array(["BACK" in name for name in CAMERAS])
    assert ahead_camera(projections(), behind) is None


def sure(head: TrafficLightHead, colour: int, metres: float) -> TrafficLightHead:
    """The head, if it said the same of every cell."""
    torch.nn.init.zeros_(head.out.weight)
    with torch.no_grad():
        head.out.bias.copy_(torch.tensor([0.0, *(9.0 if i == colour else 0.0 for i in range(3)), metres / METRES]))
    return head


@pytest.mark.parametrize("colour", range(3))
def test_what_a_cell_says_is_reported(colour):
    images, ego2img = torch.zeros(1, 3, *SIZE), torch.from_numpy(projections()[:1]).float()
    light = sure(TrafficLightHead(), colour, 17.0).look(images, ego2img)
    assert light is not None
    assert light.colour == LIGHT_COLOURS[colour]
    assert light.probability > 0.99
    assert light.distance == pytest.approx(17.0, abs=1e-3)


def test_a_fresh_head_sees_nothing_and_numbers_that_are_not_finite_are_refused():
    torch.manual_seed(0)
    head, ego2img = TrafficLightHead(), torch.from_numpy(projections()[:1]).float()
    assert head.look(torch.randn(1, 3, *SIZE), ego2img) is None
    with pytest.raises(InvalidInput, match="traffic_light"):
        head.look(torch.full((1, 3, *SIZE), float("nan")), ego2img)


def test_the_rays_tell_height_and_focal_length():
    """The same pixels of a longer lens are another direction; the middle of the image looks along x."""
    from sparseoccvla_ros.occupancy.heads.traffic_light_head import _rays

    near, far = projections()[0], projections()[0].copy()
    far[:3] = np.array([[2.0, 0, -SIZE[1] / 2], [0, 2.0, -0.45 * SIZE[0]], [0, 0, 1]]) @ far[:3]
    rows, columns = SIZE[0] // STRIDE, SIZE[1] // STRIDE
    one, other = (_rays(torch.from_numpy(m)[None].float(), rows, columns)[0].numpy() for m in (near, far))
    assert one.shape == (2, rows, columns)
    assert (np.diff(one[0], axis=1) < 0).all(), "left is positive"
    assert (np.diff(one[1], axis=0) < 0).all(), "up is positive"
    left, up = one[0, rows // 2, 0], one[1, 0, columns // 2]
    assert abs(other[0, rows // 2, 0]) < 0.7 * abs(left)
    assert abs(other[1, 0, columns // 2]) < 0.7 * abs(up)


def test_the_encoder_reports_it_with_the_queries(small, make_encoder, make_frames):
    encoder = make_encoder(small.replace(traffic_lights=True))
    assert encoder.encode(make_frames(0)).traffic_light is None
    sure(encoder.traffic_light_head, 0, 12.0)
    frames = make_frames(1)
    assert encoder.encode(frames).traffic_light.colour == "red"
    black = frames.images.copy()
    black[CAMERAS.index("CAM_FRONT")] = 0
    queries = encoder.encode(replace(make_frames(2), images=black))
    assert queries.missing == ("CAM_FRONT",)
    assert queries.traffic_light is not None, "a neighbour looks ahead instead"
    assert make_encoder(small).encode(make_frames(0)).traffic_light is None
