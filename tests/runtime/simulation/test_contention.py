"""Contention: compared with a sum of the rate over small steps."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from nested_sparse.errors import InputError
from nested_sparse.runtime.simulation.contention import RateContention, cpu_corunner, memory_corunner, quiet, quota

STEP_S = 1e-5
MADE = [quiet(), cpu_corunner(2.0, seed=3), memory_corunner(2.0), quota(2.0)]


def stepped_end_s(edges_s: list[float], rates: list[float], start_s: float, work_s: float) -> float:
    """The same by brute force."""
    now_s = start_s
    while work_s > 1e-12:
        rate = rates[max(sum(edge <= now_s for edge in edges_s) - 1, 0)]
        work_s -= rate * STEP_S
        now_s += STEP_S
    return now_s


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 0.25, 0.7, 1.0]), max_size=5),
    st.integers(0, 60),
    st.integers(1, 30),
)
def test_end_is_where_the_rate_adds_up(inner: list[float], start_ms: int, work_ms: int) -> None:
    """Random rates, edges every 10 ms from 5 ms on; work begun before, between and after them."""
    rates = [1.0, *inner, 0.5]
    edges_s = [0.005 + 0.01 * i for i in range(len(rates))]
    end_s = RateContention("random", edges_s, rates).end_s(start_ms / 1e3, work_ms / 1e3)
    assert end_s == pytest.approx(stepped_end_s(edges_s, rates, start_ms / 1e3, work_ms / 1e3), abs=10 * STEP_S)


@pytest.mark.parametrize("contention", MADE, ids=lambda each: each.name)
def test_a_run_that_begins_later_ends_no_earlier(contention: RateContention) -> None:
    """The order that the oracle relies on; and never faster than undisturbed."""
    start_s = np.linspace(0.0, 2.5, 4001)
    for work_s in (0.0024, 0.0139):
        end_s = contention.end_s(start_s, work_s)
        assert (np.diff(end_s) >= -1e-12).all()
        assert (end_s - start_s >= work_s - 1e-12).all()


@pytest.mark.parametrize("contention", MADE, ids=lambda each: each.name)
def test_work_may_be_passed_in_pieces(contention: RateContention) -> None:
    """In ten pieces it ends when it does in one; a guarded run relies on it."""
    for start_s in np.linspace(0.0, 2.0, 101):
        now_s = start_s
        for _ in range(10):
            now_s = float(contention.end_s(now_s, 0.001))
        assert now_s == pytest.approx(float(contention.end_s(start_s, 0.010)), abs=1e-9)


@pytest.mark.parametrize(
    ("contention", "factor"), [*zip(MADE[1:], (2.0, 1.4, 2.0), strict=True)], ids=("cpu", "mem", "quota")
)
def test_a_co_runner_arrives_slows_by_its_factor_and_leaves(contention: RateContention, factor: float) -> None:
    """Present from 0.4 to 0.9 s of 2: there work takes the factor, within a slice or a period; before and after, 1."""
    work_s = 0.4 / factor
    assert float(contention.end_s(0.1, 0.2)) == pytest.approx(0.3)
    assert float(contention.end_s(1.0, 0.15)) == pytest.approx(1.15)
    assert float(contention.end_s(0.4, work_s)) - 0.4 == pytest.approx(0.4, abs=0.051)


def test_a_short_inference_waits_whole_slices() -> None:
    """Beside the CPU co-runner 1 ms of work takes 1 ms or a slice more, not 2 ms."""
    start_s = np.linspace(0.4, 0.88, 2000)
    took_ms = (cpu_corunner(2.0, seed=3).end_s(start_s, 0.001) - start_s) * 1e3
    assert took_ms.max() > 4.0
    assert 0.2 < np.mean(took_ms < 1.001) < 0.6
    assert took_ms.max() < 5.01


def test_the_sensor_counts_the_stops_and_the_cpu_time() -> None:
    """As a cgroup does: one stop more in each period, and all CPU time that there is; while the quota is there."""
    contention = quota(10.0, present=[(0.1, 0.2)])
    readings = []
    for now_s in (0.9, 1.04, 1.06, 1.14, 1.16, 1.99, 5.0):
        contention.clock = lambda now_s=now_s: now_s  # type: ignore[misc]
        readings.append(contention.quota)
    assert readings[0] is readings[-1] is None
    known = [each for each in readings if each is not None]
    assert {(each.period_ms, each.quota_ms) for each in known} == {(100.0, 50.0)}
    assert [each.stops for each in known] == [0, 1, 1, 2, 10]
    assert np.diff([each.used_ms for each in known]) == pytest.approx([10.0, 40.0, 10.0, 400.0])
    assert cpu_corunner(2.0).quota is None


def test_a_quota_stands_still_for_the_rest_of_its_period() -> None:
    """Work left at 50 ms goes on at 100 ms."""
    contention = quota(10.0, present=[(0.0, 0.5)])
    assert float(contention.end_s(0.045, 0.010)) == pytest.approx(0.105)
    assert float(contention.end_s(0.060, 0.010)) == pytest.approx(0.110)
    assert float(contention.end_s(0.040, 0.010)) == pytest.approx(0.050)


@pytest.mark.parametrize(
    ("edges_s", "rates"),
    [([], []), ([0.0, 0.0], [1.0, 1.0]), ([0.0], [1.0, 1.0]), ([0.0, 1.0], [1.0, 0.0]), ([0.0, 1.0], [0.0, 1.0])],
)
def test_impossible_rates_are_refused(edges_s: list[float], rates: list[float]) -> None:
    """None, edges that do not rise, counts that differ, and standing still for ever."""
    with pytest.raises(InputError, match="contention 'x'"):
        RateContention("x", edges_s, rates)


@pytest.mark.parametrize(
    ("edges_s", "rates", "said"),
    [
        ([0.0, 1.0], [1.0], "a rate for each edge, got 2 edges and 1 rates"),
        ([], [], "got 0 edges"),
        ([0.0, 0.6, 0.52], [1.0, 0.5, 1.0], "rising edges, got 0.6 s and then 0.52 s; .* let it last longer"),
    ],
)
def test_edges_that_do_not_fit_are_said(edges_s: list[float], rates: list[float], said: str) -> None:
    with pytest.raises(InputError, match=said):
        RateContention("quota", edges_s, rates)
