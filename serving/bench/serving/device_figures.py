"""The rows that need no server: the offline oracle, rescues in mid-inference, a decision's cost, memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nested_sparse.errors import NestedSparseError
from nested_sparse.runtime.policy import ElasticPolicy
from nested_sparse.runtime.profiling import LatencyProfile, measure_resident
from nested_sparse.runtime.rerouting import RouteTable
from nested_sparse.runtime.resources import ResourceMonitor
from nested_sparse.runtime.session import Session

from ..reach import Reach
from .capacity import THREADS
from .decision_cost import decision_cost
from .figure import Figure
from .oracle_figure import oracle_figures
from .rescue import Rescue, measure_rescue


def device_figures(
    checkpoint: Path,
    batch: int,
    service_ms: Sequence[float],
    accuracy: Sequence[float],
    slo_ms: float,
    arrivals: Path | None,
    seed: int,
    requests: int,
    rescue_limit_s: float,
    say: Callable[[str], None],
) -> list[Figure]:
    """The rows, measured on this device. service_ms, accuracy: by level, of requests of `batch` samples.

    requests: of a trace, in the simulator. rescue_limit_s: time for the pairs of guarded and unguarded runs.
    """
    say("elastic beside the offline oracle, in virtual time")
    figures = oracle_figures(service_ms, accuracy, slo_ms, arrivals, seed, requests)
    with Session(checkpoint, threads=THREADS) as session:
        say("deadlines rescued in mid-inference")
        figures.append(rescue_figure(session, batch, rescue_limit_s))
        say("what a decision costs")
        policy = ElasticPolicy(LatencyProfile.measure(session, (1, batch), repeats=3))
        figures.append(decision_cost(policy, ResourceMonitor(), len(session.levels), batch, service_ms[-1]))
    say("what is resident")
    figures.append(resident_figure(checkpoint, batch))
    return figures


def rescue_figure(session: Session, batch: int, limit_s: float) -> Figure:
    """Share of the near misses, late by less than half an inference, that lowering the level in mid-run saved."""
    name, reach = "deadlines rescued by rerouting, of misses by less than half an inference", Reach(">=", 80.0)
    try:
        table = RouteTable.measure(session, batch)
        rescues = measure_rescue(session, table, batch=batch, limit_s=limit_s)
    except NestedSparseError as error:
        return Figure(name, "%", reach, unavailable=str(error))
    return rescue_summary(name, reach, rescues)


def resident_figure(checkpoint: Path, batch: int) -> Figure:
    """Resident bytes after shrinking to level 0, against the file's share of level 0 plus activations."""
    name, reach = "resident bytes at level 0 / its share of the file and activations", Reach("<=", 1.15)
    try:
        found = measure_resident(checkpoint, batch=batch)
    except NestedSparseError as error:
        return Figure(name, "×", reach, unavailable=str(error))
    note = (
        f"{found.shrunk_bytes / 2**20:.2f} MiB, {found.densest.over(found.loaded) / 2**20:.2f} before; the file holds "
        f"{found.share_bytes / 2**20:.2f} for level 0, its runs take {found.activations_bytes / 2**20:.2f}"
    )
    return Figure(name, "×", reach, found.ratio, note, details=asdict(found))


def rescue_summary(name: str, reach: Reach, rescues: Sequence[Rescue]) -> Figure:
    """The row of `rescues`, all levels and conditions together; what it cost in accuracy is in the note."""
    parts: list[dict[str, Any]] = [
        {
            "condition": each.condition,
            "level": each.level,
            "pairs": len(each.pairs),
            "near_misses": len(each.near_misses),
            "rescued": each.rescued,
            "needless": each.needless,
            "accuracy_cost": each.accuracy_cost,
        }
        for each in rescues
    ]
    near, saved = sum(part["near_misses"] for part in parts), sum(part["rescued"] for part in parts)
    if not near:
        return Figure(name, "%", reach, unavailable="no run missed by less than half an inference")
    by_condition = []
    for condition in dict.fromkeys(part["condition"] for part in parts):
        alike = [part for part in parts if part["condition"] == condition]
        counts = [sum(part[count] for part in alike) for count in ("rescued", "near_misses")]
        costs = [100 * part["accuracy_cost"] for part in alike if part["accuracy_cost"] is not None]
        cost = f" for {max(costs):.1f} points of accuracy at most" if costs else ""
        by_condition.append(f"{condition}: {counts[0]} of {counts[1]}{cost}")
    return Figure(name, "%", reach, 100.0 * saved / near, "; ".join(by_condition), details={"by_level": parts})
