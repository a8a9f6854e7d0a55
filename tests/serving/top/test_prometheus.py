"""Prometheus text: the reader, with text of our server and of Triton."""

from __future__ import annotations

import re

import numpy as np
import pytest
from prometheus_client import generate_latest

from nested_sparse.errors import OverloadedError
from nested_sparse.runtime.scheduling.request import Response
from nested_sparse.serving.metrics import Metrics
from nested_sparse.serving.top.counts import Counts, ModelCounts
from nested_sparse.serving.top.prometheus import read_metrics
from nested_sparse.serving.top.rates import rates_between
from nested_sparse.serving.top.view import as_text


def test_the_metrics_of_our_server_are_read(model):
    """Outcomes over all levels, answers by level, times, gauges."""
    metrics = Metrics(clock=lambda: 10.0)
    metrics.watch(model)
    for level, queue_us in ((0, 1500), (2, 1500), (2, 700_000)):
        with metrics.request(model, 10.0) as record:
            record.response = Response({"y": np.zeros(1)}, model.levels[level], queue_us, 2500, "", 1000.0)
    with pytest.raises(OverloadedError), metrics.request(model, 10.0):
        raise OverloadedError("shed", 1.0)
    (name,) = counts = read_metrics(generate_latest(metrics.registry).decode())
    assert name == model.name
    it = counts[name]
    assert it.outcomes == {"ok": 3, "shed": 1}
    assert it.levels == {0: 1, 2: 2}
    assert (it.slowdown, it.queue_length) == (1.25, 0)
    assert it.queue.cumulative[-1] == (float("inf"), 3)
    assert 1.0 <= it.queue.quantile_ms(0.5) <= 2.5
    assert 500.0 <= it.queue.quantile_ms(0.99) <= 1000.0
    assert it.compute.quantile_ms(0.99) == pytest.approx(2.5, abs=1.5)


TRITON = """# TYPE nv_inference_pending_request_count gauge
nv_inference_pending_request_count{model="resnet",version="1"} 7
# TYPE nv_gpu_utilization gauge
nv_gpu_utilization{gpu_uuid="x"} 0.5
"""


def test_the_metrics_of_triton_are_read():
    """Its queue is read; figures that it does not have stay unknown."""
    (it,) = read_metrics(TRITON).values()
    assert (it.queue_length, it.slowdown, it.outcomes, it.levels) == (7, None, {}, {})


def test_values_that_no_count_can_have_are_passed_over(model):
    """Rates and shares of them would be none; every series of a good text with each of them."""
    metrics = Metrics(clock=lambda: 10.0)
    metrics.watch(model)
    with metrics.request(model, 10.0) as record:
        record.response = Response({"y": np.zeros(1)}, model.levels[0], 1500, 2500, "", 1000.0)
    good = generate_latest(metrics.registry).decode()
    for value in ("NaN", "+Inf", "-Inf", "-1", "1e300"):
        text = re.sub(r"(?m)^([^#].*) \S+$", rf"\1 {value}", good)
        before, after = (
            Counts(time_s, "s", "ready", (ModelCounts("net", metrics=read_metrics(each).get("net")),))
            for time_s, each in ((0.0, good), (1.0, text))
        )
        assert "net" in "\n".join(line.plain() for line in as_text("h:1", rates_between(before, after)))


@pytest.mark.parametrize("text", ["<html><body>no</body></html>", 'a{b="c} 1', "name value"])
def test_a_text_that_is_not_of_prometheus_is_a_value_error(text):
    """One kind of error for the caller."""
    with pytest.raises(ValueError):  # noqa: PT011 -- the library's own words
        read_metrics(text)
