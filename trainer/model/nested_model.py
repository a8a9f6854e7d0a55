"""NestedModel: a torch model that runs at any of its levels. `nest` makes one."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nested_sparse.budget import Budget, check_densities
from nested_sparse.errors import BudgetError, InputError, NestedSparseError, PatternError
from nested_sparse.latency import Latency, check_latencies
from nested_sparse.layouts import parse_pattern
from nested_sparse.level import resolve_level
from nested_sparse.weight import NestedWeight

from ..entry import entry
from .choose import check_fit, choose_masks
from .copied import copy_of
from .costs import Costs
from .coupling import Coupling, couple
from .faster_dense import check_rule, faster_dense, warn_of_slow_levels
from .layer_patterns import AUTO
from .layers import NestedLayer, unique_weights
from .network import all_weights, density, log_network, network_of
from .norm import LevelBatchNorm
from .positions import costs_of, positions_per_sample
from .predicted import AllCosts, all_costs, choose_patterns, latency_of, one_batch
from .replace import replace_layers
from .shuffle import shuffle_rows

log = logging.getLogger(__name__)

PRUNE_MASKS = "the masks of torch.nn.utils.prune"
UNPRUNE = ", or call torch.nn.utils.prune.remove to let them return"


class NestedModel(nn.Module):
    """A model whose convolutions and linear layers hold nested sparse levels, level 0 the sparsest.

    model: the network with nested layers. densities, pattern: as given to `nest`; with a budget by latency, densities
    are the shares of the sparse layers' weights that the levels kept at first. budget: the budget with its options;
    `budget.name` is its name. row_shuffle: whether training computes new row permutations before its first search; the
    permutations are buffers of the layers.
    coupling: the groups of layers that share channels; None for patterns other than "channel".
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        densities: Sequence[float],
        pattern: str,
        budget: Budget,
        left_dense: Mapping[str, str],
        row_shuffle: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.densities = tuple(densities)
        self.pattern = pattern
        self.budget = budget
        self.row_shuffle = row_shuffle
        self.coupling: Coupling | None = None
        self._left_dense = dict(left_dense)
        self._level = self.level_count - 1

    @property
    def level_count(self) -> int:
        """L, the number of levels."""
        return len(self.densities)

    @property
    def level(self) -> int:
        """The level that `forward` runs."""
        return self._level

    def set_level(self, level: int) -> None:
        """Run at `level` from now on; -1 is the densest. Raises LevelError."""
        self._level = resolve_level(level, self.level_count)
        for layer in self.nested_layers().values():
            layer.level = self._level
        for norm in self.level_norms().values():
            norm.level = self._level

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's output at the current level."""
        return self.model(*args, **kwargs)

    def nested_layers(self) -> dict[str, NestedLayer]:
        """The layers with nested weights by dotted path; a layer with two names appears once."""
        layers = (module for module in self.model.modules() if isinstance(module, NestedLayer))
        return {layer.name: layer for layer in layers}

    def level_norms(self) -> dict[str, LevelBatchNorm]:
        """The batch normalisations by dotted path."""
        modules = self.model.named_modules()
        return {name: module for name, module in modules if isinstance(module, LevelBatchNorm)}

    def dense_layers(self) -> dict[str, str]:
        """Layers that could not be nested and stay unchanged: dotted path to the reason."""
        return dict(self._left_dense)

    def nested_weight(self, name: str) -> NestedWeight:
        """A copy, in numpy, of the nested weight of the layer called `name`, as a file holds it.

        For channels, rows are sorted into blocks; columns are in the order of the layer's operator.
        Raises KeyError, PatternError (the pattern does not allow the masks).
        """
        layer = self.nested_layers()[name]
        permutation = None if layer.permutation is None else layer.permutation.cpu().numpy().copy()
        if permutation is not None and np.array_equal(permutation, np.arange(len(permutation))):
            permutation = None  # rows in order need no table in the file
        values = layer.values.detach().flatten(1).float().cpu().numpy().copy()
        first_level = layer.first_level.cpu().numpy().copy()
        order = layer.column_order()
        if order is not None:
            values, first_level = values[:, order], first_level[:, order]
        layout, first_level, permutation = layer.layout.stored(first_level, permutation, name)
        return NestedWeight(name, values, first_level, layout, permutation)

    def density(self, level: int) -> float:
        """Kept / all weights of the whole network at `level`.

        Weights are those of nested layers, and all other parameters of two or more dimensions, which all levels keep.
        """
        return density(self, resolve_level(level, self.level_count), self.nested_layers(), all_weights(self))

    def summary(self) -> str:
        """A table of each nested layer's shape, pattern and density per level, then the dense layers with reasons."""
        levels = range(self.level_count)
        layers = self.nested_layers()
        width = max(len(name) for name in [*layers, "layer"])
        head = f"{'layer':{width}}  {'shape':>16}  {'block':>7}  " + "  ".join(f"level {level:<2}" for level in levels)
        lines = [head, *(_summary_line(layer, width, levels) for layer in layers.values())]
        total = "  ".join(f"{self.density(level):8.2%}" for level in levels)
        lines.append(f"{'all':{width}}  {'':>16}  {'':>7}  {total}")
        lines += [f"dense: {name}: {reason}" for name, reason in self._left_dense.items()]
        lines += self.coupling.lines() if self.coupling else []
        return "\n".join(lines)


def require_nested(net: object, error: type[NestedSparseError]) -> None:
    """Raise `error` unless `net` is a NestedModel."""
    if not isinstance(net, NestedModel):
        within = "; give the NestedModel that holds it" if _is_within(net) else "; call nest first"
        raise error(f"net: expected a NestedModel, as nest returns it, got a {type(net).__name__}{within}")


def _is_within(model: object) -> bool:
    modules = model.modules() if isinstance(model, nn.Module) else ()
    return any(isinstance(module, NestedLayer) for module in modules)


def _summary_line(layer: NestedLayer, width: int, levels: range) -> str:
    shape = "x".join(str(size) for size in layer.values.shape)
    kept = "  ".join(f"{float(layer.mask(level).float().mean()):8.2%}" for level in levels)
    return f"{layer.name:{width}}  {shape:>16}  {layer.layout.label:>7}  {kept}"


@entry(InputError)
def nest(
    model: nn.Module,
    *,
    densities: Sequence[float] | None = None,
    pattern: str = "unstructured",
    budget: str | None = None,
    keep_dense: Sequence[str] = (),
    budget_by: str = "weights",
    min_layer_density: float = 0.0,
    example_inputs: tuple[Tensor, ...] | None = None,
    row_shuffle: bool = False,
    latency_ms: Sequence[float] | None = None,
    costs: AllCosts | None = None,
    dense_where: str | None = None,
) -> NestedModel:
    """A nested copy of `model`, untrained or pre-trained, by magnitude in one shot. `model` is unchanged.

    densities: kept / all weights of a layer per level, strictly rising in (0, 1]; with budget_by="latency" none.
    pattern: "unstructured", "block{V}x1" (V output channels of one column are kept or dropped together), "gs{B}x{k}"
        (gather groups, see nested_sparse.layouts.GatherScatter) or "channel" (whole channels, together in all layers
        that share them; see trainer.model.coupling; channels of the model's inputs and outputs stay). "auto", with
        budget_by="latency": each layer gets one of the patterns of blocks that costs has for it, the one that keeps the
        most of the energy of its present weights (see trainer.model.layer_patterns).
    budget: "uniform", every layer has the level's density; "global", one ranking over all layers; or "erk", smaller
        layers are denser (RigL, arXiv:1911.11134). See nested_sparse.budget.Budget. Default: "uniform"; with
        budget_by="latency" it is "global", which then ranks by score for each millisecond, the score being LAMP's
        (arXiv:2010.07611).
    keep_dense: dotted module paths, or fnmatch patterns of them; these layers are whole at every level.
    example_inputs: arguments of forward, with the batch as dimension 0. With them, the log line on the sparse share of
        the network (a warning below a half) counts FLOPs, else weights.
    budget_by: unit of the densities, "weights" or "flops" of the forward pass; "flops" needs example_inputs. "uniform"
        gives every layer the same density in both units. At equal
        weights "erk" does better than "uniform", at equal FLOPs worse (random masks, arXiv:2103.15767).
        "latency": the levels keep what fits into latency_ms on the device of costs.
    latency_ms: time of a run per level, ms, strictly rising, of as many samples as the costs have; with
        budget_by="latency" only.
    costs: the time of each layer on a device: the path of a file that `nested-sparse profile FILE --costs` wrote, its
        content as json.load returns it, or DeviceCosts. For budget_by="latency" and dense_where. Levels that take
        longer there than the plain network in ONNX Runtime are logged as a warning. For dense_where also a list: the
        costs of several batches, all of one device, number of threads and type of values.
    dense_where: which layers stay as they are, so that ONNX Runtime runs them dense, by the costs: "slower", those that
        take longer in all levels together than dense; "ever_slower", those that take longer at one level or more of one
        batch or more; also of keep_dense and of depthwise layers, which our operators run otherwise. `dense_layers()`
        has their times.
    min_layer_density: share of a layer that every level keeps, at most the sparsest level's density.
    row_shuffle: whether rows that keep the same weights are put together into blocks (Shfl-BW, arXiv:2203.05016), now,
        and again by `train` before its first search. It has an effect only for block{V}x1 with V above 1.
    Convolutions, transposed ones too, Linear, LSTM, GRU (as two layers for each of theirs) and MultiheadAttention (as
    four) are nested, and modules whose own forward makes one such product with its only weight: forwards of user's
    classes are called with random inputs to find it. A Linear that shares its weight with an Embedding gets a copy.
    `dense_layers()` lists all others with reasons.
    In a convolution in groups a block must not span two groups: V falls to the largest one that divides a group's rows.
    Depthwise convolutions (one input channel in a group), and under "channel" all in groups, are whole at every level,
    as with keep_dense.
    The weight that a layer computes with now is used. Masks of torch.nn.utils.prune are applied. For patterns of single
    weights and of blocks they are permanent: pruned weights stay out of every level, also in training (a block, if all
    of it is pruned). If a level's density is higher than the mask's, the layer keeps the mask's weights. Weights that
    are computed, by parametrizations or the hooks of torch.nn.utils' weight_norm and spectral_norm, become parameters
    with their values of now. Batch normalisations, subclasses and hooks included, are copied for each level and run
    unchanged.
    Device, dtype and train or eval mode are kept; the densest level is set.
    Raises BudgetError (densities, budget and its options, times that are not possible, costs of another network, or by
    which every layer is faster dense, unknown keep_dense), PatternError (an unknown pattern, or layers unfit for it),
    InputError (no layer can be nested, or the model must be changed first).
    """
    chosen = Budget(budget or ("global" if budget_by == "latency" else "uniform"), budget_by, min_layer_density)
    levels, times_ms = _checked_levels(chosen, densities, latency_ms, costs, dense_where)
    layout = parse_pattern("unstructured" if pattern == AUTO else pattern)
    asking = f"dense_where={dense_where!r}" if times_ms is None else 'budget_by="latency"'
    known = [] if times_ms is None and dense_where is None else all_costs(costs, asking)
    if times_ms is not None:
        one_batch(known, 'budget_by="latency"')
    if times_ms is not None and layout.whole_channels:
        raise BudgetError(f"budget by latency is not for pattern {pattern!r}, whose layers keep channels together")
    if times_ms is None and pattern == AUTO:
        raise PatternError('pattern "auto" chooses by costs: it goes with budget_by="latency"')
    for each in known:
        if dense_where is not None:
            check_rule(dense_where, each)

    def made(measured: Mapping[str, str]) -> NestedModel:
        copied, masks = copy_of(model)
        copied, left_dense = replace_layers(
            copied, layout=layout, level_count=len(levels), keep_dense=keep_dense, masks=masks, measured=measured
        )
        net = NestedModel(
            copied,
            densities=levels,
            pattern=pattern,
            budget=chosen,
            left_dense=left_dense,
            row_shuffle=row_shuffle,
        )
        net.train(model.training)
        if budget_by == "flops":
            net.budget = dataclasses.replace(
                chosen, positions=positions_per_sample(net, () if example_inputs is None else example_inputs)
            )
        if times_ms is not None:
            if pattern == AUTO:
                choose_patterns(net, known[0], times_ms)
            latency = latency_of(net, chosen, known[0], times_ms)
            net.budget, net.densities = dataclasses.replace(chosen, latency=latency), latency.densities
        if layout.whole_channels:
            net.coupling = couple(net.model)
        check_fit(net.nested_layers().values(), chosen, net.densities)
        if row_shuffle:
            shuffle_rows(net)
        choose_masks(net.nested_layers().values(), net.budget, net.densities)
        if masks:
            check_distinct(net)
        return net

    with torch.inference_mode(False):
        measured: dict[str, str] = {}
        net = made(measured)
        if dense_where is not None:
            while more := faster_dense(net, known, dense_where):  # the rest may keep other weights then
                measured |= more
                net = made(measured)
        if net.budget.latency is not None:
            _set_kept_densities(net, net.budget.latency)
        net.set_level(-1)
        flops, samples = (Costs(), 1) if example_inputs is None else costs_of(net, example_inputs)
        log_network(log, network_of(net, flops, samples))
        for each in known:
            warn_of_slow_levels(log, net, each)
    return net


def check_distinct(net: NestedModel, *, zeros: bool = False) -> None:
    """Raise BudgetError if a model that is sparse already, by masks or `zeros`, gives two levels the same weights."""
    layers = unique_weights(layer for layer in net.nested_layers().values() if not layer.dense)
    kept = [sum(int(layer.mask(level).sum()) for layer in layers) for level in range(net.level_count)]
    same = next((level for level in range(1, net.level_count) if kept[level] == kept[level - 1]), None)
    if same is not None:
        raise BudgetError(
            f"levels {same - 1} and {same} keep the same weights: {'its own zeros' if zeros else PRUNE_MASKS} leave "
            f"{kept[-1] / sum(layer.values.numel() for layer in layers):.2%} of the sparse layers, and pruned weights "
            f"stay out of every level; lower the densities{'' if zeros else UNPRUNE}"
        )


def _set_kept_densities(net: NestedModel, latency: Latency) -> None:
    """Let the densities of a budget by latency be those that its levels keep now. Raises BudgetError."""
    layers = unique_weights(layer for layer in net.nested_layers().values() if not layer.dense)
    whole = sum(layer.values.numel() for layer in layers)
    kept = [sum(int(layer.mask(level).sum()) for layer in layers) for level in range(net.level_count)]
    same = next((level for level in range(1, net.level_count) if kept[level] == kept[level - 1]), None)
    if same is not None:
        raise BudgetError(
            f"latency_ms: {latency.levels_ms[same - 1]:g} and {latency.levels_ms[same]:g} ms keep the same weights; "
            "give times that are further apart"
        )
    net.densities = tuple(count / whole for count in kept)
    net.budget = dataclasses.replace(net.budget, latency=dataclasses.replace(latency, densities=net.densities))


def _checked_levels(
    budget: Budget,
    densities: Sequence[float] | None,
    latency_ms: Sequence[float] | None,
    costs: object,
    dense_where: object,
) -> tuple[tuple[float, ...], tuple[float, ...] | None]:
    """The levels' densities and times; by latency, the densities only count the levels. Raises BudgetError."""
    if budget.by == "latency":
        if densities is not None:
            raise BudgetError('budget_by="latency" finds the densities; give latency_ms alone')
        times_ms = check_latencies(latency_ms)
        return check_densities([(level + 1) / len(times_ms) for level in range(len(times_ms))]), times_ms
    if latency_ms is not None:
        raise BudgetError(f'latency_ms: goes with budget_by="latency", got {budget.by!r}')
    if costs is not None and dense_where is None:
        raise BudgetError(f'costs: goes with budget_by="latency", got {budget.by!r}, or with dense_where')
    levels = check_densities(densities)
    if budget.min_layer_density > levels[0]:
        raise BudgetError(
            f"min_layer_density {budget.min_layer_density:g} is more than the sparsest level's density, "
            f"{levels[0]:g}; lower it"
        )
    return levels, None
