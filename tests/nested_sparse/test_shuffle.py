"""Row shuffle: compared with its definition (Shfl-BW, arXiv:2203.05016)."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from nested_sparse import shuffle
from nested_sparse.shuffle import clustered_rows, double_density_mask, kept_magnitude, shuffled_rows


def kmeans_objective(mask: NDArray[np.bool_], order: NDArray[np.int64], block_rows: int) -> float:
    """Squared distances of all rows to the mean of their cluster, rows of zeros filling up the last."""
    rows = np.zeros((-(-len(mask) // block_rows) * block_rows, mask.shape[1]))
    rows[: len(mask)] = mask[order]
    clusters = rows.reshape(-1, block_rows, mask.shape[1])
    return float(((clusters - clusters.mean(axis=1, keepdims=True)) ** 2).sum())


def planted(block_rows: int, clusters: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Rows that keep large weights where their cluster's prototype does: cluster after cluster, and shuffled."""
    rng = np.random.default_rng(seed)
    prototypes = np.stack([rng.permutation(200) < 20 for _ in range(clusters)])  # a tenth of each row
    small = rng.uniform(0.0, 0.1, (clusters * block_rows, 200))
    ordered = (np.repeat(prototypes, block_rows, axis=0) * rng.uniform(1, 2, small.shape) + small).astype(np.float32)
    return ordered, ordered[rng.permutation(len(ordered))]


@pytest.mark.parametrize("density", [0.01, 0.13, 0.5, 0.7])
def test_the_mask_has_twice_the_density(density: float) -> None:
    """The largest magnitudes, exactly as many as the rounding rule says, ties in row order."""
    values = np.random.default_rng(0).integers(-9, 10, (30, 21)).astype(np.float32)
    keep = min(630, int(np.floor(2 * density * 630 + 0.5)))
    ranked = sorted(range(630), key=lambda index: (-abs(values.flat[index]), index))
    expected = np.zeros(630, bool)
    expected[ranked[:keep]] = True
    assert np.array_equal(double_density_mask(values, density).reshape(-1), expected)


@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 30),
    block_rows=st.sampled_from([2, 4, 8]),
    density=st.floats(0.01, 1.0),
    seed=st.integers(0, 1000),
)
def test_a_shuffled_layer_keeps_at_least_the_magnitude_of_the_rows_as_they_lie(
    rows: int, columns: int, block_rows: int, density: float, seed: int
) -> None:
    """Each row comes once, so every cluster has exactly V; the kept magnitude is at least that of rows as they lie."""
    values = np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)
    order = shuffled_rows(values, block_rows, density)
    assert order.dtype == np.int32
    assert sorted(order.tolist()) == list(range(rows))
    assert np.array_equal(order, shuffled_rows(values, block_rows, density))
    assert kept_magnitude(values, block_rows, density, order) >= kept_magnitude(values, block_rows, density)
    if not np.array_equal(order, np.arange(rows)):
        assert kept_magnitude(values, block_rows, density, order) > kept_magnitude(values, block_rows, density)


def test_kept_magnitude_is_that_of_the_best_blocks() -> None:
    """Against a plain loop over blocks."""
    values = np.random.default_rng(1).standard_normal((7, 5)).astype(np.float32)
    order = np.array([3, 1, 6, 0, 2, 5, 4], np.int32)
    blocks = [
        float(np.abs(values[order[begin : begin + 2], column]).sum()) for begin in (0, 2, 4, 6) for column in range(5)
    ]
    assert kept_magnitude(values, 2, 0.25, order) == pytest.approx(sum(sorted(blocks)[-5:]))


@pytest.mark.parametrize(("rows", "block_rows"), [(8, 2), (8, 4), (7, 4)])
def test_clusters_come_near_the_best_there_are(rows: int, block_rows: int) -> None:
    """The objective of size-constrained k-means against every permutation's: the least in half the cases, or near."""
    best_found, ratios = 0, []
    permutations = [np.array(each) for each in _partitions(rows, block_rows)]
    for seed in range(20):
        mask = np.random.default_rng(seed).random((rows, 12)) < 0.3
        found = kmeans_objective(mask, clustered_rows(mask, block_rows), block_rows)
        best = min(kmeans_objective(mask, order, block_rows) for order in permutations)
        best_found += abs(found - best) < 1e-9
        ratios.append(found / best)
    assert best_found >= 10
    assert max(ratios) < 1.4  # objectives of some ten, where one row out of place weighs much
    assert np.mean(ratios) < 1.05


def _partitions(rows: int, block_rows: int) -> list[tuple[int, ...]]:
    """Every way of cutting rows into clusters, once; the last takes what is left over."""
    cuts = range(0, rows, block_rows)
    return [
        order
        for order in itertools.permutations(range(rows))
        if all(tuple(sorted(order[cut : cut + block_rows])) == order[cut : cut + block_rows] for cut in cuts)
        and all(order[one] < order[one + block_rows] for one in list(cuts)[:-2])
    ]


@given(rows=st.integers(2, 30), block_rows=st.sampled_from([2, 4]), seed=st.integers(0, 1000))
def test_no_swap_of_two_rows_lowers_the_objective(rows: int, block_rows: int, seed: int) -> None:
    """The clusters are a local optimum of k-means with clusters of exactly V rows."""
    mask = np.random.default_rng(seed).random((rows, 15)) < 0.3
    order = clustered_rows(mask, block_rows)
    reached = kmeans_objective(mask, order, block_rows)
    for one, other in itertools.combinations(range(rows), 2):
        swapped = order.copy()
        swapped[[one, other]] = swapped[[other, one]]
        assert kmeans_objective(mask, swapped, block_rows) >= reached - 1e-9


@pytest.mark.parametrize(("block_rows", "clusters"), [(4, 16), (8, 9), (2, 40), (16, 5)])
def test_planted_clusters_are_found(block_rows: int, clusters: int) -> None:
    """V rows of each prototype, shuffled: every prototype's rows come together, and the magnitude is kept again."""
    for seed in range(3):
        ordered, shuffled = planted(block_rows, clusters, seed)
        order = shuffled_rows(shuffled, block_rows, 0.1)
        kinds = (shuffled > 0.5)[order].reshape(clusters, block_rows, -1)
        assert (kinds == kinds[:, :1]).all()
        expected = kept_magnitude(ordered, block_rows, 0.1)
        assert kept_magnitude(shuffled, block_rows, 0.1, order) == pytest.approx(expected)
        assert kept_magnitude(shuffled, block_rows, 0.1) < 0.7 * expected


def test_rows_left_over_share_the_padded_block() -> None:
    """Three prototypes of four rows, and two rows that keep less: these come last, the rest of the block is padding."""
    ordered, _ = planted(4, 4, 0)
    ordered[12:14, np.flatnonzero(ordered[12] > 0.5)[10:]] *= 0.01
    values = ordered[:14][np.random.default_rng(0).permutation(14)]
    order = shuffled_rows(values, 4, 0.1)
    kinds = [tuple(np.flatnonzero(row > 0.5)) for row in values[order]]
    assert [len(set(kinds[begin : begin + 4])) for begin in (0, 4, 8, 12)] == [1, 1, 1, 1]


def test_rows_stay_in_their_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """No block spans two groups of a convolution; rows of a large weight stay in ranges that fit into memory."""
    values = planted(4, 12, 1)[1]
    order = shuffled_rows(values, 4, 0.1, parts=3)
    assert not np.array_equal(order, np.arange(48))
    assert (order // 16 == np.arange(48) // 16).all()
    monkeypatch.setattr(shuffle, "MOST_ROWS", 16)
    assert np.array_equal(order, shuffled_rows(values, 4, 0.1))


def test_rows_in_order_already_stay() -> None:
    """Without a gain there is no shuffle."""
    ordered, _ = planted(4, 10, 2)
    assert np.array_equal(shuffled_rows(ordered, 4, 0.1), np.arange(40))
