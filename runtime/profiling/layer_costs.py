"""CostMeasurement: the time of each layer over the weights it keeps, on this device, measured with random masks."""

from __future__ import annotations

import math
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nested_sparse.argument import whole
from nested_sparse.budget import check_densities
from nested_sparse.checkpoint import Checkpoint
from nested_sparse.device_costs import DeviceCosts, LayerCosts
from nested_sparse.errors import InputError
from nested_sparse.graph.check import check_graph
from nested_sparse.graph.contract import LAYER_KINDS
from nested_sparse.metadata import LayerEntry
from nested_sparse.time_curve import TimeCurve
from nested_sparse.writer import LayerRecord

from ..resources import cpu_model
from ..session import Session, fixed_batch, random_inputs
from .layer_profile import layer_of, node_events, read_profile
from .random_copy import is_whole, write_random_copy
from .turn import timed_ms

DENSITIES = (0.03, 0.1, 0.25, 0.5, 1.0)
"""Shares of each layer's blocks that are measured."""
_WARM_UP = 2
_RUN = "model_run"


@dataclass(frozen=True, slots=True)
class CostCheck:
    """A whole run that was measured beside its layers. predicted_ms: the sum of their curves and all else."""

    pattern: str
    density: float
    measured_ms: float
    predicted_ms: float


@dataclass(frozen=True, slots=True)
class CostMeasurement:
    """The costs, and the runs that they were found by, as a check."""

    costs: DeviceCosts
    checks: tuple[CostCheck, ...]


@dataclass(slots=True)
class _Copy:
    """The times of one random copy. layer_ms: layer and level to the time of all its nodes in a run."""

    pattern: str
    records: Sequence[LayerRecord]
    densities: Sequence[float]
    whole_ms: Sequence[float]
    layer_ms: Mapping[tuple[str, int], float]
    positions: Mapping[str, int]


def measure_costs(
    path: str | os.PathLike[str],
    patterns: Sequence[str] = (),
    *,
    densities: Sequence[float] = DENSITIES,
    repeats: int = 15,
    threads: int | None = None,
    spin: bool = False,
) -> CostMeasurement:
    """Measure each layer of the checkpoint at each of the densities, with random masks, for one sample.

    The layers run where they stand in the network, on its activations, by the kernels that serve. A layer that the file
    keeps whole is measured whole. patterns: the patterns of the other layers; none: each layer's own.
    The levels of a copy take turns, so a disturbance meets all densities alike. A model of a fixed batch is measured at
    that batch. Raises the errors of Session, BudgetError (densities), PatternError.
    """
    densities, repeats = check_densities(densities), whole("repeats", repeats, 1)
    if isinstance(patterns, str):
        raise InputError(f"patterns: expected a list of names, got the text {patterns!r}")
    copies: list[_Copy] = []
    with Checkpoint.open(path) as checkpoint, tempfile.TemporaryDirectory(prefix="nested-sparse-") as folder:
        check_graph(checkpoint, checkpoint.graph())
        entries = {entry.name: entry for entry in checkpoint.layers}
        for pattern in patterns or [""]:
            for each in _dealt(densities, len(checkpoint.levels)):
                copy = Path(folder) / "copy.safetensors"
                records = write_random_copy(checkpoint, copy, each, pattern)
                copies.append(_measured(copy, pattern, records, entries, repeats, threads, spin))
                copy.unlink()
        with Session(path, threads=threads, spin=spin) as session:
            isa, int8_isa, used = session.isa, session.int8_isa or "", session.threads
    layers = {name: _layer_costs(entry, copies) for name, entry in entries.items()}
    others = [
        each.whole_ms[level] - _layers_ms(each, level, layers) for each in copies for level in range(len(each.whole_ms))
    ]
    costs = DeviceCosts(
        device=cpu_model(),
        isa=isa,
        int8_isa=int8_isa,
        threads=used,
        values=next(iter(_value_types(entries.values()))),
        other_ms=max(0.0, statistics.median(others)),
        layers=layers,
    )
    return CostMeasurement(costs, tuple(_checks(copies, costs)))


def _value_types(entries: Iterable[LayerEntry]) -> dict[str, int]:
    """Number of weights of each value type, the most first."""
    counts: dict[str, int] = defaultdict(int)
    for entry in entries:
        counts[entry.value_type.name] += entry.rows * entry.columns
    return dict(sorted(counts.items(), key=lambda each: -each[1]))


def _dealt(densities: Sequence[float], level_count: int) -> list[tuple[float, ...]]:
    """The densities, dealt to as few copies as their levels allow; a copy's last density fills the levels left."""
    copies = math.ceil(len(densities) / level_count)
    dealt = [tuple(densities[first::copies]) for first in range(copies)]
    return [(*each, *each[-1:] * (level_count - len(each))) for each in dealt]


def _measured(
    path: Path,
    pattern: str,
    records: Sequence[LayerRecord],
    entries: Mapping[str, LayerEntry],
    repeats: int,
    threads: int | None,
    spin: bool,
) -> _Copy:
    whole: list[list[float]] = []
    with tempfile.TemporaryDirectory(prefix="nested-sparse-") as folder:
        with (
            Session(path, threads=threads, spin=spin) as session,
            Session(path, threads=threads, spin=spin, profile_to=Path(folder)) as profiled,
        ):
            densities = sorted({level.density for level in session.levels})
            inputs = random_inputs(session.inputs, fixed_batch(session.inputs) or 1)
            for _ in range(_WARM_UP + repeats):
                whole.append([])
                for level in range(len(densities)):  # twice each: the level before has filled the caches
                    session.run(inputs, level)
                    whole[-1].append(timed_ms(session, level, inputs, time.perf_counter))
                    profiled.run(inputs, level)
                    profiled.run(inputs, level)
        runs = list(_runs(read_profile(Path(folder), "layers")))[1::2]
    whole_ms = [_at_rest(each) for each in zip(*whole[_WARM_UP:], strict=True)]
    by_level = [runs[_WARM_UP * len(densities) + level :: len(densities)] for level in range(len(densities))]
    nodes_ms = [_at_rest([sum(event["dur"] for event in run) / 1e3 for run in of_level]) for of_level in by_level]
    # the profiler's own time within a node, of which whole runs have nothing
    extra_ms = max(0.0, statistics.median(np.subtract(nodes_ms, whole_ms)) / max(1, len(runs[0])))
    positions: dict[str, int] = defaultdict(int)
    uses: dict[str, int] = defaultdict(int)
    for layer, event in _of_layers(runs[0], entries):
        positions[layer.name] += _positions(layer, event)
        uses[layer.name] += 1
    layer_ms = {
        (name, level): max(0.0, _at_rest(samples) - extra_ms * uses[name])
        for level, of_level in enumerate(by_level)
        for name, samples in _by_layer(of_level, entries).items()
    }
    return _Copy(pattern, records, densities, whole_ms, layer_ms, positions)


def _by_layer(runs: Iterable[Iterable[Mapping[str, Any]]], entries: Mapping[str, LayerEntry]) -> dict[str, list[float]]:
    """Milliseconds of all nodes of each layer, in each run."""
    samples: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        of_run: dict[str, float] = defaultdict(float)
        for layer, event in _of_layers(run, entries):
            of_run[layer.name] += float(event["dur"]) / 1e3
        for name, ms in of_run.items():
            samples[name].append(ms)
    return samples


def _of_layers(
    run: Iterable[Mapping[str, Any]], entries: Mapping[str, LayerEntry]
) -> Iterator[tuple[LayerEntry, Mapping[str, Any]]]:
    """The layers' nodes of a run."""
    for event in run:
        layer = layer_of(event, entries)
        if layer is not None:
            yield layer, event


def _runs(events: Iterable[Mapping[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """The events of nodes, run by run: ONNX Runtime writes the event of a run after those of its nodes."""
    nodes: list[Mapping[str, Any]] = []
    for event in events:
        if event.get("cat") == "Node":
            nodes.append(event)
        elif event.get("name") == _RUN:
            yield list(node_events(nodes))
            nodes = []


def _at_rest(samples: Sequence[float]) -> float:
    """Mean of the fastest quarter: any disturbance adds time, and ONNX Runtime counts whole microseconds."""
    return statistics.fmean(sorted(samples)[: (len(samples) + 3) // 4])


def _positions(layer: LayerEntry, event: Mapping[str, Any]) -> int:
    """Output pixels or rows of a node in one run; 0 where ONNX Runtime does not tell a shape with the layer's rows."""
    try:
        shape: list[int] = next(iter(event["args"]["output_type_shape"][0].values()))
    except (KeyError, IndexError, StopIteration):
        return 0
    return math.prod(shape) * (LAYER_KINDS[layer.op].gates or 1) // layer.rows


def _layer_costs(entry: LayerEntry, copies: Sequence[_Copy]) -> LayerCosts:
    points: dict[str, dict[int, float]] = defaultdict(dict)
    for copy in copies:
        record = next(record for record in copy.records if record.weight.name == entry.name)
        for level in range(len(copy.densities)):
            ms = copy.layer_ms.get((entry.name, level), 0.0)
            of_pattern = points[record.pattern]
            kept = record.weight.nnz(level)
            of_pattern[kept] = min(ms, of_pattern.get(kept, math.inf))
    curves = {pattern: TimeCurve.fit(each.items()) for pattern, each in points.items()}
    whole_ms = min(curve.points[-1][1] for curve in curves.values()) if is_whole(entry) else None
    return LayerCosts(
        op=entry.op,
        rows=entry.rows,
        columns=entry.columns,
        positions=copies[0].positions.get(entry.name, 0),
        patterns={} if is_whole(entry) else curves,
        whole_ms=whole_ms,
    )


def _layers_ms(copy: _Copy, level: int, layers: Mapping[str, LayerCosts]) -> float:
    """The time of all layers of a copy by their curves."""
    total_ms = 0.0
    for record in copy.records:
        costs = layers[record.weight.name]
        curve = costs.patterns.get(record.pattern)
        kept = record.weight.nnz(level)
        total_ms += costs.ms_when_whole(record.pattern) if curve is None else float(curve.ms(kept))
    return total_ms


def _checks(copies: Sequence[_Copy], costs: DeviceCosts) -> Iterator[CostCheck]:
    for copy in copies:
        for level, density in enumerate(copy.densities):
            predicted_ms = costs.other_ms + _layers_ms(copy, level, costs.layers)
            yield CostCheck(copy.pattern, density, copy.whole_ms[level], predicted_ms)
