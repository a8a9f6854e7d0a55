"""CopyRuns: runs of a random copy at each of its levels, with and without ONNX Runtime's profiler."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..session import Session, random_inputs
from .layer_profile import node_events, read_profile
from .turn import timed_ms

WARM_UP = 2
_RUN = "model_run"
Events = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class CopyRuns:
    """The runs at rest.

    whole_ms: of each level, without the profiler. runs: events of the nodes, by level and run. extra_ms: the profiler's
    own time within a node, of which whole runs have nothing.
    """

    whole_ms: Sequence[float]
    runs: Sequence[Sequence[Events]]
    extra_ms: float


def run_copy(path: Path, batch: int, repeats: int, threads: int | None, *, spin: bool) -> CopyRuns:
    """Run the file at each of its densities; the levels take turns, so that a disturbance meets all alike.

    batch: samples of a run. Raises the errors of Session.
    """
    whole: list[list[float]] = []
    with tempfile.TemporaryDirectory(prefix="nested-sparse-") as folder:
        with (
            Session(path, threads=threads, spin=spin) as session,
            Session(path, threads=threads, spin=spin, profile_to=Path(folder)) as profiled,
        ):
            levels = len({level.density for level in session.levels})
            inputs = random_inputs(session.inputs, batch)
            for _ in range(WARM_UP + repeats):
                whole.append([])
                for level in range(levels):  # twice each: the level before has filled the caches
                    session.run(inputs, level)
                    whole[-1].append(timed_ms(session, level, inputs, time.perf_counter))
                    profiled.run(inputs, level)
                    profiled.run(inputs, level)
        runs = list(told_apart(read_profile(Path(folder), "layers")))[1::2]
    whole_ms = [at_rest(each) for each in zip(*whole[WARM_UP:], strict=True)]
    by_level = [runs[WARM_UP * levels + level :: levels] for level in range(levels)]
    nodes_ms = [at_rest([sum(event["dur"] for event in run) / 1e3 for run in of_level]) for of_level in by_level]
    extra_ms = max(0.0, statistics.median(np.subtract(nodes_ms, whole_ms)) / max(1, len(runs[0])))
    return CopyRuns(whole_ms, by_level, extra_ms)


def told_apart(events: Iterable[Mapping[str, Any]]) -> Iterator[Events]:
    """The events of nodes, run by run: ONNX Runtime writes the event of a run after those of its nodes."""
    nodes: list[Mapping[str, Any]] = []
    for event in events:
        if event.get("cat") == "Node":
            nodes.append(event)
        elif event.get("name") == _RUN:
            yield list(node_events(nodes))
            nodes = []


def at_rest(samples: Sequence[float]) -> float:
    """Mean of the fastest quarter: any disturbance adds time, and ONNX Runtime counts whole microseconds."""
    return statistics.fmean(sorted(samples)[: (len(samples) + 3) // 4])
