"""Feature pyramid on top of the backbone."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..core.onednn import Conv2d


class FeaturePyramid(nn.Module):
    """Feature pyramid network (Lin et al. 2017) as built by mmdet for OPUS: no norm, no activation.

    inputs: channels per level, finest first. `forward` takes [M, inputs[l], H_l, W_l] and returns
    [M, channels, H_l, W_l]: 1x1 lateral convolutions, nearest top-down upsampling, 3x3 output convolutions
    (with `depthwise`, depthwise 3x3 then 1x1, a sixth of the cost at 128 channels).
    """

    def __init__(self, inputs: tuple[int, ...], channels: int, depthwise: bool = False) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(Conv2d(i, channels, 1) for i in inputs)
        self.output: nn.ModuleList
        if depthwise:
            self.output = nn.ModuleList(
                nn.Sequential(
                    Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
                    Conv2d(channels, channels, 1),
                )
                for _ in inputs
            )
        else:
            self.output = nn.ModuleList(Conv2d(channels, channels, 3, padding=1) for _ in inputs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        levels = [lateral(f) for lateral, f in zip(self.lateral, features, strict=True)]
        for fine in range(len(levels) - 2, -1, -1):
            up = F.interpolate(levels[fine + 1], size=levels[fine].shape[-2:], mode="nearest")
            levels[fine] = levels[fine] + up
        return [output(level) for output, level in zip(self.output, levels, strict=True)]
