"""NestedLinear: the operator in ONNX Runtime, compared with numpy in float64."""

from __future__ import annotations

import numpy as np
import pytest
from sparse_node import DENSITIES, SparseModel, linear_node
from sparse_node import check_levels as check

from nested_sparse.layouts import GatherScatter
from nested_sparse.value_type import FLOAT16


@pytest.mark.parametrize("block_rows", [1, 2, 4, 8, 16, 128])
@pytest.mark.parametrize("threads", [1, 2])
def test_every_block_height_and_count_of_rows(block_rows: int, threads: int) -> None:
    """From one input row to several transposed blocks, odd sizes, with and without permutation, residual and clip."""
    rng = np.random.default_rng(block_rows)
    for count in (1, 2, 3, 5, 7, 8, 9, 13, 14, 16, 17, 33, 130, 401):
        check(linear_node(rng, 77, 37, block_rows), (count, 77), threads)
        node = linear_node(rng, 50, 21, block_rows, permuted=True, residual=True, clip=(-1.0, 2.0))
        check(node, (count, 50), threads)


@pytest.mark.every_isa
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("layout", [1, 4, 16, 128, GatherScatter(16, 1)], ids=str)
def test_transposed_rows_of_every_count(layout: int | GatherScatter, threads: int) -> None:
    """Rows that fill vectors and squares of four, or leave one to three over; outputs that are transposed in pieces."""
    rng = np.random.default_rng(20)
    block_rows, groups = (layout, None) if isinstance(layout, int) else (1, layout)
    for outputs, counts in ((700, (16, 18, 35, 130)), (61, (15, 17, 20, 97))):
        for count in counts:
            for options in ({}, {"residual": True, "clip": (-1.0, 2.0)}):
                node = linear_node(rng, 53, outputs, block_rows, layout=groups, densities=(0.1, 0.3), **options)
                check(node, (count, 53), threads)


@pytest.mark.every_isa
def test_a_row_that_is_none_stays_with_itself() -> None:
    """A NaN or an infinity in one of many rows reaches the outputs of that row alone, and a clip keeps the NaN."""
    node = linear_node(np.random.default_rng(21), 40, 50, clip=(0.0, 6.0))
    x = np.random.default_rng(22).standard_normal((37, 40)).astype(np.float32)
    model, level = SparseModel([node]), len(node.norms) - 1
    good = model.run(x, level)
    x[3], x[36, :] = np.nan, np.inf
    y = model.run(x, level)
    used = (node.dense(np.eye(40, dtype=np.float32), level) != node.dense(np.zeros((1, 40)), level)).any(axis=0)
    assert np.isnan(y[3, used]).all()
    rest = np.delete(np.arange(37), [3, 36])
    np.testing.assert_array_equal(y[rest], good[rest])


@pytest.mark.parametrize("layout", GatherScatter.every(), ids=lambda layout: layout.name)
def test_gathers(layout: GatherScatter) -> None:
    """Every B and k, few and many rows of x, rows that no bundle divides, permutation, residual and clip."""
    rng = np.random.default_rng(layout.banks)
    for count in (1, 3, 5, 130):
        check(linear_node(rng, 77, 37, 1, layout=layout), (count, 77))
        node = linear_node(rng, 50, 21, 1, permuted=True, residual=True, clip=(-1.0, 2.0), layout=layout)
        check(node, (count, 50), threads=2)
    for count in (1, 40):
        check(
            linear_node(rng, 700, 600, 1, permuted=True, layout=layout, densities=(0.1, 0.3)), (count, 700), threads=2
        )


@pytest.mark.parametrize("block_rows", [1, 2, 4, 8, 16, 32])
def test_float16_values(block_rows: int) -> None:
    """Few and many rows of x, odd sizes, permutation, residual and clip; several tasks."""
    rng = np.random.default_rng(block_rows)
    for count in (1, 5, 130):
        node = linear_node(rng, 50, 21, block_rows, permuted=True, residual=True, clip=(-1.0, 2.0), value_type=FLOAT16)
        check(node, (count, 50))
        check(linear_node(rng, 700, 600, block_rows, densities=(0.1, 0.3), value_type=FLOAT16), (count, 700), threads=2)


@pytest.mark.parametrize("layout", [GatherScatter(16, 1), GatherScatter(8, 2)], ids=lambda layout: layout.name)
def test_float16_gathers(layout: GatherScatter) -> None:
    """The same of gather groups."""
    rng = np.random.default_rng(layout.banks)
    for count in (1, 5, 130):
        check(
            linear_node(rng, 77, 37, 1, permuted=True, residual=True, layout=layout, value_type=FLOAT16),
            (count, 77),
            threads=2,
        )


@pytest.mark.parametrize("shape", [(24,), (3, 24), (2, 3, 24), (2, 1, 5, 24), (2, 2, 2, 2, 24)])
def test_every_rank(shape: tuple[int, ...]) -> None:
    """The last axis is the layer's; the others pass through."""
    check(linear_node(np.random.default_rng(1), 24, 10), shape)


@pytest.mark.parametrize("shape", [(0, 24), (2, 0, 24)])
def test_no_rows(shape: tuple[int, ...]) -> None:
    """An axis of length zero gives an empty output."""
    node = linear_node(np.random.default_rng(2), 24, 10)
    assert SparseModel([node]).run(np.zeros(shape, np.float32), 0).shape == (*shape[:-1], 10)


@pytest.mark.parametrize("threads", [1, 2])
def test_large_layer_is_cut_into_tasks(threads: int) -> None:
    """Enough work for several tasks, by rows of x and by row groups."""
    rng = np.random.default_rng(3)
    node = linear_node(rng, 700, 600, 16, permuted=True)
    for count in (1, 4, 300):
        check(node, (count, 700), threads)


def test_columns_beyond_uint16() -> None:
    """More than 65536 columns: four-byte column indices."""
    node = linear_node(np.random.default_rng(4), 70_000, 5, 4, densities=(0.001, 0.01))
    check(node, (1, 70_000))
    check(node, (9, 70_000))
    groups = linear_node(np.random.default_rng(4), 70_000, 5, 1, densities=(0.001, 0.01), layout=GatherScatter(16, 4))
    check(groups, (1, 70_000))
    check(groups, (9, 70_000))


def test_rows_without_weights_give_the_shift() -> None:
    """A row group that no level keeps gives shift (plus residual)."""
    node = linear_node(np.random.default_rng(5), 12, 8, residual=True)
    node.weight.first_level[1] = 255
    residual = np.full((1, 8), 3.0, np.float32)
    for level in range(len(DENSITIES)):
        y = SparseModel([node]).run(np.ones((1, 12), np.float32), level, [residual])
        assert np.array_equal(y[0, 4:], node.norms[level, 1, 4:] + np.float32(3.0))
