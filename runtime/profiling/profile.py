"""LatencyProfile: what each level costs on this device when nothing else runs."""

from __future__ import annotations

import bisect
import json
import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from nested_sparse.argument import real, shown, whole
from nested_sparse.errors import CheckpointError, InputError
from nested_sparse.excerpt import excerpt

from ..session import Array, Arrays, fixed_batch, random_inputs

if TYPE_CHECKING:
    from nested_sparse.level import Level
    from nested_sparse.tensor_spec import TensorSpec

FORMAT_VERSION = 1
LEAST_TURNS = 3
ENOUGH_TURNS = 5


class Profilable(Protocol):
    """What a profile needs of a session."""

    @property
    def name(self) -> str: ...  # noqa: D102 -- as in Session

    @property
    def levels(self) -> Sequence[Level]: ...  # noqa: D102

    @property
    def inputs(self) -> Sequence[TensorSpec]: ...  # noqa: D102

    def run(self, inputs: Arrays, level: int) -> dict[str, Array]: ...  # noqa: D102


class LatencyProfile:
    """Milliseconds of one run, per level and batch.

    batches: ascending.  median_ms, p95_ms: [level][batch]. A denser level is never predicted faster than a sparser
    one, nor a larger batch faster than a smaller one: where noise says otherwise the smaller figure is raised.
    """

    def __init__(
        self,
        batches: Sequence[int],
        median_ms: Sequence[Sequence[float]],
        p95_ms: Sequence[Sequence[float]] | None = None,
    ) -> None:
        self.batches = _whole_numbers(batches)
        self.median_ms = self._table(median_ms)
        self.p95_ms = self._table(median_ms if p95_ms is None else p95_ms)

    @property
    def level_count(self) -> int:
        """How many levels were measured."""
        return len(self.median_ms)

    def predict_ms(self, level: int, batch: int = 1) -> float:
        """Median time of one run, interpolated linearly over the batch.

        Below the smallest measured batch it is that batch's time; beyond the largest it grows in proportion to the
        batch, which is too much rather than too little.
        """
        row = self.median_ms[level]
        if batch >= self.batches[-1]:
            return row[-1] * batch / self.batches[-1]
        right = bisect.bisect_right(self.batches, batch)
        if right == 0:
            return row[0]
        left_batch, right_batch = self.batches[right - 1], self.batches[right]
        share = (batch - left_batch) / (right_batch - left_batch)
        return row[right - 1] + share * (row[right] - row[right - 1])

    def quieter(self, other: LatencyProfile) -> LatencyProfile:
        """Of two profiles of the same levels, the lesser time of each case; what only one of them has is that one's.

        Whatever disturbs a measurement makes it longer, so the lesser one is nearer to the machine at rest. Raises
        InputError.
        """
        if self.level_count != other.level_count:
            raise InputError(
                f"latency profile: one of {self.level_count} levels cannot be compared with one of "
                f"{other.level_count}; measure it again"
            )
        batches = sorted({*self.batches, *other.batches})
        both = (self, other)

        def least(table: str, level: int, batch: int) -> float:
            having = (each for each in both if batch in each.batches)
            return min(float(getattr(each, table)[level][each.batches.index(batch)]) for each in having)

        median_ms, p95_ms = (
            [[least(table, level, batch) for batch in batches] for level in range(self.level_count)]
            for table in ("median_ms", "p95_ms")
        )
        return LatencyProfile(batches, median_ms, p95_ms)

    def to_json(self) -> str:
        """JSON text that from_json() reads."""
        return json.dumps(
            {"version": FORMAT_VERSION, "batches": self.batches, "median_ms": self.median_ms, "p95_ms": self.p95_ms}
        )

    @classmethod
    def from_json(cls, text: str) -> LatencyProfile:
        """The profile that to_json() wrote. Raises InputError."""
        try:
            fields = json.loads(text)
            if fields["version"] != FORMAT_VERSION:
                raise ValueError(f"version {excerpt(repr(fields['version']))} is not {FORMAT_VERSION}")
            return cls(fields["batches"], fields["median_ms"], fields["p95_ms"])
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise InputError(
                f"latency profile: not one this version reads ({excerpt(repr(error))}); measure it again"
            ) from error

    @classmethod
    def measure(
        cls,
        session: Profilable,
        batches: Sequence[int] = (1,),
        repeats: int = 15,
        *,
        max_batch: int = 1,
        limit_s: float = 20.0,
        enough_s: float = math.inf,
        clock: Callable[[], float] = time.perf_counter,
    ) -> LatencyProfile:
        """Runs every level `repeats` times per batch on random inputs, after a warm-up.

        Beside `batches`, those of doubling(max_batch) are measured as far as 3 turns of them fit into `limit_s`. Levels
        and batches take turns, so that a disturbance hits all of them instead of reordering them. Stops early when
        `limit_s` have passed, after at least 3 turns, or `enough_s`, after at least 5. A model of fixed batch is
        measured at that one. Raises CheckpointError if a level gives outputs that are not finite.
        """
        if not callable(getattr(session, "run", None)):
            raise InputError(f"session: expected a Session, got {shown(session)}")
        repeats, max_batch = whole("repeats", repeats, 1), whole("max_batch", max_batch, 1)
        limit_s, enough_s = real("limit_s", limit_s), real("enough_s", enough_s)
        only = fixed_batch(session.inputs)
        asked = sorted(set(_whole_numbers(batches))) if only is None else [only]
        if not asked:
            raise InputError("batches: expected at least one, got none")
        start_s = clock()
        turn = _Turn(session, clock)
        for batch in asked:
            turn.warm(batch)
        for batch in doubling(max_batch) if only is None else ():
            if batch > asked[-1]:
                spent_s = clock() - start_s
                if spent_s + turn.expected_s(batch) + LEAST_TURNS * (turn.seconds + turn.expected_s(batch)) > limit_s:
                    break
                turn.warm(batch)
        samples = turn.repeat(repeats, start_s + enough_s, start_s + limit_s)
        table = np.reshape(samples, (len(samples), len(turn.batches), len(session.levels))).transpose(0, 2, 1)
        return cls(turn.batches, np.median(table, axis=0).tolist(), np.percentile(table, 95, axis=0).tolist())

    def _table(self, rows: Sequence[Sequence[float]]) -> tuple[tuple[float, ...], ...]:
        if not self.batches or list(self.batches) != sorted(set(self.batches)) or self.batches[0] < 1:
            raise InputError(f"latency profile: batches must ascend from 1 on, got {list(self.batches)}")
        try:
            table = np.asarray(rows, dtype=np.float64)
        except (ValueError, TypeError, OverflowError):  # ragged, or no numbers
            table = np.zeros(0)
        if table.ndim != 2 or not len(table) or table.shape[1] != len(self.batches):
            raise InputError(f"latency profile: expected {len(self.batches)} times per level, got {shown(rows)}")
        if not (np.isfinite(table).all() and (table > 0).all()):
            raise InputError("latency profile: times must be finite and above 0 ms")
        risen = np.maximum.accumulate(np.maximum.accumulate(table, axis=0), axis=1)
        return tuple(tuple(float(ms) for ms in row) for row in risen)


def _whole_numbers(batches: Sequence[int]) -> tuple[int, ...]:
    """Batches as a caller or a file gives them. Raises InputError."""
    try:
        given = tuple(batches)
    except TypeError:
        raise InputError(f"batches: expected a list of whole numbers, got {shown(batches)}") from None
    return tuple(whole("batches", batch, 1) for batch in given)


def doubling(max_batch: int) -> tuple[int, ...]:
    """1, 2, 4, 8, ... up to `max_batch`, which is the last where it is none of them."""
    powers = [1 << power for power in range(max_batch.bit_length())]
    return tuple(sorted({*powers, max_batch}))


class _Turn:
    """One run of every level at every batch so far; `seconds` as long as their warm-up took."""

    def __init__(self, session: Profilable, clock: Callable[[], float]) -> None:
        self.batches: list[int] = []
        self.seconds = 0.0
        self._session = session
        self._clock = clock
        self._cases: list[tuple[int, Arrays]] = []
        self._warmed_s = 0.0  # by the last batch

    def warm(self, batch: int) -> None:
        """Adds a batch, larger than all before, and runs it once at every level."""
        inputs = random_inputs(self._session.inputs, batch)
        begun_s = self._clock()
        for level in self._session.levels:
            check_finite(self._session, level.index, self._session.run(inputs, level.index))
            self._cases.append((level.index, inputs))
        self._warmed_s = self._clock() - begun_s
        self.seconds += self._warmed_s
        self.batches.append(batch)

    def expected_s(self, batch: int) -> float:
        """Time that warming another batch should take."""
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
            turns.append([timed_ms(self._session, level, inputs, self._clock) for level, inputs in self._cases])
        return turns


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
