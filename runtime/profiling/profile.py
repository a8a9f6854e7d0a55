"""LatencyProfile: the time of each level on this device when nothing else runs."""

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
    """The parts of a Session that a profile uses."""

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
    one, nor a larger batch faster than a smaller one: where noise makes it so, the smaller figure is raised.
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
        """Number of measured levels."""
        return len(self.median_ms)

    def predict_ms(self, level: int, batch: int = 1) -> float:
        """Median time of one run, ms, interpolated linearly over the batch.

        Below the smallest measured batch it is that batch's time. Beyond the largest it grows in proportion to the
        batch; that is rather too long than too short.
        """
        row = self.median_ms[level]
        if batch == self.batches[0]:  # most runs
            return row[0]
        if batch >= self.batches[-1]:
            return row[-1] * batch / self.batches[-1]
        right = bisect.bisect_right(self.batches, batch)
        if right == 0:
            return row[0]
        left_batch, right_batch = self.batches[right - 1], self.batches[right]
        share = (batch - left_batch) / (right_batch - left_batch)
        return row[right - 1] + share * (row[right] - row[right - 1])

    def quieter(self, other: LatencyProfile) -> LatencyProfile:
        """The shorter time of each case from two profiles of the same levels; a case of one profile alone is kept.

        Any disturbance makes a measured time longer, so the shorter one is nearer to the machine at rest. Raises
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
        """The profile as JSON text, which from_json() reads."""
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
        """Run every level `repeats` times per batch on random inputs, after a warm-up.

        max_batch: beside `batches`, those of doubling(max_batch) are measured, as far as 3 turns of them fit into
        `limit_s`. Levels and batches take turns, so that a disturbance affects all of them and does not change their
        order. The measurement stops early once `limit_s` have passed, after 3 turns or more, or `enough_s`, after 5 or
        more. A model of a fixed batch is measured at that batch. Raises CheckpointError: outputs that are not finite.
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
        return cls._of(turn, turn.repeat(repeats, start_s + enough_s, start_s + limit_s))

    @classmethod
    def measure_together(
        cls,
        sessions: Sequence[Profilable],
        batches: Sequence[int] = (1,),
        repeats: int = 15,
        *,
        limit_s: float = 20.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> list[LatencyProfile]:
        """The profiles of several models, as of `measure`. All levels of all of them take turns.

        limit_s: of each model, on average. Raises InputError, CheckpointError.
        """
        repeats, end_s = whole("repeats", repeats, 1), clock() + real("limit_s", limit_s) * len(sessions)
        turns = []
        for session in sessions:
            only = fixed_batch(session.inputs)
            turns.append(_Turn(session, clock))
            for batch in sorted(set(_whole_numbers(batches))) if only is None else [only]:
                turns[-1].warm(batch)
        samples: list[list[list[float]]] = []
        while len(samples) < repeats and (len(samples) < LEAST_TURNS or clock() < end_s):
            samples.append([turn.once() for turn in turns])
        return [cls._of(turn, [each[index] for each in samples]) for index, turn in enumerate(turns)]

    @classmethod
    def _of(cls, turn: _Turn, samples: Sequence[Sequence[float]]) -> LatencyProfile:
        """The profile of what `turn` took, each time: samples [turn][case]."""
        table = np.reshape(samples, (len(samples), len(turn.batches), -1)).transpose(0, 2, 1)
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
    """`batches`, from a caller or a file, checked. Raises InputError."""
    try:
        given = tuple(batches)
    except TypeError:
        raise InputError(f"batches: expected a list of whole numbers, got {shown(batches)}") from None
    return tuple(whole("batches", batch, 1) for batch in given)


def doubling(max_batch: int) -> tuple[int, ...]:
    """1, 2, 4, 8, … up to `max_batch`, which ends the list also where it is no power of two."""
    powers = [1 << power for power in range(max_batch.bit_length())]
    return tuple(sorted({*powers, max_batch}))


class _Turn:
    """One run of every level at every batch so far. seconds: the time of their warm-up."""

    def __init__(self, session: Profilable, clock: Callable[[], float]) -> None:
        self.batches: list[int] = []
        self.seconds = 0.0
        self._session = session
        self._clock = clock
        self._cases: list[tuple[int, Arrays]] = []
        self._warmed_s = 0.0  # by the last batch

    def warm(self, batch: int) -> None:
        """Add a batch, larger than all before, and run it once at every level."""
        inputs = random_inputs(self._session.inputs, batch)
        begun_s = self._clock()
        for level in self._session.levels:
            check_finite(self._session, level.index, self._session.run(inputs, level.index))
            self._cases.append((level.index, inputs))
        self._warmed_s = self._clock() - begun_s
        self.seconds += self._warmed_s
        self.batches.append(batch)

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
        return [timed_ms(self._session, level, inputs, self._clock) for level, inputs in self._cases]


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
