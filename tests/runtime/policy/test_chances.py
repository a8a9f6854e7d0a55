"""Chances: the share of the latest runs and replies that fit, against a count by hand."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from nested_sparse.runtime.policy.chances import KEPT_S, RUNS, UNSEEN, Chances

ratios = st.lists(st.floats(0.5, 10.0), max_size=2 * RUNS)
replies = st.lists(st.floats(0.0, 50.0), max_size=2 * RUNS)


def learned(runs: list[float], replies_ms: list[float], now_s: float = 0.0) -> Chances:
    chances = Chances()
    for ratio in runs:
        chances.note_run(ratio, now_s)
    for reply_ms in replies_ms:
        chances.note_reply(reply_ms, now_s)
    chances.forget(now_s)
    return chances


@given(ratios, replies, st.floats(0.1, 50.0), st.floats(0.0, 200.0))
def test_the_chance_is_the_share_of_runs_that_would_have_been_in_time(
    runs: list[float], replies_ms: list[float], expected_ms: float, slack_ms: float
) -> None:
    """The n-th run with the n-th reply; the shorter list begins again where it ends. None known: as expected."""
    known, waits = runs[-RUNS:] or [1.0], replies_ms[-RUNS:] or [0.0]
    count = max(len(known), len(waits))
    ends_ms = [expected_ms * known[n % len(known)] + UNSEEN * waits[n % len(waits)] for n in range(count)]
    chance = learned(runs, replies_ms).in_time(expected_ms, slack_ms)
    assert chance == pytest.approx(np.mean([end_ms <= slack_ms for end_ms in ends_ms]))


@given(ratios, replies, st.floats(0.0, 100.0))
def test_a_longer_run_has_no_better_chance(runs: list[float], replies_ms: list[float], slack_ms: float) -> None:
    chances = learned(runs, replies_ms)
    shares = [chances.in_time(expected_ms, slack_ms) for expected_ms in (1.0, 2.0, 5.0, 20.0)]
    assert shares == sorted(shares, reverse=True)


def test_what_is_old_is_forgotten() -> None:
    """A co-runner that has left holds no level down, however few requests come since."""
    chances = learned([3.0] * RUNS, [30.0] * RUNS)
    assert chances.in_time(10.0, 20.0) == 0.0
    chances.forget(KEPT_S)
    assert chances.in_time(10.0, 20.0) == 0.0
    chances.note_run(1.1, KEPT_S + 0.1)
    chances.forget(KEPT_S + 0.1)
    assert chances.in_time(10.0, 20.0) == 1.0


def test_runs_that_a_change_of_the_device_explains_do_not_count() -> None:
    """The policy leaves out the two runs of five times their time that made the slowdown 5."""
    chances = learned([1.0] * 10 + [5.0] * 2, [])
    assert chances.in_time(10.0, 20.0) == pytest.approx(10 / 12)
    chances.explain_runs(2)
    chances.forget(0.0)
    assert chances.in_time(10.0, 20.0) == 1.0
    chances.explain_runs(100)
    chances.forget(0.0)
    assert chances.in_time(10.0, 10.0) == 1.0


def test_what_is_no_time_is_ignored() -> None:
    chances = learned([math.nan, math.inf, 0.0, -1.0], [math.nan, math.inf, -5.0])
    assert chances.in_time(10.0, 10.0) == 1.0
    assert chances.in_time(10.0, 9.9) == 0.0
