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


def test_durations_are_counted_up_to_each_bound(model):
    """A duration on a bound counts in its bucket, as Prometheus has it; the largest is in none but +Inf."""
    now_s = [10.0]
    metrics = Metrics(clock=lambda: now_s[0])
    metrics.watch(model)
    value = metrics.registry.get_sample_value
    labels = {"model": "net", "level": "1"}
    for queue_us, compute_us, total_s in ((100, 2500, 0.25), (101, 2501, 6.0)):
        with metrics.request(model, 10.0) as record:
            assert value("nested_sparse_running_requests", {"model": "net"}) == 1
            now_s[0] = 10.0 + total_s
            record.batch = 3
            record.response = Response({}, model.levels[1], queue_us, compute_us, "", 40.0)
        now_s[0] = 10.0
    for name, bound, count in (
        ("queue", "0.0001", 1),
        ("queue", "0.00025", 2),
        ("compute", "0.001", 0),
        ("compute", "0.0025", 1),
        ("total", "0.25", 1),
        ("total", "5.0", 1),
        ("total", "+Inf", 2),
    ):
        assert value(f"nested_sparse_{name}_seconds_bucket", {**labels, "le": bound}) == count, (name, bound)
    assert value("nested_sparse_total_seconds_sum", labels) == pytest.approx(6.25)
    assert value("nested_sparse_queue_seconds_count", labels) == 2
    assert value("nested_sparse_running_requests", {"model": "net"}) == 0
    assert value("nested_sparse_current_level", {"model": "net"}) == 1
    tally = metrics.tallies[model]
    assert (tally.successes, tally.samples, tally.queue_ns, tally.compute_ns) == (2, 6, 201_000, 5_001_000)


def test_a_refusal_in_front_counts_for_the_only_model(model):
    metrics = Metrics()
    metrics.watch(model)
    metrics.shed_in_front()
    value = metrics.registry.get_sample_value
    assert value("nested_sparse_requests_total", {"model": "net", "level": "", "outcome": "shed"}) == 1
    assert value("nested_sparse_shed_total", {"model": "net"}) == 1
    assert metrics.tallies[model].failures == 1
