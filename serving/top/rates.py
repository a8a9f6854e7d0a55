"""Rates: a server's work between two readings of its counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from .counts import Counts, Durations, MetricCounts, ModelCounts

KeyT = TypeVar("KeyT")
NOT_OURS = ("cancelled", "invalid")
"""Outcomes that the server is not responsible for: the client cancelled, or its request was invalid."""


@dataclass(frozen=True, slots=True)
class ModelRates:
    """One model between two readings; a value that is not known is None.

    per_s: ended requests per second. answered_share: share of the ended requests that were answered. in_time_share:
    share in time of those that were neither cancelled nor invalid. level_shares: share of the answers, by level.
    queue_ms, compute_ms, total_ms: (p50, p99), where the metrics give them; mean_queue_ms, mean_compute_ms: of the
    answers. shed, expired, late: numbers of requests.
    """

    name: str
    state: str
    per_s: float
    answered_share: float | None
    mean_queue_ms: float | None
    mean_compute_ms: float | None
    in_time_share: float | None = None
    level_shares: dict[int, float] | None = None
    queue_ms: tuple[float, float] | None = None
    compute_ms: tuple[float, float] | None = None
    total_ms: tuple[float, float] | None = None
    queue_length: int | None = None
    slowdown: float | None = None
    shed: int | None = None
    expired: int | None = None
    late: int | None = None


@dataclass(frozen=True, slots=True)
class Rates:
    """One server over the last `seconds`."""

    server: str
    state: str
    seconds: float
    models: tuple[ModelRates, ...] = field(default=())
    note: str = ""


def rates_between(before: Counts, after: Counts) -> Rates:
    """The work from `before` to `after`. Where a model was restarted in between, all that it has counted since."""
    seconds = max(after.time_s - before.time_s, 1e-9)
    known = {each.name: each for each in before.models}
    models = tuple(_model(known.get(each.name, ModelCounts(each.name)), each, seconds) for each in after.models)
    return Rates(after.server, after.state, seconds, models, after.note)


def _model(before: ModelCounts, after: ModelCounts, seconds: float) -> ModelRates:
    if after.answered < before.answered or after.failed < before.failed:
        before = ModelCounts(after.name)
    answered, failed = after.answered - before.answered, after.failed - before.failed
    rates = ModelRates(
        name=after.name,
        state=after.state,
        per_s=(answered + failed) / seconds,
        answered_share=_share(answered, answered + failed),
        mean_queue_ms=_share(after.queue_ms - before.queue_ms, answered),
        mean_compute_ms=_share(after.compute_ms - before.compute_ms, answered),
    )
    return rates if after.metrics is None else _told(rates, before.metrics or MetricCounts(), after.metrics)


def _told(rates: ModelRates, before: MetricCounts, after: MetricCounts) -> ModelRates:
    """`rates` with the facts of the metrics."""
    queue_length = None if after.queue_length is None else round(after.queue_length)
    rates = replace(rates, queue_length=queue_length, slowdown=after.slowdown)
    if after.slowdown is None:
        return rates  # the metrics of another kind of server
    outcomes = _since(before.outcomes, after.outcomes)
    levels = _since(before.levels, after.levels)
    counted = sum(count for outcome, count in outcomes.items() if outcome not in NOT_OURS)
    return replace(
        rates,
        in_time_share=_share(outcomes.get("ok", 0), counted),
        level_shares={level: count / sum(levels.values()) for level, count in sorted(levels.items()) if count},
        queue_ms=_percentiles(after.queue.since(before.queue)),
        compute_ms=_percentiles(after.compute.since(before.compute)),
        total_ms=_percentiles(after.total.since(before.total)),
        shed=round(outcomes.get("shed", 0)),
        expired=round(outcomes.get("expired", 0)),
        late=round(outcomes.get("late", 0)),
    )


def _since(before: Mapping[KeyT, float], after: Mapping[KeyT, float]) -> dict[KeyT, float]:
    left = {key: count - before.get(key, 0) for key, count in after.items()}
    return dict(after) if any(count < 0 for count in left.values()) else left


def _percentiles(durations: Durations) -> tuple[float, float] | None:
    median_ms, p99_ms = durations.quantile_ms(0.5), durations.quantile_ms(0.99)
    return None if median_ms is None or p99_ms is None else (median_ms, p99_ms)


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None
