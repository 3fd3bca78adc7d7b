"""The fit of the traffic-light head: it learns lamps of three pixels, and equal seeds give equal weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.geometry import camera_matrix
from sparseoccvla_ros.data.synthetic.dataset import world_settings
from sparseoccvla_ros.data.synthetic.scenes import load_scene
from sparseoccvla_ros.occupancy.encoder import OccupancyEncoder
from sparseoccvla_ros.train.traffic_light_head import (
    TrafficLightLabels,
    TrafficLightSamples,
    TrafficLightSettings,
    fit_traffic_light_head,
    score_traffic_light_head,
    traffic_light_loss,
)

from .conftest import MICRO

HEIGHT, WIDTH = 64, 96
COLOURS = np.array([(250, 40, 30), (250, 170, 30), (40, 250, 150)])


def drawn(count: int) -> TrafficLightSamples:
    """Grey noise with one bright lamp in three of four images; the higher it is, the closer is its line."""
    rng = np.random.default_rng(5)
    images = rng.integers(60, 120, (count, HEIGHT, WIDTH, 3)).astype(np.uint8)
    lamps = []
    for i, image in enumerate(images):
        u, v, colour = rng.integers(6, WIDTH - 6), rng.integers(6, HEIGHT - 6), int(rng.integers(3))
        if i % 4:
            image[v - 1 : v + 2, u - 1 : u + 2] = COLOURS[colour]
            lamps.append(np.array([[colour, u, v, 0.6 * v]], np.float32))
        else:
            lamps.append(np.zeros((0, 4), np.float32))
    forward = np.array([[0.0, -1, 0, 0], [0, 0, -1, 1.5], [1, 0, 0, 0], [0, 0, 0, 1]])
    k = np.array([[80.0, 0, WIDTH / 2], [0, 80.0, HEIGHT / 2], [0, 0, 1]])
    ego2img = np.stack([camera_matrix(k, forward)] * count).astype(np.float32)
    return TrafficLightSamples(images, ego2img, lamps)


def encoder() -> OccupancyEncoder:
    torch.manual_seed(0)
    return OccupancyEncoder(MICRO.replace(traffic_lights=True))


def fitted(samples: TrafficLightSamples, steps: int) -> OccupancyEncoder:
    torch.set_num_threads(1)
    net = encoder()
    fit_traffic_light_head(net, samples, TrafficLightSettings(steps, batch_size=8), seed=1, report=lambda _: None)
    return net


def test_it_finds_lamps_and_how_far_their_line_is():
    net = fitted(drawn(64), 600)
    scores = score_traffic_light_head(net, drawn(40))
    assert scores.red_found > 0.8
    assert scores.red_wrong < 0.1
    assert scores.colour > 0.9
    assert scores.distance < 6.0
    fresh = score_traffic_light_head(encoder(), drawn(40))
    assert fresh.red_found == 0.0


def test_equal_seeds_give_equal_weights_and_the_rest_is_left_alone():
    first, second = (fitted(drawn(8), 3).state_dict() for _ in range(2))
    fresh = encoder().state_dict()
    for name, value in first.items():
        assert torch.equal(value, second[name])
        assert name.startswith("traffic_light_head.") or torch.equal(value, fresh[name])


def test_the_loss_is_small_only_for_the_right_cell_and_distance():
    lamps = [np.array([[0, 22.0, 10.0, 20.0]], np.float32)]

    def loss(row: int, column: int, colour: int, metres: float) -> float:
        logits = torch.zeros(1, 4, 8, 12)
        logits[:, 0] = 9.0
        logits[0, :, row, column] = torch.tensor([0.0, *(9.0 if i == colour else 0.0 for i in range(3))])
        return float(traffic_light_loss(logits, torch.full((1, 8, 12), metres), lamps))

    assert loss(2, 5, 0, 20.0) < 0.01
    for wrong in ((2, 5, 1, 20.0), (6, 9, 0, 20.0), (2, 5, 0, 35.0)):
        assert loss(*wrong) > 0.5
    assert np.isfinite(float(traffic_light_loss(torch.zeros(1, 4, 8, 12), torch.zeros(1, 8, 12), [lamps[0][:0]])))


def test_labels_of_the_world_belong_to_the_images(tmp_path, monkeypatch):
    """Where a label says red or green, the compressed image is redder or greener than around it (in clear weather)."""
    monkeypatch.setenv("SPARSEOCCVLA_CACHE", str(tmp_path))
    labels = TrafficLightLabels(replace(world_settings("train", 128, 352), other_rigs=0.0))
    load_scene(40002, labels.world)
    labels.make(40002)
    samples = TrafficLightSamples.of(labels, [40002])
    assert samples.images.shape == (18, 128, 352, 3)
    more = []
    for image, lamps in zip(samples.images, samples.lamps, strict=True):
        for colour, u, v, _ in lamps:
            hue = image.astype(float) @ ((1.0, -0.5, -0.5) if colour == 0 else (-1.0, 0.6, 0.4))
            r, c = round(float(v)), round(float(u))
            around = hue[max(r - 6, 0) : r + 7, max(c - 6, 0) : c + 7]
            more.append(hue[max(r - 1, 0) : r + 2, max(c - 1, 0) : c + 2].max() - np.percentile(around, 75))
    assert len(more) >= 10
    assert np.median(more) > 30


def test_it_is_refused_without_head_or_samples():
    with pytest.raises(InvalidInput, match="traffic_lights"):
        fit_traffic_light_head(OccupancyEncoder(MICRO), drawn(2))
    with pytest.raises(InvalidInput, match="traffic_lights"):
        fit_traffic_light_head(
            encoder(), TrafficLightSamples(np.zeros((0, 8, 8, 3), np.uint8), np.eye(4)[None][:0], [])
        )
