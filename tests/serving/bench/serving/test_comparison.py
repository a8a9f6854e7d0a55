"""Comparison: rows from cells made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from nested_sparse.serving.bench.serving.comparison import (
    against_fixed,
    against_slackfit,
    attainment_where_level_0_fits,
    best_fixed,
    comparison,
    fixed_misses_at,
    in_time_at_the_client,
    late_after_a_co_runner,
    misses_at_equal_accuracy,
)
from nested_sparse.serving.bench.serving.reference import Reference

LEVELS = {"level 0": 0, "level 1": 1}
STATED = Reference([], None, [0.6, 0.8])


def test_elastic_is_compared_with_the_best_level_of_each_cell(make_cell):
    """Cell by cell: 70 - max(60, 40) and 50 - max(54, 30); the worst is not met, nor the mean of 3."""
    cells = [
        make_cell("poisson", level_0=(100, 0.6), level_1=(50, 0.8), elastic=(100, 0.7)),
        make_cell("ramp", level_0=(90, 0.6), level_1=(30, 1.0), elastic=(100, 0.5)),
    ]
    worst, mean = against_fixed(cells, LEVELS)
    assert worst.measured == pytest.approx(-4.0)
    assert worst.met is False
    assert "ramp" in worst.note
    assert mean.measured == pytest.approx(3.0)
    assert mean.met is True
    assert best_fixed(cells, LEVELS) == "level 0"


def test_fixed_misses_are_interpolated_between_the_levels_around():
    """Half way between two levels: the mean of their misses; beyond the range the outermost; beaten levels no help."""
    assert fixed_misses_at(0.7, [0.6, 0.8], [10, 50]) == pytest.approx(30.0)
    assert fixed_misses_at(0.5, [0.6, 0.8], [10, 50]) == 10.0
    assert fixed_misses_at(0.9, [0.6, 0.8], [10, 50]) == 50.0
    assert fixed_misses_at(0.7, [0.6, 0.65, 0.8], [20, 90, 40]) == pytest.approx(30.0)
    assert fixed_misses_at(0.6, [0.6, 0.8], [40, 20]) == 20.0


def test_interpolated_misses_never_rise_when_a_level_gets_better():
    """Property: a fixed level with fewer misses cannot make the fixed side look worse."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        accuracy, misses = np.sort(rng.random(4)).tolist(), rng.integers(0, 100, 4).tolist()
        at = float(rng.random())
        better = [max(0, count - int(rng.integers(0, 5))) for count in misses]
        assert fixed_misses_at(at, accuracy, better) <= fixed_misses_at(at, accuracy, misses) + 1e-9


def test_misses_at_equal_accuracy_count_bursty_cells_only(make_cell):
    """10 misses at 0.7, half way between 20 and 60 misses: 1/4."""
    servers = {"level_0": (80, 0.6), "level_1": (40, 0.8), "elastic": (90, 0.7)}
    figure = misses_at_equal_accuracy(
        [make_cell("gamma-8", **servers), make_cell("poisson", **servers)], LEVELS, STATED
    )
    assert figure.measured == pytest.approx(10 / 40)
    assert figure.met is True
    assert misses_at_equal_accuracy([make_cell("poisson", **servers)], LEVELS, STATED).unavailable


def test_slackfit_counts_beside_a_co_runner_only(make_cell):
    cells = [
        make_cell("poisson", "none", elastic=(10, 1.0), slackfit=(100, 1.0)),
        make_cell("poisson", "cpu", elastic=(100, 0.7), slackfit=(100, 0.5)),
        make_cell("poisson", "memory", elastic=(100, 0.7), slackfit=(100, 0.8)),
    ]
    figure = against_slackfit(cells)
    assert figure.measured == pytest.approx(5.0)
    assert figure.met is True
    assert against_slackfit(cells[:1]).measured is None


def test_attainment_counts_cells_where_level_0_fits_with_its_p99(make_cell):
    """Two lost of 100 is a p99 beyond any SLO: only the first cell counts, and its answers take 5 ms."""
    cells = [make_cell(level_0=(99, 0.6), elastic=(98, 0.7)), make_cell(level_0=(98, 0.6), elastic=(10, 0.7))]
    figure = attainment_where_level_0_fits(cells, LEVELS, slo_ms=5.0)
    assert figure.measured == pytest.approx(98.0)
    assert figure.met is False
    assert attainment_where_level_0_fits(cells, LEVELS, slo_ms=4.9).unavailable


def test_in_time_at_the_client_counts_poisson_arrivals_alone_and_beside_busy_processes(make_cell):
    cells = [
        make_cell("poisson", "none", elastic=(100, 0.7)),
        make_cell("poisson", "cpu", elastic=(98, 0.7)),
        make_cell("poisson", "memory", elastic=(10, 0.7)),
        make_cell("ramp", "none", elastic=(10, 0.7)),
    ]
    quiet, beside = in_time_at_the_client(cells)
    assert (quiet.measured, quiet.met) == (100.0, True)
    assert (beside.measured, beside.met) == (pytest.approx(98.0), False)
    assert beside.note == "2 of 100 requests missed"
    assert all(figure.unavailable for figure in in_time_at_the_client(cells[2:]))


def test_late_after_a_co_runner_is_the_worst_segment(make_cell, make_graded):
    cell = make_cell(elastic=(100, 0.7))
    worse = [make_graded("late", at_s=place) for place in range(4)] + [make_graded(at_s=9.0)] * 3
    cell.rounds["elastic"].append(worse)
    figure = late_after_a_co_runner([cell])
    assert figure.measured == 4.0
    assert figure.met is False
    assert "median 2" in figure.note


def test_a_row_that_cannot_be_measured_says_why(make_cell):
    """One target alone decides none of them."""
    for figure in comparison([make_cell("poisson", "none", target=(90, 0.7))], {}, STATED, 10.0):
        assert figure.measured is None
        assert figure.met is None
        assert figure.unavailable
