"""Metrics: the server's counts, for Prometheus and for the protocol's ModelStatistics."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from nested_sparse.runtime.scheduling import Response

from .fault import fault_of
from .served_model import ServedModel

BUCKETS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
NO_LEVEL = ""
"""Label of a request that no level answered."""
NO_MODEL = ""
"""Label of a request that was refused before its model was known: never a name that a client made up."""


@dataclass(slots=True)
class Tally:
    """Running totals of one model since the server started; durations in nanoseconds."""

    successes: int = 0
    failures: int = 0
    samples: int = 0
    success_ns: int = 0
    failure_ns: int = 0
    queue_ns: int = 0
    compute_ns: int = 0
    last_inference_ms: int = 0  # since the epoch


@dataclass(slots=True)
class Record:
    """One request on its way; `response` is set once there is an answer."""

    batch: int = 1
    response: Response | None = None


class Metrics:
    """Counts requests, in a registry of its own, so that several servers fit in one process.

    clock: seconds; the clock of the requests' arrival times.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.registry = CollectorRegistry()
        self.tallies: dict[str, Tally] = {}
        self._clock = clock
        registry, served = self.registry, ("model", "level")
        self._requests = Counter(
            "nested_sparse_requests",
            "Requests by outcome: ok, late, shed, expired, cancelled, invalid, unavailable, stuck, out_of_memory, "
            "not_found, unauthenticated, forbidden, error",
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
        """Export this model's levels, queue and slowdown from now on."""
        self.tallies[model.name] = Tally()
        self._shed.labels(model.name)
        self._running.labels(model.name)
        for level in model.levels:
            self._bytes.labels(model.name, str(level.index)).set(level.nbytes)
        self._xi.labels(model.name).set_function(lambda: model.engine.stats().slowdown)
        self._waiting.labels(model.name).set_function(lambda: model.engine.stats().queue_length)

    def watch_front(self, wait_s: Callable[[], float]) -> None:
        """Export the time that requests wait before their handlers start."""
        self._front_wait.set_function(wait_s)

    @contextmanager
    def request(self, model: ServedModel, received_s: float) -> Iterator[Record]:
        """Count the request that the body serves. The body fills the record in; its error, if any, is the outcome.

        received_s: time of arrival.
        """
        record = Record()
        try:
            with self._running.labels(model.name).track_inprogress():
                yield record
        except BaseException as error:
            self._failed(model.name, fault_of(error).outcome, self._clock() - received_s)
            raise
        if record.response is not None:
            self._answered(model.name, record, record.response, self._clock() - received_s)

    @contextmanager
    def unread(self) -> Iterator[None]:
        """Count a request that the body refuses, because it is unreadable or names no model of this server."""
        try:
            yield
        except Exception as error:
            self._requests.labels(NO_MODEL, NO_LEVEL, fault_of(error).outcome).inc()
            raise

    def refused(self, outcome: str) -> None:
        """Count a request that its caller may not make."""
        self._requests.labels(NO_MODEL, NO_LEVEL, outcome).inc()

    def shed_in_front(self) -> None:
        """Count a request that was refused unread, because too many requests wait in front of the handlers.

        It counts for the model if the server has only one.
        """
        only = next(iter(self.tallies)) if len(self.tallies) == 1 else NO_MODEL
        if not self._in_front:  # kept, because to look up the labels costs as much as the rest of a refusal
            self._in_front = (self._requests.labels(only, NO_LEVEL, "shed"), self._shed.labels(only))
        for counter in self._in_front:
            counter.inc()
        if only in self.tallies:
            self.tallies[only].failures += 1

    def _failed(self, name: str, outcome: str, total_s: float) -> None:
        self._requests.labels(name, NO_LEVEL, outcome).inc()
        if outcome == "shed":
            self._shed.labels(name).inc()
        tally = self.tallies[name]
        tally.failures += 1
        tally.failure_ns += round(total_s * 1e9)

    def _answered(self, name: str, record: Record, response: Response, total_s: float) -> None:
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
        tally = self.tallies[name]
        tally.successes += 1
        tally.samples += record.batch
        tally.success_ns += round(total_s * 1e9)
        tally.queue_ns += response.queue_us * 1000
        tally.compute_ns += response.compute_us * 1000
        tally.last_inference_ms = time.time_ns() // 1_000_000
