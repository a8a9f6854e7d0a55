"""Epilogue: the arithmetic on a layer's sums before they are stored."""

from __future__ import annotations

import math
from dataclasses import dataclass

import triton
import triton.language as tl

from nested_sparse.errors import InputError
from nested_sparse.graph.contract import FUNCTIONS


@dataclass(frozen=True, slots=True)
class Epilogue:
    """y = function(clamp(scale · sum + shift + residual)), as the attributes of a layer's node say (FORMAT.md).

    clip_min, clip_max: bounds of the clamp, e.g. 0 and infinity for ReLU. NaN stays NaN.
    function: one of nested_sparse.graph.contract.FUNCTIONS. Raises InputError.
    """

    clip_min: float = -math.inf
    clip_max: float = math.inf
    function: str = "none"

    def __post_init__(self) -> None:
        """Check the name, and that the bounds are numbers."""
        if self.function not in FUNCTIONS:
            raise InputError(f"function must be one of {', '.join(FUNCTIONS)}, got {self.function!r}")
        if math.isnan(self.clip_min) or math.isnan(self.clip_max):
            raise InputError(f"bounds must be numbers, got {self.clip_min} and {self.clip_max}")

    @property
    def number(self) -> int:
        """The function's place in FUNCTIONS, by which `apply_function` knows it."""
        return FUNCTIONS.index(self.function)


@triton.jit  # type: ignore[untyped-decorator]
def apply_function(y, FUNCTION: tl.constexpr):  # type: ignore[no-untyped-def]
    """The function of the float32 sums `y` whose place in FUNCTIONS is FUNCTION. Formulas: activation/activation.h."""
    if FUNCTION == 1:
        y = 1.0 / (1.0 + tl.exp(-y))
    elif FUNCTION == 2:
        y = y / (1.0 + tl.exp(-y))
    elif FUNCTION == 3:
        y = y / (1.0 + tl.exp(-1.702 * y))
    elif FUNCTION == 4:
        y = y * (0.5 + 0.5 * tl.erf(y * 0.7071067811865476))
    elif FUNCTION == 5:
        y = y / (1.0 + tl.exp(-1.5957691216057308 * (y + 0.044715 * y * y * y)))
    elif FUNCTION >= 6:
        gate = tl.clamp(y / 6.0 + 0.5, 0.0, 1.0, propagate_nan=tl.PropagateNan.ALL)
        y = gate if FUNCTION == 6 else y * gate
    return y
