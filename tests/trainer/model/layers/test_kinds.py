"""Kinds of layers: each one fits the contract of the graph, and says of itself what the rest of the trainer asks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.graph.contract import LAYER_KINDS
from nested_sparse.trainer import export, nest, nest_pretrained
from nested_sparse.trainer.model.layers import KINDS
from nested_sparse.trainer.model.layers.linear import NestedLinear
from nested_sparse.trainer.model.layers.recurrent import GRURecurrence, LSTMRecurrence, Projection

EXAMPLES: dict[nn.Module, Tensor] = {
    nn.Conv1d(4, 6, 3, stride=2, groups=2): torch.ones(2, 4, 9),
    nn.Conv2d(3, 6, (3, 2), padding=(1, 2), dilation=(2, 1)): torch.ones(2, 3, 7, 5),
    nn.Conv3d(4, 6, (3, 2, 1), stride=(2, 1, 1), padding=(1, 2, 0), groups=2): torch.ones(2, 4, 4, 7, 5),
    nn.ConvTranspose1d(4, 6, 3, stride=2, padding=1, output_padding=1): torch.ones(2, 4, 9),
    nn.ConvTranspose2d(3, 6, (4, 2), stride=2, padding=(1, 0)): torch.ones(2, 3, 7, 5),
    nn.ConvTranspose3d(4, 6, 2, stride=(2, 1, 2), dilation=(1, 2, 1)): torch.ones(2, 4, 3, 7, 5),
    nn.Linear(5, 6): torch.ones(2, 3, 5),
    Projection(nn.Parameter(torch.randn(8, 5)), nn.Parameter(torch.randn(8)), 4): torch.ones(2, 3, 5),
}
RECURRENT: dict[nn.Module, Tensor] = {
    LSTMRecurrence(nn.Parameter(torch.randn(12, 3)), nn.Parameter(torch.randn(12)), False): torch.randn(4, 2, 12),
    GRURecurrence(nn.Parameter(torch.randn(9, 3)), None, True): torch.randn(4, 2, 9),
}
"""Recurrent layers, which have outputs of another width than their rows, and inputs beside the first."""


def test_every_kind_is_in_the_contract() -> None:
    """Files name each kind by an `op` of the contract, and no `op` is without a layer."""
    assert {kind.op for kind in KINDS.values()} == LAYER_KINDS.keys()
    assert [type(module) for module in (*EXAMPLES, *RECURRENT)] == list(KINDS)


@pytest.mark.parametrize("module", EXAMPLES, ids=lambda module: type(module).__name__)
def test_a_kind_knows_its_operator(module: nn.Module) -> None:
    """Its attributes are those of the contract; its output has the stated shape, with the rows where stated."""
    layer = nest(module, densities=(1.0,)).nested_layers()["model"]
    kind, x = LAYER_KINDS[layer.op], EXAMPLES[module]
    assert layer.attributes().keys() <= kind.attributes.keys()
    in_node = kind.in_node(layer.attributes())
    assert [name for name, value in in_node.items() if isinstance(value, list) != kind.attributes[name].many] == []
    output = layer(x)
    assert layer.output_shape(x) == output.shape
    assert output.shape[layer.channel_dim] == output.shape[kind.rows_dim] == len(layer.values)
    assert x.shape[layer.channel_dim] == layer.values.shape[1] * layer.groups


@pytest.mark.parametrize("module", EXAMPLES, ids=lambda module: type(module).__name__)
def test_a_layer_is_traced_as_one_node(module: nn.Module) -> None:
    """The operator gets an input of its rank, also where the layer's input has no batch."""
    layer, x = nest(module, densities=(1.0,)).nested_layers()["model"], EXAMPLES[module]
    for given in (x, x[0]):
        made: list[tuple[int, ...]] = []

        def operator(
            x: Tensor, shape: tuple[int, ...], made: list[tuple[int, ...]] = made, **of_call: list[int]
        ) -> Tensor:
            made.append(tuple(x.shape))
            return layer(x) if shape == layer.output_shape(x) else torch.empty(0)

        torch.testing.assert_close(layer.traced(given, operator), layer(given))
        assert len(made) == 1


@pytest.mark.parametrize("module", RECURRENT, ids=lambda module: type(module).__name__)
def test_a_recurrent_kind_knows_its_operator(module: nn.Module) -> None:
    """Its attributes, the shape of its first output, and its rows, which are those of all gates."""
    layer, x = nest(module, densities=(1.0,)).nested_layers()["model"], RECURRENT[module]
    kind = LAYER_KINDS[layer.op]
    assert layer.attributes().keys() <= kind.attributes.keys()
    outputs = layer(x)
    assert len(outputs) == kind.states
    assert layer.output_shape(x) == outputs[0].shape == (4, 2, 3)
    assert len(layer.values) == x.shape[-1] == kind.gates * 3
    assert layer.row_parts == kind.gates
    torch.testing.assert_close(outputs, module(x))
    before = layer.columns(x, torch.arange(8)).reshape(4, 2, 3)
    answers = outputs[0].flip(0) if layer.attributes() else outputs[0]
    before = before.flip(0) if layer.attributes() else before
    torch.testing.assert_close(before, torch.cat([torch.zeros(1, 2, 3), answers[:-1]]))


class Pointwise(nn.Module):
    """A kind of its own: a product with the channels of (N, C, T) at each time, which nn.Linear does not compute."""

    def __init__(self, channels: int, rows: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(rows, channels) / 4), nn.Parameter(torch.randn(rows))
        self.in_features, self.out_features = channels, rows

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.mT, self.weight, self.bias).mT


class NestedPointwise(NestedLinear):
    """The nested form of Pointwise, with the operator of linear layers."""

    @property
    def channel_dim(self) -> int:
        return -2

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mT).mT

    def traced(self, x: Tensor, operator: Callable[[Tensor, tuple[int, ...]], Tensor]) -> Tensor:
        return super().traced(x.mT, operator).mT

    def positions(self, x: Tensor, most: int, generator: torch.Generator) -> Tensor:
        return super().positions(x.mT, most, generator)

    def columns(self, x: Tensor, positions: Tensor) -> Tensor:
        return super().columns(x.mT, positions)


@pytest.mark.parametrize("pattern", ["block4x1", "channel"])
def test_a_new_kind_is_a_class_and_an_entry(pattern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nesting, coupling, post-training, the summary and a verified export take it from there."""
    monkeypatch.setitem(KINDS, Pointwise, NestedPointwise)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(4, 32, 3), nn.ReLU(), Pointwise(32, 48), nn.BatchNorm1d(48), Pointwise(48, 16))
    x = torch.randn(8, 4, 9)
    net = nest_pretrained(model.eval(), [x], densities=(0.25, 0.5), pattern=pattern, samples=8)
    assert list(net.nested_layers()) == ["0", "2", "4"]
    if net.coupling is not None:
        assert not net.coupling.alone
        assert [group.consumers for group in net.coupling.groups if "2" in group.producers] == [("4",)]
    with Checkpoint.open(export(net, (x,), tmp_path / "m.safetensors", tolerance=1e-5)) as checkpoint:
        assert [layer.op for layer in checkpoint.layers] == ["conv", "linear", "linear"]
