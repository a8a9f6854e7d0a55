"""OwnState: this very server at work: the counts in its metrics, its models, and the device."""

from __future__ import annotations

import time
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest

import nested_sparse
from nested_sparse.runtime.resources import Governor

from ...dataplane import Dataplane
from ...device_state import DeviceState
from ...top.counts import Counts, MetricCounts, ModelCounts
from ...top.prometheus import read_metrics

ANSWERED = ("ok", "late")


class OwnState:
    """The figures of the dashboard, read as `top` reads them from another server."""

    def __init__(self, registry: CollectorRegistry, dataplane: Dataplane, governor: Governor | None) -> None:
        self._registry = registry
        self._dataplane = dataplane
        self._governor = governor

    def counts(self) -> Counts:
        """The counts of now, from any thread."""
        known = read_metrics(generate_latest(self._registry).decode())
        general = "ready" if self._dataplane.ready else "draining"
        stuck = self._dataplane.stuck
        models = tuple(
            _counts(name, "stuck" if model in stuck else general, known.get(name, MetricCounts()))
            for name, model in list(self._dataplane.models.items())
        )
        return Counts(time.monotonic(), f"nested-sparse {nested_sparse.__version__}", general, models)

    def facts(self) -> dict[str, dict[str, Any]]:
        """Of each model by its name: its SLO, the number of its levels, the highest that may run, and why no more."""
        limits = {} if self._governor is None else dict(self._governor.limits())
        facts: dict[str, dict[str, Any]] = {}
        for name, model in self._dataplane.models.items():
            facts[name] = {"slo_ms": model.default_slo_ms, "levels": len(model.levels)}
            if (limit := limits.get(name)) is not None:
                capped = limit.highest_level < len(model.levels) - 1
                facts[name] |= {"highest_level": limit.highest_level, "capped_by": limit.reason if capped else ""}
        return facts

    def device(self) -> dict[str, Any]:
        """The readings of the sensors that the device has."""
        return {} if self._governor is None else DeviceState.of(self._governor).as_dict()


def _counts(name: str, state: str, metrics: MetricCounts) -> ModelCounts:
    answered = sum(metrics.outcomes.get(outcome, 0) for outcome in ANSWERED)
    failed = sum(metrics.outcomes.values()) - answered
    return ModelCounts(name, state, answered=round(answered), failed=round(failed), metrics=metrics)
