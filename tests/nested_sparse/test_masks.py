"""Masks: with budgets and weights, compared with their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nested_sparse.budget import blocks_to_keep, check_densities, keep_counts
from nested_sparse.errors import BudgetError, PatternError
from nested_sparse.layouts import Blocks, parse_pattern
from nested_sparse.mask import NEVER, block_scores, nested_first_level
from nested_sparse.packed import index_dtype
from nested_sparse.packing import pack, unpack
from nested_sparse.weight import NestedWeight
from support import random_weight


def test_block_scores_are_sums_of_magnitudes_of_each_block() -> None:
    """Five rows in blocks of two: the last block holds one row only, in permuted order."""
    values = np.arange(-7, 8, dtype=np.float32).reshape(5, 3)
    permutation = np.array([4, 0, 3, 1, 2], np.int32)
    expected = [np.abs(values[[4, 0]]).sum(0), np.abs(values[[3, 1]]).sum(0), np.abs(values[[2]]).sum(0)]
    np.testing.assert_array_equal(block_scores(values, 2, permutation), expected)


def test_ties_keep_the_first_block_in_row_order() -> None:
    """Equal scores are taken in order, so that masks do not depend on the sort."""
    first_level = nested_first_level(np.ones((2, 3)), [2, 3])
    assert first_level.tolist() == [[0, 0, 1], [NEVER, NEVER, NEVER]]
    scores = np.array([[2.0, 1.0, 2.0, 1.0, 3.0, 1.0, np.nan]])
    for keep in range(1, 8):
        expected = np.argsort(-scores[0], kind="stable")[:keep]
        assert np.flatnonzero(nested_first_level(scores, [keep]) == 0).tolist() == sorted(expected.tolist())


@given(
    rows=st.integers(1, 20),
    columns=st.integers(1, 30),
    block_rows=st.sampled_from([1, 2, 4, 8, 16]),
    densities=st.lists(st.floats(0.01, 1.0), min_size=1, max_size=5, unique=True),
    permuted=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_levels_nest_share_values_and_hit_the_rounding_rule(
    rows: int, columns: int, block_rows: int, densities: list[float], permuted: bool, seed: int
) -> None:
    """Every level's mask contains the one below, holds the same values, and has the count the rule asks for."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((rows, columns)).astype(np.float32)
    permutation = rng.permutation(rows).astype(np.int32) if permuted else None
    scores = block_scores(values, block_rows, permutation)
    keep = keep_counts("uniform", {"w": scores}, sorted(densities))["w"]
    weight = NestedWeight("w", values, nested_first_level(scores, keep), Blocks(block_rows), permutation)
    below = np.zeros((rows, columns), bool)
    for level, density in enumerate(sorted(densities)):
        mask = weight.mask(level)
        assert not (below & ~mask).any()
        assert (weight.at(level) == np.where(mask, values, 0)).all()
        assert (weight.first_level <= level).sum() == max(1, int(np.floor(density * scores.size + 0.5)))
        below = mask


@pytest.mark.parametrize("block_rows", [1, 2, 4, 8, 16])
def test_a_mask_is_made_of_whole_blocks_of_permuted_rows(block_rows: int) -> None:
    """Rows of one group are kept or dropped together in every column."""
    weight = random_weight(np.random.default_rng(1), rows=32, columns=9, block_rows=block_rows, permuted=True)
    assert weight.permutation is not None
    ordered = weight.mask(1)[weight.permutation].reshape(32 // block_rows, block_rows, 9)
    assert (ordered == ordered[:, :1]).all()


def test_global_budget_is_one_ranking_over_all_layers() -> None:
    """The kept blocks are the best of each layer, which it never loses, and then the largest of all."""
    rng = np.random.default_rng(2)
    scores = {"large": rng.random((10, 10)) + 1.0, "small": rng.random((10, 10)), "tiny": rng.random((5, 4)) * 1e-6}
    counts = keep_counts("global", scores, (0.2, 0.6))
    for level, density in enumerate((0.2, 0.6)):
        rest = np.concatenate([np.sort(score.reshape(-1))[:-1] for score in scores.values()])
        threshold = np.sort(rest)[-(blocks_to_keep(density, 220) - len(scores))]
        for name, score in scores.items():
            assert counts[name][level] == 1 + int((np.sort(score.reshape(-1))[:-1] >= threshold).sum())
        assert sum(count[level] for count in counts.values()) == blocks_to_keep(density, 220)


def test_rounding_is_half_up_and_never_to_nothing() -> None:
    """The one rounding rule for density."""
    assert [blocks_to_keep(density, 10) for density in (0.001, 0.05, 0.15, 0.25, 0.26, 1.0)] == [1, 1, 2, 3, 3, 10]


@pytest.mark.parametrize("densities", [(), (0.0, 0.5), (0.5, 0.2), (0.5, 0.5), (0.5, 1.5), (float("nan"),)])
def test_densities_that_do_not_rise_inside_zero_to_one_are_refused(densities: tuple[float, ...]) -> None:
    """A wrong ladder of densities is named."""
    with pytest.raises(BudgetError, match="densities"):
        check_densities(densities)


def test_unknown_names_are_answered_with_the_allowed_ones() -> None:
    """Pattern and budget errors list the choices."""
    with pytest.raises(PatternError, match=r"block3x1.*unstructured, block2x1, block4x1"):
        parse_pattern("block3x1")
    with pytest.raises(BudgetError, match=r"'erk2'.*uniform, global"):
        keep_counts("erk2", {}, (0.5,))


@pytest.mark.parametrize("permuted", [False, True])
@pytest.mark.parametrize("rows", [1, 7, 16])
@pytest.mark.parametrize("block_rows", [1, 4, 16])
def test_pack_follows_the_format_and_unpack_undoes_it(rows: int, block_rows: int, permuted: bool) -> None:
    """Each packed array against its definition, element by element."""
    weight = random_weight(np.random.default_rng(3), "w", rows, 11, block_rows, permuted=permuted)
    order = np.arange(rows) if weight.permutation is None else weight.permutation
    packed = pack(weight, 3)
    for level, added in enumerate(packed):
        for group in range(weight.group_count):
            blocks = slice(int(added.ptr[group]), int(added.ptr[group + 1]))
            assert added.col[blocks, 0].tolist() == np.flatnonzero(weight.first_level[group] == level).tolist()
            for column, values in zip(added.col[blocks, 0], added.val[blocks], strict=True):
                for v, value in enumerate(values):
                    row = group * block_rows + v
                    assert value == (weight.values[order[row], column] if row < rows else 0)
    again = unpack("w", rows, 11, weight.layout, packed, weight.permutation)
    for level in range(3):
        assert np.array_equal(again.at(level), weight.at(level))
        assert np.array_equal(again.mask(level), weight.mask(level))


def test_columns_take_two_bytes_until_they_do_not_fit() -> None:
    """65536 columns are numbered 0 to 65535."""
    assert index_dtype(65536).itemsize == 2
    assert index_dtype(65537).itemsize == 4


@pytest.mark.parametrize(
    "change",
    [
        {"layout": Blocks(4)},
        {"values": np.zeros((4, 3))},
        {"first_level": np.zeros((4, 3), np.uint8)},
        {"permutation": np.zeros(4, np.int32)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_weight_whose_parts_do_not_fit_is_refused(change: dict[str, object]) -> None:
    """Shapes, dtypes and the permutation are checked at once."""
    parts: dict[str, object] = {
        "name": "w",
        "values": np.zeros((4, 3), np.float32),
        "first_level": np.zeros((2, 3), np.uint8),
        "layout": Blocks(2),
    }
    with pytest.raises(PatternError, match="'w'"):
        NestedWeight(**{**parts, **change})  # type: ignore[arg-type]
