"""ValueType: a type in which a weight's values are stored (FORMAT.md, "Value types").

One entry of VALUE_TYPES has everything that depends on the type in Python; kernels/value_type.h has the same table in
C++. Arithmetic is float32 for float types. int8 values count the scale of their row (quantization.py), and the
operators that read them compute with integers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .argument import shown
from .errors import InputError, NestedSparseError


@dataclass(frozen=True, slots=True)
class ValueType:
    """One type of stored values.

    name: as users write it in `export(values=...)`, and as the kernels call it.
    tensor_dtype: its name in the tensor table of a safetensors file; dtype: the same for numpy.
    format_version: the lowest version of the format that has it.
    largest: the largest magnitude that it holds.
    scaled: whether values are whole numbers that count a scale, one for each row; such layers are stored in quads
        (layouts.quads), and are run by operators of their own.
    """

    name: str
    tensor_dtype: str
    dtype: np.dtype[Any]
    format_version: int
    largest: float = math.inf
    scaled: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of a value. Files and graphs name the type by this number, so no two types share it."""
        return self.dtype.itemsize

    def stored(self, values: NDArray[np.float32]) -> NDArray[Any]:
        """`values` as a file holds them, rounded to nearest, ties to even.

        Beyond `largest` they are infinite, or where the type is scaled, `largest`. Scaled values are given in units of
        their row's scale.
        """
        if self.scaled:
            return np.clip(np.rint(values), -self.largest, self.largest).astype(self.dtype)
        with np.errstate(over="ignore"):
            return values.astype(self.dtype, copy=False)

    def loaded(self, stored: NDArray[Any]) -> NDArray[np.float32]:
        """The values as float32; exact. Scaled values stay in units of their row's scale."""
        return stored.astype(np.float32, copy=False)

    def rounded(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """The float32 values that a file of this type answers with when it was made from `values`."""
        return self.loaded(self.stored(values))


FLOAT32 = ValueType("float32", "F32", np.dtype("<f4"), format_version=1)
FLOAT16 = ValueType("float16", "F16", np.dtype("<f2"), format_version=3, largest=float(np.finfo(np.float16).max))
INT8 = ValueType("int8", "I8", np.dtype("i1"), format_version=4, largest=127, scaled=True)

VALUE_TYPES = {each.name: each for each in (FLOAT32, FLOAT16, INT8)}
"""Every type, by its name."""


def value_type(name: object, error: type[NestedSparseError] = InputError) -> ValueType:
    """The type that a user names. Raises `error`, listing the names."""
    found = VALUE_TYPES.get(name) if isinstance(name, str) else None
    if found is None:
        raise error(f"values: expected one of {tuple(VALUE_TYPES)}, got {shown(name)}")
    return found


def value_type_of_bytes(nbytes: object) -> ValueType:
    """The type that a file names by `value_bytes`. Raises ValueError, listing the types."""
    for each in VALUE_TYPES.values():
        if type(nbytes) is int and each.nbytes == nbytes:
            return each
    known = ", ".join(f"{each.nbytes} ({each.name})" for each in VALUE_TYPES.values())
    raise ValueError(f"value_bytes must be one of {known}, got {shown(nbytes)}")
