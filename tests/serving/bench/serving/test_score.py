"""Scores: figures of outcomes made by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nested_sparse.serving.bench.serving.score import missed_before_adapting, percentile, score_of, standard_error


def test_all_offered_requests_count_and_only_in_time_answers_score(make_graded):
    """Two in time of five offered: (1 + 0.5) / 5, whatever the late answer was worth."""
    score = score_of(
        [
            make_graded("ok", 1.0, level=1),
            make_graded("ok", 0.5),
            make_graded("late", 1.0, latency_ms=90.0),
            make_graded("shed"),
            make_graded("expired"),
        ]
    )
    assert (score.offered, score.in_time, score.misses) == (5, 2, 3)
    assert score.attainment == 0.4
    assert score.effective_accuracy == pytest.approx(0.3)
    assert score.mean_accuracy == 0.75
    assert (score.shed, score.late, score.expired, score.errors) == (1, 1, 1, 0)
    assert score.levels == {0: 2, 1: 1}
    assert score.p50_ms == 5.0
    assert score.p99_ms == 90.0


def test_a_percentile_of_all_offered_is_unbounded_where_too_many_are_lost(make_graded):
    """One lost of 100 leaves the 99th; two do not, though every answer was quick."""
    one = score_of([make_graded()] * 99 + [make_graded("shed")])
    two = score_of([make_graded()] * 98 + [make_graded("shed")] * 2)
    assert one.p99_offered_ms == 5.0
    assert two.p99_offered_ms is None
    assert two.p99_ms == 5.0
    assert percentile([], 50) is None


def test_a_score_of_nothing_is_plain_json(make_graded):
    """No division by the requests that did not come."""
    score = score_of([])
    assert score.to_json()["mean_accuracy"] is None
    assert score.effective_accuracy == 0.0


@pytest.mark.parametrize(
    ("pattern", "missed"),
    [("xxx|ooo", 0), ("o|xxooo x", 2), ("o|oxoxxooox", 3), ("|ooxoo", 1), ("oo|xxx", 3), ("|ooo xxx", 0)],
)
def test_misses_count_until_three_in_a_row_are_in_time(make_graded, pattern, missed):
    """x is missed, o in time, | where the co-runner comes."""
    before, _, after = pattern.replace(" ", "").partition("|")
    requests = [
        make_graded("ok" if mark == "o" else "late", at_s=place - len(before))
        for place, mark in enumerate(before + after)
    ]
    assert missed_before_adapting(requests, 0.0) == missed


@pytest.mark.parametrize("copies", [1, 3])
def test_the_error_of_a_difference_is_that_of_its_blocks(make_graded, copies):
    """A request a second: as numpy has it. Copies in the same block tell nothing new. A late answer scores 0."""
    rng = np.random.default_rng(0)
    ours, theirs, differences = [], [], []
    for second in range(40):
        own, other, late = rng.random(), rng.random(), rng.random() < 0.3
        ours += [make_graded("late" if late else "ok", own, at_s=second + 0.1 * place) for place in range(copies)]
        theirs += [make_graded("ok", other, at_s=second + 0.1 * place) for place in range(copies)]
        differences.append((0.0 if late else own) - other)
    expected = np.std(differences, ddof=1) / math.sqrt(len(differences))
    assert standard_error([ours], [theirs]) == pytest.approx(expected)
    half = 20 * copies  # in two segments, whose times begin anew
    segments = [
        [part[:half], [make_graded(e.outcome.status, e.score, at_s=e.outcome.arrival.at_s - 20.0) for e in part[half:]]]
        for part in (ours, theirs)
    ]
    assert standard_error(*segments) == pytest.approx(expected)


def test_one_block_tells_no_error(make_graded):
    one = [[make_graded(at_s=0.0), make_graded(at_s=0.1)]]
    assert standard_error(one, one) is None
    assert standard_error([[]], [[]]) is None
