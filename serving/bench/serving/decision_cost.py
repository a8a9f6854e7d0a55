"""The cost of one decision: a look at the machine's sensors and a choice, at several lengths of the queue."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from nested_sparse.runtime.policy import LevelPolicy, Waiting
from nested_sparse.runtime.resources import ResourceMonitor

from ..reach import Reach
from .figure import Figure

QUEUE_LENGTHS = (0, 8, 32)
DECISIONS = 400


def decision_cost(
    policy: LevelPolicy,
    monitor: ResourceMonitor,
    level_count: int,
    batch: int,
    run_ms: float,
    clock: Callable[[], float] = time.perf_counter,
) -> Figure:
    """Median microseconds of monitor.sample() and policy.choose() at the worst of QUEUE_LENGTHS, in this process.

    Before each decision the policy is told of one arrival; they are `run_ms` apart. The sensors themselves are
    read at most every quarter of a second, of real time; the time of such a reading is in the note.
    """
    medians = {}
    now_s = 0.0
    for length in QUEUE_LENGTHS:
        spent_us = []
        for _ in range(DECISIONS):
            now_s += run_ms / 1e3
            queue = [_waiting(now_s, run_ms * (place + 2), level_count, batch) for place in range(length + 1)]
            policy.admit(queue[-1], queue[:-1], 0.0, now_s)
            begin_s = clock()
            monitor.sample()
            decision = policy.choose(queue[0], queue[1:], now_s)
            spent_us.append(1e6 * (clock() - begin_s))
            if decision.level is not None:
                policy.observe(decision.level, batch, decision.predicted_ms, now_s)
        medians[str(length)] = statistics.median(spent_us)
    reading_us = _reading_us(clock)
    note = (
        f"median of {DECISIONS} at {', '.join(f'{length} waiting: {us:.0f} µs' for length, us in medians.items())}; "
        f"a fresh reading of the sensors, at most 4 a second: {reading_us:.0f} µs"
    )
    details = {"median_us": medians, "reading_us": reading_us}
    return Figure(
        "cost of a decision, monitor + policy",
        "µs",
        Reach("<=", 50.0),
        measured=max(medians.values()),
        note=note,
        details=details,
    )


def _waiting(now_s: float, left_ms: float, level_count: int, batch: int) -> Waiting:
    return Waiting(now_s + left_ms / 1e3, 0, level_count - 1, batch, left_ms)


def _reading_us(clock: Callable[[], float]) -> float:
    monitor = ResourceMonitor(min_interval_s=0.0)
    spent_us = []
    for _ in range(20):
        begin_s = clock()
        monitor.sample()
        spent_us.append(1e6 * (clock() - begin_s))
    return statistics.median(spent_us)
