"""Least squares: the optimum on a support and the saliency, compared with numpy's least squares."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from nested_sparse.trainer.post_training.least_squares import fit, output_error, same_inputs, second_moment, stiffness

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
