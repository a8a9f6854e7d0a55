"""Metrics: the server's counts of each request."""

from __future__ import annotations

import pytest

from nested_sparse.errors import DeadlineError
from nested_sparse.runtime.scheduling.request import Response
from nested_sparse.serving.metrics import Metrics


@pytest.mark.parametrize(("total_ms", "outcome", "late"), [(39, "ok", 0), (41, "late", 1)])
def test_an_answer_is_late_after_the_time_that_its_request_had(model, total_ms, outcome, late):
    """40 ms from arrival, whatever the model's own SLO is."""
    now_s = [10.0]
    metrics = Metrics(clock=lambda: now_s[0])
    metrics.watch(model)
    with metrics.request(model, 10.0) as record:
        now_s[0] += total_ms / 1e3
        record.response = Response({}, model.levels[1], 1500, 2500, "", 40.0)
    value = metrics.registry.get_sample_value
    assert value("nested_sparse_requests_total", {"model": "net", "level": "1", "outcome": outcome}) == 1
    assert (value("nested_sparse_late_total", {"model": "net", "level": "1"}) or 0) == late


def test_a_request_that_was_never_run_is_expired_and_not_late(model):
    metrics = Metrics(clock=lambda: 10.0)
    metrics.watch(model)
    with pytest.raises(DeadlineError), metrics.request(model, 9.0):
        raise DeadlineError("expired")
    value = metrics.registry.get_sample_value
    assert value("nested_sparse_requests_total", {"model": "net", "level": "", "outcome": "expired"}) == 1
    assert value("nested_sparse_late_total", {"model": "net", "level": ""}) is None
