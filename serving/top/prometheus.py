"""read_metrics: the counts of each model in Prometheus text."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from .counts import Durations, MetricCounts

REQUESTS = "nested_sparse_requests_total"
QUEUE = "nested_sparse_queue_seconds_bucket"
COMPUTE = "nested_sparse_compute_seconds_bucket"
TOTAL = "nested_sparse_total_seconds_bucket"
SLOWDOWN = "nested_sparse_slowdown"
MOST = 2.0**53
"""The highest value that is accepted as a count."""
# the name in our metrics, and in Triton's
QUEUE_LENGTHS = ("nested_sparse_queue_length", "nv_inference_pending_request_count")


def read_metrics(text: str) -> dict[str, MetricCounts]:
    """The counts by model. Series of other programs, and values that no count can have, are ignored.

    Raises ValueError: the text is not Prometheus text.
    """
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    by_model: dict[str, list[Any]] = defaultdict(list)
    for sample in samples:
        if "model" in sample.labels and 0 <= sample.value <= MOST:
            by_model[sample.labels["model"]].append(sample)
    return {name: _counts(of_model) for name, of_model in by_model.items()}


def _counts(samples: list[Any]) -> MetricCounts:
    outcomes: dict[str, float] = defaultdict(float)
    levels: dict[int, float] = defaultdict(float)
    buckets: dict[str, dict[float, float]] = {name: defaultdict(float) for name in (QUEUE, COMPUTE, TOTAL)}
    gauges: dict[str, float] = {}
    for sample in samples:
        if sample.name == REQUESTS:
            outcomes[sample.labels["outcome"]] += sample.value
            if sample.labels["level"]:
                levels[int(sample.labels["level"])] += sample.value
        elif sample.name in buckets:
            buckets[sample.name][float(sample.labels["le"])] += sample.value
        elif sample.name in (SLOWDOWN, *QUEUE_LENGTHS):
            gauges[sample.name] = sample.value
    return MetricCounts(
        outcomes=dict(outcomes),
        levels=dict(levels),
        queue=Durations(tuple(sorted(buckets[QUEUE].items()))),
        compute=Durations(tuple(sorted(buckets[COMPUTE].items()))),
        total=Durations(tuple(sorted(buckets[TOTAL].items()))),
        queue_length=next((gauges[name] for name in QUEUE_LENGTHS if name in gauges), None),
        slowdown=gauges.get(SLOWDOWN),
    )
