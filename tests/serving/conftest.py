"""Fake server: a model without a runtime, and a server in a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from nested_sparse.level import Level
from nested_sparse.runtime.resources import Governor
from nested_sparse.runtime.scheduling.request import Request, Response, allowed_levels, rank_of, time_limit_ms
from nested_sparse.runtime.scheduling.run_counts import RunCounts
from nested_sparse.runtime.scheduling.stats import SchedulerStats
from nested_sparse.runtime.session.tensors import check_inputs
from nested_sparse.serving.repository.repository import Repository
from nested_sparse.serving.served_model import ServedModel
from nested_sparse.serving.server import Server, ServerConfig
from nested_sparse.tensor_spec import TensorSpec

LEVELS = (
    Level(0, 0.1, 100, 1000, {"accuracy": 0.90}),
    Level(1, 0.5, 500, 5000, {"accuracy": 0.95}),
    Level(2, 1.0, 1000, 10000, {}),
)
DEFAULT_SLO_MS = 1000.0


class FakeEngine:
    """Answers {"sum": (N, 1) row sums of "x", "double": 2 x} at once.

    Or fails with `error`; or, while `held`, keeps futures in `pending`.
    """

    def __init__(self, inputs: tuple[TensorSpec, ...]) -> None:
        self.inputs = inputs
        self.requests: list[Request] = []
        self.pending: list[Future[Response]] = []
        self.error: Exception | None = None
        self.held = False
        self.default_slo_ms = DEFAULT_SLO_MS
        self.closed_with: float | None = None
        self.counts = RunCounts()
        self.replies: list[Response] = []

    def run_or_queue(self, request: Request) -> Future[Response]:
        """Accepts a request as the scheduler does."""
        self.requests.append(request)
        future: Future[Response] = Future()
        try:
            if self.error is not None:
                raise self.error
            limit_ms = time_limit_ms(request, self.default_slo_ms)
            _, highest = allowed_levels(request, LEVELS)
            rank_of(request)
            arrays = check_inputs(self.inputs, request.inputs)
        except Exception as error:
            future.set_exception(error)
            return future
        if self.held:
            self.pending.append(future)
        else:
            future.set_result(self.response(arrays, highest, limit_ms))
        return future

    def response(self, arrays: dict[str, np.ndarray], level: int, limit_ms: float = DEFAULT_SLO_MS) -> Response:
        """The response of a run at `level`."""
        x = arrays["x"]
        self.counts.add(len(x), 2_500_000)
        outputs = {"sum": x.sum(axis=1, keepdims=True), "double": 2 * x}
        return Response(outputs, LEVELS[level], 1500, 2500, "fake", limit_ms, batch=len(x))

    def close(self, grace_s: float) -> None:
        """Closes as the scheduler does."""
        self.closed_with = grace_s

    def replied(self, response: Response) -> None:
        """Notes it."""
        self.replies.append(response)

    def stats(self) -> SchedulerStats:
        """Counters like the scheduler's."""
        return SchedulerStats(len(self.pending), 1.25, 0, self.counts.total, self.counts.by_samples)


def fake_model(name: str = "net", dtype: str = "float32", **fields: Any) -> ServedModel:
    """A model of one input x (any, 4) and two outputs. fields: those of ServedModel that have defaults."""
    inputs = (TensorSpec("x", dtype, (None, 4), (1, 4)),)
    outputs = (TensorSpec("sum", dtype, (None, 1), (1, 1)), TensorSpec("double", dtype, (None, 4), (1, 4)))
    return ServedModel(name, inputs, outputs, LEVELS, FakeEngine(inputs), DEFAULT_SLO_MS, 1, "scalar", **fields)


@contextmanager
def running(
    models: list[ServedModel],
    config: ServerConfig | None = None,
    repository: Repository | None = None,
    governor: Governor | None = None,
) -> Iterator[Server]:
    """A server on a free port, in a thread with a loop of its own; drained at the end."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def run(work: Callable[[], object]) -> object:
        async def call() -> object:
            return await work() if asyncio.iscoroutinefunction(work) else work()

        return asyncio.run_coroutine_threadsafe(call(), loop).result(30)

    try:
        server = run(lambda: Server(models, config or ServerConfig(port=0, grace_s=5), repository, governor))
        assert isinstance(server, Server)
        run(server.start)
        try:
            yield server
        finally:
            run(server.drain)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture
def model() -> ServedModel:
    """A fake model called net."""
    return fake_model()


@pytest.fixture
def make_model() -> Callable[..., ServedModel]:
    """fake_model(), for tests with models of their own."""
    return fake_model


@pytest.fixture
def half_model() -> ServedModel:
    """A fake model of half precision called half."""
    return fake_model("half", "float16")


@pytest.fixture
def integer_model() -> ServedModel:
    """A fake model of int64 called integer."""
    return fake_model("integer", "int64")


@pytest.fixture
def server(model: ServedModel) -> Iterator[Server]:
    """A server of that model."""
    with running([model]) as it:
        yield it


@pytest.fixture
def serve() -> Callable[..., object]:
    """The `running` context manager, for tests with models or a configuration of their own."""
    return running


@pytest.fixture
def client(server: Server) -> Iterator[Any]:
    """tritonclient, connected to `server`."""
    triton = pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")
    with triton.InferenceServerClient(server.address) as it:
        yield it
