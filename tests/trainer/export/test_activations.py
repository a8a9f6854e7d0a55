"""Activations: the layer in front of a function computes it, in any spelling, and only then."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import CheckpointError
from nested_sparse.runtime import Session
from nested_sparse.slice import slice_checkpoint
from nested_sparse.trainer import export, nest

Function = Callable[[Tensor], Tensor]
SPELLINGS: dict[str, tuple[int, Function]] = {
    "sigmoid": (1, torch.sigmoid),
    "sigmoid, spelled out": (1, lambda x: 1 / (1 + torch.exp(-x))),
    "silu": (2, F.silu),
    "swish": (2, lambda x: x * torch.sigmoid(x)),
    "quick gelu": (3, lambda x: x * torch.sigmoid(1.702 * x)),
    "gelu": (4, F.gelu),
    "gelu, spelled out": (4, lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))),
    "gelu by tanh": (5, lambda x: F.gelu(x, approximate="tanh")),
    "gelu of GPT-2": (5, lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))),
    "fast gelu": (5, lambda x: 0.5 * x * (1 + torch.tanh(x * 0.7978845608 * (1 + 0.044715 * x * x)))),
    "hard sigmoid": (6, F.hardsigmoid),
    "hard sigmoid by relu6": (6, lambda x: F.relu6(x + 3) / 6),
    "hard swish": (7, F.hardswish),
    "hard swish by relu6": (7, lambda x: x * F.relu6(x + 3) / 6),
}
LOOKALIKES: dict[str, Function] = {
    "another slope": lambda x: x * torch.sigmoid(1.7 * x),
    "a floor": lambda x: torch.sigmoid(x).clamp(min=1e-6),
    "a floor at the far end": lambda x: F.silu(x).clamp(min=-1e-9),
    "a ceiling": lambda x: F.silu(x).clamp(max=1e20),
    "another hard sigmoid": lambda x: (0.2 * x + 0.5).clamp(0, 1),
    "zeros that are none": lambda x: F.hardsigmoid(x).clamp(min=1e-8),
    "the other side": lambda x: 1 - torch.sigmoid(-x),
    "tanh": torch.tanh,
    "leaky": lambda x: F.leaky_relu(x, 0.1),
}


class Chain(nn.Module):
    """A linear layer in front of each function."""

    def __init__(self, functions: Iterable[Function]) -> None:
        super().__init__()
        self.functions = list(functions)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in self.functions)

    def forward(self, x: Tensor) -> Tensor:
        for layer, function in zip(self.layers, self.functions, strict=True):
            x = function(layer(x))
        return x


class Images(nn.Module):
    """A convolution and a linear layer, each with a function behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Linear(8, 12)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.norm(self.conv(x)))
        return F.silu(self.head(x.mean((2, 3))))


class Gated(nn.Module):
    """Functions that are read twice, scaled, added to, or are an output themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down, self.twice = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        gated = F.silu(self.gate(x)) * self.up(x)
        added = x + F.gelu(self.down(gated))
        return added, 2 * F.silu(self.gate(added)), self.twice(x), F.hardswish(self.twice(added))


def functions(model: nn.Module, path: Path, x: Tensor, **options: str) -> tuple[list[int], list[str]]:
    """Number of each layer's function, and ONNX's nodes; checks the file against torch at both levels."""
    torch.manual_seed(0)
    net = nest(model, densities=(0.4, 0.8)).eval()
    export(net, (x,), path, tolerance=1e-5 if "values" not in options else 1e-2, **options)
    with Checkpoint.open(path) as checkpoint:
        nodes = onnx.load_from_string(checkpoint.graph()).graph.node
        ours = [node for node in nodes if node.domain]
        told = [next((a.i for a in node.attribute if a.name == "activation_function"), 0) for node in ours]
        assert checkpoint.metadata.format_version == (5 if any(told) else 3 if options else 1)
    return told, [node.op_type for node in nodes if not node.domain]


def test_every_spelling_is_known(tmp_path: Path) -> None:
    """Nothing is left of it in the graph, and the file answers as torch does."""
    model = Chain(function for _, function in SPELLINGS.values())
    told, left = functions(model, tmp_path / "net.safetensors", 3 * torch.randn(2, 8))
    assert dict(zip(SPELLINGS, told, strict=True)) == {name: number for name, (number, _) in SPELLINGS.items()}
    assert not left


def test_what_differs_anywhere_stays(tmp_path: Path) -> None:
    """Also where it differs only far from zero; a beginning that is known is folded alone."""
    told, left = functions(Chain(LOOKALIKES.values()), tmp_path / "net.safetensors", torch.randn(2, 8))
    begins = {"a floor": 1, "a floor at the far end": 2, "a ceiling": 2, "zeros that are none": 6}
    assert dict(zip(LOOKALIKES, told, strict=True)) == {name: begins.get(name, 0) for name in LOOKALIKES}
    assert len(left) >= len(LOOKALIKES)


def test_functions_that_others_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer that is used twice has a function at each use; float16 weights; a slice keeps the version.

    A reader of older versions refuses the file by its version: an older operator library would leave functions out.
    """
    path = tmp_path / "net.safetensors"
    told, left = functions(Gated(), path, torch.randn(3, 8), values="float16")
    assert sorted(told) == [0, 0, 2, 2, 4, 7]
    assert sorted(left) == ["Add", "Mul", "Mul"]
    part = tmp_path / "part.safetensors"
    slice_checkpoint(path, 1, part)
    with Checkpoint.open(part) as checkpoint:
        assert checkpoint.metadata.format_version == 5
    with Session(path) as whole, Session(part) as cut:
        x = {"input": np.ones((2, 8), np.float32)}
        for name, value in whole.run(x, level=0).items():
            np.testing.assert_array_equal(cut.run(x, level=0)[name], value)
    monkeypatch.setattr("nested_sparse.metadata.FORMAT_VERSIONS", (1, 2, 3, 4))
    with pytest.raises(CheckpointError, match=r"format version 5, this package reads \(1, 2, 3, 4\)"):
        Checkpoint.open(part)


def test_int8(tmp_path: Path) -> None:
    """Convolutions keep their tables, linear layers compute the function."""
    torch.manual_seed(0)
    net = nest(Images(), densities=(0.4, 0.8)).eval()
    path, batches = tmp_path / "net.safetensors", [(torch.randn(16, 3, 6, 5), torch.zeros(16))]
    export(net, (torch.randn(2, 3, 6, 5),), path, values="int8", calibration=batches)
    with Checkpoint.open(path) as checkpoint:
        nodes = onnx.load_from_string(checkpoint.graph()).graph.node
        assert checkpoint.metadata.format_version == 5
        assert replace(checkpoint.metadata, graph_version=1).format_version == 4
    told = {node.op_type: {a.name for a in node.attribute} for node in nodes if node.domain}
    assert "table" in told["QuantizedConv"]
    assert "activation_function" in told["QuantizedLinear"]
