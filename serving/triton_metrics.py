"""TritonMetrics: the counts of the served models under the names that Triton gives them.

Dashboards and autoscalers that know Triton find `nv_inference_*` by model and version. The names have no `_total`
at their end, as Triton has them; so their type is "unknown", because the text formats allow counters no other ending.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from prometheus_client.metrics_core import Metric

from nested_sparse.runtime.scheduling import SchedulerStats

from .level_counts import Tally
from .metrics import Metrics

REASONS: Mapping[str, str] = {
    "shed": "REJECTED",
    "expired": "REJECTED",
    "unavailable": "REJECTED",
    "cancelled": "CANCELED",
    "stuck": "BACKEND",
    "out_of_memory": "BACKEND",
    "error": "BACKEND",
}
"""Triton's reason for a failure, by our outcome; OTHER for all others."""
OTHER = "OTHER"
_DURATIONS: Mapping[str, tuple[str, str]] = {
    "nv_inference_request_duration_us": ("success_ns", "Arrival to answer, in sum, of the answered requests"),
    "nv_inference_queue_duration_us": ("queue_ns", "Time in the queue, in sum"),
    "nv_inference_compute_input_duration_us": ("input_ns", "From message to arrays, in sum"),
    "nv_inference_compute_infer_duration_us": ("compute_ns", "Time of the runs, in sum over their requests"),
    "nv_inference_compute_output_duration_us": ("output_ns", "From arrays to message, in sum"),
}


class TritonMetrics:
    """Exports the tallies of `metrics` and the queues of their models."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def describe(self) -> Iterator[Metric]:
        """As prometheus_client's collectors: no metric is named twice in this registry."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """As prometheus_client's collectors, from any thread."""
        success = Metric("nv_inference_request_success", "Answered requests", "unknown")
        failure = Metric("nv_inference_request_failure", "Failed requests, by reason", "unknown")
        samples = Metric("nv_inference_count", "Samples of the answered requests", "unknown")
        runs = Metric("nv_inference_exec_count", "Runs; several requests may share one", "unknown")
        pending = Metric("nv_inference_pending_request_count", "Requests that wait", "gauge")
        durations = {name: Metric(name, text, "unknown") for name, (_, text) in _DURATIONS.items()}
        for (model, version), each in self._versions().items():
            labels, tallies = {"model": model, "version": version}, [tally for tally, _ in each]
            success.add_sample(success.name, labels, sum(tally.successes for tally in tallies))
            for reason, count in _failures(tallies).items():
                failure.add_sample(failure.name, {**labels, "reason": reason}, count)
            samples.add_sample(samples.name, labels, sum(tally.samples for tally in tallies))
            runs.add_sample(runs.name, labels, sum(stats.runs for _, stats in each))
            pending.add_sample(pending.name, labels, sum(stats.queue_length for _, stats in each))
            for name, (field, _) in _DURATIONS.items():
                durations[name].add_sample(name, labels, sum(getattr(tally, field) for tally in tallies) // 1000)
        yield from (success, failure, samples, runs, pending, *durations.values())

    def _versions(self) -> dict[tuple[str, str], list[tuple[Tally, SchedulerStats]]]:
        """By model and version: the one that is served, and one whose file was replaced and that still answers."""
        versions: dict[tuple[str, str], list[tuple[Tally, SchedulerStats]]] = {}
        for model, tally in list(self._metrics.tallies.items()):
            versions.setdefault((model.name, model.version), []).append((tally, model.engine.stats()))
        return versions


def _failures(tallies: Sequence[Tally]) -> dict[str, int]:
    """By each of Triton's reasons, so that a rate is there before the first failure."""
    counts = dict.fromkeys((*REASONS.values(), OTHER), 0)
    for tally in tallies:
        for outcome, count in list(tally.failed.items()):
            counts[REASONS.get(outcome, OTHER)] += count
    return counts
