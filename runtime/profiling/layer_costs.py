"""CostMeasurement: the time of each layer over the weights it keeps, on this device, measured with random masks."""

from __future__ import annotations

import math
import os
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

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
from ..session import Session, fixed_batch
from .copy_runs import CopyRuns, at_rest, run_copy
from .dense_times import DenseCheck, measure_dense
from .layer_profile import layer_of
from .random_copy import is_whole, write_random_copy

DENSITIES = (0.03, 0.1, 0.25, 0.5, 1.0)
"""Shares of each layer's blocks that are measured."""


@dataclass(frozen=True, slots=True)
class CostCheck:
    """A whole run that was measured beside its layers. predicted_ms: the sum of their curves and all else."""

    pattern: str
    density: float
    measured_ms: float
    predicted_ms: float


@dataclass(frozen=True, slots=True)
class CostMeasurement:
    """The costs, and the runs that they were found by, as a check. dense: runs with layers that ONNX Runtime runs."""

    costs: DeviceCosts
    checks: tuple[CostCheck, ...]
    dense: tuple[DenseCheck, ...] = ()


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
    batch: int = 1,
    repeats: int = 15,
    threads: int | None = None,
    spin: bool = False,
) -> CostMeasurement:
    """Measure each layer of the checkpoint at each of the densities, with random masks, in runs of `batch` samples.

    The layers run where they stand in the network, on its activations, by the kernels that serve. A layer that the file
    keeps whole is measured whole. patterns: the patterns of the other layers; none: each layer's own.
    The levels of a copy take turns, so a disturbance meets all densities alike. A model of a fixed batch is measured at
    that batch alone. ONNX Runtime's time for each layer's dense weight is measured too (dense_times.py).
    Raises the errors of Session, BudgetError (densities), PatternError, InputError (other batches than a fixed one).
    """
    batch = whole("batch", batch, 1)
    densities, repeats = check_densities(densities), whole("repeats", repeats, 1)
    if isinstance(patterns, str):
        raise InputError(f"patterns: expected a list of names, got the text {patterns!r}")
    copies: list[_Copy] = []
    with Checkpoint.open(path) as checkpoint, tempfile.TemporaryDirectory(prefix="nested-sparse-") as folder:
        check_graph(checkpoint, checkpoint.graph())
        entries = {entry.name: entry for entry in checkpoint.layers}
        fixed = fixed_batch(checkpoint.inputs)
        if fixed is not None and batch not in (1, fixed):
            raise InputError(f"batch: the model takes {fixed} samples in each run, got {batch}; leave the batch out")
        batch = fixed or batch
        for pattern in patterns or [""]:
            for each in _dealt(densities, len(checkpoint.levels)):
                copy = Path(folder) / "copy.safetensors"
                records = write_random_copy(checkpoint, copy, each, pattern)
                runs = run_copy(copy, batch, repeats, threads, spin=spin)
                copies.append(_measured(runs, pattern, records, sorted(set(each)), entries, batch))
                copy.unlink()
        with Session(path, threads=threads, spin=spin) as session:
            isa, int8_isa, used = session.isa, session.int8_isa or "", session.threads
        layers = {name: _layer_costs(entry, copies) for name, entry in entries.items()}
        dense = measure_dense(
            checkpoint, Path(folder), layers, patterns[0] if patterns else "", batch, repeats, threads, spin
        )
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
        layers={name: replace(layer, dense_ms=dense.layers_ms.get(name)) for name, layer in layers.items()},
        dense_ms=dense.network_ms,
        batch=batch,
    )
    return CostMeasurement(costs, tuple(_checks(copies, costs)), dense.checks)


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
    copy: CopyRuns,
    pattern: str,
    records: Sequence[LayerRecord],
    densities: Sequence[float],
    entries: Mapping[str, LayerEntry],
    batch: int,
) -> _Copy:
    positions: dict[str, int] = defaultdict(int)
    uses: dict[str, int] = defaultdict(int)
    for layer, event in _of_layers(copy.runs[0][0], entries):
        positions[layer.name] += _positions(layer, event)
        uses[layer.name] += 1
    layer_ms = {
        (name, level): max(0.0, at_rest(samples) - copy.extra_ms * uses[name])
        for level, of_level in enumerate(copy.runs)
        for name, samples in _by_layer(of_level, entries).items()
    }
    of_one = {name: count // batch for name, count in positions.items()}
    return _Copy(pattern, records, densities, copy.whole_ms, layer_ms, of_one)


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
