"""Decoder blocks against formulas written out in numpy, so that they hold where the recorded tensors are absent."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from sparseoccvla_ros.core.voxels import OCC3D_GRID
from sparseoccvla_ros.occupancy.attention import DistanceAttention
from sparseoccvla_ros.occupancy.config import OccupancyConfig
from sparseoccvla_ros.occupancy.decoder import OccupancyDecoder
from sparseoccvla_ros.occupancy.mixing import AdaptiveMixing
from sparseoccvla_ros.occupancy.sampling.views import SceneViews

pytestmark = pytest.mark.numeric


def randomise(module: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data.normal_(0.0, 0.3, generator=generator)


def linear(layer: torch.nn.Linear, x: np.ndarray) -> np.ndarray:
    return x @ layer.weight.detach().double().numpy().T + layer.bias.detach().double().numpy()


def normalised(x: np.ndarray) -> np.ndarray:
    """Layer norm without affine, jointly over a matrix."""
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5)


def test_attention_row_by_row():
    attention = DistanceAttention(8, heads=2)
    randomise(attention)
    query, centres = torch.randn(1, 5, 8), torch.randn(1, 5, 3) * 2 + 30
    q, k, v = np.split(linear(attention.in_proj, query[0].double().numpy()), 3, axis=1)
    tau = linear(attention.gen_tau, query[0].double().numpy())
    where = centres[0].double().numpy()
    mixed = np.zeros((5, 8))
    for head in range(2):
        part = slice(4 * head, 4 * head + 4)
        for i in range(5):
            logits = np.array(
                [q[i, part] @ k[j, part] / 2 - tau[i, head] * np.linalg.norm(where[i] - where[j]) for j in range(5)]
            )
            weights = np.exp(logits - logits.max())
            mixed[i, part] = weights / weights.sum() @ v[:, part]
    expected = query[0].double().numpy() + linear(attention.out_proj, mixed)
    np.testing.assert_allclose(attention(query, centres)[0].detach().numpy(), expected, atol=1e-4)


def test_mixing_group_by_group():
    mixing = AdaptiveMixing(12, groups=3, input_points=5, output_points=2)
    randomise(mixing)
    query, samples = torch.randn(1, 2, 12), torch.randn(1, 2, 3, 5, 4)
    generated = linear(mixing.parameter_generator, query[0].double().numpy())
    for row in range(2):
        flat = []
        for group in range(3):
            numbers = generated[row, group * 26 : group * 26 + 26]
            x = samples[0, row, group].double().numpy() @ numbers[:16].reshape(4, 4)
            x = np.maximum(normalised(x), 0)
            x = np.maximum(normalised(numbers[16:].reshape(2, 5) @ x), 0)
            flat.append(x.ravel())
        expected = query[0, row].double().numpy() + linear(mixing.out_proj, np.concatenate(flat))
        np.testing.assert_allclose(mixing(samples, query)[0, row].detach().numpy(), expected, atol=1e-4)


def tiny_scene(config: OccupancyConfig) -> SceneViews:
    levels = [torch.randn(config.frames * 2, config.embed_dims, 8, 12) for _ in config.strides]
    ego2img = torch.eye(4).expand(1, config.frames, 2, 4, 4)
    return SceneViews.of_levels(levels, ego2img, torch.ones(1, config.frames, 2, dtype=torch.bool), (64, 96))


def test_layers_sample_around_the_mean_with_the_unbiased_spread():
    config = OccupancyConfig(queries=6, embed_dims=16, heads=2, points_per_layer=(1, 4, 8))
    torch.manual_seed(0)
    decoder = OccupancyDecoder(config, OCC3D_GRID).eval()
    calls: list[tuple[Tensor, ...]] = []
    for layer in decoder.layers:
        layer.sampling.register_forward_pre_hook(lambda _module, inputs: calls.append(inputs))
    with torch.no_grad():
        outputs = decoder(tiny_scene(config))
    start = decoder.to_metres(decoder.init_points.weight.detach())
    torch.testing.assert_close(calls[0][1][0], start)
    assert not calls[0][2].any()
    assert not calls[1][2].any()
    points = decoder.to_metres(outputs[1].points[0]).numpy()
    np.testing.assert_allclose(calls[2][1][0].numpy(), points.mean(1), atol=1e-5)
    np.testing.assert_allclose(calls[2][2][0].numpy(), points.std(1, ddof=1), atol=1e-5)


def test_new_points_hang_on_the_mean_of_the_old_ones():
    config = OccupancyConfig(queries=6, embed_dims=16, heads=2, points_per_layer=(4, 8), offset_scale=0.5)
    torch.manual_seed(0)
    decoder = OccupancyDecoder(config, OCC3D_GRID).eval()
    with torch.no_grad():
        first, second = decoder(tiny_scene(config))
        offset = decoder.layers[1].reg_branch(second.features).view(1, 6, 8, 3)
    centre = decoder.to_metres(first.points).mean(2, keepdim=True)
    torch.testing.assert_close(decoder.to_metres(second.points), centre + 0.5 * offset, atol=1e-4, rtol=0)


def test_untrained_queries_start_inside_the_grid_near_the_ground():
    config = OccupancyConfig()
    start = OccupancyDecoder(config, OCC3D_GRID).init_points.weight.detach()
    metres = OccupancyDecoder(config, OCC3D_GRID).to_metres(start)
    low, high = config.initial_height
    assert ((metres[:, 2] > low - 1e-4) & (metres[:, 2] < high + 1e-4)).all()
    assert ((start >= 0) & (start <= 1)).all()
    assert metres[:, :2].abs().max() > 30
