"""DenseTimes: ONNX Runtime's time for the dense weight of each layer, in its place, and for the whole network."""

from __future__ import annotations

import re
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.device_costs import LayerCosts
from nested_sparse.graph.contract import LAYER
from nested_sparse.graph.dense_nodes import DenseLayer
from nested_sparse.graph.densified import densified, mark, replaceable
from nested_sparse.graph.nodes import graph_nodes
from nested_sparse.graph.placed import placed
from nested_sparse.writer import LayerRecord, LevelRecord, write_checkpoint

from ..session import Session, open_plain, random_inputs
from .copy_runs import WARM_UP, CopyRuns, Events, at_rest, run_copy
from .random_copy import write_random_copy

DENSITIES = (0.05, 0.15, 0.35)
"""Levels at which whole networks are compared. In the mixed one, layers are dense that are slower at the last level."""
MOST_NBYTES = 1 << 30
"""Most bytes of weights that are put into one graph: a protobuf message may have 2 GiB."""
_BLOCKED = "_nchwc"
"""ONNX Runtime names a convolution in its own form of images by its output and this word."""
_BEFORE = ("ReorderInput",)
"""Operators of ONNX Runtime that work for the node behind them; others that it adds work for the node in front."""


@dataclass(frozen=True, slots=True)
class DenseCheck:
    """Whole runs of one density, in ms: with all layers sparse, with some dense, and of the plain network.

    layers: those that are dense in the second. mixed_ms: None where there are none, or no others. dense_ms: None where
    a layer has no dense operator.
    """

    density: float
    sparse_ms: float
    mixed_ms: float | None
    dense_ms: float | None
    layers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DenseTimes:
    """layers_ms: by layer, as LayerCosts.dense_ms. network_ms: as DeviceCosts.dense_ms. checks: one per density."""

    layers_ms: Mapping[str, float] = field(default_factory=dict)
    network_ms: float | None = None
    checks: tuple[DenseCheck, ...] = ()


def measure_dense(
    checkpoint: Checkpoint,
    folder: Path,
    costs: Mapping[str, LayerCosts],
    pattern: str,
    batch: int,
    repeats: int,
    threads: int | None,
    spin: bool,
) -> DenseTimes:
    """Measure the layers of `checkpoint` that have a dense operator.

    Every other layer is dense in one copy, the rest in another, so that each stands between sparse ones, where its
    images change their form; the two of a recurrent layer are dense together. Then whole networks are measured in
    turns: all layers sparse, those dense that are slower than dense at the last of DENSITIES, and the plain network.
    Where the mixed one takes longer than the layers' times say, each of its dense layers gets an equal part of the
    difference; the two of a recurrent layer get theirs together, each by its weights.
    costs: of the layers, by name. folder: for copies. pattern: of the sparse layers; "" is each layer's own. batch:
        samples of a run.
    """
    units = [unit for unit in replaceable(checkpoint.graph()) if all(name in costs for name in unit)]
    names = [name for unit in units for name in unit]
    if not names or sum(costs[name].size for name in names) * 4 > MOST_NBYTES:
        return DenseTimes()
    copies = _Copies(checkpoint, folder, pattern)
    layers_ms: dict[str, float] = {}
    for half in filter(None, (units[::2], units[1::2])):
        chosen = [name for unit in half for name in unit]
        if len(chosen) < len(costs):
            runs = run_copy(copies.mixed(chosen), batch, repeats, threads, spin=spin)
            measured_ms = _layers_ms(runs, copies, chosen)
            layers_ms |= _divided(measured_ms, [unit for unit in half if unit[-1] in measured_ms], costs)
    last = len(checkpoint.levels) - 1
    slower_units = [
        unit
        for unit in units
        if unit[-1] in layers_ms
        and sum(copies.sparse_ms(costs[name], name, last) - layers_ms[name] for name in unit) > 0
    ]
    slower = [name for unit in slower_units for name in unit]
    checks = _compared(copies, slower, set(names) == set(costs), batch, repeats, threads, spin)
    excess_ms = [
        check.mixed_ms
        - check.sparse_ms
        - sum(layers_ms[name] - copies.sparse_ms(costs[name], name, level) for name in slower)
        for level, check in enumerate(checks)
        if check.mixed_ms is not None
    ]
    if excess_ms:
        part_ms = max(0.0, statistics.median(excess_ms)) / len(slower)
        more_ms = _divided({unit[-1]: part_ms * len(unit) for unit in slower_units}, slower_units, costs)
        layers_ms |= {name: layers_ms[name] + more_ms[name] for name in slower}
    network_ms = checks[0].dense_ms
    if len(units) == 1 and network_ms is not None:
        layers_ms = _divided({units[0][-1]: network_ms}, units, costs)
    return DenseTimes(layers_ms, network_ms, tuple(checks))


class _Copies:
    """Copies of a checkpoint, all with the same random weights, in which some layers are dense.

    others: names of the nodes of the graph.
    """

    def __init__(self, checkpoint: Checkpoint, folder: Path, pattern: str) -> None:
        self._checkpoint, self._folder = checkpoint, folder
        self._graph = checkpoint.graph()
        self._word = mark(self._graph)
        count = len(checkpoint.levels)
        self.densities = [*DENSITIES[-count:], *DENSITIES[-1:] * (count - len(DENSITIES))]
        self.sparse = folder / "sparse.safetensors"
        self.records = write_random_copy(checkpoint, self.sparse, self.densities, pattern)
        layers = {record.weight.name for record in self.records}
        nodes = graph_nodes(self._graph)
        self.others = {node.name for node in nodes}
        self._outputs = {
            node.outputs[0]: layer for node in nodes if (layer := node.texts.get(LAYER, b"").decode()) in layers
        }

    def mixed(self, chosen: Sequence[str]) -> Path:
        """The file of the copy in which the layers `chosen` are dense."""
        path = self._folder / "mixed.safetensors"
        path.unlink(missing_ok=True)
        by_name = {record.weight.name: record for record in self.records}
        dense = {name: self._dense(by_name[name], for_each_level=True) for name in chosen}
        graph = densified(self._graph, dense)
        write_checkpoint(
            path,
            graph_builder=lambda placements: placed(graph, placements),
            layers=[record for record in self.records if record.weight.name not in chosen],
            levels=[LevelRecord(density, 0, {}) for density in self.densities],
            inputs=self._checkpoint.inputs,
            outputs=self._checkpoint.outputs,
        )
        return path

    def owner(self, event: str, chosen: Sequence[str]) -> str | None:
        """The layer of `chosen`, which are dense, whose node an event is of; None where the name does not tell.

        ONNX Runtime keeps the name within that of a node which it makes of several. A convolution in its own form of
        images is called after the output.
        """
        found = re.search(rf"{self._word}(\d+)\.", event)
        if found and int(found[1]) < len(chosen):
            return chosen[int(found[1])]
        layer = self._outputs.get(event.rpartition(_BLOCKED)[0])
        return layer if layer in chosen else None

    def plain(self) -> bytes:
        """The graph of the plain network, whose norms are part of the weights."""
        dense = {record.weight.name: self._dense(record, for_each_level=False) for record in self.records}
        return densified(self._graph, dense, alone=True)

    def sparse_ms(self, costs: LayerCosts, name: str, level: int) -> float:
        """The time of a sparse layer at a level of the copies, by its curve."""
        record = next(record for record in self.records if record.weight.name == name)
        curve = costs.patterns.get(record.pattern)
        return costs.ms_when_whole(record.pattern) if curve is None else float(curve.ms(record.weight.nnz(level)))

    def _dense(self, record: LayerRecord, *, for_each_level: bool) -> DenseLayer:
        """for_each_level: whether a norm that follows the layer in the file stays one of each level."""
        _, norms = self._checkpoint.load_layer(record.weight.name)
        normed = bool((norms[:, 0] != 1).any())
        mine = record.norms.copy()
        mine[:, 1] = norms[-1, 1]
        return DenseLayer(record.weight.values, mine if for_each_level and normed else mine[-1:])


def _compared(
    copies: _Copies, slower: Sequence[str], whole: bool, batch: int, repeats: int, threads: int | None, spin: bool
) -> list[DenseCheck]:
    """Whole runs in turns. slower: the layers that are dense in the mixed network. whole: whether all layers can be."""
    with ExitStack() as stack:
        sparse = stack.enter_context(Session(copies.sparse, threads=threads, spin=spin))
        inputs = random_inputs(sparse.inputs, batch)
        runs: dict[str, Callable[[int], object]] = {"sparse": lambda level: sparse.run(inputs, level)}
        if slower and len(slower) < len(copies.records):
            mixed = stack.enter_context(Session(copies.mixed(slower), threads=threads, spin=spin))
            runs["mixed"] = lambda level: mixed.run(inputs, level)
        if whole:
            plain = open_plain(copies.plain(), threads, spin=spin)
            runs["dense"] = lambda level: plain.run(None, inputs)
        densities = sorted(set(copies.densities))
        samples: dict[tuple[str, int], list[float]] = defaultdict(list)
        for turn in range(WARM_UP + repeats):
            for level in range(len(densities)):
                for name, run in runs.items():
                    run(level)  # the caches hold the data of the run before
                    begun_s = time.perf_counter()
                    run(level)
                    if turn >= WARM_UP:
                        samples[name, level].append((time.perf_counter() - begun_s) * 1e3)
    dense_ms = at_rest([ms for level in range(len(densities)) for ms in samples["dense", level]]) if whole else None
    return [
        DenseCheck(
            density,
            at_rest(samples["sparse", level]),
            at_rest(samples["mixed", level]) if "mixed" in runs else None,
            dense_ms,
            tuple(slower),
        )
        for level, density in enumerate(densities)
    ]


def _divided(
    units_ms: Mapping[str, float], units: Sequence[tuple[str, ...]], costs: Mapping[str, LayerCosts]
) -> dict[str, float]:
    """The times by layer. Where one node of ONNX's does the work of two layers, each has its part by its weights.

    units_ms: by the last layer of each of `units`.
    """
    sizes = {unit: sum(costs[name].size for name in unit) for unit in units}
    return {name: units_ms[unit[-1]] * costs[name].size / sizes[unit] for unit in units for name in unit}


def _layers_ms(runs: CopyRuns, copies: _Copies, chosen: Sequence[str]) -> dict[str, float]:
    """The time of all nodes that stand for each layer of `chosen`, in ms."""
    samples: dict[str, list[float]] = defaultdict(list)
    for run in (run for of_level in runs.runs for run in of_level):
        of_run: dict[str, float] = defaultdict(float)
        for layer, event in _owned(run, copies, chosen):
            of_run[layer] += float(event["dur"]) / 1e3 - runs.extra_ms
        for layer, ms in of_run.items():
            samples[layer].append(max(0.0, ms))
    return {layer: at_rest(each) for layer, each in samples.items()}


def _owned(run: Events, copies: _Copies, chosen: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The events of nodes that stand for layers of `chosen`, each with its layer.

    ONNX Runtime's own nodes have no names of ours. They belong to the dense layer next to them in the run.
    """
    owners = [copies.owner(str(event["name"]), chosen) for event in run]
    for place, (event, owner) in enumerate(zip(run, owners, strict=True)):
        if owner is None and event["name"] not in copies.others:
            before = [each for each in owners[:place] if each][-1:]
            behind = [each for each in owners[place:] if each][:1]
            near = behind or before if event["args"]["op_name"] in _BEFORE else before or behind
            owner = near[0] if near else None
        if owner:
            yield owner, event
