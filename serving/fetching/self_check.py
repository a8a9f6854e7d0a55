"""SelfCheck: inputs, and the outputs that a model must give for them at each level, wherever it runs."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nested_sparse.bfloat16 import BFLOAT16, cast, dtype_named, widened
from nested_sparse.errors import CheckpointError, InputError, KernelError
from nested_sparse.excerpt import excerpt, excerpts
from nested_sparse.runtime.session import Array, Arrays, Session, random_inputs

TOLERANCE = 0.05
"""Share of an output's largest magnitude by which a value may differ. Another processor sums in another order, and an
int8 layer may round one step otherwise; a model that is broken is off by the whole magnitude."""
MOST_VALUES = 64
"""Most values of one output that are compared; they lie evenly over the output."""
MOST_INPUT_NBYTES = 1 << 20
MOST_NAMES = 1024
TINY = 1e-6

Expected = Mapping[str, tuple[float, ...]]
"""Some values of each output, by its name."""


@dataclass(frozen=True, slots=True)
class SelfCheck:
    """A sample and its answers.

    inputs: arrays by name; empty: those of `drawn_inputs`, which a reader draws itself, so that they take no bytes.
    expected: of each level. tolerance: as TOLERANCE.
    """

    inputs: Arrays
    expected: tuple[Expected, ...]
    tolerance: float = TOLERANCE

    @staticmethod
    def of(session: Session, inputs: Arrays | None = None, tolerance: float = TOLERANCE) -> SelfCheck:
        """The check that `session` passes by its own answers. inputs: a sample; None: one is drawn.

        Raises InputError where the sample is too large, or an answer is not finite; and what a run raises.
        """
        if sum(array.nbytes for array in (inputs or {}).values()) > MOST_INPUT_NBYTES:
            raise InputError(f"sample: expected at most {MOST_INPUT_NBYTES} bytes; give a smaller one")
        sample = drawn_inputs(session) if inputs is None else inputs
        expected = []
        for level in range(len(session.levels)):
            answers = {name: _some(array) for name, array in session.run(sample, level).items()}
            for name, values in answers.items():
                if not np.isfinite(values).all():
                    raise InputError(
                        f"{session.name}: at level {level} the output '{excerpt(name)}' is not finite for the sample; "
                        "give another one (--sample)"
                    )
            expected.append({name: tuple(map(_rounded, values)) for name, values in answers.items()})
        return SelfCheck({} if inputs is None else inputs, tuple(expected), tolerance)

    def check(self, session: Session) -> None:
        """Run the sample at each level of `session`. Raises CheckpointError with the first answer that is wrong."""
        sample = self.inputs or drawn_inputs(session)
        for level in range(len(session.levels)):
            try:
                answers = session.run(sample, level)
            except InputError as error:
                raise CheckpointError(f"self-check: level {level} does not take the sample: {error}") from None
            except KernelError as error:
                raise CheckpointError(f"self-check: level {level} does not run: {error}") from None
            expected = self.expected[level]
            if answers.keys() != expected.keys():
                raise CheckpointError(
                    f"self-check: level {level} gives {excerpts(sorted(answers))}, expected "
                    f"{excerpts(sorted(expected))}"
                )
            for name, array in answers.items():
                self._compare(_some(array), np.array(expected[name]), f"level {level}, '{excerpt(name)}'")

    def _compare(self, got: NDArray[np.float64], expected: NDArray[np.float64], where: str) -> None:
        if got.shape != expected.shape:
            raise CheckpointError(f"self-check: {where}: expected {len(expected)} values, got {len(got)}")
        allowed = self.tolerance * float(np.abs(expected).max(initial=0.0)) + TINY
        wrong = ~(np.abs(got - expected) <= allowed)  # also where a value is not a number
        if wrong.any():
            first = int(wrong.argmax())
            raise CheckpointError(
                f"self-check: {where}: expected {expected[first]:.6g} within {allowed:.3g}, got {got[first]:.6g}; "
                "this device computes another answer than the publisher"
            )

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        inputs = {
            name: {
                "dtype": "bfloat16" if array.dtype == BFLOAT16 else array.dtype.name,
                "shape": list(array.shape),
                "data": base64.b64encode(np.ascontiguousarray(array).tobytes()).decode(),
            }
            for name, array in self.inputs.items()
        }
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
        inputs = {str(name): _array(each) for name, each in said["inputs"].items()}
        expected = tuple({str(name): _values(each) for name, each in level.items()} for level in said["expected"])
        return SelfCheck(inputs, expected, tolerance)


def drawn_inputs(session: Session) -> dict[str, Array]:
    """One sample of the example shape: floating point of variance 1, zeros for other dtypes.

    The values come from SHAKE-256 of the input's name, so that they are the same with every version of every library.
    """
    arrays = random_inputs(session.inputs, 1)
    for name, array in arrays.items():
        if array.dtype == BFLOAT16 or np.issubdtype(array.dtype, np.floating):
            stream = hashlib.shake_256(name.encode(errors="replace")).digest(2 * array.size)
            uniform = np.frombuffer(stream, "<u2").astype(np.float64) / 65535 - 0.5
            arrays[name] = cast((uniform * math.sqrt(12.0)).reshape(array.shape), array.dtype)
    return arrays


def _some(array: Array) -> NDArray[np.float64]:
    """At most MOST_VALUES values of the array, evenly, the first among them."""
    flat = (widened(array) if array.dtype == BFLOAT16 else array).ravel()
    step = max(1, math.ceil(flat.size / MOST_VALUES))
    return flat[::step].astype(np.float64)


def _rounded(value: np.float64) -> float:
    """With nine digits, which tell float32 numbers apart."""
    return float(f"{value:.9g}")


def _array(said: Any) -> Array:
    dtype = dtype_named(str(said["dtype"]))
    shape = [int(size) for size in said["shape"]]
    if dtype.hasobject or len(shape) > 16 or min(shape, default=0) < 0:
        raise ValueError("inputs: expected an array of numbers")
    data = base64.b64decode(said["data"], validate=True)
    if len(data) > MOST_INPUT_NBYTES or math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"inputs: expected as many bytes as the shape takes, and at most {MOST_INPUT_NBYTES}")
    return np.frombuffer(data, dtype).reshape(shape)


def _values(said: Any) -> tuple[float, ...]:
    if not isinstance(said, list) or len(said) > MOST_VALUES:
        raise ValueError(f"expected: at most {MOST_VALUES} values of an output")
    values = tuple(float(value) for value in said)
    if not all(map(math.isfinite, values)):
        raise ValueError("expected: finite numbers")
    return values
