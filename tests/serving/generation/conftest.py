"""Counting engine: a text model without a runtime, for a server in a thread."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest
from counting_text import INPUTS, LEVELS, OUTPUTS, STATE, counted

from nested_sparse.errors import OverloadedError
from nested_sparse.runtime.scheduling.request import Request, Response, allowed_levels, time_limit_ms
from nested_sparse.runtime.scheduling.stats import SchedulerStats
from nested_sparse.runtime.session.tensors import check_inputs
from nested_sparse.serving.served_model import ServedModel


class CountingEngine:
    """Answers at the highest level that a request allows; while `held`, keeps (request, future) in `pending`.

    refuses: number of the next requests that are shed.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.pending: list[tuple[Request, Future[Response]]] = []
        self.held, self.refuses, self.default_slo_ms = False, 0, 1000.0

    def run_or_queue(self, request: Request) -> Future[Response]:
        """Accepts a request as the scheduler does."""
        self.requests.append(request)
        future: Future[Response] = Future()
        try:
            if self.refuses:
                self.refuses -= 1
                raise OverloadedError("shed: no level is quick enough", 5.0)
            limit_ms = time_limit_ms(request, self.default_slo_ms)
            _, level = allowed_levels(request, LEVELS)
            arrays = check_inputs(INPUTS, request.inputs)
        except Exception as error:
            future.set_exception(error)
            return future
        if self.held:
            self.pending.append((request, future))
        else:
            future.set_result(Response(counted(arrays, level), LEVELS[level], 1000, 2000, "fake", limit_ms))
        return future

    def replied(self, response: Response) -> None:
        """Notes nothing."""

    def close(self, grace_s: float) -> None:
        """Nothing runs."""

    def stats(self) -> SchedulerStats:
        """Nothing waits."""
        return SchedulerStats(len(self.pending), 1.0, 0, 0, {})


@pytest.fixture
def writer() -> ServedModel:
    """A text model called count."""
    engine: Any = CountingEngine()
    return ServedModel("count", INPUTS, OUTPUTS, LEVELS, engine, engine.default_slo_ms, 1, "scalar", state=STATE)
