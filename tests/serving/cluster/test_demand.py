"""Demand: the number of replicas, against a queue that is played request by request."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nested_sparse.serving.cluster import slack_policy
from nested_sparse.serving.cluster.demand import (
    LATE_SHARE,
    LEAST_LOAD,
    Demand,
    load_with_slack,
    needed_replicas,
)
from nested_sparse.serving.cluster.replica import DEMAND
from nested_sparse.serving.level_counts import Tally


def waits_ms(load: float, run_ms: float, requests: int = 200_000) -> np.ndarray:
    """Waits in front of one device at this load: Poisson arrivals, equal runs (Lindley's recursion)."""
    gaps_ms = np.random.default_rng(0).exponential(run_ms / load, requests)
    steps = np.concatenate([[0.0], np.cumsum(run_ms - gaps_ms)])
    return (steps - np.minimum.accumulate(steps))[1:]


@pytest.mark.parametrize("slo_ms", [12.0, 30.0, 100.0])
def test_at_its_load_about_one_request_in_a_hundred_waits_longer_than_its_slack(slo_ms: float) -> None:
    """The formula is that of heavy traffic; below it errs to the safe side. More load breaks the bound."""
    run_ms = 2.0
    load = load_with_slack(run_ms, slo_ms)
    assert 0 < load < 1
    assert np.mean(waits_ms(load, run_ms) > slo_ms - run_ms) <= 1.2 * LATE_SHARE
    assert np.mean(waits_ms(load + 0.6 * (1 - load), run_ms) > slo_ms - run_ms) > 2 * LATE_SHARE


@given(st.floats(0.01, 100), st.floats(0.1, 1000))
def test_load_is_a_share_and_falls_with_the_run(run_ms: float, slo_ms: float) -> None:
    assert load_with_slack(run_ms, slo_ms) < 1
    assert load_with_slack(2 * run_ms, slo_ms) <= load_with_slack(run_ms, slo_ms)


def test_the_densest_level_that_leaves_slack_counts() -> None:
    """At 100 requests a second a run of 2 ms is a load of 0.2; level 2 takes most of the SLO by itself."""
    share = load_with_slack(2.0, 30.0)
    assert needed_replicas(100.0, (1.0, 2.0, 20.0), 30.0, 1.0) == pytest.approx(0.2 / share)


@given(
    st.floats(0, 1e4), st.lists(st.floats(0.01, 1e3), min_size=1, max_size=5), st.floats(0.1, 1e3), st.floats(0.5, 50)
)
def test_replicas_are_bounded_and_grow_with_the_rate(rate: float, runs: list[float], slo_ms: float, xi: float) -> None:
    run_ms = sorted(runs)
    needed = needed_replicas(rate, run_ms, slo_ms, xi)
    assert 0.0 <= needed <= rate * run_ms[-1] * xi / 1e3 / LEAST_LOAD * (1 + 1e-9)
    assert needed_replicas(2 * rate, run_ms, slo_ms, xi) == pytest.approx(2 * needed)


def test_a_model_that_was_not_profiled_asks_for_nothing() -> None:
    assert needed_replicas(100.0, (), 30.0, 1.0) == 0.0


def test_shed_requests_count_too_and_only_since_the_last_reading(make_model) -> None:  # type: ignore[no-untyped-def]
    """A replica that sheds everything answers nothing, and needs help most. 1.25 is the fake engine's slowdown."""
    now = [0.0]
    model = make_model(run_ms=(1.0, 2.0))
    tally = Tally()
    counted = Demand([model], {model: tally}, lambda: now[0])
    tally.samples, tally.failed["shed"], tally.failed["expired"] = 50, 30, 20
    tally.failed["invalid"] = 1000  # costs no run anywhere
    now[0] = 1.0
    assert counted.replicas() == pytest.approx(needed_replicas(100.0, (1.0, 2.0), model.default_slo_ms, 1.25))
    now[0] = 2.0
    assert counted.replicas() == 0.0


class Context:
    """Of Ray's AutoscalingContext, the fields that the policy reads."""

    def __init__(self, reports: dict[str, dict[str, float]] | None) -> None:
        self.aggregated_metrics, self.target_num_replicas = reports, 3


@pytest.mark.parametrize(
    ("reports", "replicas"),
    [
        (None, 3),
        ({}, 3),
        ({DEMAND: {}}, 3),
        ({DEMAND: {"a": 0.0}}, 1),
        ({DEMAND: {"a": 0.9, "b": 0.9}}, 2),
        ({DEMAND: {"a": 1.02, "b": 1.01}}, 2),  # within the margin
        ({DEMAND: {"a": 2.5, "b": 1.9}}, 5),
    ],
)
def test_the_policy_adds_up_the_reports(reports: dict[str, dict[str, float]] | None, replicas: int) -> None:
    assert slack_policy.SlackPolicy()(Context(reports)) == (replicas, {})


def test_the_policy_stands_on_its_own() -> None:
    """Ray sends the module by value to its controller, which may have nothing of ours."""
    names: dict[str, object] = {"__name__": "alone"}
    source = Path(slack_policy.__file__).read_text(encoding="utf-8")
    assert "nested_sparse" not in source.replace("nested-sparse", "")
    exec(compile(source, "alone", "exec"), names)
    assert names["METRIC"] == DEMAND
