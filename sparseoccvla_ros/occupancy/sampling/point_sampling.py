"""Module that samples image features at each query's points with the implementation for the device."""

from __future__ import annotations

import importlib.util
from functools import cache

import torch
from torch import Tensor, nn

from ...core.onednn import Linear
from .views import SamplingRules, SceneViews, sample_plain

PATHS = ("auto", "plain", "bag", "triton")


class PointSampling(nn.Module):
    """Samples image features of all frames and levels at points generated per query (SparseBEV, OPUS).

    A sampling point lies at the query's centre + spread * offset, or with prototypes (OPUS-V2) at centre + spread *
    prototype + offset, where the offset is in metres. Rows of `sampling_prototype`: (group, point); of
    `sampling_offset`: (group, point, xyz); of `scale_weights`: (group, point, level). path: one of PATHS; auto
    selects the Triton kernel on CUDA if Triton is installed, the weighted gather on a CPU, and the plain path
    elsewhere and during export.
    """

    def __init__(
        self,
        embed_dims: int,
        groups: int,
        points: int,
        levels: int,
        rules: SamplingRules,
        compatible: bool,
        prototypes: bool = False,
    ) -> None:
        super().__init__()
        self.groups, self.points, self.levels = groups, points, levels
        self.rules, self.compatible = rules, compatible
        self.path = "auto"
        self.sampling_prototype = nn.Embedding(groups * points, 3) if prototypes else None
        self.sampling_offset = Linear(embed_dims, groups * points * 3)
        self.scale_weights = Linear(embed_dims, groups * points * levels)
        nn.init.zeros_(self.sampling_offset.weight)
        nn.init.uniform_(self.sampling_offset.bias, -0.5, 0.5)

    def forward(self, query: Tensor, centres: Tensor, spread: Tensor, scene: SceneViews) -> Tensor:
        """query [B, Q, C], centres and spread [B, Q, 3] m to [B, Q, G, T * P, C / G], frames in order of age."""
        b, q, _ = query.shape
        offset = self.sampling_offset(query).float().view(b, q, self.groups, self.points, 3)
        spread = spread[:, :, None, None]
        if self.sampling_prototype is not None:
            offset = offset + spread * self.sampling_prototype.weight.view(self.groups, self.points, 3)
        else:
            offset = offset * spread
        points = centres[:, :, None, None] + offset
        weights = self.level_weights(query, scene.ego2img.shape[1])
        path = pick_path(self.path, points.device)
        if path == "bag":
            from .embedding_bag import sample_bag

            return sample_bag(scene, points, weights, self.rules)
        if path == "triton":
            from .triton_kernel import sample_triton

            return sample_triton(scene, points, weights, self.rules)
        return sample_plain(scene, points, weights, self.rules)

    def level_weights(self, query: Tensor, frames: int) -> Tensor:
        """Returns softmax weights [B, T, G, Q, P, L] of the levels, frames in order of age.

        With `compatible`, weights laid out (group, frame) are applied to features laid out (frame, group): frame t,
        group g uses the weights of group (t * G + g) // T (SparseBEV issue 24), as public weights were trained.
        """
        b, q, _ = query.shape
        g, t = self.groups, frames
        weights = self.scale_weights(query).float().view(b, q, g, self.points, self.levels).softmax(-1)
        weights = weights.permute(0, 2, 1, 3, 4)
        if not self.compatible:
            return weights[:, None].expand(-1, t, -1, -1, -1, -1)
        source = torch.arange(t * g, device=query.device) // t
        return weights.index_select(1, source).view(b, t, g, q, self.points, self.levels)


def pick_path(path: str, device: torch.device) -> str:
    """Resolve one of PATHS to plain, bag or triton."""
    if path != "auto":
        return path
    if torch.compiler.is_exporting():
        return "plain"
    if device.type == "cuda" and _has_triton():
        return "triton"
    return "bag" if device.type == "cpu" else "plain"


@cache
def _has_triton() -> bool:
    """Returns True if Triton is installed; cached because every decoder layer calls it at every step."""
    return importlib.util.find_spec("triton") is not None
