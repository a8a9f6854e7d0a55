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
    assert "worse in 1 of 2 cells: ramp with cpu; by more than two standard errors in 0" in worst.note
    assert worst.met is False
    assert "ramp" in worst.note
    assert mean.measured == pytest.approx(3.0)
    errors = list(worst.details["standard_errors"].values())
    assert f"standard error {np.hypot(*errors) / 2:.2f}" in mean.note
    assert mean.met is True
    assert best_fixed(cells, LEVELS) == "level 0"


def test_a_cell_that_loses_beyond_its_error_is_named(make_cell):
    """0.1 less in each request: no error at all. Where the two servers miss other requests, it is within the error."""
    sure = make_cell("poisson", level_0=(100, 0.6), elastic=(100, 0.5))
    unsure = make_cell("ramp", level_0=(100, 0.6), elastic=(98, 0.6))
    worst, _ = against_fixed([sure, unsure], LEVELS)
    assert "by more than two standard errors in 1: poisson with cpu; that of poisson with cpu is 0.00" in worst.note
    assert worst.details["standard_errors"]["ramp with cpu"] > 0.6


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
