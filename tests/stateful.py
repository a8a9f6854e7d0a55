"""Stateful nets: a streaming LSTM and a decoder with a cache, nested, and their files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim

from nested_sparse.trainer import NestedModel, export, nest

FEATURES, HIDDEN, LAYERS, OUTPUTS = 6, 8, 2, 3
WIDTH, HEADS, PAST = 8, 2, 12
Arrays = dict[str, np.ndarray]


class StreamingLstm(nn.Module):
    """Answers a piece of a sequence and returns its states, as torch has them: samples are their dimension 1."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(FEATURES, HIDDEN, num_layers=LAYERS, batch_first=True)
        self.head = nn.Linear(HIDDEN, OUTPUTS)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y, (h, c) = self.rnn(x, (h, c))
        return self.head(y), h, c


class CachedDecoder(nn.Module):
    """One layer of attention over the tokens so far. Keys and values of the past come in, and go out one longer."""

    def __init__(self) -> None:
        super().__init__()
        self.queries, self.keys, self.values = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        def heads(y: Tensor) -> Tensor:
            return y.unflatten(-1, (HEADS, -1)).transpose(1, 2)

        k, v = torch.cat([k, heads(self.keys(x))], 2), torch.cat([v, heads(self.values(x))], 2)
        y = nn.functional.scaled_dot_product_attention(heads(self.queries(x)), k, v)
        return self.out(y.transpose(1, 2).flatten(2)), k, v


def lstm_file(folder: Path, **options: Any) -> tuple[NestedModel, Path]:
    """The net and its file `lstm`: x (N, 1 to 20, 6), h and c (2, N, 8) to y, h_out and c_out."""
    torch.manual_seed(3)
    net = nest(StreamingLstm().eval(), densities=(0.2, 0.6), pattern="block4x1")
    example = torch.randn(1, 5, FEATURES), torch.randn(LAYERS, 1, HIDDEN), torch.randn(LAYERS, 1, HIDDEN)
    sizes = {0: "batch", 1: Dim("length", min=1, max=20)}
    names = ("y", "h_out", "c_out")
    return net, export(
        net,
        example,
        folder / "lstm.safetensors",
        dynamic_shapes=(sizes, {1: "batch"}, {1: "batch"}),
        output_names=names,
        **options,
    )


def decoder_file(folder: Path, **options: Any) -> tuple[NestedModel, Path]:
    """The net and its file `decoder`: x (N, 1, 8), k and v (N, 2, 1 to 12, 4) to y, k_out and v_out."""
    torch.manual_seed(4)
    net = nest(CachedDecoder().eval(), densities=(0.3, 0.7), pattern="block4x1")
    cache = {0: "batch", 2: Dim("past", min=1, max=PAST)}
    return net, export(
        net,
        (torch.randn(1, 1, WIDTH), *(torch.randn(1, HEADS, 4, WIDTH // HEADS) for _ in range(2))),
        folder / "decoder.safetensors",
        dynamic_shapes=({0: "batch"}, cache, cache),
        output_names=("y", "k_out", "v_out"),
        **options,
    )


@contextmanager
def at_level(net: NestedModel, level: int) -> Iterator[NestedModel]:
    """`net` in eval mode at a level, without gradients."""
    net.set_level(level)
    with torch.no_grad():
        yield net.eval()


def torch_step(net: NestedModel, level: int, feeds: Mapping[str, np.ndarray]) -> tuple[np.ndarray, ...]:
    """The outputs of torch for one request, in order."""
    with at_level(net, level):
        return tuple(each.numpy() for each in net(*(torch.tensor(array) for array in feeds.values())))
