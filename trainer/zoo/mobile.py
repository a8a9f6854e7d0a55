"""MobileNetV2: a network for images that mostly consists of 1 × 1 and depthwise convolutions, with random weights."""

from __future__ import annotations

from torch import Tensor, nn

from nested_sparse.errors import TrainingError

_STAGES = ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1))
"""Stages: expansion, channels, blocks (arXiv:1801.04381, table 2)."""


class InvertedResidual(nn.Module):
    """1 × 1 convolution to expand, depthwise 3 × 3, 1 × 1 to project; a shortcut where the shape stays."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        expand = [] if expansion == 1 else [_normed(inputs, hidden, 1)]
        depthwise = _normed(hidden, hidden, 3, stride, groups=hidden)
        project = nn.Sequential(nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.conv = nn.Sequential(*expand, depthwise, project)
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H/stride, W/stride)."""
        y: Tensor = self.conv(x)
        return x + y if self.shortcut else y


class MobileNetV2(nn.Module):
    """MobileNetV2 (arXiv:1801.04381) at width 1: 3.5 million weights at 1000 classes, 0.6 GFLOP at 224 × 224.

    width: factor on the channels, which stay multiples of 8. strides: of the stem and of each stage; for small images
    some of them are 1.
    """

    def __init__(
        self,
        *,
        classes: int = 1000,
        channels: int = 3,
        width: float = 1.0,
        strides: tuple[int, ...] = (2, 1, 2, 2, 2, 1, 2, 1),
    ) -> None:
        super().__init__()
        if len(strides) != 1 + len(_STAGES):
            raise TrainingError(f"strides: expected {1 + len(_STAGES)} of them, of the stem and the stages")
        features = _scaled(32, width)
        self.stem = _normed(channels, features, 3, strides[0])
        blocks = []
        for (expansion, full, count), stride in zip(_STAGES, strides[1:], strict=True):
            outputs = _scaled(full, width)
            for index in range(count):
                blocks.append(InvertedResidual(features, outputs, stride if index == 0 else 1, expansion))
                features = outputs
        self.blocks = nn.Sequential(*blocks)
        last = _scaled(1280, max(1.0, width))
        self.head = _normed(features, last, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(last, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to logits (N, classes)."""
        x = self.head(self.blocks(self.stem(x)))
        logits: Tensor = self.fc(self.flatten(self.pool(x)))
        return logits


def _scaled(channels: int, width: float) -> int:
    """The multiple of 8 that is nearest to `width` times `channels`, at least 8, and not a tenth below it."""
    scaled = max(8, int(width * channels + 4) // 8 * 8)
    return scaled + 8 if scaled < 0.9 * width * channels else scaled


def _normed(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution that keeps the image's size at stride 1, its norm, and ReLU6."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU6())
