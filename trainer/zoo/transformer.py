"""Transformer: self-attention and its block, which several networks have (arXiv:1706.03762)."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

Maker = Callable[[], nn.Module]


class SelfAttention(nn.Module):
    """Attention with one packed projection, made by `linear(inputs, outputs)`."""

    def __init__(
        self, width: int, heads: int, *, causal: bool = False, linear: Callable[[int, int], nn.Module] = nn.Linear
    ) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv, self.out = linear(width, 3 * width), linear(width, width)

    def forward(self, x: Tensor, closed: Tensor | None = None) -> Tensor:
        """(N, T, width) to the same shape. closed: added to the weights (N, heads, T, T), or of a shape like it."""
        n, t, width = x.shape
        split = self.qkv(x).view(n, t, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value, closed, is_causal=self.causal)
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
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads, causal=causal, linear=linear)
        self.mlp = nn.Sequential(linear(width, 4 * width), act(), linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, closed: Tensor | None = None) -> Tensor:
        """(N, T, width) to the same shape. closed: as of SelfAttention."""
        x = x + self.dropout(self.attention(self.norm1(x), closed))
        y: Tensor = x + self.dropout(self.mlp(self.norm2(x)))
        return y
