"""Kinds of layers: each one fits the contract of the graph, and says of itself what the rest of the trainer asks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nested_sparse.graph.contract import LAYER_KINDS
from nested_sparse.trainer import nest
from nested_sparse.trainer.model.layers import KINDS

EXAMPLES: dict[nn.Module, Tensor] = {
    nn.Conv1d(4, 6, 3, stride=2, groups=2): torch.ones(2, 4, 9),
    nn.Conv2d(3, 6, (3, 2), padding=(1, 2), dilation=(2, 1)): torch.ones(2, 3, 7, 5),
    nn.Linear(5, 6): torch.ones(2, 3, 5),
}


def test_every_kind_is_in_the_contract() -> None:
    """Files name each kind by an `op` of the contract, and no `op` is without a layer."""
    assert {kind.op for kind in KINDS.values()} == LAYER_KINDS.keys()
    assert [type(module) for module in EXAMPLES] == list(KINDS)


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

        def operator(x: Tensor, shape: tuple[int, ...], made: list[tuple[int, ...]] = made) -> Tensor:
            made.append(tuple(x.shape))
            return layer(x) if shape == layer.output_shape(x) else torch.empty(0)

        torch.testing.assert_close(layer.traced(given, operator), layer(given))
        assert len(made) == 1
