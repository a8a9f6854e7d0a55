"""Layouts: the promises of base.py, tested for each pattern in the registry."""

from __future__ import annotations

import numpy as np
import pytest

from nested_sparse.errors import CheckpointError, PatternError
from nested_sparse.layouts import KINDS, PATTERNS, Layout, parse_pattern, stored_layout
from nested_sparse.mask import block_scores
from nested_sparse.packing import pack, unpack
from nested_sparse.weight import NestedWeight

ROWS, COLUMNS, TAPS, LEVELS = 21, 54, 9, 3
EVERY = pytest.mark.parametrize("layout", PATTERNS.values(), ids=lambda layout: layout.name)


def chosen(layout: Layout) -> tuple[Layout, np.ndarray, np.ndarray]:
    """A layout for a convolution, magnitudes of its weight, and the first levels that the layout chooses by them."""
    fitted = layout.fitted(ROWS, 1, 4)
    values = np.random.default_rng(0).standard_normal((ROWS, COLUMNS)).astype(np.float32)
    scores = block_scores(values, fitted.block_rows)
    most = fitted.size((ROWS, COLUMNS // TAPS, 3, 3), None).most or scores.size
    return fitted, values, fitted.first_level(scores, [round(share * most) for share in (0.2, 0.5, 0.9)], TAPS)


def stored(layout: Layout) -> NestedWeight:
    """The same as a checkpoint holds it."""
    fitted, values, first_level = chosen(layout)
    held, cells, order = fitted.stored(first_level, None, "w")
    return NestedWeight("w", values, cells, held, order)


@EVERY
def test_a_name_says_all_of_a_layout(layout: Layout) -> None:
    """Names are distinct, and the name and block_rows of a stored layer give back its layout."""
    assert parse_pattern(layout.name) == layout
    held = stored(layout).layout
    assert stored_layout(layout.name, held.block_rows) == held
    assert len(PATTERNS) == sum(len(kind.every()) for kind in KINDS)


@EVERY
def test_levels_nest_and_keep_no_more_than_the_pattern_can(layout: Layout) -> None:
    """Each level adds some weights; all together are no more than `most_weights` and `most_blocks`."""
    fitted, _, first_level = chosen(layout)
    weight = stored(layout)
    assert first_level.shape == fitted.cells_shape(ROWS, COLUMNS)
    kept = [weight.nnz(level) for level in range(LEVELS)]
    assert 0 < kept[0] < kept[1] < kept[2] <= fitted.most_weights(ROWS, COLUMNS)
    blocks = sum(weight.layout.block_count(weight.first_level, level) for level in range(LEVELS))
    assert blocks <= weight.layout.most_blocks(ROWS, COLUMNS)


@EVERY
def test_packed_weights_pass_the_check_and_unpack_to_the_same(layout: Layout) -> None:
    """Arrays have the sizes that the layout says; unpacked, every level is the same dense weight."""
    weight = stored(layout)
    held, levels = weight.layout, pack(weight, LEVELS)
    for index, level in enumerate(levels):
        count = held.block_count(weight.first_level, index)
        assert level.ptr.shape == (held.group_count(ROWS) + 1,)
        assert level.ptr[-1] == count > 0
        assert level.col.shape == (count, held.block_columns)
        assert level.val.shape == (count, held.block_values)
        group = np.repeat(np.arange(weight.group_count), np.diff(level.ptr.astype(np.int64)))
        held.check_blocks(group, level.col.astype(np.int64), "file")
        with pytest.raises(CheckpointError, match="file"):
            held.check_blocks(np.repeat(group[:1], 2), level.col[[0, 0]].astype(np.int64), "file")  # one block twice
    again = unpack("w", ROWS, COLUMNS, held, levels, weight.permutation)
    assert np.array_equal(again.first_level, weight.first_level)
    for index in range(LEVELS):
        assert np.array_equal(again.at(index), weight.at(index))


@EVERY
def test_metadata_of_another_height_is_refused(layout: Layout) -> None:
    """A stored layer has the rows of its pattern, or rows that the kernels read."""
    with pytest.raises(PatternError, match="block_rows"):
        layout.stored_in(3)
