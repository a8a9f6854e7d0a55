"""Positions: how often a layer's weights are multiplied, which is what FLOPs need to know beside their number."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from nested_sparse.errors import BudgetError, ExportError
from nested_sparse.trainer.forward_call import ForwardCall
from nested_sparse.trainer.layers import NestedConv, NestedLinear
from nested_sparse.trainer.modes import evaluating
from nested_sparse.trainer.preserved import preserved, preserved_generators

if TYPE_CHECKING:  # NestedModel itself imports this module
    from nested_sparse.trainer.nested_model import NestedModel


@contextmanager
def counted_positions(net: NestedModel) -> Iterator[dict[str, int]]:
    """A dict that forward passes within fill: layer name to output positions (pixels, rows) of all samples and uses."""
    positions: dict[str, int] = {}

    def count(layer: nn.Module, inputs: object, output: Tensor) -> None:
        assert isinstance(layer, NestedConv | NestedLinear)
        positions[layer.name] = positions.get(layer.name, 0) + output.numel() // int(layer.values.shape[0])

    handles = [layer.register_forward_hook(count) for layer in net.nested_layers().values()]
    try:
        yield positions
    finally:
        for handle in handles:
            handle.remove()


def positions_per_sample(net: NestedModel, example_inputs: tuple[Tensor, ...]) -> dict[str, int]:
    """Layer name to multiply-adds of each of its weights in a forward pass of one sample, by running the examples once.

    The batch is dimension 0 of the first example. Layers that share a weight each get the sum of all its uses. The
    model runs in eval mode and is left as it was. Raises BudgetError: no tensors, or a layer that the pass does not
    reach.
    """
    if not isinstance(example_inputs, tuple | list) or not example_inputs:
        raise BudgetError(
            'budget_by="flops" needs example_inputs, a tuple of what forward takes, e.g. (torch.zeros(1, 3, 224, 224),)'
        )
    try:
        call = ForwardCall(net.model, example_inputs)
    except ExportError as error:
        raise BudgetError(f'budget_by="flops": {error}') from None
    with (
        preserved_generators(),
        preserved(net.model),
        evaluating(net),
        counted_positions(net) as found,
        torch.no_grad(),
    ):
        call.run(net.model, call.tensors)
    batch = len(call.tensors[0]) if call.tensors[0].dim() else 1
    layers = net.nested_layers()
    uses = {id(layer.values): 0 for layer in layers.values()}
    for name, count in found.items():
        uses[id(layers[name].values)] += count
    missed = [name for name, layer in layers.items() if not layer.dense and not uses[id(layer.values)]]
    if missed:
        raise BudgetError(
            f"budget by flops: the example inputs do not reach {', '.join(missed)}; give inputs for which forward uses "
            "them, or a model without them"
        )
    return {name: max(1, uses[id(layer.values)] // batch) for name, layer in layers.items()}
