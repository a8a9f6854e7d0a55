"""Shuffle: an order of the rows of a weight in which V × 1 blocks hold the weights that single weights would keep.

Shfl-BW (arXiv:2203.05016): take the mask of single weights at twice the density, cluster its binary rows by k-means
into clusters of exactly V rows, and let each cluster be a row group.

The objective of k-means is the sum of the squared distances of rows to the mean of their cluster. With clusters of one
size it is Σ|x|² - Σ|s|² / V, where s is the sum of the rows of a cluster. So only the overlap of the rows of a cluster
matters. The inner products of the rows are computed once; clusters are filled greedily; then pairs of rows change
places as long as the objective falls. No assignment problem has to be solved, and a swap keeps the size of every
cluster. Inner products of binary rows are exact in float32, so the result does not depend on the machine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .budget import blocks_to_keep
from .mask import block_scores, group_count

MOST_ROWS = 4096
"""Most rows that are clustered together. Time and memory grow with the square, so more rows are clustered in parts."""

MOST_SWEEPS = 30
"""Most sweeps over all rows; swapping usually ends after 10, when no swap lowers the objective."""

Mask = NDArray[np.bool_]


def shuffled_rows(values: NDArray[np.float32], block_rows: int, density: float, *, parts: int = 1) -> NDArray[np.int32]:
    """(O,) permutation of an (O, K) weight: packed row r is row permutation[r], as in NestedWeight.

    block_rows: V. density: share of the blocks that the level of interest keeps.
    parts: number of equal ranges of rows (groups of a convolution). Rows stay in their range. With more than one, the
        length of a range must be a multiple of V.
    Returns the identity where the shuffle does not keep more magnitude at this density than the rows in their order.
    The result is deterministic. Padding of the last group counts as rows of zeros.
    """
    rows = len(values)
    mask = double_density_mask(values, density)
    size = rows // parts
    begins = [begin for first in range(0, rows, size) for begin in range(first, first + size, MOST_ROWS)]
    bounds = zip(begins, [*begins[1:], rows], strict=True)
    order = np.concatenate([begin + clustered_rows(mask[begin:end], block_rows) for begin, end in bounds])
    identity = np.arange(rows, dtype=np.int32)
    shuffled = order.astype(np.int32)
    before, after = (kept_magnitude(values, block_rows, density, each) for each in (identity, shuffled))
    return shuffled if after > before else identity


def double_density_mask(values: NDArray[np.float32], density: float) -> Mask:
    """(O, K) mask of the largest magnitudes, twice `density` of them; of equal ones, the first in row order."""
    magnitudes = np.abs(values).reshape(-1)
    keep = blocks_to_keep(min(1.0, 2 * density), magnitudes.size)
    threshold = np.partition(magnitudes, magnitudes.size - keep)[magnitudes.size - keep]
    mask: Mask = magnitudes > threshold  # a full sort takes 8 s for the largest layer of ResNet-50, this 0.2 s
    mask[np.flatnonzero(magnitudes == threshold)[: keep - int(mask.sum())]] = True
    return mask.reshape(values.shape)


def kept_magnitude(
    values: NDArray[np.float32], block_rows: int, density: float, permutation: NDArray[np.int32] | None = None
) -> float:
    """Sum of |w| over the best blocks at `density`."""
    scores = block_scores(values, block_rows, permutation).reshape(-1)
    keep = blocks_to_keep(density, scores.size)
    return float(np.partition(scores, scores.size - keep)[scores.size - keep :].sum())


def clustered_rows(mask: Mask, block_rows: int) -> NDArray[np.int64]:
    """(O,) rows of an (O, K) mask in order of clusters of exactly V rows; the last cluster has the remaining rows.

    The clusters are a local optimum of size-constrained k-means: no swap of two rows lowers its objective.
    """
    rows = mask.astype(np.float32)
    overlap = rows @ rows.T
    cluster = _swapped(overlap, _filled(overlap, block_rows))
    first_row = np.full(int(cluster.max()) + 1, len(cluster))
    np.minimum.at(first_row, cluster, np.arange(len(cluster)))
    if len(cluster) % block_rows:  # the cluster with the padding is the last one
        first_row[-1] = len(cluster)
    return np.argsort(first_row[cluster], kind="stable")


def _filled(overlap: NDArray[np.float32], block_rows: int) -> NDArray[np.int64]:
    """Cluster of each row: a cluster begins with the fullest free row, and takes the row nearest to it, one by one."""
    rows = len(overlap)
    weight = np.diagonal(overlap)
    cluster = np.full(rows, -1)
    fullest = np.argsort(-weight, kind="stable")
    for index in range(group_count(rows, block_rows)):
        chosen = fullest[cluster[fullest] < 0][0]
        cluster[chosen] = index
        distance = weight - 2 * overlap[chosen]
        for _ in range(block_rows - 1):
            free = np.flatnonzero(cluster < 0)
            if not free.size:
                break
            chosen = free[np.argmin(distance[free])]
            cluster[chosen] = index
            distance += weight - 2 * overlap[chosen]
    return cluster


def _swapped(overlap: NDArray[np.float32], cluster: NDArray[np.int64]) -> NDArray[np.int64]:
    """Swap each row with the row that lowers the objective most, until no swap lowers it."""
    rows, count = len(overlap), int(cluster.max()) + 1
    others = overlap - np.diag(np.diagonal(overlap))
    member = np.zeros((rows, count), np.float32)
    member[np.arange(rows), cluster] = 1
    with_cluster = np.ascontiguousarray((others @ member).T)  # (clusters, O): overlap of each row with each cluster
    own = with_cluster[cluster, np.arange(rows)]
    for _ in range(MOST_SWEEPS):
        changed = False
        for row in range(rows):
            mine = cluster[row]
            gain = with_cluster[cluster, row] + with_cluster[mine] - own - own[row] - 2 * others[row]
            gain[cluster == mine] = 0
            other = int(np.argmax(gain))
            if gain[other] <= 0:
                continue
            theirs = cluster[other]
            moved = others[other] - others[row]
            with_cluster[mine] += moved
            with_cluster[theirs] -= moved
            cluster[row], cluster[other] = theirs, mine
            for touched in (mine, theirs):
                here = cluster == touched
                own[here] = with_cluster[touched, here]
            changed = True
        if not changed:
            break
    return cluster
