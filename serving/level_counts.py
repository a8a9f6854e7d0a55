"""LevelCounts: the requests of one model, counted by level, with as little work for each as can be.

prometheus_client's own counters take a lock and look their labels up at each step: 60 µs a request (Xeon), against 4.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field

from nested_sparse.runtime.scheduling import MOST_SIZES, Response

BUCKETS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


@dataclass(slots=True)
class Tally:
    """Running totals of one version of a model since it was loaded; durations in nanoseconds.

    input_ns, output_ns: from the request's message to its arrays, and from the arrays to the answer's message.
    by_batch: input_ns and output_ns by the number of samples that ran together. failed: requests by outcome.
    """

    successes: int = 0
    samples: int = 0
    success_ns: int = 0
    failure_ns: int = 0
    queue_ns: int = 0
    compute_ns: int = 0
    input_ns: int = 0
    output_ns: int = 0
    last_inference_ms: int = 0  # since the epoch
    by_batch: dict[int, list[int]] = field(default_factory=dict)
    failed: Counter[str] = field(default_factory=Counter)

    @property
    def failures(self) -> int:
        """Requests that failed, whatever their outcome."""
        return sum(list(self.failed.values()))  # a copy: another thread may count meanwhile

    def answer(self, response: Response, batch: int, total_s: float, input_s: float, output_s: float) -> None:
        """Count an answer of `batch` samples that took `total_s` from its arrival."""
        input_ns, output_ns = round(input_s * 1e9), round(output_s * 1e9)
        self.successes += 1
        self.samples += batch
        self.success_ns += round(total_s * 1e9)
        self.queue_ns += max(0, response.queue_us * 1000 - input_ns)  # queue_us begins with the arrival
        self.compute_ns += response.compute_us * 1000
        self.input_ns += input_ns
        self.output_ns += output_ns
        self.last_inference_ms = time.time_ns() // 1_000_000
        same = self.by_batch.get(response.batch)
        if same is not None:
            same[0] += input_ns
            same[1] += output_ns
        elif len(self.by_batch) < MOST_SIZES:
            self.by_batch[response.batch] = [input_ns, output_ns]

    def failure(self, outcome: str, total_s: float) -> None:
        """Count a request that took `total_s` until it failed."""
        self.failed[outcome] += 1
        self.failure_ns += round(total_s * 1e9)


class Durations:
    """A histogram. counts: number of durations in each of BUCKETS_S, and beyond; sum_s: all durations."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_S) + 1)
        self.sum_s = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(BUCKETS_S, seconds)] += 1
        self.sum_s += seconds


class LevelCounts:
    """The answers of one level."""

    __slots__ = ("compute", "late", "lowered", "ok", "queue", "slack", "total")

    def __init__(self) -> None:
        self.ok = self.late = self.lowered = 0
        self.queue, self.compute, self.total, self.slack = Durations(), Durations(), Durations(), Durations()


@dataclass(slots=True)
class ModelCounts:
    """The counts of one model, of all its versions together.

    levels: by index, those that have answered. failed: requests that no level answered, by outcome. shed: those of
    them that no level could answer in time. current_level: the one that answered last. running: requests taken in and
    not answered.
    """

    levels: dict[int, LevelCounts] = field(default_factory=dict)
    failed: Counter[str] = field(default_factory=Counter)
    shed: int = 0
    running: int = 0
    current_level: int | None = None

    def answer(self, response: Response, total_s: float) -> None:
        """Count an answer that took `total_s` from its arrival."""
        level = response.level.index
        counts = self.levels.get(level)
        if counts is None:
            counts = self.levels[level] = LevelCounts()
        slack_s = response.time_limit_ms / 1e3 - total_s
        if slack_s < 0.0:
            counts.late += 1
            counts.slack.add(0.0)
        else:
            counts.ok += 1
            counts.slack.add(slack_s)
        if response.lowering is not None:
            counts.lowered += 1
        self.current_level = level
        counts.queue.add(response.queue_us / 1e6)
        counts.compute.add(response.compute_us / 1e6)
        counts.total.add(total_s)

    def failure(self, outcome: str) -> None:
        """Count a request that failed."""
        self.failed[outcome] += 1
        self.shed += outcome == "shed"
