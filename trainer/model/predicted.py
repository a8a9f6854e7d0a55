"""Predicted latency: the time of a nested net's levels by the costs of its layers on a device."""

from __future__ import annotations

import dataclasses
import math
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nested_sparse.argument import shown
from nested_sparse.budget import Budget, blocks_to_keep
from nested_sparse.device_costs import DeviceCosts, LayerCosts
from nested_sparse.errors import BudgetError, InputError
from nested_sparse.excerpt import excerpt
from nested_sparse.latency import Latency, check_possible, shares_of_time
from nested_sparse.mask import group_count
from nested_sparse.time_curve import TimeCurve

from . import layer_patterns
from .choose import layer_sizes
from .layers import NestedLayer, unique_weights

if TYPE_CHECKING:  # NestedModel itself imports this module
    from .nested_model import NestedModel

GivenCosts = str | os.PathLike[str] | Mapping[str, Any] | DeviceCosts
"""Costs as a user gives them: the path of a file, its content, or read already."""
AllCosts = GivenCosts | list[GivenCosts] | tuple[GivenCosts, ...]
"""Costs of one batch, or a list of those of several."""


ALIKE = ("device", "isa", "int8_isa", "threads", "values")
"""Fields that costs of several batches must have in common."""


def all_costs(costs: AllCosts | None, asking: str) -> list[DeviceCosts]:
    """The costs of every batch that is given. asking: the option that needs them, for the error.

    Raises BudgetError: none or bad ones, two of one batch, or of different devices, threads or types of values;
    InputError: something else.
    """
    if costs is None or (isinstance(costs, list | tuple) and not costs):
        raise BudgetError(
            f"{asking} needs costs: the file that `nested-sparse profile FILE --costs OUT.json` writes on the device"
            + ("" if costs is None else ", or a list of such files; got an empty list")
        )
    if not isinstance(costs, list | tuple):
        return [_given_costs(costs, "costs")]
    known = [_given_costs(each, f"costs[{place}]") for place, each in enumerate(costs)]
    for place, each in enumerate(known):
        for earlier in known[:place]:
            _check_goes_with(earlier, each)
    return known


def _given_costs(costs: object, where: str) -> DeviceCosts:
    """The costs in any of their forms. where: their place, for errors about those that are no file."""
    if isinstance(costs, DeviceCosts):
        return costs if costs.where != "costs" else dataclasses.replace(costs, where=where)
    if isinstance(costs, Mapping):
        return DeviceCosts.from_mapping(costs, where)
    if isinstance(costs, str | bytes | os.PathLike):
        return DeviceCosts.read(costs)  # type: ignore[arg-type]
    raise InputError(
        f"{where}: expected the path of a file, its content as a dict, or DeviceCosts, or for several batches one list "
        f"of these, got {shown(costs)}"
    )


def _check_goes_with(first: DeviceCosts, second: DeviceCosts) -> None:
    """Raise BudgetError unless both costs are of one device and its settings, and of two batches."""
    for name in ALIKE:
        of_first, of_second = getattr(first, name), getattr(second, name)
        if of_first != of_second:
            raise BudgetError(
                f"costs: expected several batches on one device, with the same threads and values, got {name} "
                f"{shown(of_first)} in {first.where} and {shown(of_second)} in {second.where}; measure both alike"
            )
    if first.batch == second.batch:
        raise BudgetError(
            f"costs: expected one for each batch, got two of batch {first.batch}, {first.where} and {second.where}; "
            "leave one out"
        )


def one_batch(costs: Sequence[DeviceCosts], asking: str) -> DeviceCosts:
    """The only ones of `costs`. asking: the use that needs them, for the error. Raises BudgetError: several."""
    if len(costs) > 1:
        raise BudgetError(f"costs: expected those of one batch with {asking}, whose times are of one, got {len(costs)}")
    return costs[0]


def predicted_latency(net: NestedModel, costs: AllCosts) -> list[float]:
    """Milliseconds of a run at each level of `net`, on the device of `costs` and of as many samples as were measured.

    Raises BudgetError: a layer has no costs, or none of its pattern; costs of several batches.
    """
    known = one_batch(all_costs(costs, "predicted_latency"), "predicted_latency")
    layers = net.nested_layers().values()
    whole_ms = _whole_ms(layers, known)
    sparse = [layer for layer in layers if not layer.dense]
    return [whole_ms + sum(sparse_ms(layer, known, level) for layer in sparse) for level in range(net.level_count)]


def sparse_ms(layer: NestedLayer, costs: DeviceCosts, level: int) -> float:
    """Milliseconds of a nested layer at a level, of one that is kept whole too. Raises BudgetError."""
    if layer.dense:
        return costs_of_layer(layer, costs).ms_when_whole(layer.layout.name)
    return float(_curve(layer, costs).ms(int(layer.mask(level).sum())))


def choose_patterns(net: NestedModel, costs: DeviceCosts, levels_ms: tuple[float, ...]) -> None:
    """Give each sparse layer the pattern that its costs favour (layer_patterns). Raises BudgetError."""
    layers = [*net.nested_layers().values()]
    whole_ms = _whole_ms(layers, costs)
    layer_patterns.choose_patterns(layers, costs, [ms - whole_ms for ms in levels_ms])


def latency_of(net: NestedModel, budget: Budget, costs: DeviceCosts, levels_ms: tuple[float, ...]) -> Latency:
    """The latency of a budget for `net`, whose levels take `levels_ms`, with densities that are shares of time.

    Layers that share a weight share its masks, so a weight costs the time of all of them. Raises BudgetError: layers
    without costs, or times that no masks can have.
    """
    layers = net.nested_layers().values()
    sparse = [layer for layer in layers if not layer.dense]
    uses: dict[int, list[TimeCurve]] = defaultdict(list)
    for layer in sparse:
        uses[id(layer.values)].append(_curve(layer, costs))
    fixed_ms = _whole_ms(layers, costs) + sum(curve.fixed_ms for curves in uses.values() for curve in curves)
    least_ms, dense_ms, rises = fixed_ms, fixed_ms, {}
    unique = unique_weights(sparse)
    for layer, size in zip(unique, layer_sizes(unique).values(), strict=True):
        rows, columns = size.dimensions[0], math.prod(size.dimensions[1:])
        blocks = group_count(rows, size.block_rows) * columns
        most = blocks if size.most is None else min(size.most, blocks)
        # a block counts with all its rows, of which the last ones may be padding
        rise = TimeCurve.rise_of(uses[id(layer.values)], stretch=blocks * size.block_rows / (rows * columns))
        least_ms += float(rise.ms(min(blocks_to_keep(budget.min_layer_density, blocks), most) * size.block_rows))
        dense_ms += float(rise.ms(most * size.block_rows))
        rises[layer.name] = rise
    check_possible(levels_ms, least_ms, dense_ms)
    return Latency(levels_ms, shares_of_time(levels_ms, fixed_ms, dense_ms), fixed_ms, dense_ms, rises)


def _whole_ms(layers: Any, costs: DeviceCosts) -> float:
    """Time of everything that no mask changes: all other code, the layers kept whole, and those that are not nested."""
    left = costs.layers.keys() - {layer.name for layer in layers}
    return (
        costs.other_ms
        + sum(sparse_ms(layer, costs, 0) for layer in layers if layer.dense)
        + sum(costs.layers[name].dense_ms or 0.0 for name in left)
    )


def costs_of_layer(layer: NestedLayer, costs: DeviceCosts) -> LayerCosts:
    """The costs of a layer of this name, kind and size. Raises BudgetError where there are none."""
    return costs.layer(layer.name, layer.op, len(layer.values), layer.values[0].numel())


def _curve(layer: NestedLayer, costs: DeviceCosts) -> TimeCurve:
    """The layer's time over its kept weights. Raises BudgetError."""
    known = costs_of_layer(layer, costs)
    name = layer.layout.name
    if name in known.patterns:
        return known.patterns[name]
    where = f"{costs.where}: layer '{excerpt(layer.name)}'"
    if not known.patterns:
        raise BudgetError(
            f"{where} was measured only with all weights kept; name it in keep_dense, or profile a file in which it is "
            "sparse"
        )
    raise BudgetError(
        f"{where} was measured with {', '.join(known.patterns)}, and the model has {name}; nest with a measured "
        f"pattern, or profile with --pattern {name}"
    )
