"""What `bench kernels` runs: the measuring of each kind of row, and the facts about this machine."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from nested_sparse.kernels import library
from nested_sparse.serving.bench.against_dense import measure_against_dense
from nested_sparse.serving.bench.forced import measure_forced
from nested_sparse.serving.bench.halves import measure_halves
from nested_sparse.serving.bench.layers import measure_conv_rate
from nested_sparse.serving.bench.levels import measure_level0
from nested_sparse.serving.bench.neighbours import Neighbours
from nested_sparse.serving.bench.peers.rows import measure_peers
from nested_sparse.serving.bench.row import Row, Spec
from nested_sparse.serving.bench.table import LINEAR_ROUNDS, Settings
from nested_sparse.serving.bench.workshop import Workshop

PACKAGES = ("nested-sparse", "onnxruntime", "numpy", "torch", "onnx")


def measure_rows(specs: Sequence[Spec], settings: Settings, workshop: Workshop) -> list[Row]:
    """The rows of specs that share a setting. Raises NestedSparseError: then none of them could be measured."""
    first, rounds = specs[0], settings.rounds
    neighbours = Neighbours()
    if first.isa and first.isa != library.isa():
        return measure_forced(specs, rounds)
    if first.values != "float32":
        rows = measure_halves(specs, workshop, LINEAR_ROUNDS * rounds)
    elif first.kind == "linear":
        built = workshop.linear(first.pattern, first.levels, first.batch)
        rows = measure_against_dense(specs, built, LINEAR_ROUNDS * rounds)
    elif first.kind == "level0":
        rows = measure_level0(specs, workshop, 2 * rounds)  # a bound of three per cent asks for more of them
    else:
        built = workshop.network(first.pattern, first.levels)
        if first.kind == "resnet50":
            rows = measure_against_dense(specs, built, rounds)
        elif first.kind == "conv-rate":
            rows = measure_conv_rate(specs, built, rounds)
        else:
            rows = measure_peers(specs, built, rounds, workshop, settings.peers_folder)
    load = neighbours.cores()
    return [replace(row, versions=versions(), other_load=round(load, 3)) for row in rows]


def versions() -> dict[str, str]:
    """Of Python and the packages that the figures depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def cpu_name() -> str:
    """As the system calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
