"""Forecast: predicted times, and the admission that follows from them."""

from __future__ import annotations

import pytest

from nested_sparse.runtime.policy.decision import Decision, Waiting
from nested_sparse.runtime.policy.forecast import Forecast
from nested_sparse.runtime.policy.slowdown import Slowdown
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


def slowed(ratio: float) -> Forecast:
    """A forecast of runs that all take `ratio` times their profile, the last one at 0.6 s."""
    forecast = Forecast(PROFILE, probe_every_s=0.5)
    for i in range(60):
        forecast.observe(0, 1, 2.0 * ratio, 0.01 + i * 0.01)
    return forecast


def test_where_no_request_could_be_served_the_first_probe_comes_at_once() -> None:
    """40 ms are predicted for a request that has 10 in all. The waits until the next probes double, up to 0.5 s."""
    forecast, probed = slowed(20.0), []
    for millisecond in range(600, 2500):
        now_s = millisecond / 1e3
        decision = probe_or_shed(forecast, Waiting(now_s + 0.01, 0, 2), now_s)
        assert decision is not None
        if decision.level is not None:
            probed.append(millisecond)
            forecast.observe(0, 1, 40.0, now_s)
    assert probed == pytest.approx([600, 663, 788, 1038, 1538, 2038], abs=2)


def test_where_a_fresh_request_could_be_served_a_tired_one_is_no_probe() -> None:
    """8 ms are predicted; of its 10 ms this request has 4 left. It is refused until half a second brought no run."""
    forecast = slowed(4.0)
    for now_s, level in ((0.601, None), (1.0, None), (1.11, 0)):
        decision = probe_or_shed(forecast, Waiting(now_s + 0.004, 0, 2, budget_ms=10.0), now_s)
        assert decision is not None
        assert decision.level == level


def test_a_probe_that_is_fast_lets_all_that_follow_run() -> None:
    """Two runs of 50 times their time, by chance, made every request look hopeless: one probe ends that."""
    forecast = Forecast(PROFILE)
    for now_s in (0.1, 0.2):
        forecast.observe(0, 1, 100.0, now_s)
    levels = []
    for n in range(8):
        now_s = 0.21 + n / 100
        decision = probe_or_shed(forecast, Waiting(now_s + 0.02, 0, 2, budget_ms=20.0), now_s)
        levels.append(decision is None or decision.level is not None)
        forecast.observe(0, 1, 2.0, now_s)
    assert all(levels)


class Twice(Slowdown):
    """Runs take twice their profile in the mean, and up to 2.75 times with the allowance for scatter."""

    def factor(self, now_s: float | None = None) -> float:
        return 2.75

    def mean(self, now_s: float | None = None) -> float:
        return 2.0


@pytest.mark.parametrize(
    ("slack_ms", "behind_ms", "runs"),
    [
        (3.0, [], True),  # a chance of 1/2, and nothing to lose
        (1.9, [], False),  # no chance: another request may come meanwhile
        (3.0, [3.0], False),  # the one behind has the same chance now, and none later
        (3.0, [4.9], True),  # the one behind has a chance of 1/2 in either case
        (3.0, [30.0, 40.0], True),  # those behind can wait
    ],
)
def test_a_run_that_may_be_late_is_weighed_against_those_behind(
    slack_ms: float, behind_ms: list[float], runs: bool
) -> None:
    """5.5 ms are predicted; the latest runs took 2 ms or 6, as often the one as the other."""
    forecast, now_s = Forecast(PROFILE, Twice()), 0.6
    for ratio in (0.5, 1.5) * 10:
        forecast.chances.note_run(ratio, now_s)
    forecast.observe(1, 1, 10.0, now_s)
    queue = [Waiting(now_s + each / 1e3, 0, 2, budget_ms=50.0) for each in behind_ms]
    request = Waiting(now_s + slack_ms / 1e3, 0, 2, budget_ms=50.0)
    decision = forecast.probe_or_shed(request, queue, lowest, forecast.slowdown.factor(now_s), now_s)
    assert (decision is None) == runs


def test_a_request_that_the_profile_rules_out_is_never_probed() -> None:
    """Half the profiled time is the best that can be hoped for."""
    assert probe_or_shed(Forecast(PROFILE), due(0.9), 0.0).level is None  # type: ignore[union-attr]
    assert probe_or_shed(Forecast(PROFILE), due(1.1), 0.0).level == 0  # type: ignore[union-attr]
