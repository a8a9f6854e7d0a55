"""Triton metrics: the counts under Triton's names, in both text formats."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import generate_latest
from prometheus_client.openmetrics import exposition, parser
from prometheus_client.parser import text_string_to_metric_families

from nested_sparse.errors import DeadlineError, InputError, OverloadedError
from nested_sparse.runtime.scheduling.request import Response
from nested_sparse.serving.metrics import Metrics
from nested_sparse.serving.triton_metrics import TritonMetrics

MODEL = {"model": "net", "version": "1"}


@pytest.fixture
def metrics(model: Any) -> Metrics:
    """After two answers of three samples each in 40 ms, and four failures."""
    now_s = [10.0]
    metrics = Metrics(clock=lambda: now_s[0])
    metrics.watch(model)
    metrics.registry.register(TritonMetrics(metrics))
    for _ in range(2):
        with metrics.request(model, now_s[0]) as record:
            now_s[0] += 0.04
            record.batch, record.input_s, record.output_s = 3, 0.001, 0.002
            record.response = Response({}, model.levels[1], 1500, 2500, "", 100.0)
    for error in (OverloadedError("full", None), DeadlineError("late"), InputError("bad"), RuntimeError()):
        with pytest.raises(type(error)), metrics.request(model, now_s[0]):
            raise error
    return metrics


def test_counts_have_tritons_names(metrics):
    value = metrics.registry.get_sample_value
    assert value("nv_inference_request_success", MODEL) == 2
    assert value("nv_inference_count", MODEL) == 6
    assert value("nv_inference_pending_request_count", MODEL) == 0
    assert value("nv_inference_request_duration_us", MODEL) == pytest.approx(80_000, abs=1)
    assert value("nv_inference_queue_duration_us", MODEL) == 1000  # 1500 from the arrival, less the conversion
    assert value("nv_inference_compute_infer_duration_us", MODEL) == 5000
    assert value("nv_inference_compute_input_duration_us", MODEL) == 2000
    assert value("nv_inference_compute_output_duration_us", MODEL) == 4000
    failed = {
        reason: value("nv_inference_request_failure", {**MODEL, "reason": reason})
        for reason in ("REJECTED", "CANCELED", "BACKEND", "OTHER")
    }
    assert failed == {"REJECTED": 2, "CANCELED": 0, "BACKEND": 1, "OTHER": 1}


def test_slack_slo_and_late_answers(metrics):
    """60 ms of 100 were left, twice."""
    value = metrics.registry.get_sample_value
    assert value("nested_sparse_slack_seconds_sum", {"model": "net", "level": "1"}) == pytest.approx(0.12)
    assert value("nested_sparse_slo_seconds", {"model": "net"}) == 1.0


def test_both_formats_can_be_parsed(metrics):
    plain = {
        sample.name
        for family in text_string_to_metric_families(generate_latest(metrics.registry).decode())
        for sample in family.samples
    }
    open_text = exposition.generate_latest(metrics.registry).decode()
    strict = {sample.name for family in parser.text_string_to_metric_families(open_text) for sample in family.samples}
    assert "nv_inference_request_success" in plain & strict


def test_a_version_whose_file_was_replaced_is_counted_once(make_model):
    """As long as the old one answers there are two models of one name and version, and still one sample of each."""
    metrics = Metrics(clock=lambda: 10.0)
    metrics.registry.register(TritonMetrics(metrics))
    old, new = make_model(), make_model()
    for model in (old, new):
        metrics.watch(model)
        with metrics.request(model, 10.0) as record:
            record.response = Response({}, model.levels[1], 1500, 2500, "", 100.0)
    names = [line.rpartition(" ")[0] for line in generate_latest(metrics.registry).decode().splitlines()]
    assert len(names) == len(set(names))
    value = metrics.registry.get_sample_value
    assert value("nv_inference_request_success", MODEL) == 2
    metrics.unwatch(old)
    assert value("nv_inference_request_success", MODEL) == 1
