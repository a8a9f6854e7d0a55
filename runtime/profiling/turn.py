"""Turn: one run of every level at every batch and size that a profile measures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from nested_sparse.errors import CheckpointError, InputError, KernelError, OutOfMemoryError
from nested_sparse.excerpt import excerpt
from nested_sparse.tensor_spec import free_sizes, whole_sizes

from ..session import Array, Arrays, random_inputs
from .size_growth import measured_sizes

if TYPE_CHECKING:
    from nested_sparse.free_size import FreeSize
    from nested_sparse.level import Level
    from nested_sparse.tensor_spec import TensorSpec

MOST_VALUES = 1 << 24
"""Values of the inputs up to which a larger size is tried: the file says how large sizes may be, and may be hostile."""
LEAST_TURNS = 3
ENOUGH_TURNS = 5


class Profilable(Protocol):
    """The parts of a Session that a profile uses."""

    @property
    def name(self) -> str: ...  # noqa: D102 -- as in Session

    @property
    def levels(self) -> Sequence[Level]: ...  # noqa: D102

    @property
    def inputs(self) -> Sequence[TensorSpec]: ...  # noqa: D102

    def run(self, inputs: Arrays, level: int) -> dict[str, Array]: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Case:
    """Inputs that are run at every level. name, size: of the free size that is not the example's; "" and 0 for none."""

    inputs: Arrays
    name: str = ""
    size: int = 0


class Turn:
    """One run of every level at every batch and size so far. seconds: the time of their warm-up."""

    def __init__(self, session: Profilable, clock: Callable[[], float]) -> None:
        self.batches: list[int] = []
        self.cases: list[Case] = []
        self.seconds = 0.0
        self.free: Sequence[FreeSize] = ()  # those that were measured
        self.examples = whole_sizes(session.inputs, {})
        self._session = session
        self._clock = clock
        self._warmed_s = 0.0  # by the last batch

    def warm(self, batch: int) -> None:
        """Add a batch, larger than all before, and run it once at every level."""
        self._warmed_s = self._warm(Case(random_inputs(self._session.inputs, batch)))
        self.batches.append(batch)

    def warm_sizes(self, batch: int, end_s: float) -> None:
        """Add `batch` samples of other free sizes, each size by itself, as far as their turns are over at `end_s`.

        A size at which the model does not run, for lack of memory for example, ends the larger ones of its name.
        """
        self.free = free_sizes(self._session.inputs)
        for free in self.free:
            size, warmed_s = self.examples[free.name], self._warmed_s
            for wanted in measured_sizes(free, size):
                expected_s = warmed_s * max(1.0, wanted / size) ** 2
                late = self._clock() + expected_s + LEAST_TURNS * (self.seconds + expected_s) > end_s
                if late or self._values({free.name: wanted}) > max(MOST_VALUES, self._values({})):
                    break
                try:
                    inputs = random_inputs(self._session.inputs, batch, sizes={free.name: wanted})
                    warmed_s, size = self._warm(Case(inputs, free.name, wanted)), wanted
                except (InputError, KernelError, OutOfMemoryError):
                    break

    def _values(self, sizes: Mapping[str, int]) -> int:
        """Values of all inputs at other sizes than the examples'."""
        specs = self._session.inputs
        whole = whole_sizes(specs, sizes)
        return sum(math.prod(spec.sized(None, whole)) for spec in specs)

    def _warm(self, case: Case) -> float:
        begun_s = self._clock()
        for level in self._session.levels:
            check_finite(self._session, level.index, self._session.run(case.inputs, level.index))
        warmed_s = self._clock() - begun_s
        self.cases.append(case)
        self.seconds += warmed_s
        return warmed_s

    def expected_s(self, batch: int) -> float:
        """The expected time to warm up another batch."""
        return self._warmed_s * batch / self.batches[-1]

    def repeat(self, repeats: int, enough_s: float, end_s: float) -> list[list[float]]:
        """Milliseconds [turn][case], batches outermost.

        enough_s, end_s: clock readings from which ENOUGH_TURNS, and LEAST_TURNS, will do.
        """
        turns: list[list[float]] = []
        while len(turns) < repeats:
            now_s = self._clock()
            if (len(turns) >= ENOUGH_TURNS and now_s >= enough_s) or (len(turns) >= LEAST_TURNS and now_s >= end_s):
                break
            turns.append(self.once())
        return turns

    def once(self) -> list[float]:
        """Milliseconds of each case, batches outermost."""
        return [
            timed_ms(self._session, level.index, case.inputs, self._clock)
            for case in self.cases
            for level in self._session.levels
        ]


def timed_ms(session: Profilable, level: int, inputs: Arrays, clock: Callable[[], float]) -> float:
    """Milliseconds of one run; above 0 even by a clock that did not tick."""
    started_s = clock()
    session.run(inputs, level)
    return max((clock() - started_s) * 1e3, 1e-6)


def check_finite(session: Profilable, level: int, outputs: Arrays) -> None:
    """Raise CheckpointError for floating point outputs that are not finite."""
    for name, array in outputs.items():
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            count = math.prod(array.shape) - int(np.isfinite(array).sum())
            raise CheckpointError(
                f"{session.name}: level {level} gives {count} values that are not finite in output '{excerpt(name)}' "
                "on random input"
            )
