"""Packs: the choice of weights for GS(B, k) and their packs, compared with arXiv:2112.10898."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nested_sparse.errors import PatternError
from nested_sparse.mask import NEVER
from nested_sparse.pack_choice import most_weights, nested_packs
from nested_sparse.packed import pack, unpack
from nested_sparse.packs import packs_of_bundle
from nested_sparse.pattern import PACKS, Pack
from nested_sparse.weight import NestedWeight
from support import random_weight


def added_counts(first_level: np.ndarray, level: int, shape: Pack) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of weights that `level` adds: (bundles, rows) per row, and (bundles, B) per column remainder."""
    added = (first_level == level).reshape(-1, shape.rows, first_level.shape[1])
    whole = -(-added.shape[2] // shape.banks) * shape.banks
    padded = np.zeros((*added.shape[:2], whole), bool)
    padded[:, :, : added.shape[2]] = added
    return added.sum(axis=2), padded.reshape(len(added), shape.rows, -1, shape.banks).sum(axis=(1, 2))


def random_balanced(rng: np.random.Generator, packs: int, columns: int, shape: Pack) -> np.ndarray:
    """(rows, K) a random balanced mask: the choice that random scores of one bundle lead to."""
    scores = rng.random((shape.rows, columns))
    return nested_packs(scores, [packs * shape.banks], shape) == 0


@given(
    shape=st.sampled_from(PACKS),
    rows=st.integers(1, 40),
    columns=st.integers(16, 70),
    shares=st.lists(st.floats(0.01, 1.0), min_size=1, max_size=4),
    seed=st.integers(0, 1000),
)
def test_every_level_is_balanced_nests_and_keeps_to_its_budget(
    shape: Pack, rows: int, columns: int, shares: list[float], seed: int
) -> None:
    """In each bundle a level adds n·k weights to every row and n to every remainder; in all what was asked for."""
    scores = np.random.default_rng(seed).random((rows, columns)) ** 4
    most = most_weights(rows, columns, shape)
    keep = [max(1, round(share * most)) for share in sorted(shares)]
    first_level = nested_packs(scores, keep, shape)
    assert len(first_level) == -(-rows // shape.rows) * shape.rows
    for level, count in enumerate(keep):
        by_row, by_bank = added_counts(first_level, level, shape)
        packs = by_row[:, 0] // shape.per_row
        assert (by_row == packs[:, None] * shape.per_row).all()
        assert (by_bank == packs[:, None]).all()
        kept = first_level[:rows] <= level
        assert abs(int(kept.sum()) - count) <= shape.banks / 2 or (first_level <= level).sum() == shape.banks


@given(shape=st.sampled_from(PACKS), packs=st.integers(1, 12), columns=st.integers(24, 60), seed=st.integers(0, 1000))
def test_a_bundle_of_packs_is_cut_into_gathers_of_distinct_banks(
    shape: Pack, packs: int, columns: int, seed: int
) -> None:
    """Packs hold each weight once, lane i in row i // k, and their columns leave B different remainders."""
    packs = min(packs, columns // shape.banks * shape.rows)
    kept = random_balanced(np.random.default_rng(seed), packs, columns, shape)
    dealt = packs_of_bundle(kept, shape)
    assert dealt.shape == (packs, shape.banks)
    assert (np.sort(dealt % shape.banks, axis=1) == np.arange(shape.banks)).all()
    times = np.zeros(kept.shape, int)
    np.add.at(times, (np.broadcast_to(np.arange(shape.banks) // shape.per_row, dealt.shape), dealt), 1)
    assert (times == kept).all()


@given(shape=st.sampled_from(PACKS), packs=st.integers(1, 8), seed=st.integers(0, 1000))
def test_more_magnitude_is_kept_than_by_a_random_choice(shape: Pack, packs: int, seed: int) -> None:
    """Greedy takes at least what a random balanced mask takes, and little less than the largest weights of all."""
    rng = np.random.default_rng(seed)
    scores = np.abs(rng.standard_normal((shape.rows, 64)))
    packs = min(packs, 64 // shape.banks * shape.rows)
    chosen = scores[nested_packs(scores, [packs * shape.banks], shape) == 0].sum()
    best = np.sort(scores.reshape(-1))[-packs * shape.banks :].sum()
    assert scores[random_balanced(rng, packs, 64, shape)].sum() <= chosen + 1e-9
    assert chosen >= 0.7 * best


def test_every_count_is_reached_from_every_lower_one() -> None:
    """Also where B does not divide the columns, up to the last pack: no lower level closes the way."""
    shape, rng = Pack(8, 2), np.random.default_rng(0)
    most = most_weights(4, 29, shape)
    for first in range(8, most, 24):
        first_level = nested_packs(rng.random((4, 29)), [first, most], shape)
        assert (first_level == 0).sum() == first
        assert (first_level != NEVER).sum() == most == 96


def test_bundles_get_packs_by_what_lies_in_them() -> None:
    """The largest weights decide how many packs a bundle has; a last bundle counts its real rows only."""
    shape, scores = Pack(8, 1), np.random.default_rng(1).random((17, 32))
    scores[8:16] += 10
    first_level = nested_packs(scores, [8 * 20 + 4], shape)
    packs = (first_level == 0).reshape(3, 8, 32).sum(axis=(1, 2)) // 8
    assert packs.tolist() == [0, 20, 0]
    scores[16] += 20
    packs = (nested_packs(scores, [8 * 20 + 32], shape) == 0).reshape(3, 8, 32).sum(axis=(1, 2)) // 8
    assert packs.tolist() == [0, 20, 32]


@pytest.mark.parametrize("permuted", [False, True])
@pytest.mark.parametrize("rows", [1, 16, 37])
@pytest.mark.parametrize("shape", [Pack(16, 1), Pack(16, 4), Pack(8, 8)], ids=lambda shape: shape.name)
def test_pack_follows_the_format_and_unpack_undoes_it(shape: Pack, rows: int, permuted: bool) -> None:
    """Each entry of each pack against its definition, element by element."""
    weight = random_weight(np.random.default_rng(3), "w", rows, 35, permuted=permuted, pack=shape)
    order = np.arange(rows) if weight.permutation is None else weight.permutation
    levels = pack(weight, 3)
    for level, added in enumerate(levels):
        assert added.ptr[0] == 0
        assert added.ptr[-1] == len(added.val) == len(added.col)
        seen = set()
        for bundle in range(weight.group_count):
            for pack_index in range(int(added.ptr[bundle]), int(added.ptr[bundle + 1])):
                for lane, (column, value) in enumerate(zip(added.col[pack_index], added.val[pack_index], strict=True)):
                    row = bundle * shape.rows + lane // shape.per_row
                    seen.add((row, int(column)))
                    assert value == (weight.values[order[row], column] if row < rows else 0)
        assert seen == set(zip(*map(np.ndarray.tolist, np.nonzero(weight.first_level == level)), strict=True))
    again = unpack("w", rows, 35, weight.pattern, levels, weight.permutation)
    assert np.array_equal(again.first_level, weight.first_level)
    for level in range(3):
        assert np.array_equal(again.at(level), weight.at(level))


def test_unbalanced_weights_are_refused() -> None:
    """A mask that was not chosen for packs is named, when it is packed and where it is made."""
    weight = random_weight(np.random.default_rng(4), "w", 16, 32, pack=Pack(16, 1))
    row, column = np.argwhere(weight.first_level == 1)[0]
    weight.first_level[row, column] = NEVER
    with pytest.raises(PatternError, match="'w' level 1 bundle 0: gs16x1 needs as many weights in each of 16 rows"):
        pack(weight, 3)
    with pytest.raises(PatternError, match="block_rows must be 1 with gs16x1, got 2"):
        NestedWeight("w", weight.values, weight.first_level[::2], 2, None, Pack(16, 1))
