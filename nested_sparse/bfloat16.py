"""bfloat16: the upper half of float32. numpy lacks it, so arrays of it are arrays of its bits, of a dtype of ours."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

NAME = "bfloat16"
BFLOAT16: np.dtype[Any] = np.dtype([(NAME, "<u2")])
"""Differs from uint16, so that neither is taken for the other."""


def dtype_named(name: str) -> np.dtype[Any]:
    """The dtype of a tensor, by numpy's name or "bfloat16". Raises TypeError for other names."""
    return BFLOAT16 if name == NAME else np.dtype(name)


def cast(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Numbers as `dtype`, which may be BFLOAT16: then rounded to the nearest, and to even between two."""
    if dtype != BFLOAT16:
        return np.asarray(values, dtype=dtype)
    single = np.asarray(values, np.float32)
    bits = single.view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    kept = np.where(np.isnan(single), bits >> 16 | 0x40, rounded)  # a rounded NaN might be infinite
    return kept.astype("<u2").view(BFLOAT16)


def widened(values: NDArray[Any]) -> NDArray[np.float32]:
    """An array of BFLOAT16 as float32, which holds every value of it."""
    return (np.ascontiguousarray(values).view("<u2").astype(np.uint32) << 16).view(np.float32)
