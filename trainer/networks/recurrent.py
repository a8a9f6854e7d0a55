"""Recurrent networks: GNMT, a language model of LSTMs, and Deep Speech 2 with GRUs."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from ..zoo import GNMT
from .blocks import conv_norm
from .network import PRODUCTS, Network, Size, floats, tokens


class WordLSTM(nn.Module):
    """A language model of two LSTM layers between an embedding and a linear layer (medium size of the paper)."""

    def __init__(self, *, width: int = 650, vocabulary: int = 10000) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.lstm = nn.LSTM(width, width, num_layers=2, batch_first=True)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, words: Tensor) -> Tensor:
        """(N, T) words to logits (N, T, vocabulary)."""
        y: Tensor = self.head(self.lstm(self.words(words))[0])
        return y


class DeepSpeech2(nn.Module):
    """Deep Speech 2: two convolutions over a spectrogram, GRUs in both directions, a linear layer on each frame."""

    def __init__(self, *, bands: int = 161, width: int = 800, depth: int = 3, letters: int = 29) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            nn.Conv2d(1, 32, (41, 11), (2, 2), (20, 5), bias=False),
            nn.BatchNorm2d(32),
            nn.Hardtanh(0, 20),
            *conv_norm(32, 32, 11, act=partial(nn.Hardtanh, 0, 20)),
        )
        features = 32 * ((bands + 1) // 2)
        self.grus = nn.GRU(features, width, num_layers=depth, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * width, letters)

    def forward(self, spectrogram: Tensor) -> Tensor:
        """(N, 1, bands, T) to logits (N, T / 2, letters)."""
        x = self.convs(spectrogram)
        x = x.flatten(1, 2).transpose(1, 2)
        y: Tensor = self.head(self.grus(x)[0])
        return y


def _pair(vocabulary: int, source: int, target: int) -> Size:
    def inputs(batch: int) -> tuple[Tensor, ...]:
        return torch.randint(vocabulary, (batch, source)), torch.randint(vocabulary, (batch, target))

    return Size(partial(GNMT, classes=vocabulary, pad=None, depth=4 if source > 8 else 2), inputs)


NETWORKS = (
    Network(
        "gnmt",
        "arXiv:1609.08144, 4 + 4 layers of 1024, 16 to 16 words",
        PRODUCTS,
        _pair(8192, 16, 16),
        _pair(512, 4, 4),
    ),
    Network(
        "lstm-language-model",
        "arXiv:1409.2329, medium, 35 words",
        PRODUCTS,
        Size(WordLSTM, tokens(10000, 35)),
        Size(partial(WordLSTM, vocabulary=1000), tokens(1000, 4)),
    ),
    Network(
        "deepspeech2",
        "arXiv:1512.02595, 3 GRUs of 800 in both directions, 1 s of sound",
        PRODUCTS,
        Size(DeepSpeech2, floats(1, 161, 100)),
        Size(partial(DeepSpeech2, bands=21, depth=1), floats(1, 21, 20)),
    ),
)
