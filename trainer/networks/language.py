"""Transformers: BERT, GPT steps with a tied output layer, a Llama step with a cache, CLIP's text tower, ViT."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..zoo import GPT
from ..zoo.transformer import TransformerBlock
from .blocks import RMSNorm
from .network import PRODUCTS, Network, Size, floats, tokens


class Bert(nn.Module):
    """BERT-small: norms behind the sums, and a linear layer with tanh on the first token."""

    def __init__(self, *, width: int = 512, depth: int = 4, vocabulary: int = 30522, longest: int = 512) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(vocabulary, width), nn.Embedding(longest, width)
        self.norm = nn.LayerNorm(width)
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(width, width // 64, 4 * width, activation="gelu", batch_first=True), depth
        )
        self.pooler = nn.Linear(width, width)

    def forward(self, words: Tensor) -> tuple[Tensor, Tensor]:
        """(N, T) words to states (N, T, width) and a summary (N, width)."""
        places = torch.arange(words.shape[1], device=words.device)
        states = self.encoder(self.norm(self.words(words) + self.places(places)))
        return states, torch.tanh(self.pooler(states[:, 0]))


class LlamaBlock(nn.Module):
    """One token's attention over itself and a cache, with rotated positions; then a gated unit of SiLU."""

    def __init__(self, width: int, heads: int, shared: int, inner: int) -> None:
        super().__init__()
        self.heads, self.shared, self.size = heads, shared, width // heads
        self.norm1, self.norm2 = RMSNorm(width), RMSNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, shared * self.size, bias=False)
        self.value = nn.Linear(width, shared * self.size, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.gate, self.up = nn.Linear(width, inner, bias=False), nn.Linear(width, inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor, past: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor]:
        """x (N, 1, width), past (N, 2, shared, T, size); returns the same for the next block, and T + 1 steps."""
        n = x.shape[0]
        y = self.norm1(x)
        query = _rotated(self.query(y).view(n, 1, self.heads, self.size).transpose(1, 2), cosine, sine)
        key = _rotated(self.key(y).view(n, 1, self.shared, self.size).transpose(1, 2), cosine, sine)
        value = self.value(y).view(n, 1, self.shared, self.size).transpose(1, 2)
        cache = torch.cat([past, torch.stack([key, value], 1)], 3)
        keys, values = (each.repeat_interleave(self.heads // self.shared, 1) for each in cache.unbind(1))
        mixed = F.scaled_dot_product_attention(query, keys, values)
        x = x + self.out(mixed.transpose(1, 2).reshape(n, 1, -1))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y)), cache


class LlamaStep(nn.Module):
    """A step of a Llama-like decoder: one word and the cache of `past` words, to logits and the longer cache."""

    def __init__(self, *, width: int = 512, depth: int = 6, vocabulary: int = 16384, past: int = 64) -> None:
        super().__init__()
        heads, shared, inner = width // 64, width // 128, 8 * width // 3 // 32 * 32
        self.words = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(LlamaBlock(width, heads, shared, inner) for _ in range(depth))
        self.norm, self.head = RMSNorm(width), nn.Linear(width, vocabulary, bias=False)
        angles = past * 10000.0 ** (-torch.arange(0, 64, 2) / 64.0)
        self.register_buffer("cosine", torch.cat([angles, angles]).cos())
        self.register_buffer("sine", torch.cat([angles, angles]).sin())
        self.cosine: Tensor
        self.sine: Tensor

    def forward(self, word: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """Word (N, 1), past (N, depth, 2, shared, T, 64) to (N, 1, vocabulary) and (N, depth, 2, shared, T + 1, 64)."""
        x, caches = self.words(word), []
        for block, cache in zip(self.blocks, past.unbind(1), strict=True):
            x, longer = block(x, cache, self.cosine, self.sine)
            caches.append(longer)
        return self.head(self.norm(x)), torch.stack(caches, 1)


class QuickGELU(nn.Module):
    """x · sigmoid(1.702 x), as in CLIP."""

    def forward(self, x: Tensor) -> Tensor:
        """Each value by itself."""
        return x * torch.sigmoid(1.702 * x)


class ClipText(nn.Module):
    """CLIP's text tower: a causal Transformer, whose state at the last token is projected by a plain parameter."""

    def __init__(self, *, width: int = 512, depth: int = 12, vocabulary: int = 49408, longest: int = 77) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(vocabulary, width), nn.Parameter(0.01 * torch.randn(longest, width))
        blocks = (TransformerBlock(width, width // 64, causal=True, act=QuickGELU) for _ in range(depth))
        self.blocks, self.norm = nn.Sequential(*blocks), nn.LayerNorm(width)
        self.projection = nn.Parameter(width**-0.5 * torch.randn(width, width))

    def forward(self, words: Tensor) -> Tensor:
        """(N, T) words, the last one the end of the text, to (N, width)."""
        x: Tensor = self.norm(self.blocks(self.words(words) + self.places[: words.shape[1]]))
        return x[:, -1] @ self.projection


class ViT(nn.Module):
    """ViT-small/16: a convolution of patches, torch's Transformer layers, the mean, a linear layer."""

    def __init__(self, *, width: int = 384, depth: int = 12, side: int = 224) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 16, 16)
        self.places = nn.Parameter(0.02 * torch.randn(1, (side // 16) ** 2, width))
        layer = nn.TransformerEncoderLayer(
            width, width // 64, 4 * width, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, depth, nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, side, side) to logits (N, 1000)."""
        x = self.patches(x).flatten(2).transpose(1, 2) + self.places
        y: Tensor = self.head(self.encoder(x).mean(1))
        return y


def _rotated(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Positions in the angles of pairs of values (arXiv:2104.09864)."""
    first, second = x.chunk(2, -1)
    return x * cosine + torch.cat([-second, first], -1) * sine


def _llama(depth: int, past: int) -> Size:
    def inputs(batch: int) -> tuple[Tensor, ...]:
        return torch.randint(16384, (batch, 1)), torch.randn(batch, depth, 2, 4, past, 64)

    return Size(partial(LlamaStep, depth=depth, past=past), inputs)


_GPT2 = partial(GPT, width=512, heads=8, vocabulary=16384, original=True)
_NANO = partial(GPT, width=384, heads=6, vocabulary=65)

NETWORKS = (
    Network(
        "vit-small",
        "arXiv:2010.11929, nn.TransformerEncoder",
        PRODUCTS,
        Size(ViT, floats(3, 224, 224)),
        Size(partial(ViT, depth=1, side=96), floats(3, 96, 96)),
    ),
    Network(
        "bert-small",
        "arXiv:1908.08962, 4 layers of 512, 128 tokens",
        PRODUCTS,
        Size(Bert, tokens(30522, 128)),
        Size(partial(Bert, depth=1, vocabulary=2048), tokens(2048, 64)),
    ),
    Network(
        "gpt2-tied",
        "GPT-2 of 6 layers of 512, Conv1D layers, 16 384 words, tied, 4 tokens",
        PRODUCTS,
        Size(partial(_GPT2, depth=6), tokens(16384, 4)),
        Size(partial(_GPT2, depth=1), tokens(16384, 4)),
    ),
    Network(
        "nanogpt",
        "karpathy/nanoGPT, the characters of Shakespeare, 64 of them",
        PRODUCTS,
        Size(partial(_NANO, depth=6), tokens(65, 64)),
        Size(partial(_NANO, depth=1), tokens(65, 64)),
    ),
    Network(
        "llama-step",
        "arXiv:2302.13971, 6 layers of 512, one token, cache of 64",
        PRODUCTS,
        _llama(6, 64),
        _llama(1, 16),
    ),
    Network(
        "clip-text",
        "arXiv:2103.00020, text tower of ViT-B/32, 77 tokens",
        PRODUCTS,
        Size(ClipText, tokens(49408, 77)),
        Size(partial(ClipText, depth=1, vocabulary=2048), tokens(2048, 32)),
    ),
)
