"""Backbones: the packaged weights, and the arithmetic of the folded batch norm."""

from __future__ import annotations

import importlib.metadata

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.occupancy.backbone import EfficientNetLite, ResNet50, conv_norm, package_weights
from sparseoccvla_ros.occupancy.config import OccupancyConfig
from sparseoccvla_ros.occupancy.encoder import OccupancyEncoder


@pytest.fixture(scope="module")
def packaged() -> dict[str, Tensor]:
    state = package_weights("efficientnet_lite0")
    if state is None:
        pytest.skip("the package with EfficientNet-Lite0 weights is not installed")
    return state


@pytest.fixture(scope="module")
def picture() -> Tensor:
    """[2, 3, 64, 96], normalised noise."""
    return torch.rand((2, 3, 64, 96), generator=torch.Generator().manual_seed(5)) * 2 - 1


def same_conv(x: Tensor, weight: Tensor, stride: int, groups: int) -> Tensor:
    """TensorFlow's SAME padding, by its definition."""
    kernel = weight.shape[-1]
    pads = []
    for size in (x.shape[-1], x.shape[-2]):
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        pads += [total // 2, total - total // 2]
    return F.conv2d(F.pad(x, pads), weight, stride=stride, groups=groups)


def reference_features(state: dict[str, Tensor], x: Tensor) -> list[Tensor]:
    """EfficientNet-Lite0 straight from the packaged names: features at strides 8, 16, 32."""

    def norm(y: Tensor, name: str) -> Tensor:
        stored = (state[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(y, *stored, eps=1e-3)

    strides = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1]
    x = F.relu6(norm(same_conv(x, state["_conv_stem.weight"], 2, 1), "_bn0"))
    taps = []
    for index, stride in enumerate(strides):
        block = f"_blocks.{index}."
        y = x
        if f"{block}_expand_conv.weight" in state:
            y = F.relu6(norm(F.conv2d(y, state[f"{block}_expand_conv.weight"]), f"{block}_bn0"))
        y = same_conv(y, state[f"{block}_depthwise_conv.weight"], stride, y.shape[1])
        y = F.relu6(norm(y, f"{block}_bn1"))
        y = norm(F.conv2d(y, state[f"{block}_project_conv.weight"]), f"{block}_bn2")
        x = y + x if stride == 1 and y.shape == x.shape else y
        if index in (4, 10, 15):
            taps.append(x)
    return taps


def test_packaged_weights_give_the_reference_features(packaged, picture):
    model = EfficientNetLite(0)
    model.load_package(packaged)
    with torch.no_grad():
        features, expected = model(picture), reference_features(packaged, picture)
    assert [f.shape[1] for f in features] == [40, 112, 320] == list(model.channels)
    for got, want in zip(features, expected, strict=True):
        torch.testing.assert_close(got, want, atol=1e-3, rtol=1e-3)


def test_every_packaged_tensor_is_used_once(packaged):
    model = EfficientNetLite(0)
    model.load_package(packaged)
    head = ("_conv_head.", "_bn1.", "_fc.")
    body = [k for k in packaged if not k.startswith(head) and not k.endswith("num_batches_tracked")]
    state = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert len(state) == len(body)
    assert sorted(float(v.double().sum()) for v in state.values()) == sorted(
        float(packaged[k].double().sum()) for k in body
    )


def test_features_and_input_scaling_serve_the_packaged_classifier(packaged):
    """With the packaged head on top, a drawn chess board is a crossword puzzle (ImageNet class 918): the nearest
    of the thousand classes, none of which is a board."""
    config = OccupancyConfig()
    board = np.kron(np.indices((8, 8)).sum(0) % 2, np.ones((28, 28)))
    rgb = torch.from_numpy(board).float().expand(1, 3, -1, -1) * 255
    x = (rgb - torch.tensor(config.image_mean).view(3, 1, 1)) / torch.tensor(config.image_std).view(3, 1, 1)
    model = EfficientNetLite(0)
    model.load_package(packaged)
    with torch.no_grad():
        y = F.conv2d(model(x)[-1], packaged["_conv_head.weight"])
        stored = (packaged[f"_bn1.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
        y = F.relu6(F.batch_norm(y, *stored, eps=1e-3)).mean((2, 3))
        logits = y @ packaged["_fc.weight"].T + packaged["_fc.bias"]
    assert logits.argmax() == 918


def test_folded_norm_equals_norm_after_convolution():
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(6, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8).eval()
    for tensor in (norm.weight.data, norm.bias.data, norm.running_mean):
        tensor.normal_()
    norm.running_var.uniform_(0.5, 2)
    x = torch.randn(2, 6, 9, 11)
    torch.testing.assert_close(conv_norm(x, conv, norm), norm(conv(x)), atol=1e-5, rtol=1e-5)


def test_absent_package_is_reported(monkeypatch):
    def absent(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", absent)
    encoder = OccupancyEncoder(OccupancyConfig(queries=4))
    assert len(encoder.warnings) == 1
    assert "efficientnet_lite0" in encoder.warnings[0]
    assert OccupancyEncoder(OccupancyConfig(queries=4, pretrained=False)).warnings == ()


def test_weights_of_another_variant_are_refused(packaged):
    with pytest.raises(InvalidInput, match="backbone"):
        EfficientNetLite(1).load_package(packaged)
    damaged = {k: v for k, v in packaged.items() if k != "_blocks.3._bn1.bias"}
    with pytest.raises(InvalidInput, match=r"_blocks\.3\._bn1\.bias"):
        EfficientNetLite(0).load_package(damaged)


@pytest.mark.parametrize(("variant", "channels"), [(0, (40, 112, 320)), (1, (40, 112, 320)), (2, (48, 120, 352))])
def test_variants_have_the_published_channels(variant, channels):
    assert EfficientNetLite(variant).channels == channels


def test_resnet_has_torchvision_names_and_strides():
    model = ResNet50(8)
    names = set(model.state_dict())
    assert len(names) == 318
    assert {"layer1.0.downsample.0.weight", "layer4.2.bn3.running_var", "layer3.5.conv2.weight", "bn1.bias"} <= names
    features = model(torch.randn(1, 3, 64, 96))
    assert [tuple(f.shape[1:]) for f in features] == [(32, 16, 24), (64, 8, 12), (128, 4, 6), (256, 2, 3)]
