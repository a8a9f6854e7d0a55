"""Least squares: the optimum on a support and the saliency, compared with numpy's least squares."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from nested_sparse.trainer.post_training import least_squares
from nested_sparse.trainer.post_training.direct import is_faster, solved, supports
from nested_sparse.trainer.post_training.least_squares import (
    Quadratic,
    descended,
    fit,
    output_error,
    same_inputs,
    second_moment,
    stiffness,
)

ROWS, COLUMNS, SAMPLES = 8, 12, 60


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    """(1, n, K) correlated inputs and (1, O, K) weights, float64."""
    generator = torch.Generator().manual_seed(4)
    mixed = torch.randn(COLUMNS, COLUMNS, generator=generator, dtype=torch.float64)
    x = torch.randn(1, SAMPLES, COLUMNS, generator=generator, dtype=torch.float64) @ mixed
    return x, torch.randn(1, ROWS, COLUMNS, generator=generator, dtype=torch.float64)


def lstsq_on_support(
    x: NDArray[np.float64], targets: NDArray[np.float64], support: NDArray[np.bool_], held: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Row by row, the weights on the support that, together with the held ones, are nearest to the targets."""
    result = held.copy()
    for row, columns in enumerate(support):
        result[row, columns] = np.linalg.lstsq(x[:, columns], targets[:, row] - x @ held[row], rcond=None)[0]
    return result


def test_fit_is_the_least_squares_optimum_on_the_support() -> None:
    """Supports are unstructured or of 4 × 1 blocks, each also around frozen weights of a lower level."""
    x, dense = inputs()
    targets = x @ dense.mT + 0.1 * torch.randn(
        1, SAMPLES, ROWS, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    problem = output_error(x, targets, dense, 1e-13, centred=False)
    rng = np.random.default_rng(0)
    single = rng.random((ROWS, COLUMNS)) < 0.4
    blocks = np.repeat(rng.random((ROWS // 4, COLUMNS)) < 0.4, 4, axis=0)
    for support in (single, blocks):
        for frozen in (np.zeros_like(support), (rng.random((ROWS, COLUMNS)) < 0.3) & ~support):
            held = rng.standard_normal((ROWS, COLUMNS)) * frozen
            free = torch.from_numpy(support)[None]
            fitted = fit(problem, torch.from_numpy(held)[None], free, steps=500, tolerance=1e-12)[0].numpy()
            expected = lstsq_on_support(x[0].numpy(), targets[0].numpy(), support, held)
            np.testing.assert_allclose(fitted, expected, rtol=1e-6, atol=1e-7)
            assert (fitted[frozen] == held[frozen]).all()


def test_fit_is_never_worse_than_its_start() -> None:
    """The mean squared error of each row never rises, after any number of steps."""
    x, dense = inputs()
    problem = output_error(x, x @ dense.mT, dense, 1e-9, centred=False)
    free = torch.rand(1, ROWS, COLUMNS, generator=torch.Generator().manual_seed(2)) < 0.5
    before = (x @ (dense * free - dense).mT).square().mean(dim=1)
    for steps in (0, 1, 2, 3, 50):
        error = (x @ (fit(problem, dense * free, free, steps=steps) - dense).mT).square().mean(dim=1)
        assert (error <= before * (1 + 1e-6)).all()
        before = error


def wide(dtype: torch.dtype) -> tuple[Quadratic, torch.Tensor, torch.Tensor]:
    """A problem of 2 groups of 8 rows and 300 columns; start values, and free weights in blocks of 4 rows."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(2, 400, 300, generator=generator, dtype=torch.float64)
    targets = torch.randn(2, 400, 8, generator=generator, dtype=torch.float64)
    dense = torch.randn(2, 8, 300, generator=generator, dtype=torch.float64)
    problem = output_error(x, targets, dense, 0.3, centred=True)
    free = (torch.rand(2, 2, 300, generator=generator) < 0.1).repeat_interleave(4, dim=1)
    free[1, 4:] = False  # rows of which nothing is free
    start = dense * (torch.rand(2, 8, 300, generator=generator) < 0.2)
    return Quadratic(problem.hessian.to(dtype), problem.linear.to(dtype)), start.to(dtype), free


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_small_supports_are_solved_at_once(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    """The same optimum as numpy's, row by row, and no weight moves that is not free."""
    problem, start, free = wide(dtype)
    assert torch.equal(fit(problem, start, free, steps=0), start)
    monkeypatch.setattr(least_squares, "descended", lambda *_, **__: pytest.fail("iterated"))
    fitted = fit(problem, start, free, steps=100)
    expected = start.double().numpy().copy()
    hessian, linear = problem.hessian.double().numpy(), problem.linear.double().numpy()
    for group, row in np.ndindex(2, 8):
        columns = free[group, row].numpy()
        gradient = linear[group, row] - expected[group, row] @ hessian[group]
        expected[group, row, columns] += np.linalg.solve(hessian[group][np.ix_(columns, columns)], gradient[columns])
    np.testing.assert_allclose(fitted.numpy(), expected, rtol=1e-3 if dtype == torch.float32 else 1e-8, atol=1e-5)
    assert torch.equal(fitted[~free], start[~free])


def test_both_ways_find_the_same_values() -> None:
    """Conjugate gradients on the problem whose supports are solved at once."""
    problem, start, free = wide(torch.float64)
    residual = problem.linear - start @ problem.hessian
    change = solved(problem.hessian, residual, supports(free))
    assert change is not None
    iterated = descended(problem, start, residual, free, steps=500, tolerance=1e-12)
    torch.testing.assert_close(start + change, iterated, rtol=1e-8, atol=1e-10)


def test_supports_are_rows_with_the_same_free_columns() -> None:
    """Without those that have none; the choice of the way follows from their sizes."""
    free = torch.tensor([[[1, 0, 1, 0], [0, 0, 0, 0], [1, 0, 1, 0], [0, 1, 0, 0]], [[0] * 4] * 4]).bool()
    found = [sorted((each.rows.tolist(), each.columns.tolist()) for each in of_group) for of_group in supports(free)]
    assert found == [[([0, 2], [0, 2]), ([3], [1])], []]
    large = torch.zeros(1, 64, 2048, dtype=torch.bool)
    assert is_faster(supports(large), large.shape, 1)
    large[:, :, :100] = True
    assert is_faster(supports(large), large.shape, 17)
    large[:] = True
    assert not is_faster(supports(large), large.shape, 0)
    assert not is_faster(supports(torch.eye(64)[None].bool()), (1, 64, 64), 8)


@pytest.mark.parametrize("sign", [-1.0, 0.0])
def test_a_part_without_an_inverse_is_left_to_the_iteration(sign: float) -> None:
    """Two inputs that are alike, without damping, or a Hessian that is no moment: no value is made up."""
    problem, start, free = wide(torch.float32)
    hessian = problem.hessian.clone()
    hessian[0] = hessian[0, :1, :1].expand(300, 300)
    hessian[0].diagonal().add_(sign)
    assert solved(hessian, problem.linear - start @ hessian, supports(free)) is None
    fitted = fit(Quadratic(hessian, problem.linear), start, free, steps=5)
    assert fitted.isfinite().all()


def test_saliency_is_the_loss_of_removing_a_weight_when_the_others_make_up_for_it() -> None:
    """In Optimal Brain Surgeon, w² · stiffness is the least squared error without the weight."""
    x, dense = inputs()
    moment = second_moment(x)
    saliency = (dense.square() * stiffness(moment))[0].numpy()
    columns, targets = x[0].numpy(), (x @ dense.mT)[0].numpy()
    for row, column in [(0, 0), (3, 7), (7, 11)]:
        support = np.ones((ROWS, COLUMNS), bool)
        support[row, column] = False
        best = lstsq_on_support(columns, targets, support, np.zeros((ROWS, COLUMNS)))
        error = np.square(columns @ best[row] - targets[:, row]).mean()
        np.testing.assert_allclose(saliency[row, column], error, rtol=1e-8)


def test_a_centred_error_is_the_variance_of_the_outputs_error() -> None:
    """The error that remains after a bias corrects the mean, computed from inputs and from their moments."""
    x, dense = inputs()
    x = x + 5
    targets, v = x @ dense.mT, dense.roll(1, dims=2)
    difference = (x @ v.mT - targets)[0]
    expected = difference.var(dim=0, unbiased=False) / 2
    for problem in (
        output_error(x, targets, dense, 1e-12, centred=True),
        same_inputs(second_moment(x), x.mean(dim=1), dense, 1e-12, centred=True),
    ):
        torch.testing.assert_close((problem.loss(v) - problem.loss(dense))[0], expected, rtol=1e-6, atol=1e-8)


def test_a_layer_that_saw_only_zeros_keeps_its_weights() -> None:
    """Without information the damping alone decides."""
    _, dense = inputs()
    x = torch.zeros(1, SAMPLES, COLUMNS, dtype=torch.float64)
    problem = output_error(x, torch.zeros(1, SAMPLES, ROWS, dtype=torch.float64), dense, 0.01, centred=False)
    torch.testing.assert_close(fit(problem, dense * 0, torch.ones_like(dense, dtype=torch.bool), steps=20), dense)
    assert stiffness(problem.hessian).isfinite().all()
