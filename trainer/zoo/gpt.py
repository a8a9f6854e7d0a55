"""GPT: a decoder-only Transformer, which predicts the next word, or byte, at each position."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from .transformer import TransformerBlock


class TransposedLinear(nn.Module):
    """The linear layer of the original GPT-2, which transformers calls Conv1D: its weight is (inputs, outputs)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.02 * torch.randn(inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(…, inputs) to (…, outputs)."""
        flat = torch.addmm(self.bias, x.reshape(-1, x.shape[-1]), self.weight)
        return flat.view(*x.shape[:-1], self.weight.shape[1])


class TanhGELU(nn.GELU):
    """GELU by tanh, as GPT-2 has it."""

    def __init__(self) -> None:
        super().__init__(approximate="tanh")


class GPT(nn.Module):
    """A decoder whose output layer has the weight of its embedding.

    longest: most words of a text. original: layers and GELU as in OpenAI's code; else as in karpathy/nanoGPT.
    """

    def __init__(
        self,
        *,
        width: int = 384,
        depth: int = 6,
        heads: int = 6,
        vocabulary: int = 256,
        longest: int = 256,
        original: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(vocabulary, width), nn.Embedding(longest, width)
        linear, act = (TransposedLinear, TanhGELU) if original else (nn.Linear, nn.GELU)
        block = partial(TransformerBlock, width, heads, causal=True, act=act, linear=linear, dropout=dropout)
        blocks = (block() for _ in range(depth))
        self.blocks, self.norm = nn.Sequential(*blocks), nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        for embedding in (self.words, self.places):  # as nanoGPT: the logits of a new net are near 0
            nn.init.normal_(embedding.weight, std=0.02)
        self.head.weight = self.words.weight

    def forward(self, words: Tensor) -> Tensor:
        """(N, T) words to logits (N, T, vocabulary)."""
        places = torch.arange(words.shape[1], device=words.device)
        y: Tensor = self.head(self.norm(self.blocks(self.words(words) + self.places(places))))
        return y
