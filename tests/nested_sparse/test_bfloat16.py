"""bfloat16: rounding, against every neighbour."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nested_sparse.bfloat16 import BFLOAT16, cast, dtype_named, widened


@given(st.floats(width=32))
def test_numbers_are_rounded_to_the_nearest(value):
    """No other number of bfloat16 is nearer, and of two equally near the even one is taken."""
    (bits,) = cast(np.float32([value]), BFLOAT16).view(np.uint16)
    (got,) = widened(np.array([bits], np.uint16).view(BFLOAT16))
    if np.isnan(value):
        assert np.isnan(got)
        return
    below = int(np.float32(value).view(np.uint32)) >> 16
    with np.errstate(invalid="ignore"):  # above infinity is a NaN
        candidates = widened(np.array([below, below + 1], np.uint16).view(BFLOAT16)).astype(np.float64)
    candidates[np.isinf(candidates)] = np.copysign(2.0**128, value)  # rounding treats infinity as this number
    errors = np.abs(candidates - np.float64(value)) if np.isfinite(value) else np.array([0.0, 1.0])
    nearest = {below + place for place in range(2) if errors[place] == errors.min()}
    assert bits in nearest
    assert len(nearest) == 1 or bits % 2 == 0


def test_other_types_are_numpys():
    """The name is the only one that numpy lacks."""
    assert dtype_named("bfloat16") == BFLOAT16 != np.dtype("uint16")
    assert cast(np.arange(3), dtype_named("int8")).dtype == np.int8
    with pytest.raises(TypeError):
        dtype_named("float8")
