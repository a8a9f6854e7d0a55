"""Forecast: predicted times, and the admission that follows from them."""

from __future__ import annotations

import pytest

from nested_sparse.runtime.policy.decision import Decision, Waiting
from nested_sparse.runtime.policy.forecast import Forecast
from nested_sparse.runtime.profiling.profile import LatencyProfile

PROFILE = LatencyProfile((1,), [[2.0], [5.0], [9.0]])


def lowest(waiting: Waiting) -> int:
    return waiting.lowest_level


def due(slack_ms: float, level: int = 0, batch: int = 1) -> Waiting:
    return Waiting(slack_ms / 1e3, level, 2, batch)


def probe_or_shed(forecast: Forecast, request: Waiting, now_s: float) -> Decision | None:
    return forecast.probe_or_shed(request, [], lowest, forecast.slowdown.factor(now_s), now_s)


def test_admits_a_request_that_can_still_meet_its_deadline() -> None:
    """Running 4 ms more, one due before needs 2 ms, itself 2 ms: 8 ms are enough, 7.9 are not."""
    forecast = Forecast(PROFILE)
    forecast.observe(0, 1, 2.0, 0.0)
    queue = [due(7.0), due(50.0)]
    assert forecast.admit(due(8.0), queue, lowest, 4.0, 0.0).level == 0
    refused = forecast.admit(due(7.9), queue, lowest, 4.0, 0.0)
    assert refused.level is None
    assert refused.retry_after_ms == pytest.approx(4.0 + 2 * 2.0)
    assert "7.9 ms are left" in refused.reason


def test_another_models_requests_are_waited_for_by_their_own_time() -> None:
    """4 ms of a model that goes first, 3 ms of one of equal rank that is due later: only the former counts."""
    forecast = Forecast(PROFILE)
    queue = [Waiting(0.5, 0, 0, foreign_ms=4.0, first=True), Waiting(0.5, 0, 0, foreign_ms=3.0)]
    assert forecast.admit(due(6.0), queue, lowest, 0.0, 0.0).level == 0
    assert forecast.admit(due(5.9), queue, lowest, 0.0, 0.0).level is None


def test_slowdown_scales_every_prediction() -> None:
    """A factor learned at one level predicts the others."""
    forecast = Forecast(PROFILE)
    for i in range(60):
        forecast.observe(0, 1, 6.0, i * 0.01)
    assert forecast.run_ms(2, 1, 0.6) == pytest.approx(27.0, rel=0.01)
    assert forecast.backlog_ms([due(50.0), due(60.0, level=1)], lowest, 0.6) == pytest.approx(21.0, rel=0.01)


def test_the_time_between_runs_is_not_slowed_down_twice() -> None:
    """It is measured as the device is: beside busy processes half a millisecond stays half a millisecond."""
    forecast = Forecast(PROFILE)
    for i in range(400):
        forecast.observe(0, 1, 20.0, i * 0.01)
        forecast.observe_gap(0.5)
    assert forecast.slowdown.factor(4.0) == pytest.approx(10.0, rel=0.01)
    assert forecast.run_ms(0, 1, 4.0) == pytest.approx(20.5, rel=0.01)
    forecast.observe_gap(0.5)
    assert forecast.run_ms(1, 1, 4.0) == pytest.approx(50.5, rel=0.01)


def test_a_probe_is_let_through_once_in_a_while() -> None:
    """Requests that only the slowdown excludes run twice a second, so that a wrong slowdown can be corrected."""
    forecast = Forecast(PROFILE, probe_every_s=0.5)
    for i in range(60):
        forecast.observe(0, 1, 40.0, i * 0.01)
    decisions = [probe_or_shed(forecast, Waiting(now_s + 0.01, 0, 2), now_s) for now_s in (0.6, 1.1, 1.2, 1.7)]
    assert [each.level if each else -1 for each in decisions] == [None, 0, None, 0]


def test_a_request_that_the_profile_rules_out_is_never_probed() -> None:
    """Half the profiled time is the best that can be hoped for."""
    assert probe_or_shed(Forecast(PROFILE), due(0.9), 0.0).level is None  # type: ignore[union-attr]
    assert probe_or_shed(Forecast(PROFILE), due(1.1), 0.0).level == 0  # type: ignore[union-attr]
