"""Spans: a span for each request, for an OpenTelemetry collector. Its library is the extra [otel]."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from types import TracebackType
from typing import Any, NamedTuple

import grpc
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from nested_sparse import __version__
from nested_sparse.proto import messages

from .fault import fault_of
from .level_counts import ModelCounts, Tally
from .metrics import Metrics, Record
from .served_model import ServedModel

RPC = {"rpc.system": "grpc", "rpc.service": messages.SERVICE_NAME}
TRACE_HEADERS = ("traceparent", "tracestate")
"""W3C Trace Context: a client's own span and the state of its trace."""
MOST_HEADER = 1024
EXPORT_S = 5.0
"""Time limit of one export to the collector, in seconds."""
PERIOD_S = 0.2
"""Time between two looks for requests that have ended."""
MOST_WAITING = 2048
"""Most requests whose spans are not made yet."""
CLOSE_MS = 1000
"""Time that the last spans get to leave when the server stops."""

_parent: ContextVar[Context | None] = ContextVar("parent", default=None)
"""In a call: the trace that its client is in."""


class Ended(NamedTuple):
    """A request that has ended. It holds no tensors.

    parent: the trace of its client. stages: name and length in us of its parts, in order. outcome: of a failure.
    """

    parent: Context | None
    end_ns: int
    total_s: float
    attributes: dict[str, Any]
    stages: tuple[tuple[str, int], ...] = ()
    outcome: str = ""


class Spans:
    """Sends spans to a collector, from threads of its own; without one to hear them, they are dropped.

    Requests only leave their facts here: to make its spans takes the library 0.3 ms, which would delay the requests
    behind it.

    endpoint: URL of OTLP over gRPC, as http://127.0.0.1:4317. OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER and the other
    variables of OpenTelemetry hold as everywhere; a client's decision to record its trace is kept.
    gate: the first of the server's handlers.
    """

    def __init__(self, endpoint: str) -> None:
        resource = Resource.create({SERVICE_VERSION: __version__})
        if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: "nested-sparse"}))
        self.gate = TraceGate()
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_S)))
        self._tracer = self._provider.get_tracer("nested_sparse")
        self._ended: deque[Ended] = deque(maxlen=MOST_WAITING)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="spans", daemon=True)
        self._thread.start()

    def add(self, ended: Ended) -> None:
        """Take a request in. Where they come faster than spans can be made, the oldest ones are dropped."""
        self._ended.append(ended)

    def close(self) -> None:
        """Send the rest, for a second at most, and end. It blocks."""
        self._closing.set()
        self._thread.join()
        self._provider.force_flush(CLOSE_MS)
        self._provider.shutdown()

    def _work(self) -> None:
        while not self._closing.wait(PERIOD_S):
            self._make_all()
        self._make_all()

    def _make_all(self) -> None:
        while self._ended:
            self._make(self._ended.popleft())

    def _make(self, ended: Ended) -> None:
        begin_ns = ended.end_ns - round(ended.total_s * 1e9)
        span = self._tracer.start_span(
            "ModelInfer",
            context=ended.parent,
            kind=SpanKind.SERVER,
            attributes={**RPC, **ended.attributes},
            start_time=begin_ns,
        )
        inside = set_span_in_context(span)
        for name, micros in ended.stages if span.is_recording() else ():
            self._tracer.start_span(name, context=inside, start_time=begin_ns).end(begin_ns + micros * 1000)
            begin_ns += micros * 1000
        if ended.outcome:
            span.set_attribute("outcome", ended.outcome)
            span.set_status(StatusCode.ERROR, ended.outcome)
        span.end(ended.end_ns)


class TraceGate(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """Stands in front of all handlers, answers no call, and notes the trace that its client is in."""

    def __init__(self) -> None:
        self._propagator = TraceContextTextMapPropagator()

    def service(self, details: Any) -> Any:
        """None: gRPC asks the next handler."""
        found = {
            key: value
            for key, value in details.invocation_metadata or ()
            if key in TRACE_HEADERS and isinstance(value, str) and len(value) <= MOST_HEADER
        }
        _parent.set(self._propagator.extract(found) if found else None)


class TracedMetrics(Metrics):
    """Metrics that also make a span of each request that they count."""

    def __init__(self, spans: Spans, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self._spans = spans

    def request(self, model: ServedModel, received_s: float) -> Record:
        """As Metrics."""
        return TracedRecord(self._counts[model.name], self.tallies[model], received_s, self._clock, self._spans, model)

    def count_unread(self, error: Exception) -> None:
        """As Metrics."""
        super().count_unread(error)
        self._spans.add(Ended(_parent.get(), time.time_ns(), 0.0, {}, outcome=fault_of(error).outcome))


class TracedRecord(Record):
    """A record that ends as a span."""

    __slots__ = ("_model", "_spans")

    def __init__(
        self,
        counts: ModelCounts,
        tally: Tally,
        received_s: float,
        clock: Callable[[], float],
        spans: Spans,
        model: ServedModel,
    ) -> None:
        super().__init__(counts, tally, received_s, clock)
        self._spans, self._model = spans, model

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        response = self.response
        attributes: dict[str, Any] = {"model.name": self._model.name, "model.version": self._model.version}
        stages: tuple[tuple[str, int], ...] = ()
        if response is not None:
            stages = (("queue", response.queue_us), ("compute", response.compute_us))
            attributes |= {
                "model.level": response.level.index,
                "model.density": response.level.density,
                "request.samples": self.batch,
                "request.limit_ms": response.time_limit_ms,
                "run.samples": response.batch,
            }
        total_s = self._clock() - self._received_s
        outcome = "" if error is None else fault_of(error).outcome
        self._spans.add(Ended(_parent.get(), time.time_ns(), total_s, attributes, stages, outcome))
