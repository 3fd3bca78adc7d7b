"""Sinusoidal encodings of metric positions and of places in a list."""

from __future__ import annotations

import math

import torch

SHORTEST, LONGEST = 1.0, 200.0
"""Metres: a voxel diagonal is about the shortest wavelength worth telling apart, the grid's diagonal the longest."""


def encode_positions(positions: torch.Tensor, dims: int) -> torch.Tensor:
    """Sine and cosine features [..., dims] of positions [..., n] in metres; wavelengths 1 to 200 m, geometric.

    Where 2 n does not divide dims, the highest frequencies of the last axis are left out.
    """
    axes = positions.shape[-1]
    count = math.ceil(dims / (2 * axes))
    steps = torch.linspace(0.0, 1.0, count, device=positions.device)
    frequencies = 2 * math.pi / (LONGEST * (SHORTEST / LONGEST) ** steps)
    angles = positions.float()[..., None] * frequencies
    features = torch.cat([angles.sin(), angles.cos()], dim=-1)
    return features.flatten(-2)[..., :dims]


def encode_places(count: int, dims: int, device: torch.device) -> torch.Tensor:
    """Features [count, dims] that tell list places apart (camera 0, 1, 2 ...), for any count."""
    return encode_positions(torch.arange(count, device=device, dtype=torch.float32)[:, None], dims)
