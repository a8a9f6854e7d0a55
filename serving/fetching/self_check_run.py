"""Run of a self-check: a SelfCheck made of a session's answers, and a session held against one."""

from __future__ import annotations

import hashlib
import math

import numpy as np
from numpy.typing import NDArray

from nested_sparse.bfloat16 import BFLOAT16, NAME, cast, dtype_named, widened
from nested_sparse.errors import CheckpointError, InputError, KernelError
from nested_sparse.excerpt import excerpt, excerpts
from nested_sparse.runtime.session import Array, Arrays, Session, random_inputs

from .self_check import ITEM_NBYTES, MOST_INPUT_NBYTES, MOST_VALUES, TOLERANCE, SelfCheck, StatedArray

TINY = 1e-6


def self_check_of(session: Session, inputs: Arrays | None = None, tolerance: float = TOLERANCE) -> SelfCheck:
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
    return SelfCheck({name: _stated(array) for name, array in (inputs or {}).items()}, tuple(expected), tolerance)


def run_self_check(check: SelfCheck, session: Session) -> None:
    """Run the sample at each level of `session`. Raises CheckpointError with the first answer that is wrong."""
    sample = {name: _array(stated) for name, stated in check.inputs.items()} or drawn_inputs(session)
    for level in range(len(session.levels)):
        try:
            answers = session.run(sample, level)
        except InputError as error:
            raise CheckpointError(f"self-check: level {level} does not take the sample: {error}") from None
        except KernelError as error:
            raise CheckpointError(f"self-check: level {level} does not run: {error}") from None
        expected = check.expected[level]
        if answers.keys() != expected.keys():
            raise CheckpointError(
                f"self-check: level {level} gives {excerpts(sorted(answers))}, expected {excerpts(sorted(expected))}"
            )
        for name, array in answers.items():
            where = f"level {level}, '{excerpt(name)}'"
            _compare(_some(array), np.array(expected[name]), check.tolerance, where)


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


def _compare(got: NDArray[np.float64], expected: NDArray[np.float64], tolerance: float, where: str) -> None:
    if got.shape != expected.shape:
        raise CheckpointError(f"self-check: {where}: expected {len(expected)} values, got {len(got)}")
    allowed = tolerance * float(np.abs(expected).max(initial=0.0)) + TINY
    wrong = ~(np.abs(got - expected) <= allowed)  # also where a value is not a number
    if wrong.any():
        first = int(wrong.argmax())
        raise CheckpointError(
            f"self-check: {where}: expected {expected[first]:.6g} within {allowed:.3g}, got {got[first]:.6g}; "
            "this device computes another answer than the publisher"
        )


def _some(array: Array) -> NDArray[np.float64]:
    """At most MOST_VALUES values of the array, evenly, the first among them."""
    flat = (widened(array) if array.dtype == BFLOAT16 else array).ravel()
    step = max(1, math.ceil(flat.size / MOST_VALUES))
    return flat[::step].astype(np.float64)


def _rounded(value: np.float64) -> float:
    """With nine digits, which tell float32 numbers apart."""
    return float(f"{value:.9g}")


def _stated(array: Array) -> StatedArray:
    dtype = NAME if array.dtype == BFLOAT16 else array.dtype.name
    assert dtype in ITEM_NBYTES  # the session has run it
    return StatedArray(dtype, array.shape, np.ascontiguousarray(array).tobytes())


def _array(stated: StatedArray) -> Array:
    return np.frombuffer(stated.data, dtype_named(stated.dtype)).reshape(stated.shape)
