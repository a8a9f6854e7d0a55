"""Metrics: the server's counts, for Prometheus and for the protocol's ModelStatistics."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from types import TracebackType

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from nested_sparse.runtime.scheduling import Response

from .fault import fault_of
from .level_counts import BUCKETS_S, Durations, LevelCounts, ModelCounts, Tally
from .sequences.store import SequenceStore
from .served_model import ServedModel

NO_LEVEL = ""
"""Label of a request that no level answered."""
NO_MODEL = ""
"""Label of a request that was refused before its model was known: never a name that a client made up."""
_MODEL, _LEVEL = ("model",), ("model", "level")


class Record:
    """One request on its way, as a context. Its body fills it in; the body's error, if any, is the outcome.

    batch: number of samples; response: the answer, once there is one.
    input_s, output_s: time that its message took to become arrays, and the arrays to become a message.
    """

    __slots__ = ("_clock", "_counts", "_received_s", "_tally", "batch", "input_s", "output_s", "response")

    def __init__(self, counts: ModelCounts, tally: Tally, received_s: float, clock: Callable[[], float]) -> None:
        self.batch = 1
        self.response: Response | None = None
        self.input_s = self.output_s = 0.0
        self._counts, self._tally, self._received_s, self._clock = counts, tally, received_s, clock

    def __enter__(self) -> Record:
        self._counts.running += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        counts, total_s = self._counts, self._clock() - self._received_s
        counts.running -= 1
        if error is not None:
            outcome = fault_of(error).outcome
            counts.failure(outcome)
            self._tally.failure(outcome, total_s)
        elif self.response is not None:
            counts.answer(self.response, total_s)
            self._tally.answer(self.response, self.batch, total_s, self.input_s, self.output_s)


class Metrics:
    """Counts requests. Prometheus reads the counts through a registry of their own: several servers fit in one process.

    tallies: totals of each version of a model. clock: seconds; the clock of the requests' arrival times.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.registry = CollectorRegistry()
        self.tallies: dict[ServedModel, Tally] = {}
        self._clock = clock
        self._watched: dict[str, list[ServedModel]] = {}
        self._counts: dict[str, ModelCounts] = {}
        self._unread: Counter[str] = Counter()  # requests of no model, by outcome
        self._front_wait_s: Callable[[], float] | None = None
        self._sequences: SequenceStore | None = None
        self.registry.register(self)

    def watch(self, model: ServedModel) -> None:
        """Export this model's levels, queue and slowdown from now on.

        The versions of a model are exported under its name: their requests and queues together, all else of the
        version that was loaded last.
        """
        self.tallies[model] = Tally()
        self._counts.setdefault(model.name, ModelCounts())
        self._watched[model.name] = [*self._watched.get(model.name, ()), model]

    def unwatch(self, model: ServedModel) -> None:
        """Forget a version that was taken away. The counters keep the counts of its requests."""
        self.tallies.pop(model, None)
        self._watched[model.name] = [each for each in self._watched[model.name] if each is not model]

    def watch_front(self, wait_s: Callable[[], float]) -> None:
        """Export the time that requests wait before their handlers start."""
        self._front_wait_s = wait_s

    def watch_sequences(self, store: SequenceStore) -> None:
        """Export the sequences that are kept."""
        self._sequences = store

    def request(self, model: ServedModel, received_s: float) -> Record:
        """The record of a request that came at `received_s`; the context that it is counts the request."""
        return Record(self._counts[model.name], self.tallies[model], received_s, self._clock)

    @contextmanager
    def unread(self) -> Iterator[None]:
        """Count a request that the body refuses, because it is unreadable or names no model of this server."""
        try:
            yield
        except Exception as error:
            self.count_unread(error)
            raise

    def count_unread(self, error: Exception) -> None:
        """Count a request that was refused with `error`, because it is unreadable or names no model of this server."""
        self._unread[fault_of(error).outcome] += 1

    def shed_in_front(self) -> None:
        """Count a request that was refused unread, because too many requests wait in front of the handlers.

        It counts for the model if the server has only one.
        """
        if len(self._counts) != 1:
            self._unread["shed"] += 1
            return
        for counts in self._counts.values():
            counts.failed["shed"] += 1
            counts.shed += 1
        for tally in self.tallies.values():
            tally.failed["shed"] += 1
            break

    def describe(self) -> Iterator[Metric]:
        """As prometheus_client's collectors: no metric is named twice in this registry."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """As prometheus_client's collectors, from any thread: the metrics of now."""
        yield from self._requests()
        yield from self._durations()
        yield from self._gauges()
        if self._sequences is not None:
            yield from _of_sequences(self._sequences)

    def _requests(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "nested_sparse_requests",
            "Requests by outcome: ok, late, shed, expired, cancelled, invalid, unavailable, stuck, out_of_memory, "
            "not_found, unauthenticated, forbidden, error",
            labels=(*_LEVEL, "outcome"),
        )
        shed = CounterMetricFamily(
            "nested_sparse_shed", "Requests no allowed level could answer in time", labels=_MODEL
        )
        late = CounterMetricFamily("nested_sparse_late", "Answers that came after their deadline", labels=_LEVEL)
        lowered = CounterMetricFamily(
            "nested_sparse_lowered",
            "Answers whose level fell while they ran, by the level they ended at",
            labels=_LEVEL,
        )
        for name, counts in list(self._counts.items()):
            shed.add_metric((name,), counts.shed)
            for outcome, count in list(counts.failed.items()):
                requests.add_metric((name, NO_LEVEL, outcome), count)
            for level, each in _by_level(counts):
                for outcome, count in (("ok", each.ok), ("late", each.late)):
                    if count:
                        requests.add_metric((name, level, outcome), count)
                if each.late:
                    late.add_metric((name, level), each.late)
                if each.lowered:
                    lowered.add_metric((name, level), each.lowered)
        for outcome, count in list(self._unread.items()):
            requests.add_metric((NO_MODEL, NO_LEVEL, outcome), count)
        if self._unread["shed"]:
            shed.add_metric((NO_MODEL,), self._unread["shed"])
        yield from (requests, shed, late, lowered)

    def _durations(self) -> Iterator[Metric]:
        for part, text in (
            ("queue", "Arrival to start"),
            ("compute", "Start to result"),
            ("total", "Arrival to answer"),
            ("slack", "Time that was left to the request at its answer; 0 where it was late"),
        ):
            family = HistogramMetricFamily(f"nested_sparse_{part}_seconds", text, labels=_LEVEL)
            for name, counts in list(self._counts.items()):
                for level, each in _by_level(counts):
                    durations: Durations = getattr(each, part)
                    family.add_metric((name, level), _buckets(durations), durations.sum_s)
            yield family

    def _gauges(self) -> Iterator[Metric]:
        current = GaugeMetricFamily("nested_sparse_current_level", "Level served last", labels=_MODEL)
        nbytes = GaugeMetricFamily("nested_sparse_model_bytes", "File bytes that a level needs", labels=_LEVEL)
        slowdown = GaugeMetricFamily(
            "nested_sparse_slowdown", "Measured over profiled latency, the factor ξ", labels=_MODEL
        )
        running = GaugeMetricFamily(
            "nested_sparse_running_requests", "Requests taken in and not answered yet", labels=_MODEL
        )
        waiting = GaugeMetricFamily("nested_sparse_queue_length", "Requests that wait", labels=_MODEL)
        slo = GaugeMetricFamily(
            "nested_sparse_slo_seconds",
            "The time of a request that states none, and the most that any has",
            labels=_MODEL,
        )
        resident = GaugeMetricFamily(
            "nested_sparse_resident_bytes", "Bytes of a model's weights that are in memory", labels=_MODEL
        )
        for name, models in list(self._watched.items()):
            if not models:
                continue
            counts, model, stats = self._counts[name], models[-1], [each.engine.stats() for each in models]
            if counts.current_level is not None:
                current.add_metric((name,), counts.current_level)
            for level in model.levels:
                nbytes.add_metric((name, str(level.index)), level.nbytes)
            slowdown.add_metric((name,), stats[-1].slowdown)
            running.add_metric((name,), counts.running)
            waiting.add_metric((name,), sum(each.queue_length for each in stats))
            slo.add_metric((name,), model.default_slo_ms / 1e3)
            held = [size for each in models if (size := each.resident_bytes()) is not None]
            if held:
                resident.add_metric((name,), sum(held))
        yield from (current, nbytes, slowdown, running, waiting, slo, resident)
        if self._front_wait_s is not None:
            yield GaugeMetricFamily(
                "nested_sparse_front_wait_seconds",
                "Arrival to handler, of a request that comes now",
                value=self._front_wait_s(),
            )


def _of_sequences(store: SequenceStore) -> Iterator[Metric]:
    kept = GaugeMetricFamily("nested_sparse_sequences", "Sequences whose state is kept", labels=_MODEL)
    nbytes = GaugeMetricFamily("nested_sparse_sequence_bytes", "Bytes of the states that are kept", labels=_MODEL)
    lost = CounterMetricFamily(
        "nested_sparse_lost_sequences",
        "Sequences that were forgotten before their end, by reason: idle, evicted, unloaded",
        labels=(*_MODEL, "reason"),
    )
    for name, (count, size) in list(store.counts.items()):
        kept.add_metric((name,), count)
        nbytes.add_metric((name,), size)
    for (name, reason), count in list(store.lost.items()):
        lost.add_metric((name, reason), count)
    yield from (kept, nbytes, lost)


def _by_level(counts: ModelCounts) -> Iterator[tuple[str, LevelCounts]]:
    for level, each in sorted(counts.levels.items()):
        yield str(level), each


def _buckets(durations: Durations) -> list[tuple[str, float]]:
    """Prometheus' buckets, each with the number of durations up to its bound."""
    return list(zip((*map(str, BUCKETS_S), "+Inf"), accumulate(durations.counts), strict=True))
