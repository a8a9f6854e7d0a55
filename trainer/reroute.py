"""Rerouting: accuracy of the model with two levels in one pass, for each layer at which the level may fall.

A running inference may be lowered (arXiv:2112.10930): the operators that have not started run at the lower level. An
operator applies the norm that follows its layer, so a norm has the level of its layer.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from nested_sparse.argument import shown, whole
from nested_sparse.errors import LevelError, TrainingError
from nested_sparse.level import resolve_level
from nested_sparse.reroute import Reroute, checked_drop

from .batch import device_of, moved, pairs, run
from .call_order import CallOrder, norms_of, trace_calls
from .entry import entry
from .model.modes import evaluating
from .model.nested_model import NestedModel, require_nested
from .model.preserved import preserved
from .model.structure import tensors_in
from .recalibrate import Moments, measuring
from .tasks.hits import hits

Batch = tuple[Any, Any]


@entry(TrainingError)
def measure_reroutes(
    net: NestedModel,
    batches: Iterable[Batch],
    *,
    calibration: Iterable[Batch] | None = None,
    reach: int | None = None,
    order: Sequence[str] | None = None,
    cuts: Sequence[str] | None = None,
    max_drop: float | None = None,
) -> tuple[Reroute, ...]:
    """Top-1 accuracy over `batches` of every pair of levels, lowered at every layer; an argument for `export`.

    batches: (inputs, class indices), read once and kept in memory. Outputs are logits with the classes in dimension 1.
    calibration: None measures with each level's own norm statistics, as the runtime runs. With batches, every route
        gets its own statistics: the norms of the lowered layers are calibrated on these batches under the route.
    reach: number of layers, from the cut on, that are calibrated; None for all of them.
    order: names of the nested layers in the order of execution; None for forward's order. ONNX Runtime may run a
        shortcut's convolution before the parallel branch: nested_sparse.runtime.profiling.layer_profile lists the
        order of an exported file.
    cuts: layers at which the level falls; None for all. The first layer is always measured; the accuracy there is the
        lower level's own.
    max_drop: largest drop of accuracy against the lower level's own. A layer whose drop plus two standard errors is
        larger is left out (`Reroute.of_hits`): the runtime then never lowers a run there. None keeps every layer.
    Level, modes and statistics of the model are restored. Raises TrainingError: no batch, outputs or targets of another
    kind, or unknown names.
    """
    require_nested(net, TrainingError)
    device = device_of(net)
    samples = moved(list(pairs(batches)), device)
    if not samples:
        raise TrainingError("measure_reroutes needs at least one batch, got none")
    if reach is not None:
        reach = whole("reach", reach, 0, error=TrainingError)
    max_drop = checked_drop(max_drop, TrainingError)
    seen = None if calibration is None else moved(list(pairs(calibration, "calibration")), device)
    with evaluating(net), preserved(net.model, levels=False):
        calls = trace_calls(net, samples[0][0])
        layers = _checked_order(order, calls)
        later = _checked_cuts(cuts, layers)

        def reroute(start: int, end: int) -> Reroute:
            hits_at = {layers[0]: _hits(_Route(net, calls, start, end, layers), samples, None, None)}
            for cut in later:
                route = _Route(net, calls, start, end, layers[layers.index(cut) :])
                hits_at[cut] = _hits(route, samples, seen, reach)
            return Reroute.of_hits(start, end, hits_at, max_drop)

        return tuple(reroute(start, end) for start in range(1, net.level_count) for end in range(start))


def file_reroutes(
    path: str | os.PathLike[str], batches: Iterable[Batch], samples: int, max_drop: float | None = None
) -> tuple[Reroute, ...]:
    """`route_scores` of a checkpoint on the first `samples` of `batches`, or on all where there are fewer.

    batches: (inputs, class indices) as for training; inputs are the tensor of the file's one input. Raises
    TrainingError for samples of another kind, and what `route_scores` raises.
    """
    # a file is scored on the runtime that will run it
    from nested_sparse.runtime import Session
    from nested_sparse.runtime.rerouting import route_scores

    taken, missing = [], samples
    for inputs, targets in pairs(batches):
        if missing <= 0:
            break
        tensors = [tensor for _, tensor in tensors_in(inputs)]
        if len(tensors) != 1 or not isinstance(targets, torch.Tensor) or targets.shape != tensors[0].shape[:1]:
            raise TrainingError(
                f"lowered inferences are scored on one input with one class index for each sample; got {len(tensors)} "
                f"inputs with targets {shown(targets)}"
            )
        taken.append((tensors[0][:missing].cpu().numpy(), targets[:missing].cpu().numpy()))
        missing -= len(targets)
    with Session(path) as session:
        return route_scores(session, taken, max_drop=max_drop)


@contextmanager
def rerouted(net: NestedModel, calls: CallOrder, start: int, end: int, lowered: Iterable[str]) -> Iterator[None]:
    """A context in which the layers `lowered` and their norms run at level `end`, everything else at `start`.

    lowered: names of nested layers. All layers of `calls` are the same as level `end`; an empty one is the same as
    `start`. Afterwards the model has its former level. Raises LevelError: unknown levels, or `end` not below `start`;
    TrainingError: an unknown layer.
    """
    level, names = net.level, set(lowered)
    start, end = resolve_level(start, net.level_count), resolve_level(end, net.level_count)
    if end >= start:
        raise LevelError(f"a reroute goes down, got level {start} to level {end}")
    layers = net.nested_layers()
    if unknown := sorted(names - layers.keys()):
        raise TrainingError(f"lowered: no nested layers {unknown}; there are {', '.join(layers)}")
    try:
        net.set_level(start)
        for name in names:
            layers[name].level = end
        for norm in norms_of(net, calls, names).values():
            norm.level = end
        yield
    finally:
        net.set_level(level)


@contextmanager
def route_statistics(
    net: NestedModel,
    calls: CallOrder,
    start: int,
    end: int,
    lowered: Sequence[str],
    batches: Iterable[Batch],
    reach: int | None = None,
) -> Iterator[None]:
    """`rerouted`, with the statistics of the lowered norms measured on `batches` under this route.

    lowered: names in the order of execution. reach: number of layers, from the first on, whose norms are measured; None
    for all. The measurement works as in `recalibrate`. Afterwards the former statistics are restored.
    """
    owned = (norm.norms[end] for norm in norms_of(net, calls, set(lowered[:reach])).values())
    moments = {norm: Moments() for norm in owned if isinstance(norm, _BatchNorm)}
    before = {norm: _statistics(norm) for norm in moments}
    try:
        with rerouted(net, calls, start, end, lowered):
            with measuring(net, [moments]), torch.no_grad():
                for inputs, _ in batches:
                    run(net, inputs)
            for norm, moment in moments.items():
                moment.store(norm)
            yield
    finally:
        for norm, statistics in before.items():
            norm.load_state_dict(statistics)


class _Route(NamedTuple):
    """The first arguments of `rerouted` and `route_statistics`."""

    net: NestedModel
    calls: CallOrder
    start: int
    end: int
    lowered: Sequence[str]


def _statistics(norm: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.detach().clone() for key, value in norm.state_dict().items()}


@torch.no_grad()
def _hits(
    route: _Route, samples: Sequence[Batch], calibration: Sequence[Batch] | None, reach: int | None
) -> NDArray[np.bool_]:
    with rerouted(*route) if calibration is None else route_statistics(*route, calibration, reach):
        right = [hits(run(route.net, inputs), targets, "measure_reroutes").flatten() for inputs, targets in samples]
    return torch.cat(right).cpu().numpy()


def _names(argument: str, given: object) -> tuple[str, ...]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TrainingError(f"{argument}: expected a list of names of nested layers, got {shown(given)}")
    return tuple(map(str, given))


def _checked_order(order: Sequence[str] | None, calls: CallOrder) -> tuple[str, ...]:
    layers = calls.layers if order is None else _names("order", order)
    if sorted(layers) != sorted(calls.layers):
        raise TrainingError(f"order: expected each of {', '.join(calls.layers)} once, got {', '.join(layers)}")
    return layers


def _checked_cuts(cuts: Sequence[str] | None, layers: tuple[str, ...]) -> tuple[str, ...]:
    """The layers of `cuts` in their order, without the first layer of all."""
    if cuts is None:
        return layers[1:]
    names = _names("cuts", cuts)
    chosen = tuple(layer for layer in layers if layer in names)
    if len(chosen) != len(names) or not chosen:
        raise TrainingError(f"cuts: expected layers among {', '.join(layers)}, each once; got {names}")
    return tuple(layer for layer in chosen if layer != layers[0])
