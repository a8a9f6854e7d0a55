"""Column subset selection: which columns of a matrix stand for all of them (CHEX, arXiv:2203.15794)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def leverage_scores(matrix: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """(C,) row norms of the first `count` right singular vectors of (F, C): its columns by what they say of the others.

    Vectors of singular values that are zero, as dropped columns make them, say nothing and are left out. With fewer
    rows than columns the scores are the columns' L1 norms, as in the paper's code, here scaled to the same sum of
    squares, `count`, so that scores of several layers can be added.
    """
    rows, columns = matrix.shape
    if rows < columns:
        norms = np.abs(matrix).sum(axis=0)
        return np.asarray(norms * np.sqrt(count / max(np.square(norms).sum(), np.finfo(np.float64).tiny)))
    _, singular, vectors = np.linalg.svd(matrix, full_matrices=False)
    return np.asarray(np.linalg.norm(vectors[:count][_not_zero(singular)[:count]], axis=0))


def residual_norms(candidates: NDArray[np.float64], kept: NDArray[np.float64]) -> NDArray[np.float64]:
    """(M,) how far each column of (F, M) is from the span of the columns of (F, C)."""
    basis, singular, _ = np.linalg.svd(kept, full_matrices=False)
    basis = basis[:, _not_zero(singular)]
    return np.asarray(np.linalg.norm(candidates - basis @ (basis.T @ candidates), axis=0))


def _not_zero(singular: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of the singular values, largest first, are more than rounding."""
    return np.asarray(singular > singular[0] * len(singular) * np.finfo(np.float64).eps)
