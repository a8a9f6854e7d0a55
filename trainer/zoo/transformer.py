"""Transformer: self-attention and its block, which several networks have (arXiv:1706.03762)."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

Maker = Callable[[], nn.Module]
KeysAndValues = tuple[Tensor, Tensor]
"""Those of a layer's past words, each (N, heads, room, width / heads)."""


class SelfAttention(nn.Module):
    """Attention with one packed projection, made by `linear(inputs, outputs)`."""

    def __init__(
        self, width: int, heads: int, *, causal: bool = False, linear: Callable[[int, int], nn.Module] = nn.Linear
    ) -> None:
        if heads < 1 or width % heads:
            raise ValueError(f"heads: expected a divisor of width, {width}, got {heads}")
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv, self.out = linear(width, 3 * width), linear(width, width)

    def forward(self, x: Tensor, closed: Tensor | None = None) -> Tensor:
        """(N, T, width) to the same shape. closed: added to the weights (N, heads, T, T), or of a shape like it."""
        query, key, value = self._split(x)
        return self._joined(F.scaled_dot_product_attention(query, key, value, closed, is_causal=self.causal))

    def step(self, x: Tensor, past: KeysAndValues, slots: Tensor, seen: Tensor) -> tuple[Tensor, KeysAndValues]:
        """(N, T, width) to the same shape, and the past with the keys and values of `x` in it.

        slots: (N, T), their places in the room. seen: bool (N, 1, T, room), the places that each of x attends to.
        """
        query, key, value = self._split(x)
        index = slots[:, None, :, None].expand_as(key)
        keys, values = past[0].scatter(2, index, key), past[1].scatter(2, index, value)
        return self._joined(F.scaled_dot_product_attention(query, keys, values, seen)), (keys, values)

    def _split(self, x: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values, each (N, heads, T, width / heads)."""
        n, t, width = x.shape
        split: Tensor = self.qkv(x).view(n, t, 3, self.heads, width // self.heads)
        return split.permute(2, 0, 3, 1, 4).unbind(0)

    def _joined(self, mixed: Tensor) -> Tensor:
        projected: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
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
        return self._rest(x, self.attention(self.norm1(x), closed))

    def step(self, x: Tensor, past: KeysAndValues, slots: Tensor, seen: Tensor) -> tuple[Tensor, KeysAndValues]:
        """As SelfAttention.step."""
        mixed, past = self.attention.step(self.norm1(x), past, slots, seen)
        return self._rest(x, mixed), past

    def _rest(self, x: Tensor, mixed: Tensor) -> Tensor:
        x = x + self.dropout(mixed)
        y: Tensor = x + self.dropout(self.mlp(self.norm2(x)))
        return y
