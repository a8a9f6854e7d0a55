"""RowCheck: runs a model to find out whether each row of its outputs depends on its own sample alone."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from nested_sparse.amend import store_rows
from nested_sparse.errors import NestedSparseError
from nested_sparse.excerpt import excerpt
from nested_sparse.metadata import DEPENDENT, INDEPENDENT
from nested_sparse.tensor_spec import TensorSpec, batch_is_first, batch_is_free, most_batch

from ..session import Array, Arrays, check_inputs
from .batch_first import BatchFirst, in_front
from .trial_rows import KINDS, LARGE, NAN, TrialRows, aligned, mixed

if TYPE_CHECKING:
    from nested_sparse.level import Level

PAIR, SIZES = 2, (2, 3)
"""Samples in a batch whose others are replaced, and in those that are run one by one, too."""
CHEAP_FLOPS = 100_000_000
"""Of a sample, up to which a model is looked at closely: as the file says, for no clock says the same thing twice."""
ROUNDS, DEAR_ROUNDS = 4, 2
"""Number of times that other samples are drawn, at each level."""
WIDE, DEAR_WIDE = 17, 5
"""Samples in the one batch that looks for rows that depend on such as are far apart."""
TOLERANCE = 1e-4
"""Of the output's largest magnitude, by which a row may differ from that of its sample alone: kernels sum in another
order for another batch. The same as between the file and torch."""
HALF_TOLERANCE = 4e-3
ODD_SHARE = 0.01
"""Of an output that is not floating point, the part that rounding may have decided otherwise."""


class Checkable(Protocol):
    """The parts of a Session that the check uses."""

    @property
    def inputs(self) -> Sequence[TensorSpec]: ...  # noqa: D102 -- as in Session

    @property
    def outputs(self) -> Sequence[TensorSpec]: ...  # noqa: D102

    @property
    def levels(self) -> Sequence[Level]: ...  # noqa: D102

    @property
    def decides(self) -> bool: ...  # noqa: D102

    def run(self, inputs: Arrays, level: int) -> dict[str, Array]: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class RowCheck:
    """independent: None where it is not known. reason: why it is not True, in words; "" where it is."""

    independent: bool | None
    reason: str = ""

    @property
    def mark(self) -> str | None:
        """The word that a file states for it."""
        return None if self.independent is None else INDEPENDENT if self.independent else DEPENDENT


def check_rows(
    session: Checkable,
    examples: Arrays | None = None,
    *,
    thorough: bool = True,
    limit_s: float = math.inf,
    clock: Callable[[], float] = time.perf_counter,
) -> RowCheck:
    """Run samples together, alone, and beside other samples again and again, at every level.

    A row is independent if no change to the other samples of its batch changes a single bit of it: they are replaced by
    others like the examples, by huge ones, by NaN. This needs no tolerance, as a kernel that runs the same shape twice
    sums in the same order. The size of the batch and the place in it are changed, too: alone, a row must be the same as
    in a batch, except for rounding. No sample drawn here may take a branch of the graph, so a graph with branches
    counts as dependent, and is not run.

    examples: the input arrays with which the model was exported; without them, the drawn values may be unlike all that
    the model sees in use. thorough: runs 46 samples at every level and 35 more at the densest (82 and 187 where they
    are cheap); else 14 at the densest. limit_s: time, s, after which no new run begins. Raises InputError: the examples
    do not fit the model.
    """
    if not batch_is_free((*session.inputs, *session.outputs)):
        return RowCheck(None, "an input or output has no free batch")
    if examples is not None:
        examples = check_inputs(session.inputs, examples)
    if not batch_is_first((*session.inputs, *session.outputs)):
        examples = None if examples is None else in_front(session.inputs, examples)
        session = BatchFirst(session)
    if session.decides:
        return RowCheck(False, "its graph has an If or a Loop, whose condition is one for all samples of a batch")
    check = _Check(session, TrialRows(session.inputs, examples, seed=0), clock, clock() + limit_s)
    densest = len(session.levels) - 1
    cheap = session.levels[densest].flops <= CHEAP_FLOPS
    rounds, wide = (ROUNDS, WIDE) if cheap else (DEAR_ROUNDS, DEAR_WIDE)
    wide = min(wide, most_batch(session.inputs) or wide)
    try:
        for level in reversed(range(densest + 1) if thorough else [densest]):
            for _ in range(rounds if thorough else 1):
                check.beside_others(level, PAIR, KINDS if thorough else (LARGE, NAN))
            for count in SIZES if thorough else [PAIR]:
                check.together_and_alone(level, count)
        if thorough:
            check.beside_others(densest, wide, (LARGE,))
    except _DependentError as error:
        return RowCheck(False, str(error))
    except _UnknownError as error:
        return RowCheck(None, str(error))
    except NestedSparseError as error:
        return RowCheck(None, f"it could not be run on several samples: {excerpt(error)}")
    return RowCheck(True)


def mark_rows(path: str | os.PathLike[str], examples: Arrays | None = None) -> RowCheck:
    """Check the file at `path` and write the result into it; its weights and its graph stay as they are.

    Raises CheckpointError, KernelError, InputError (an argument).
    """
    from ..session import Session

    with Session(path, threads=1) as session:
        found, said = check_rows(session, examples), session.rows
    if found.mark != said:
        store_rows(path, found.mark)
    return found


class _DependentError(Exception):
    """A row depends on more than its own sample."""


class _UnknownError(Exception):
    """The check has no result."""


class _Check:
    """One model under check. Raises _DependentError, _UnknownError, and the errors of the session."""

    def __init__(self, session: Checkable, trials: TrialRows, clock: Callable[[], float], ends_s: float) -> None:
        self._session = session
        self._trials = trials
        self._clock = clock
        self._ends_s = ends_s

    def together_and_alone(self, level: int, count: int) -> None:
        """The same samples as one batch and one by one."""
        rows = self._trials.draw(count)
        together = self._run(rows, level)
        alone = [_row(rows, place) for place in range(count)]
        apart = [self._run(each, level) for each in alone]
        for name, array in together.items():
            where = f"at level {level}, output {excerpt(name)!r}"
            sizes = [answer[name].shape for answer in apart]
            if array.shape[:1] != (count,) or any(size != (1, *array.shape[1:]) for size in sizes):
                shapes = f"{list(array.shape)} for {count} samples and {list(sizes[0])} for one"
                raise _DependentError(f"{where} has the shape {shapes}")
            if np.issubdtype(array.dtype, np.inexact) and not np.isfinite(array).any():
                raise _UnknownError(f"{where} is not finite")
            if difference := _difference(array, np.concatenate([answer[name] for answer in apart])):
                self._answers_alike(level, rows, *alone)
                raise _DependentError(f"{where} differs for {count} samples together and one by one: {difference}")

    def beside_others(self, level: int, count: int, kinds: Sequence[str]) -> None:
        """Each of `count` samples while the others of its batch are replaced by some of `kinds`.

        Values that the model refuses, such as indices computed from huge ones, are skipped; some must have run.
        """
        rows = self._trials.draw(count)
        expected = self._run(rows, level)
        tried = False
        for kept in _kept(count):
            for others in self._trials.of_kinds(count, kinds):
                inputs = mixed(rows, others, kept)
                try:
                    changed = self._changed(expected, self._run(inputs, level), kept)
                except NestedSparseError:
                    continue
                tried = tried or not all(_same(array, inputs[name]) for name, array in rows.items())
                if changed is not None:
                    self._answers_alike(level, rows, inputs)
                    raise _DependentError(f"at level {level}, {changed} with the other samples of its batch")
        if not tried:
            raise _UnknownError(f"at level {level} it ran on no samples but those of one value")

    def _changed(self, expected: Arrays, got: Arrays, kept: NDArray[np.bool_]) -> str | None:
        """The first change in a row that was kept, in words; None without one."""
        for name, array in got.items():
            if array.shape != expected[name].shape:
                return f"the shape of output {excerpt(name)!r} changes"
            for place in np.flatnonzero(kept):
                if not _same(array[place], expected[name][place]):
                    return f"row {place} of {len(array)} of output {excerpt(name)!r} changes"
        return None

    def _answers_alike(self, level: int, *inputs: Arrays) -> None:
        """Raise if the model answers the same inputs differently: then a change is not due to the other samples."""
        for each in inputs:
            first, second = self._run(each, level), self._run(each, level)
            if not all(_same(array, second[name]) for name, array in first.items()):
                raise _DependentError(f"at level {level} it answers the same inputs differently each time")

    def _run(self, inputs: Arrays, level: int) -> dict[str, Array]:
        if self._clock() > self._ends_s:
            raise _UnknownError("there was no time to look at every level")
        return self._session.run(inputs, level)


def _kept(count: int) -> Iterator[NDArray[np.bool_]]:
    """Choices of rows to keep, so that each row is kept once while any given other one is replaced."""
    places = np.arange(count)
    for bit in range((count - 1).bit_length()):
        half = (places >> bit) % 2 == 1
        yield half
        yield ~half


def _row(rows: Arrays, place: int) -> dict[str, Array]:
    """One sample as a batch of its own."""
    alone = {name: aligned((1, *array.shape[1:]), array.dtype) for name, array in rows.items()}
    for name, array in alone.items():
        array[0] = rows[name][place]
    return alone


def _same(first: Array, second: Array) -> bool:
    return np.array_equal(first, second, equal_nan=bool(np.issubdtype(first.dtype, np.inexact)))


def _difference(together: Array, apart: Array) -> str:
    """The outputs that differ by more than rounding, in words; "" without any. The shapes are equal."""
    if not np.issubdtype(together.dtype, np.inexact):
        wrong = int((together != apart).sum())
        return f"{wrong} of {together.size} values" if wrong > max(1.0, ODD_SHARE * together.size) else ""
    finite = np.isfinite(together)
    if not np.array_equal(np.where(finite, 0, together), np.where(np.isfinite(apart), 0, apart), equal_nan=True):
        return "values that are not finite"
    tolerance = HALF_TOLERANCE if together.dtype == np.float16 else TOLERANCE
    wide = np.promote_types(together.dtype, np.float64)
    magnitude = float(np.abs(together[finite]).max())
    error = float(np.abs(together[finite].astype(wide) - apart[finite]).max())
    return f"by {error:.3g} of {magnitude:.3g}" if error > tolerance * magnitude else ""
