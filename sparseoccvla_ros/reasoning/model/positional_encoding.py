"""Sinusoidal encodings of metric positions and of list indices."""

from __future__ import annotations

import math

import torch

SHORTEST, LONGEST = 1.0, 200.0
"""m; range of wavelengths: about a voxel's diagonal to the grid's diagonal."""


def encode_positions(positions: torch.Tensor, dims: int) -> torch.Tensor:
    """Returns sine and cosine features [..., dims] of positions [..., n] in metres.

    Wavelengths: 200 to 1 m, geometric. If 2 n does not divide dims, the last axis lacks its highest-frequency cosines.
    """
    axes = positions.shape[-1]
    count = math.ceil(dims / (2 * axes))
    steps = torch.linspace(0.0, 1.0, count, device=positions.device)
    frequencies = 2 * math.pi / (LONGEST * (SHORTEST / LONGEST) ** steps)
    angles = positions.float()[..., None] * frequencies
    features = torch.cat([angles.sin(), angles.cos()], dim=-1)
    return features.flatten(-2)[..., :dims]


def encode_places(count: int, dims: int, device: torch.device) -> torch.Tensor:
    """Returns features [count, dims] of the list indices 0, 1, 2 ... (of the cameras), for any count."""
    return encode_positions(torch.arange(count, device=device, dtype=torch.float32)[:, None], dims)
