"""Blocks: parts that several networks have."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Maker = Callable[[], nn.Module]


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


class SelfAttention(nn.Module):
    """Attention with one packed projection, made by `linear(inputs, outputs)`."""

    def __init__(
        self, width: int, heads: int, *, causal: bool = False, linear: Callable[[int, int], nn.Module] = nn.Linear
    ) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv, self.out = linear(width, 3 * width), linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, width) to the same shape."""
        n, t, width = x.shape
        split = self.qkv(x).view(n, t, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        projected: Tensor = self.out(mixed.transpose(1, 2).reshape(n, t, width))
        return projected


class TransformerBlock(nn.Module):
    """Attention and two linear layers, each behind a LayerNorm and beside a shortcut."""

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        causal: bool = False,
        act: Maker = nn.GELU,
        linear: Callable[[int, int], nn.Module] = nn.Linear,
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads, causal=causal, linear=linear)
        self.mlp = nn.Sequential(linear(width, 4 * width), act(), linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, width) to the same shape."""
        x = x + self.attention(self.norm1(x))
        y: Tensor = x + self.mlp(self.norm2(x))
        return y
