"""Column subset selection: scores of the columns that best represent a matrix (CHEX, arXiv:2203.15794)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def leverage_scores(matrix: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """(C,) scores of the columns of (F, C): row norms of its first `count` right singular vectors.

    Vectors with a singular value of zero, e.g. from dropped columns, are left out. With fewer rows than columns the
    scores are the columns' L1 norms, as in the paper's code; they are scaled to the same sum of squares, `count`, so
    that scores of several layers can be added.
    """
    rows, columns = matrix.shape
    if rows < columns:
        norms = np.abs(matrix).sum(axis=0)
        return np.asarray(norms * np.sqrt(count / max(np.square(norms).sum(), np.finfo(np.float64).tiny)))
    _, singular, vectors = np.linalg.svd(matrix, full_matrices=False)
    return np.asarray(np.linalg.norm(vectors[:count][_not_zero(singular)[:count]], axis=0))


def residual_norms(candidates: NDArray[np.float64], kept: NDArray[np.float64]) -> NDArray[np.float64]:
    """(M,) distance of each column of `candidates` (F, M) from the span of the columns of `kept` (F, C)."""
    basis, singular, _ = np.linalg.svd(kept, full_matrices=False)
    basis = basis[:, _not_zero(singular)]
    return np.asarray(np.linalg.norm(candidates - basis @ (basis.T @ candidates), axis=0))


def _not_zero(singular: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Mask of the singular values, largest first, that are above the rounding error."""
    return np.asarray(singular > singular[0] * len(singular) * np.finfo(np.float64).eps)
