"""Blocks: parts that several networks have."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..zoo.transformer import Maker as Maker


def conv_norm(
    inputs: int,
    outputs: int,
    kernel: int,
    stride: int = 1,
    *,
    groups: int = 1,
    norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
    act: Maker | None = nn.ReLU,
) -> list[nn.Module]:
    """A 2-D convolution that keeps the image's size at stride 1, its norm, and its activation unless that is None."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, norm(outputs), *([act()] if act else [])]


class SqueezeExcite(nn.Module):
    """Squeeze and excitation (arXiv:1709.01507): channels times a gate that is computed from their means."""

    def __init__(self, channels: int, inner: int, act: Maker = nn.ReLU, gate: Maker = nn.Sigmoid) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, inner, 1), act(), nn.Conv2d(inner, channels, 1), gate()
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        gated: Tensor = x * self.gate(x)
        return gated


class RMSNorm(nn.Module):
    """Division by the root mean square of the last dimension (arXiv:1910.07467)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """(…, width) to the same shape."""
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))
