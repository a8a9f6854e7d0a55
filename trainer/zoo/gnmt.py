"""GNMT: translation by LSTMs with attention (arXiv:1609.08144)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class GNMT(nn.Module):
    """GNMT-like translation, the words so far given: LSTMs with shortcuts, and attention after the first decoder.

    depth: layers of the encoder and of the decoder, at least 2: one layer of the decoder would not see the source.
    classes: number of words of either language. pad: number of the word that fills a source up, and is not looked at;
    None: there is none.
    """

    def __init__(self, *, width: int = 1024, depth: int = 4, classes: int = 8192, pad: int | None = 0) -> None:
        if depth < 2:
            raise ValueError(f"depth: expected at least 2, because the first layer sees no source, got {depth}")
        super().__init__()
        self.pad = pad
        self.source, self.target = nn.Embedding(classes, width), nn.Embedding(classes, width)
        self.both = nn.LSTM(width, width // 2, batch_first=True, bidirectional=True)
        self.encoder = nn.ModuleList(nn.LSTM(width, width, batch_first=True) for _ in range(depth - 1))
        self.first = nn.LSTM(width, width, batch_first=True)
        self.decoder = nn.ModuleList(nn.LSTM(2 * width, width, batch_first=True) for _ in range(depth - 1))
        self.query, self.head = nn.Linear(width, width), nn.Linear(width, classes)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """(N, S) and (N, T) words to logits (N, T, classes) of the word behind each of `target`."""
        states = self.both(self.source(source))[0]
        for layer in self.encoder:
            states = states + layer(states)[0]
        x = self.first(self.target(target))[0]
        scores = self.query(x) @ states.transpose(1, 2)
        if self.pad is not None:
            scores = scores.masked_fill((source == self.pad)[:, None], -1e9)
        context = torch.softmax(scores, -1) @ states
        for layer in self.decoder:
            x = x + layer(torch.cat([x, context], -1))[0]
        y: Tensor = self.head(x)
        return y
