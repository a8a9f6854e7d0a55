"""Positions: the number of multiply-adds per weight of a layer, from which FLOPs follow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from nested_sparse.errors import BudgetError, ExportError, InputError
from nested_sparse.excerpt import excerpt

from .costs import Costs, counted_costs
from .forward_call import ForwardCall
from .modes import evaluating
from .preserved import preserved, preserved_generators

if TYPE_CHECKING:  # NestedModel itself imports this module
    from .nested_model import NestedModel


def costs_of(net: NestedModel, example_inputs: tuple[Any, ...]) -> tuple[Costs, int]:
    """The costs of a forward pass of the examples, and their number of samples: dimension 0 of the first tensor.

    The model runs in eval mode and is restored. Raises BudgetError: no tensors; InputError: the model fails.
    """
    if not isinstance(example_inputs, tuple | list) or not example_inputs:
        empty = isinstance(example_inputs, tuple | list | dict)
        got = "" if empty and not example_inputs else f", got {type(example_inputs).__name__}"
        raise BudgetError(
            'budget_by="flops" needs example_inputs, a tuple of the arguments of forward, e.g. '
            f"(torch.zeros(1, 3, 224, 224),){got}"
        )
    try:
        call = ForwardCall(net.model, example_inputs)
    except ExportError as error:
        raise BudgetError(f'budget_by="flops": {error}') from None
    tensors = call.tensors
    with preserved_generators(), preserved(net.model), evaluating(net), torch.no_grad(), counted_costs(net) as costs:
        try:
            call.answer(net.model, tensors)
        except ExportError:  # a file could not hold the answer, but its products are counted
            pass
        except Exception as error:  # the user's model may raise anything
            text = excerpt(error) or type(error).__name__
            raise InputError(f"example_inputs: the model fails on them: {text}") from error
    return costs, len(tensors[0]) if tensors[0].dim() else 1


def positions_per_sample(net: NestedModel, example_inputs: tuple[Any, ...]) -> dict[str, int]:
    """Multiply-adds of each weight in a forward pass of one sample, by layer name; runs the examples once.

    Layers that share a weight each get the sum of all its uses. Raises as `costs_of` does, and BudgetError: the pass
    does not reach a layer.
    """
    costs, samples = costs_of(net, example_inputs)
    layers = net.nested_layers()
    uses = {id(layer.values): 0 for layer in layers.values()}
    for name, count in costs.positions(layers).items():
        uses[id(layers[name].values)] += count
    missed = [name for name, layer in layers.items() if not layer.dense and not uses[id(layer.values)]]
    if missed:
        raise BudgetError(
            f"budget by flops: the example inputs do not reach {', '.join(missed)}; give inputs for which forward uses "
            "them, or a model without them"
        )
    return {name: max(1, uses[id(layer.values)] // samples) for name, layer in layers.items()}
