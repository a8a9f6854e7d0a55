"""GS(B, k): the choice of weights and their gather groups, against arXiv:2112.10898."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nested_sparse.errors import PatternError
from nested_sparse.layouts import GatherScatter
from nested_sparse.layouts.gather_dealing import gather_groups
from nested_sparse.mask import NEVER
from nested_sparse.packing import pack, unpack
from support import random_weight

EVERY = GatherScatter.every()


def added_counts(first_level: np.ndarray, level: int, layout: GatherScatter) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of weights that `level` adds: (bundles, rows) per row, and (bundles, B) per column remainder."""
    added = (first_level == level).reshape(-1, layout.group_rows, first_level.shape[1])
    whole = -(-added.shape[2] // layout.banks) * layout.banks
    padded = np.zeros((*added.shape[:2], whole), bool)
    padded[:, :, : added.shape[2]] = added
    return added.sum(axis=2), padded.reshape(len(added), layout.group_rows, -1, layout.banks).sum(axis=(1, 2))


def random_balanced(rng: np.random.Generator, groups: int, columns: int, layout: GatherScatter) -> np.ndarray:
    """(rows, K) a random balanced mask: the choice that random scores of one bundle lead to."""
    scores = rng.random((layout.group_rows, columns))
    return layout.first_level(scores, [groups * layout.banks], 1) == 0


@given(
    layout=st.sampled_from(EVERY),
    rows=st.integers(1, 40),
    columns=st.integers(16, 70),
    shares=st.lists(st.floats(0.01, 1.0), min_size=1, max_size=4),
    seed=st.integers(0, 1000),
)
def test_every_level_is_balanced_nests_and_keeps_to_its_budget(
    layout: GatherScatter, rows: int, columns: int, shares: list[float], seed: int
) -> None:
    """In each bundle a level adds n·k weights to every row and n to every remainder; in all what was asked for."""
    scores = np.random.default_rng(seed).random((rows, columns)) ** 4
    most = layout.most_weights(rows, columns)
    keep = [max(1, round(share * most)) for share in sorted(shares)]
    first_level = layout.first_level(scores, keep, 1)
    assert len(first_level) == -(-rows // layout.group_rows) * layout.group_rows
    for level, count in enumerate(keep):
        by_row, by_bank = added_counts(first_level, level, layout)
        groups = by_row[:, 0] // layout.per_row
        assert (by_row == groups[:, None] * layout.per_row).all()
        assert (by_bank == groups[:, None]).all()
        kept = first_level[:rows] <= level
        assert abs(int(kept.sum()) - count) <= layout.banks / 2 or (first_level <= level).sum() == layout.banks


@given(layout=st.sampled_from(EVERY), groups=st.integers(1, 12), columns=st.integers(24, 60), seed=st.integers(0, 1000))
def test_a_bundle_is_cut_into_gather_groups_of_distinct_banks(
    layout: GatherScatter, groups: int, columns: int, seed: int
) -> None:
    """Gather groups hold each weight once, lane i in row i // k, and their columns leave B different remainders."""
    groups = min(groups, columns // layout.banks * layout.group_rows)
    kept = random_balanced(np.random.default_rng(seed), groups, columns, layout)
    dealt = gather_groups(kept, layout, "w")
    assert dealt.shape == (groups, layout.banks)
    assert (np.sort(dealt % layout.banks, axis=1) == np.arange(layout.banks)).all()
    times = np.zeros(kept.shape, int)
    np.add.at(times, (np.broadcast_to(np.arange(layout.banks) // layout.per_row, dealt.shape), dealt), 1)
    assert (times == kept).all()


@given(layout=st.sampled_from(EVERY), groups=st.integers(1, 8), seed=st.integers(0, 1000))
def test_more_magnitude_is_kept_than_by_a_random_choice(layout: GatherScatter, groups: int, seed: int) -> None:
    """Greedy takes at least what a random balanced mask takes, and little less than the largest weights of all."""
    rng = np.random.default_rng(seed)
    scores = np.abs(rng.standard_normal((layout.group_rows, 64)))
    groups = min(groups, 64 // layout.banks * layout.group_rows)
    chosen = scores[layout.first_level(scores, [groups * layout.banks], 1) == 0].sum()
    best = np.sort(scores.reshape(-1))[-groups * layout.banks :].sum()
    assert scores[random_balanced(rng, groups, 64, layout)].sum() <= chosen + 1e-9
    assert chosen >= 0.7 * best


def test_every_count_is_reached_from_every_lower_one() -> None:
    """Also where B does not divide the columns, up to the last gather group: no lower level closes the way."""
    layout, rng = GatherScatter(8, 2), np.random.default_rng(0)
    most = layout.most_weights(4, 29)
    for first in range(8, most, 24):
        first_level = layout.first_level(rng.random((4, 29)), [first, most], 1)
        assert (first_level == 0).sum() == first
        assert (first_level != NEVER).sum() == most == 96


def test_bundles_get_gather_groups_by_their_largest_weights() -> None:
    """The largest weights decide how many gather groups a bundle has; a last bundle counts its real rows only."""
    layout, scores = GatherScatter(8, 1), np.random.default_rng(1).random((17, 32))
    scores[8:16] += 10
    first_level = layout.first_level(scores, [8 * 20 + 4], 1)
    groups = (first_level == 0).reshape(3, 8, 32).sum(axis=(1, 2)) // 8
    assert groups.tolist() == [0, 20, 0]
    scores[16] += 20
    groups = (layout.first_level(scores, [8 * 20 + 32], 1) == 0).reshape(3, 8, 32).sum(axis=(1, 2)) // 8
    assert groups.tolist() == [0, 20, 32]


@pytest.mark.parametrize("permuted", [False, True])
@pytest.mark.parametrize("rows", [1, 16, 37])
@pytest.mark.parametrize(
    "layout", [GatherScatter(16, 1), GatherScatter(16, 4), GatherScatter(8, 8)], ids=lambda layout: layout.name
)
def test_pack_follows_the_format_and_unpack_undoes_it(layout: GatherScatter, rows: int, permuted: bool) -> None:
    """Each entry of each gather group against its definition, element by element."""
    weight = random_weight(np.random.default_rng(3), "w", rows, 35, permuted=permuted, layout=layout)
    order = np.arange(rows) if weight.permutation is None else weight.permutation
    levels = pack(weight, 3)
    for level, added in enumerate(levels):
        assert added.ptr[0] == 0
        assert added.ptr[-1] == len(added.val) == len(added.col)
        seen = set()
        for bundle in range(weight.group_count):
            for index in range(int(added.ptr[bundle]), int(added.ptr[bundle + 1])):
                for lane, (column, value) in enumerate(zip(added.col[index], added.val[index], strict=True)):
                    row = bundle * layout.group_rows + lane // layout.per_row
                    seen.add((row, int(column)))
                    assert value == (weight.values[order[row], column] if row < rows else 0)
        assert seen == set(zip(*map(np.ndarray.tolist, np.nonzero(weight.first_level == level)), strict=True))
    again = unpack("w", rows, 35, weight.layout, levels, weight.permutation)
    assert np.array_equal(again.first_level, weight.first_level)
    for level in range(3):
        assert np.array_equal(again.at(level), weight.at(level))


def test_unbalanced_weights_are_refused() -> None:
    """A mask that was not chosen for gather groups is named, when it is packed."""
    weight = random_weight(np.random.default_rng(4), "w", 16, 32, layout=GatherScatter(16, 1))
    row, column = np.argwhere(weight.first_level == 1)[0]
    weight.first_level[row, column] = NEVER
    with pytest.raises(PatternError, match="'w' level 1 bundle 0: gs16x1 needs as many weights in each of 16 rows"):
        pack(weight, 3)
