"""Metrics: the server's counts, for Prometheus and for the protocol's ModelStatistics."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from nested_sparse.runtime.scheduling import Response

from .fault import fault_of
from .served_model import ServedModel

BUCKETS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
NO_LEVEL = ""
"""Label of a request that no level answered."""
NO_MODEL = ""
"""Label of a request that was refused before its model was known: never a name that a client made up."""
MOST_BATCH_SIZES = 128
"""Numbers of samples that a tally tells apart: clients choose them, and a table of all would grow without bound."""


@dataclass(slots=True)
class Tally:
    """Running totals of one version of a model since it was loaded; durations in nanoseconds.

    input_ns, output_ns: from the request's message to its arrays, and from the arrays to the answer's message.
    by_batch: input_ns and output_ns by the number of samples that ran together.
    """

    successes: int = 0
    failures: int = 0
    samples: int = 0
    success_ns: int = 0
    failure_ns: int = 0
    queue_ns: int = 0
    compute_ns: int = 0
    input_ns: int = 0
    output_ns: int = 0
    last_inference_ms: int = 0  # since the epoch
    by_batch: dict[int, list[int]] = field(default_factory=dict)


@dataclass(slots=True)
class Record:
    """One request on its way; `response` is set once there is an answer.

    input_s, output_s: time that its message took to become arrays, and the arrays to become a message.
    """

    batch: int = 1
    response: Response | None = None
    input_s: float = 0.0
    output_s: float = 0.0


class Metrics:
    """Counts requests, in a registry of its own, so that several servers fit in one process.

    clock: seconds; the clock of the requests' arrival times.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.registry = CollectorRegistry()
        self.tallies: dict[ServedModel, Tally] = {}
        self._watched: dict[str, list[ServedModel]] = {}
        self._clock = clock
        registry, served = self.registry, ("model", "level")
        self._requests = Counter(
            "nested_sparse_requests",
            "Requests by outcome: ok, late, shed, expired, cancelled, invalid, unavailable, stuck, out_of_memory, "
            "not_found, error",
            (*served, "outcome"),
            registry=registry,
        )
        self._shed = Counter(
            "nested_sparse_shed", "Requests no allowed level could answer in time", ("model",), registry=registry
        )
        self._in_front: tuple[Counter, ...] = ()
        self._late = Counter("nested_sparse_late", "Answers that came after their deadline", served, registry=registry)
        self._lowered = Counter(
            "nested_sparse_lowered",
            "Answers whose level fell while they ran, by the level they ended at",
            served,
            registry=registry,
        )
        self._queue = self._histogram("nested_sparse_queue_seconds", "Arrival to start")
        self._compute = self._histogram("nested_sparse_compute_seconds", "Start to result")
        self._total = self._histogram("nested_sparse_total_seconds", "Arrival to answer")
        self._level = Gauge("nested_sparse_current_level", "Level served last", ("model",), registry=registry)
        self._bytes = Gauge("nested_sparse_model_bytes", "File bytes that a level needs", served, registry=registry)
        self._xi = Gauge(
            "nested_sparse_slowdown", "Measured over profiled latency, the factor ξ", ("model",), registry=registry
        )
        self._running = Gauge(
            "nested_sparse_running_requests", "Requests taken in and not answered yet", ("model",), registry=registry
        )
        self._waiting = Gauge("nested_sparse_queue_length", "Requests that wait", ("model",), registry=registry)

        self._front_wait = Gauge(
            "nested_sparse_front_wait_seconds", "Arrival to handler, of a request that comes now", registry=registry
        )

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(name, text, ("model", "level"), buckets=BUCKETS_S, registry=self.registry)

    def watch(self, model: ServedModel) -> None:
        """Export this model's levels, queue and slowdown from now on.

        The versions of a model are exported under its name: their queues together, all else of the latest loaded.
        """
        self.tallies[model] = Tally()
        self._in_front = ()
        watched = self._watched.setdefault(model.name, [])
        watched.append(model)
        self._shed.labels(model.name)
        self._running.labels(model.name)
        self._export(model)
        self._waiting.labels(model.name).set_function(lambda: sum(each.engine.stats().queue_length for each in watched))

    def unwatch(self, model: ServedModel) -> None:
        """Forget a model that was taken away. What its requests have added to the counters stays."""
        self.tallies.pop(model, None)
        self._in_front = ()
        watched = self._watched[model.name]
        watched.remove(model)
        for level in model.levels:
            self._bytes.remove(model.name, str(level.index))
        if watched:
            self._export(watched[-1])
            return
        del self._watched[model.name]
        for gauge in (self._xi, self._waiting):
            gauge.remove(model.name)

    def _export(self, model: ServedModel) -> None:
        for level in model.levels:
            self._bytes.labels(model.name, str(level.index)).set(level.nbytes)
        self._xi.labels(model.name).set_function(lambda: model.engine.stats().slowdown)

    def watch_front(self, wait_s: Callable[[], float]) -> None:
        """Export the time that requests wait before their handlers start."""
        self._front_wait.set_function(wait_s)

    @contextmanager
    def request(self, model: ServedModel, received_s: float) -> Iterator[Record]:
        """Count the request that the body serves. The body fills the record in; its error, if any, is the outcome.

        received_s: time of arrival.
        """
        record, tally = Record(), self.tallies[model]
        try:
            with self._running.labels(model.name).track_inprogress():
                yield record
        except BaseException as error:
            self._failed(model.name, tally, fault_of(error).outcome, self._clock() - received_s)
            raise
        if record.response is not None:
            self._answered(model.name, tally, record, record.response, self._clock() - received_s)

    @contextmanager
    def unread(self) -> Iterator[None]:
        """Count a request that the body refuses, because it is unreadable or names no model of this server."""
        try:
            yield
        except Exception as error:
            self._requests.labels(NO_MODEL, NO_LEVEL, fault_of(error).outcome).inc()
            raise

    def shed_in_front(self) -> None:
        """Count a request that was refused unread, because too many requests wait in front of the handlers.

        It counts for the model if the server has only one.
        """
        only = next(iter(self.tallies)) if len(self.tallies) == 1 else None
        if not self._in_front:  # kept, because to look up the labels costs as much as the rest of a refusal
            name = NO_MODEL if only is None else only.name
            self._in_front = (self._requests.labels(name, NO_LEVEL, "shed"), self._shed.labels(name))
        for counter in self._in_front:
            counter.inc()
        if only is not None:
            self.tallies[only].failures += 1

    def _failed(self, name: str, tally: Tally, outcome: str, total_s: float) -> None:
        self._requests.labels(name, NO_LEVEL, outcome).inc()
        if outcome == "shed":
            self._shed.labels(name).inc()
        tally.failures += 1
        tally.failure_ns += round(total_s * 1e9)

    def _answered(self, name: str, tally: Tally, record: Record, response: Response, total_s: float) -> None:
        level = str(response.level.index)
        late = total_s * 1000 > response.time_limit_ms
        self._requests.labels(name, level, "late" if late else "ok").inc()
        if late:
            self._late.labels(name, level).inc()
        if response.lowering is not None:
            self._lowered.labels(name, level).inc()
        self._level.labels(name).set(response.level.index)
        self._queue.labels(name, level).observe(response.queue_us / 1e6)
        self._compute.labels(name, level).observe(response.compute_us / 1e6)
        self._total.labels(name, level).observe(total_s)
        tally.successes += 1
        tally.samples += record.batch
        tally.success_ns += round(total_s * 1e9)
        input_ns, output_ns = round(record.input_s * 1e9), round(record.output_s * 1e9)
        tally.queue_ns += max(0, response.queue_us * 1000 - input_ns)  # queue_us begins with the arrival
        tally.compute_ns += response.compute_us * 1000
        tally.input_ns += input_ns
        tally.output_ns += output_ns
        if (batch := tally.by_batch.get(response.batch)) is not None:
            batch[0] += input_ns
            batch[1] += output_ns
        elif len(tally.by_batch) < MOST_BATCH_SIZES:
            tally.by_batch[response.batch] = [input_ns, output_ns]
        tally.last_inference_ms = time.time_ns() // 1_000_000
