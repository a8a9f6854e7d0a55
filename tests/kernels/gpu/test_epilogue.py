"""Epilogue: every function of outputs, the clamp, and NaN and infinities."""

from __future__ import annotations

import math

import numpy as np
import pytest
from layer_reference import ACTIVATIONS

from gpu_case import GpuCase, float64, gpu
from nested_sparse.errors import InputError
from nested_sparse.graph.contract import FUNCTIONS

pytestmark = pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")  # behind the batch's end


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_function_follows_the_residual_and_the_clamp(function: str) -> None:
    """Against float64; the clamp cuts on both sides."""
    case = GpuCase(32, rows=20, columns=12)
    x, residual = case.tensor(16, 12), case.tensor(16, 20)
    y = gpu.SparseLinear(case.weight, gpu.Epilogue(-1.5, 2.0, function))(x, 2, residual=residual, out=residual.float())
    sums = float64(x) @ case.dense(2).T * case.norms[2, 0] + case.norms[2, 1] + float64(residual)
    assert (sums < -1.5).any()
    assert (sums > 2.0).any()
    expected = ACTIVATIONS[FUNCTIONS.index(function)](np.clip(sums, -1.5, 2.0))
    case.assert_close(y, expected, np.abs(float64(x)) @ np.abs(case.dense(2).T) * np.abs(case.norms[2, 0]))


@pytest.mark.parametrize("function", ["none", "gelu", "hard_swish"])
def test_nan_stays_and_infinity_is_clamped(function: str) -> None:
    """As on the CPU: max(NaN, 0) would be 0 and hide it."""
    case = GpuCase(32, rows=32, columns=12)
    case.values[:] = np.abs(case.values) + 0.1
    case.norms[:] = 1
    x = case.tensor(3, 12)
    x[0], x[1] = math.nan, math.inf
    y = gpu.SparseLinear(case.weight, gpu.Epilogue(0.0, 3.0, function))(x, 2)
    assert y[0].isnan().all()
    assert not y[1:].isnan().any()
    assert (float64(y)[1] > 2.5).all()


def test_wrong_epilogues_are_refused() -> None:
    """A name that is not known, and a bound that is no number."""
    with pytest.raises(InputError, match="gelu_tanh"):
        gpu.Epilogue(function="relu")
    with pytest.raises(InputError, match="numbers"):
        gpu.Epilogue(clip_min=math.nan)
