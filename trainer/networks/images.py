"""Networks for images with plain, grouped and 1 × 1 convolutions: ResNets, RegNet, DenseNet and ConvNeXt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from ..zoo import ResNet50
from .blocks import SqueezeExcite, conv_norm
from .network import CONVOLUTIONS, PRODUCTS, Network, Size, floats

Norm = Callable[[int], nn.Module]


class BasicBlock(nn.Module):
    """Two 3 × 3 convolutions and a shortcut, which is a 1 × 1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *conv_norm(inputs, outputs, 3, stride, norm=norm), *conv_norm(outputs, outputs, 3, norm=norm, act=None)
        )
        changes = stride != 1 or inputs != outputs
        self.shortcut = nn.Sequential(*conv_norm(inputs, outputs, 1, stride, norm=norm, act=None) if changes else [])
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H/stride, W/stride)."""
        y: Tensor = self.relu(self.body(x) + self.shortcut(x))
        return y


class RegNetBlock(nn.Module):
    """The Y block: 1 × 1, grouped 3 × 3, squeeze and excitation, 1 × 1, and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, group_width: int = 16) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *conv_norm(inputs, outputs, 1),
            *conv_norm(outputs, outputs, 3, stride, groups=outputs // group_width),
            SqueezeExcite(outputs, inputs // 4),
            *conv_norm(outputs, outputs, 1, act=None),
        )
        changes = stride != 1 or inputs != outputs
        self.shortcut = nn.Sequential(*conv_norm(inputs, outputs, 1, stride, act=None) if changes else [])
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H/stride, W/stride)."""
        y: Tensor = self.relu(self.body(x) + self.shortcut(x))
        return y


class DenseLayer(nn.Module):
    """Norm, ReLU, 1 × 1, norm, ReLU, 3 × 3 convolution of all that came before; its `growth` channels are added."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.ReLU(),
            *conv_norm(inputs, 4 * growth, 1),
            nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, inputs + growth, H, W)."""
        return torch.cat([x, self.body(x)], 1)


class ConvNeXtBlock(nn.Module):
    """A depthwise 7 × 7 convolution, LayerNorm over channels, two linear layers with GELU, a scale and a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels))
        self.scale = nn.Parameter(torch.full((channels,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        y: Tensor = self.mlp(self.norm(self.depthwise(x).permute(0, 2, 3, 1)))
        return x + (self.scale * y).permute(0, 3, 1, 2)


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of (N, C, H, W)."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (N, C, H, W)."""
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def resnet(blocks: Sequence[int], norm: Norm) -> nn.Module:
    """A ResNet of basic blocks, 64 to 512 channels, with 1000 classes."""
    layers = [*conv_norm(3, 64, 7, 2, norm=norm), nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for stage, count in enumerate(blocks):
        for index in range(count):
            outputs = 64 << stage
            layers.append(BasicBlock(inputs, outputs, 2 if stage and not index else 1, norm))
            inputs = outputs
    return _classifier(layers, inputs)


def regnet(blocks: Sequence[int], widths: Sequence[int] = (48, 104, 208, 440), group_width: int = 8) -> nn.Module:
    """RegNetY-400MF by default (arXiv:2003.13678, table of Y models)."""
    layers, inputs = [*conv_norm(3, 32, 3, 2)], 32
    for count, width in zip(blocks, widths, strict=True):
        for index in range(count):
            layers.append(RegNetBlock(inputs, width, 1 if index else 2, group_width))
            inputs = width
    return _classifier(layers, inputs)


def densenet(blocks: Sequence[int], growth: int = 32) -> nn.Module:
    """DenseNet-BC: after each block but the last one, a 1 × 1 convolution and a pool halve channels and image."""
    channels = 2 * growth
    layers = [*conv_norm(3, channels, 7, 2), nn.MaxPool2d(3, 2, 1)]
    for index, count in enumerate(blocks):
        for _ in range(count):
            layers.append(DenseLayer(channels, growth))
            channels += growth
        layers += [nn.BatchNorm2d(channels), nn.ReLU()]
        if index < len(blocks) - 1:
            layers += [nn.Conv2d(channels, channels // 2, 1, bias=False), nn.AvgPool2d(2)]
            channels //= 2
    return _classifier(layers, channels)


def convnext(blocks: Sequence[int], widths: Sequence[int] = (96, 192, 384, 768)) -> nn.Module:
    """ConvNeXt-T by default: a stem of 4 × 4 patches, and a strided convolution between stages."""
    layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, 4), ChannelNorm(widths[0])]
    for index, (count, width) in enumerate(zip(blocks, widths, strict=True)):
        layers += [ConvNeXtBlock(width) for _ in range(count)]
        if index < len(widths) - 1:
            layers += [ChannelNorm(width), nn.Conv2d(width, widths[index + 1], 2, 2)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(widths[-1]), nn.Linear(widths[-1], 1000)]
    return nn.Sequential(*layers, *head)


def _classifier(layers: Sequence[nn.Module], channels: int) -> nn.Module:
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000))


def _size(make: Callable[..., nn.Module], *arguments: object) -> Size:
    return Size(partial(make, *arguments), floats(3, 224, 224))


_group_norm = partial(nn.GroupNorm, 32)

NETWORKS = (
    Network(
        "resnet50",
        "arXiv:1512.03385, v1.5",
        CONVOLUTIONS,
        _size(ResNet50),
        _size(partial(ResNet50, blocks=(1, 1, 1, 1))),
    ),
    Network(
        "resnet34-groupnorm",
        "arXiv:1512.03385 with arXiv:1803.08494",
        CONVOLUTIONS,
        _size(resnet, (3, 4, 6, 3), _group_norm),
        _size(resnet, (1, 1, 1, 1), _group_norm),
    ),
    Network(
        "regnety-400mf",
        "arXiv:2003.13678",
        CONVOLUTIONS,
        _size(regnet, (1, 3, 6, 6)),
        _size(regnet, (1, 1, 1, 1)),
    ),
    Network(
        "densenet121",
        "arXiv:1608.06993",
        CONVOLUTIONS,
        _size(densenet, (6, 12, 24, 16)),
        _size(densenet, (2, 2, 2, 2)),
    ),
    Network(
        "convnext-tiny",
        "arXiv:2201.03545",
        PRODUCTS,
        _size(convnext, (3, 3, 9, 3)),
        _size(convnext, (1, 1, 1, 1)),
    ),
)
