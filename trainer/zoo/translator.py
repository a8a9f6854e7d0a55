"""Translator: a Transformer of an encoder and a decoder (arXiv:1706.03762), with norms in front."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .transformer import TransformerBlock


class CrossAttention(nn.Module):
    """Attention of one sequence over another."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.both, self.out = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, over: Tensor, closed: Tensor) -> Tensor:
        """x (N, T, width) and over (N, S, width) to the shape of x. closed: added to the weights (N, 1, 1, S)."""
        query = self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        key, value = self.both(over).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value, closed)
        y: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return y


class DecoderBlock(nn.Module):
    """Attention over the other sequence, behind a LayerNorm and beside a shortcut; then a causal TransformerBlock."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.across = nn.LayerNorm(width), CrossAttention(width, heads)
        self.block = TransformerBlock(width, heads, causal=True, dropout=dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, over: Tensor, closed: Tensor) -> Tensor:
        """As CrossAttention's."""
        y: Tensor = self.block(x + self.dropout(self.across(self.norm(x), over, closed)))
        return y


class Translator(nn.Module):
    """Translation, the words so far given. The output layer has the weight of the target's embedding.

    classes: number of words of either language. longest: most words of a sentence. pad: number of the word that fills
    a source up, and is not looked at.
    """

    def __init__(
        self,
        *,
        width: int = 128,
        depth: int = 3,
        heads: int = 4,
        classes: int = 4000,
        longest: int = 32,
        dropout: float = 0.1,
        pad: int = 0,
    ) -> None:
        super().__init__()
        self.pad = pad
        self.source, self.target = nn.Embedding(classes, width), nn.Embedding(classes, width)
        self.places = nn.Embedding(longest, width)
        self.encoder = nn.ModuleList(TransformerBlock(width, heads, dropout=dropout) for _ in range(depth))
        self.decoder = nn.ModuleList(DecoderBlock(width, heads, dropout) for _ in range(depth))
        self.norm_encoder, self.norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.head = nn.Linear(width, classes, bias=False)
        for embedding in (self.source, self.target, self.places):  # as nanoGPT: the logits of a new net are near 0
            nn.init.normal_(embedding.weight, std=0.02)
        self.head.weight = self.target.weight

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """(N, S) and (N, T) words to logits (N, T, classes) of the word behind each of `target`."""
        closed = torch.zeros_like(source, dtype=self.places.weight.dtype).masked_fill(source == self.pad, -1e9)
        closed = closed[:, None, None]
        states = self.source(source) + self.places(torch.arange(source.shape[1], device=source.device))
        for block in self.encoder:
            states = block(states, closed)
        states = self.norm_encoder(states)
        x = self.target(target) + self.places(torch.arange(target.shape[1], device=target.device))
        for block in self.decoder:
            x = block(x, states, closed)
        y: Tensor = self.head(self.norm(x))
        return y
