"""LayerNorm: vectors that lie by feature or row by row, of an odd size."""

from __future__ import annotations

import numpy as np
import pytest

from gpu_case import GpuCase, float64, gpu, torch
from nested_sparse.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")  # behind the batch's end


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_it_is_the_normalisation(dtype: torch.dtype) -> None:
    """Against float64, with a mean far from 0, whatever the layout; the next linear layer reads it in place."""
    case = GpuCase(32, rows=32, columns=37, dtype=dtype)
    x, scale, shift = 3 + case.tensor(2, 5, 37), case.tensor(37), case.tensor(37)
    y = gpu.layer_norm(x, scale, shift, 1e-3)
    wide = float64(x)
    apart = wide - wide.mean(-1, keepdims=True)
    expected = apart / np.sqrt((apart**2).mean(-1, keepdims=True) + 1e-3) * float64(scale) + float64(shift)
    case.assert_close(y, expected, np.abs(expected) + 3)
    assert y.stride(2) == 16
    assert torch.equal(gpu.layer_norm(torch.clone(y), scale, shift), gpu.layer_norm(y.contiguous(), scale, shift))


def test_wrong_sizes_are_refused() -> None:
    """Too many features to hold, and a scale of another size."""
    case = GpuCase(32, rows=32, columns=8)
    for x, size in ((case.tensor(1, 16385), 16385), (case.tensor(1, 8), 7)):
        with pytest.raises(InputError, match="up to 16384"):
            gpu.layer_norm(x, case.tensor(size), case.tensor(size))
