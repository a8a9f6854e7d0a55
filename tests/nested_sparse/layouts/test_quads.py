"""Quads: against a packing written anew with plain loops, round trips, and what a reader refuses."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nested_sparse.errors import CheckpointError, PatternError
from nested_sparse.layouts import BLOCK_ROWS, PATTERNS, Quads, stored_layout
from nested_sparse.layouts.quads import MOST_ROWS
from nested_sparse.mask import NEVER
from nested_sparse.packed import PackedLevel
from nested_sparse.packing import pack, unpack
from nested_sparse.value_type import FLOAT32, INT8
from nested_sparse.weight import NestedWeight


def plain_packing(weight: NestedWeight, level: int) -> tuple[list[int], list[list[int]], list[list[list[int]]]]:
    """`ptr`, `col` and `val` of one level, from the text of FORMAT.md."""
    v, order = weight.layout.block_rows, range(weight.rows) if weight.permutation is None else weight.permutation
    ptr, col, val = [0], [], []
    for group in range(-(-weight.rows // v)):
        columns = [k for k in range(weight.columns) if weight.first_level[group, k] == level]
        for first in range(0, len(columns), 4):
            own = columns[first : first + 4]
            fill = 4 - len(own)
            rows = [order[r] if r < weight.rows else None for r in range(group * v, group * v + v)]
            col.append(own + [own[-1]] * fill)
            val.append([[0 if row is None else int(weight.values[row, k]) for k in own] + [0] * fill for row in rows])
        ptr.append(len(col))
    return ptr, col, val


@st.composite
def weights(draw: st.DrawFn) -> NestedWeight:
    """Any sizes and levels; zeros among the weights that are kept, groups without a column, rows of padding."""
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    layout = Quads(draw(st.sampled_from([rows for rows in BLOCK_ROWS if rows <= MOST_ROWS])))
    rows, columns, levels = draw(st.integers(1, 40)), draw(st.integers(1, 23)), draw(st.integers(1, 4))
    values = rng.integers(-127, 128, (rows, columns)).astype(np.float32) * (rng.random((rows, columns)) < 0.9)
    first_level = rng.choice([*range(levels), NEVER], size=(layout.group_count(rows), columns)).astype(np.uint8)
    first_level[rng.random(len(first_level)) < 0.2] = NEVER
    permutation = rng.permutation(rows).astype(np.int32) if draw(st.booleans()) else None
    return NestedWeight("layer", values.astype(np.float32), first_level, layout, permutation)


@given(weights())
def test_packs_as_the_page_says_and_comes_back(weight: NestedWeight) -> None:
    """Every level alone; together they give the weights that some level keeps, and the levels that keep them."""
    packed = pack(weight, 4)
    for level, arrays in enumerate(packed):
        ptr, col, val = plain_packing(weight, level)
        assert arrays.ptr.tolist() == ptr
        assert arrays.col.tolist() == col
        assert arrays.col.dtype == np.uint16
        assert arrays.val.reshape(-1, weight.layout.block_rows, 4).tolist() == val
        assert weight.layout.block_count(weight.first_level, level) == len(col)
    assert sum(len(arrays.col) for arrays in packed) <= weight.layout.most_blocks(weight.rows, weight.columns)
    back = unpack("layer", weight.rows, weight.columns, weight.layout, packed, weight.permutation)
    np.testing.assert_array_equal(back.first_level, weight.first_level)
    np.testing.assert_array_equal(back.values, weight.at(NEVER - 1))


@given(weights())
def test_what_is_packed_passes_the_checks(weight: NestedWeight) -> None:
    """Of columns and of values."""
    for arrays in pack(weight, 4):
        group = np.repeat(np.arange(weight.group_count), np.diff(arrays.ptr.astype(np.int64)))
        weight.layout.check_blocks(group, arrays.col.astype(np.int64), "file")
        assert isinstance(weight.layout, Quads)
        weight.layout.check_values(group, arrays.col.astype(np.int64), INT8.stored(arrays.val), "file")


@pytest.mark.parametrize(
    ("group", "col"),
    [
        ([0], [[3, 2, 4, 5]]),
        ([0, 0], [[0, 1, 2, 3], [3, 4, 5, 6]]),
        ([0, 0], [[0, 1, 2, 2], [3, 4, 5, 6]]),
        ([0, 0], [[0, 1, 2, 3], [3, 3, 3, 3]]),
        ([0, 0], [[4, 5, 6, 7], [0, 1, 2, 3]]),
        ([0], [[0, 0, 1, 2]]),
        ([0, 1], [[0, 1, 1, 2], [0, 1, 2, 3]]),
        ([0], [[0, 1, 2, 0]]),
    ],
)
def test_columns_that_no_writer_writes_are_refused(group: list[int], col: list[list[int]]) -> None:
    """Those that fall, that repeat in the middle, and quads of nothing but fill."""
    with pytest.raises(CheckpointError, match="file: columns must rise within a row group, and only its last"):
        Quads(2).check_blocks(np.array(group), np.array(col), "file")


@pytest.mark.parametrize(("place", "value"), [((0, 0, 2), 1), ((0, 1, 3), -1), ((0, 1, 0), -128)])
def test_values_that_no_writer_writes_are_refused(place: tuple[int, int, int], value: int) -> None:
    """A weight in a column that fills a quad, and -128."""
    val = np.ones((1, 2, 4), np.int8)
    val[:, :, 2:] = 0
    group, col = np.array([0]), np.array([[3, 5, 5, 5]])
    Quads(2).check_values(group, col, val.reshape(-1), "file")
    val[place] = value
    with pytest.raises(CheckpointError, match=re.escape("file: values must lie in -127 to 127, and be 0 in columns")):
        Quads(2).check_values(group, col, val.reshape(-1), "file")


@pytest.mark.parametrize("pattern", PATTERNS)
def test_each_pattern_is_stored_in_quads(pattern: str) -> None:
    """Of its own blocks, of single rows for gather groups; quads are no pattern, so float layers never have them.

    Higher blocks than the kernels of int8 have are refused, with a pattern to choose.
    """
    block_rows = PATTERNS[pattern].block_rows
    if block_rows > MOST_ROWS:
        with pytest.raises(PatternError, match=f"at most 16 rows, got {block_rows}; choose pattern block16x1"):
            stored_layout(pattern, block_rows, INT8)
        return
    assert stored_layout(pattern, block_rows, INT8) == Quads(block_rows)
    assert not isinstance(stored_layout(pattern, block_rows, FLOAT32), Quads)


def test_a_level_may_add_nothing() -> None:
    """No quads, and no rows of them."""
    weight = NestedWeight("layer", np.ones((3, 5), np.float32), np.zeros((2, 5), np.uint8), Quads(2))
    empty = pack(weight, 2)[1]
    assert isinstance(empty, PackedLevel)
    assert (empty.ptr.tolist(), empty.col.shape, empty.val.shape) == ([0, 0, 0], (0, 4), (0, 8))
