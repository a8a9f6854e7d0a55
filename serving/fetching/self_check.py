"""SelfCheck: inputs, and the outputs that a model must give for them at each level, as a manifest states them.

Python's own library is enough for it: a start reads the manifest while numpy and ONNX Runtime are still being imported.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nested_sparse.excerpt import excerpt

TOLERANCE = 0.05
"""Share of an output's largest magnitude by which a value may differ. Another processor sums in another order, and an
int8 layer may round one step otherwise; a model that is broken is off by the whole magnitude."""
MOST_VALUES = 64
"""Most values of one output that are compared; they lie evenly over the output."""
MOST_INPUT_NBYTES = 1 << 20
MOST_NAMES = 1024
MOST_AXES = 16
ITEM_NBYTES: Mapping[str, int] = {
    **dict.fromkeys(("bool", "int8", "uint8"), 1),
    **dict.fromkeys(("int16", "uint16", "float16", "bfloat16"), 2),
    **dict.fromkeys(("int32", "uint32", "float32"), 4),
    **dict.fromkeys(("int64", "uint64", "float64"), 8),
}
"""Bytes of an element, by the name of its dtype."""

Expected = Mapping[str, tuple[float, ...]]
"""Some values of each output, by its name."""


@dataclass(frozen=True, slots=True)
class StatedArray:
    """An array of an input. dtype: one of ITEM_NBYTES. data: its elements row by row, in little-endian order."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return {"dtype": self.dtype, "shape": list(self.shape), "data": base64.b64encode(self.data).decode()}

    @staticmethod
    def of_json(said: Any) -> StatedArray:
        """The reverse; `said` comes from outside. Raises ValueError, KeyError, TypeError."""
        dtype, shape = said["dtype"], tuple(int(size) for size in said["shape"])
        if dtype not in ITEM_NBYTES or len(shape) > MOST_AXES or min(shape, default=0) < 0:
            raise ValueError(f"inputs: expected an array of numbers, got the dtype {excerpt(repr(dtype), 80)}")
        data = base64.b64decode(said["data"], validate=True)
        if len(data) > MOST_INPUT_NBYTES or math.prod(shape) * ITEM_NBYTES[dtype] != len(data):
            raise ValueError(f"inputs: expected as many bytes as the shape takes, and at most {MOST_INPUT_NBYTES}")
        return StatedArray(dtype, shape, data)


@dataclass(frozen=True, slots=True)
class SelfCheck:
    """A sample and its answers; `self_check_run.py` makes it, and runs it.

    inputs: by name; empty: those of `drawn_inputs`, which a reader draws itself, so that they take no bytes.
    expected: of each level. tolerance: as TOLERANCE.
    """

    inputs: Mapping[str, StatedArray]
    expected: tuple[Expected, ...]
    tolerance: float = TOLERANCE

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        inputs = {name: array.to_json() for name, array in self.inputs.items()}
        expected = [{name: list(values) for name, values in level.items()} for level in self.expected]
        return {"inputs": inputs, "expected": expected, "tolerance": self.tolerance}

    @staticmethod
    def of_json(said: Any, level_count: int) -> SelfCheck:
        """The reverse; `said` comes from outside. Raises ValueError, KeyError, TypeError, AttributeError."""
        if len(said["inputs"]) > MOST_NAMES or len(said["expected"]) != level_count:
            raise ValueError(f"self_check: expected answers of {level_count} levels, and at most {MOST_NAMES} inputs")
        tolerance = float(said["tolerance"])
        if not 0.0 <= tolerance <= 1.0:
            raise ValueError(f"tolerance: expected a number from 0 to 1, got {tolerance}")
        inputs = {str(name): StatedArray.of_json(each) for name, each in said["inputs"].items()}
        expected = tuple({str(name): _values(each) for name, each in level.items()} for level in said["expected"])
        return SelfCheck(inputs, expected, tolerance)


def _values(said: Any) -> tuple[float, ...]:
    if not isinstance(said, list) or len(said) > MOST_VALUES:
        raise ValueError(f"expected: at most {MOST_VALUES} values of an output")
    values = tuple(float(value) for value in said)
    if not all(map(math.isfinite, values)):
        raise ValueError("expected: finite numbers")
    return values
