"""GPT: a decoder-only Transformer, which predicts the next word, or byte, at each position."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.export import Dim

from .transformer import KeysAndValues, TransformerBlock

EXAMPLES, EXAMPLE_LENGTH, EXAMPLE_ROOM = 2, 2, 32
"""Size of the example of a file that takes a text piece by piece: the times of a level are measured near it first."""


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

    def forward(
        self, words: Tensor, begin: Tensor | None = None, past: Sequence[KeysAndValues] = ()
    ) -> Tensor | tuple[Tensor, Tensor, list[KeysAndValues]]:
        """(N, T) words to logits (N, T, vocabulary).

        With `begin`, int64 (N,), they go on behind that many words, whose keys and values are in `past`, of each block
        (N, heads, room, width / heads). Then it also returns both for the words that follow. The room, of T words at
        least, is a ring: word t is in slot t % room, so a text that is longer goes on with its last words in view.
        Beyond `longest` words, places begin again, for which a net is not trained.
        """
        if begin is None:
            places = torch.arange(words.shape[1], device=words.device)
            y: Tensor = self.head(self.norm(self.blocks(self.words(words) + self.places(places))))
            return y
        ring = torch.arange(past[0][0].shape[2], device=words.device)
        room = ring[-1:] + 1  # a tensor, because ONNX has no remainder by a size
        at = begin[:, None] + torch.arange(words.shape[1], device=words.device)
        slots = at % room
        last = at[:, -1:]
        # the word in a slot is the last one before `last` that has this remainder
        held = last - (last - ring) % room
        seen = ((held[:, None] <= at[:, :, None]) & (held[:, None] >= 0))[:, None]
        x, kept = self.words(words) + self.places(at % self.places.num_embeddings), []
        for block, each in zip(self._stack(), past, strict=True):
            x, both = block.step(x, each, slots, seen)
            kept.append(both)
        return self.head(self.norm(x)), begin + words.shape[1], kept

    def stepwise(self) -> dict[str, Any]:
        """Arguments of `export`, beside the net and the path, for a file that takes a text piece by piece."""
        longest, width = self.places.weight.shape
        heads = self._stack()[0].attention.heads
        room = (EXAMPLES, heads, min(longest, EXAMPLE_ROOM), width // heads)
        names = [f"{kind}_{layer}" for layer in range(len(self.blocks)) for kind in ("keys", "values")]
        words = torch.arange(EXAMPLES * EXAMPLE_LENGTH).view(EXAMPLES, -1) % self.words.num_embeddings
        past = [(torch.randn(room), torch.randn(room)) for _ in self.blocks]
        one, ring = {0: "batch"}, {0: "batch", 2: Dim("room", max=longest)}
        return {
            "example_inputs": (words, torch.arange(EXAMPLES) % longest, past),
            "dynamic_shapes": (
                {0: "batch", 1: Dim("length", max=longest)},
                one,
                [(ring, ring)] * len(past),
            ),
            "input_names": ("words", "begin", *names),
            "output_names": ("logits", "begin_out", *(f"{name}_out" for name in names)),
            "state": {f"{name}_out": name for name in ("begin", *names)},
        }

    def _stack(self) -> list[TransformerBlock]:
        return cast("list[TransformerBlock]", list(self.blocks))
