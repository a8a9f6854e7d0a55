"""Compiled models: models of torch.compile that have run are nested as their originals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from nested_sparse.errors import InputError
from nested_sparse.runtime import Session
from nested_sparse.trainer import export, nest


class Net(nn.Module):
    """Two layers in a part, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.part(x))  # type: ignore[no-any-return]


def compiled(module: Any) -> Any:
    return torch.compile(module, backend="eager")


def whole(net: Net) -> nn.Module:
    return compiled(net)  # type: ignore[no-any-return]


def part(net: Net) -> nn.Module:
    net.part = compiled(net.part)
    return net


def leaf(net: Net) -> nn.Module:
    net.part[0] = compiled(net.part[0])
    return net


def within(net: Net) -> nn.Module:
    net.part = compiled(net.part)
    return compiled(net)  # type: ignore[no-any-return]


def in_place(net: Net) -> nn.Module:
    net.part.compile(backend="eager")
    net.compile(backend="eager")
    return net


def by_forward(net: Net) -> nn.Module:
    net.forward = compiled(net.forward)  # type: ignore[method-assign]
    net.part.forward = compiled(net.part.forward)  # type: ignore[method-assign]
    return net


def hooked(net: Net) -> nn.Module:
    """Add hooks outside and inside: pre-hooks of the wrapper run first, its forward hooks last."""
    net.register_forward_hook(lambda module, given, answer: answer + 1)
    net.register_forward_pre_hook(lambda module, given: (given[0] + 1,))
    outer = compiled(net)
    outer.register_forward_hook(lambda module, given, answer: answer * 3)
    outer.register_forward_pre_hook(lambda module, given: (given[0] * 3,))
    return outer  # type: ignore[no-any-return]


def hooked_by_name(net: Net) -> nn.Module:
    net.part = compiled(net.part)
    net.part.register_forward_pre_hook(lambda module, given, named: ((given[0] * 2,), named), with_kwargs=True)
    net.part.register_forward_hook(lambda module, given, named, answer: answer * 2, with_kwargs=True)
    return net


WAYS = [whole, part, leaf, within, in_place, by_forward, hooked, hooked_by_name]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_the_file_computes_what_the_compiled_model_does(way: Callable[[Net], nn.Module], tmp_path: Path) -> None:
    """After a run, layer names and keep_dense contain nothing of torch.compile, and the model stays compiled."""
    torch.manual_seed(0)
    model, x = way(Net().eval()), torch.randn(3, 6)
    with torch.no_grad():
        expected = model(x).numpy()
    net = nest(model, densities=(0.5, 1.0), pattern="unstructured", keep_dense=("head",))
    assert list(net.nested_layers()) == ["part.0", "part.2", "head"]
    with Session(export(net, (x,), tmp_path / "net.safetensors"), threads=1) as session:
        got = session.run({"input": x.numpy()})["output"]
    np.testing.assert_allclose(got, expected, atol=1e-5)
    with torch.no_grad():
        np.testing.assert_allclose(model(x).numpy(), expected, atol=1e-6)


def test_what_is_no_module_any_more() -> None:
    """torch.compile turns a compiled module into a function, which is refused."""
    with pytest.raises(InputError, match=r"got a function; .* nest the module itself"):
        nest(compiled(compiled(Net())), densities=(0.5, 1.0))
    with pytest.raises(InputError, match="expected a torch module, got a str"):
        nest("model", densities=(0.5, 1.0))  # type: ignore[arg-type]
