"""Outcomes: the requests that a server has counted, by outcome."""

from __future__ import annotations

from typing import Any


def outcomes(server: Any) -> dict[str, float]:
    """Requests of all models and levels by outcome; those that did not occur are absent."""
    counted: dict[str, float] = {}
    for metric in server._metrics.registry.collect():
        for sample in metric.samples:
            if sample.name == "nested_sparse_requests_total":
                outcome = sample.labels["outcome"]
                counted[outcome] = counted.get(outcome, 0.0) + sample.value
    return counted
