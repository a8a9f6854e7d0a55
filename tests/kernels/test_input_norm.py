"""InputNorm: linear layers that normalise their inputs, compared with numpy in float64."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from sparse_node import SparseModel, SparseNode, linear_node, place
from sparse_node import check_levels as check

from nested_sparse.layouts import GatherScatter

COUNTS = (1, 2, 7, 8, 9, 17, 35, 130)
"""Rows that are multiplied as they lie, and rows that are transposed."""


def normed(rng: np.random.Generator, columns: int, rows: int, block_rows: int = 4, **options: Any) -> SparseNode:
    """A random linear layer whose inputs are normalised."""
    scale, shift = rng.standard_normal((2, columns)).astype(np.float32)
    return linear_node(rng, columns, rows, block_rows, input_norm=(scale, shift, 1e-3), **options)


@pytest.mark.every_isa
@pytest.mark.parametrize(
    ("columns", "layout"),
    [*itertools.product((1, 8, 31, 77, 200), (4, 16)), *itertools.product((31, 77, 200), (GatherScatter(16, 1),))],
    ids=str,
)
def test_rows_and_columns_of_every_count(columns: int, layout: int | GatherScatter) -> None:
    """Columns that fill vectors, or leave some over, and fewer than one vector has."""
    rng = np.random.default_rng(columns)
    block_rows, groups = (layout, None) if isinstance(layout, int) else (1, layout)
    for count in COUNTS:
        check(normed(rng, columns, 21, block_rows, layout=groups), (count, columns))


@pytest.mark.parametrize("threads", [1, 2])
def test_with_all_else_that_a_layer_does(threads: int) -> None:
    """Residual, clip, permutation and a function; several tasks; any rank; no rows."""
    rng = np.random.default_rng(1)
    for shape in ((1, 50), (40, 50), (2, 3, 50), (50,)):
        options = {"permuted": True, "residual": True, "clip": (-1.0, 2.0), "activation": 4}
        check(normed(rng, 50, 21, **options), shape, threads)
    node = normed(rng, 700, 600, 16, densities=(0.1, 0.3))
    for count in (4, 300):
        check(node, (count, 700), threads)
    assert SparseModel([node]).run(np.zeros((0, 700), np.float32), 0).shape == (0, 600)


@pytest.mark.every_isa
@pytest.mark.parametrize("count", [1, 40])
def test_a_large_mean_costs_no_digits(count: int) -> None:
    """A mean that is ten thousand times the deviation: with the mean of squares, nothing of the variance is left."""
    rng = np.random.default_rng(2)
    node = normed(rng, 96, 12)
    x = (1e4 + rng.standard_normal((count, 96))).astype(np.float32)
    expected = node.dense(x, 0)
    assert np.abs(SparseModel([node]).run(x, 0) - expected).max() < 5e-3 * np.abs(expected).max()


@pytest.mark.every_isa
def test_a_row_of_one_value_is_the_shift_and_one_that_is_none_stays_with_itself() -> None:
    rng = np.random.default_rng(3)
    node = normed(rng, 40, 50)
    model, level = SparseModel([node]), len(node.norms) - 1
    x = rng.standard_normal((37, 40)).astype(np.float32)
    good = model.run(x, level)
    x[3], x[7, 5], x[36, 1] = 2.5, np.nan, np.inf
    y = model.run(x, level)
    np.testing.assert_allclose(y[3], node.dense(x[3:4], level)[0], rtol=1e-4, atol=1e-4)
    used = (node.weight.at(level) != 0).any(axis=1)
    assert np.isnan(y[np.ix_([7, 36], used)]).all()
    rest = np.delete(np.arange(37), [3, 7, 36])
    np.testing.assert_array_equal(y[rest], good[rest])


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("norm_scale", [1.0] * 41, "attribute 'norm_scale': expected 40 numbers, got 41"),
        ("norm_shift", [1.0] * 39, "attribute 'norm_shift': expected 40 numbers, got 39"),
        ("norm_shift", None, "norm_shift"),
        ("norm_epsilon", None, "norm_epsilon"),
    ],
)
def test_a_part_of_a_norm_is_refused(name: str, value: list[float] | None, error: str) -> None:
    node = normed(np.random.default_rng(4), 40, 8)
    placed = place([node])
    if value is None:
        del placed.attributes[0][name]
    else:
        placed.attributes[0][name] = value
    with pytest.raises(Exception, match=error):
        SparseModel([node], placed)
