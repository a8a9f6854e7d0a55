"""Networks for sound and other sequences, of 1-D convolutions: Jasper, a TCN, and wav2vec 2.0."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from ..zoo import Jasper
from ..zoo.transformer import TransformerBlock
from .network import CONVOLUTIONS, PRODUCTS, Network, Size, floats


class CausalBlock(nn.Module):
    """Two dilated convolutions that see the past only, and a shortcut."""

    def __init__(self, inputs: int, outputs: int, taps: int, dilation: int) -> None:
        super().__init__()
        self.past = (taps - 1) * dilation
        self.conv1 = nn.Conv1d(inputs, outputs, taps, dilation=dilation)
        self.conv2 = nn.Conv1d(outputs, outputs, taps, dilation=dilation)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv1d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, T) to (N, outputs, T)."""
        y = F.relu(self.conv1(F.pad(x, (self.past, 0))))
        y = F.relu(self.conv2(F.pad(y, (self.past, 0))))
        return F.relu(y + self.shortcut(x))


class TCN(nn.Module):
    """A temporal convolutional network: blocks whose dilation doubles, and a linear layer on each step."""

    def __init__(self, *, inputs: int = 88, width: int = 256, depth: int = 6, taps: int = 5) -> None:
        super().__init__()
        widths = [inputs, *[width] * depth]
        pairs = pairwise(widths)
        self.blocks = nn.Sequential(*(CausalBlock(a, b, taps, 1 << level) for level, (a, b) in enumerate(pairs)))
        self.head = nn.Linear(width, inputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, T) to (N, T, inputs)."""
        y: Tensor = self.head(self.blocks(x).transpose(1, 2))
        return y


_FEATURES = ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2))
"""Taps and stride of wav2vec's convolutions over the wave: one frame for each 320 samples."""


class Wav2Vec2(nn.Module):
    """wav2vec 2.0's encoder: convolutions over the wave, positions from a grouped convolution, a Transformer."""

    def __init__(self, *, width: int = 768, features: int = 512, depth: int = 6, letters: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index, (taps, stride) in enumerate(_FEATURES):
            layers.append(nn.Conv1d(features if index else 1, features, taps, stride, bias=False))
            layers += [nn.GELU()] if index else [nn.GroupNorm(features, features), nn.GELU()]
        self.features = nn.Sequential(*layers)
        self.norm, self.project = nn.LayerNorm(features), nn.Linear(features, width)
        self.positions = nn.Conv1d(width, width, 128, padding=64, groups=16)
        self.blocks = nn.Sequential(*(TransformerBlock(width, width // 64) for _ in range(depth)))
        self.last, self.head = nn.LayerNorm(width), nn.Linear(width, letters)

    def forward(self, wave: Tensor) -> Tensor:
        """(N, samples) to logits (N, frames, letters)."""
        x = self.project(self.norm(self.features(wave[:, None]).transpose(1, 2)))
        x = x + F.gelu(self.positions(x.transpose(1, 2))[:, :, :-1]).transpose(1, 2)
        y: Tensor = self.head(self.last(self.blocks(x)))
        return y


NETWORKS = (
    Network(
        "jasper",
        "arXiv:1904.03288, 3 blocks of 5, width 256",
        CONVOLUTIONS,
        Size(partial(Jasper, width=256, mels=64, repeat=5), floats(64, 200)),
        Size(partial(Jasper, width=256, mels=64, repeat=1), floats(64, 100)),
    ),
    Network(
        "tcn",
        "arXiv:1803.01271, 6 blocks of width 256",
        CONVOLUTIONS,
        Size(TCN, floats(88, 256)),
        Size(partial(TCN, depth=2), floats(88, 128)),
    ),
    Network(
        "wav2vec2",
        "arXiv:2006.11477, 6 layers, 1 s of sound",
        PRODUCTS,
        Size(Wav2Vec2, floats(16000)),
        Size(partial(Wav2Vec2, depth=1), floats(4000)),
    ),
)
