"""Column subset: leverage scores and residuals, compared with plain definitions."""

from __future__ import annotations

import numpy as np
import pytest

from nested_sparse.trainer.schedules.column_subset import leverage_scores, residual_norms


@pytest.mark.parametrize("count", [1, 3, 8])
def test_leverage_scores_are_row_norms_of_right_singular_vectors(count: int) -> None:
    """These vectors are the eigenvectors of W'W with the largest eigenvalues; all squares sum to their number."""
    matrix = np.random.default_rng(count).standard_normal((20, 8))
    _, vectors = np.linalg.eigh(matrix.T @ matrix)
    largest = vectors[:, ::-1][:, :count]
    scores = leverage_scores(matrix, count)
    np.testing.assert_allclose(scores, np.sqrt((largest**2).sum(axis=1)), rtol=1e-9)
    assert np.square(scores).sum() == pytest.approx(count)


def test_with_fewer_rows_than_columns_l1_norms_rank() -> None:
    """The norms are as in the paper's code, scaled to the same sum of squares."""
    matrix = np.random.default_rng(0).standard_normal((5, 9))
    scores = leverage_scores(matrix, 4)
    l1 = np.abs(matrix).sum(axis=0)
    np.testing.assert_allclose(scores / scores[0], l1 / l1[0])
    assert np.square(scores).sum() == pytest.approx(4)


def test_columns_that_are_dropped_have_no_leverage() -> None:
    """Zero columns score 0, also for more vectors than the rank of the matrix."""
    matrix = np.random.default_rng(1).standard_normal((20, 8))
    matrix[:, [2, 5]] = 0
    scores = leverage_scores(matrix, 7)
    assert (scores[[2, 5]] < 1e-12).all()
    assert (np.delete(scores, [2, 5]) > 0.9).all()


@pytest.mark.parametrize("rank", [3, 6])
def test_residuals_are_those_of_least_squares(rank: int) -> None:
    """The distance from the best combination of the kept columns, also of linearly dependent ones."""
    generator = np.random.default_rng(rank)
    kept = generator.standard_normal((20, 3)) @ generator.standard_normal((3, 6))
    kept = kept if rank == 3 else generator.standard_normal((20, 6))
    candidates = np.concatenate([generator.standard_normal((20, 4)), kept[:, :1] * 2], axis=1)
    best, *_ = np.linalg.lstsq(kept, candidates, rcond=None)
    expected = np.linalg.norm(candidates - kept @ best, axis=0)
    np.testing.assert_allclose(residual_norms(candidates, kept), expected, atol=1e-9)
