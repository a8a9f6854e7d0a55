"""LatencyProfile: the time of each level on this device when nothing else runs."""

from __future__ import annotations

import bisect
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict

import numpy as np

from nested_sparse.argument import real, shown, whole
from nested_sparse.errors import InputError
from nested_sparse.excerpt import excerpt
from nested_sparse.tensor_spec import most_batch

from ..session import fixed_batch
from .size_growth import SizeGrowth
from .turn import LEAST_TURNS, Profilable, Turn

FORMAT_VERSION = 1


class LatencyProfile:
    """Milliseconds of one run, per level and batch.

    batches: ascending.  median_ms, p95_ms: [level][batch], at the example's sizes. growth: how the time grows with
    each free size, in the order of free_sizes(); () where none is free. A denser level is never predicted faster than a
    sparser one, nor a larger batch faster than a smaller one: where noise makes it so, the smaller figure is raised.
    """

    def __init__(
        self,
        batches: Sequence[int],
        median_ms: Sequence[Sequence[float]],
        p95_ms: Sequence[Sequence[float]] | None = None,
        growth: Sequence[SizeGrowth] = (),
    ) -> None:
        self.batches = _whole_numbers(batches)
        self.median_ms = self._table(median_ms)
        self.p95_ms = self._table(median_ms if p95_ms is None else p95_ms)
        self.growth = tuple(growth)
        if any(len(each.ms) != len(self.median_ms) for each in self.growth):
            raise InputError(f"latency profile: expected {len(self.median_ms)} levels for each free size")

    @property
    def level_count(self) -> int:
        """Number of measured levels."""
        return len(self.median_ms)

    def predict_ms(self, level: int, batch: int = 1, sizes: Sequence[float] = ()) -> float:
        """Median time of one run, ms, interpolated linearly over the batch and over each free size.

        Below the smallest measured batch it is that batch's time. Beyond the largest it grows in proportion to the
        batch; that is rather too long than too short. sizes: the free sizes, in the order of `growth`; (): those of the
        example. Several of them multiply: true for the sides of an image, and too long for sizes that add up. A sample
        that takes several times as long as the example's gains from a batch as so many of these would.
        """
        if sizes and self.growth:
            factor = math.prod([each.factor(level, size) for each, size in zip(self.growth, sizes, strict=True)])
            weight, least = max(1.0, factor), self.batches[0]
            return (
                self._batch_ms(level, least)
                * factor
                * self._batch_ms(level, batch * weight)
                / self._batch_ms(level, least * weight)
            )
        return self._batch_ms(level, batch)

    def _batch_ms(self, level: int, batch: float) -> float:
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
        known = {each.name: each for each in other.growth}
        growth = [each.quieter(known[each.name]) if each.name in known else each for each in self.growth]
        return LatencyProfile(batches, median_ms, p95_ms, growth)

    def to_json(self) -> str:
        """The profile as JSON text, which from_json() reads."""
        fields = {
            "version": FORMAT_VERSION,
            "batches": self.batches,
            "median_ms": self.median_ms,
            "p95_ms": self.p95_ms,
        }
        return json.dumps(fields | ({"growth": [asdict(each) for each in self.growth]} if self.growth else {}))

    @classmethod
    def from_json(cls, text: str) -> LatencyProfile:
        """The profile that to_json() wrote. Raises InputError."""
        try:
            fields = json.loads(text)
            if fields["version"] != FORMAT_VERSION:
                raise ValueError(f"version {excerpt(repr(fields['version']))} is not {FORMAT_VERSION}")
            growth = [SizeGrowth.from_fields(each) for each in fields.get("growth", ())]
            return cls(fields["batches"], fields["median_ms"], fields["p95_ms"], growth)
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
        `limit_s`; of each free size, the sizes of measured_sizes(), as far as they fit into half of it. Levels, batches
        and sizes take turns, so that a disturbance affects all of them and does not change their order. The measurement
        stops early once `limit_s` have passed, after 3 turns or more, or `enough_s`, after 5 or
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
        turn = Turn(session, clock)
        for batch in asked:
            turn.warm(batch)
        turn.warm_sizes(asked[0], start_s + limit_s / 2)
        largest = most_batch(session.inputs)
        for batch in doubling(max_batch if largest is None else min(max_batch, largest)) if only is None else ():
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
        """The profiles of several models, as of `measure`. All levels and sizes of all of them take turns.

        limit_s: of each model, on average. Raises InputError, CheckpointError.
        """
        repeats, end_s = whole("repeats", repeats, 1), clock() + real("limit_s", limit_s) * len(sessions)
        turns = []
        for session in sessions:
            only = fixed_batch(session.inputs)
            turns.append(Turn(session, clock))
            for batch in sorted(set(_whole_numbers(batches))) if only is None else [only]:
                turns[-1].warm(batch)
            turns[-1].warm_sizes(turns[-1].batches[0], clock() + limit_s / 2)
        samples: list[list[list[float]]] = []
        while len(samples) < repeats and (len(samples) < LEAST_TURNS or clock() < end_s):
            samples.append([turn.once() for turn in turns])
        return [cls._of(turn, [each[index] for each in samples]) for index, turn in enumerate(turns)]

    @classmethod
    def _of(cls, turn: Turn, samples: Sequence[Sequence[float]]) -> LatencyProfile:
        """The profile of what `turn` took, each time: samples [turn][case]."""
        table = np.reshape(samples, (len(samples), len(turn.cases), -1)).transpose(0, 2, 1)
        of_batches = [place for place, case in enumerate(turn.cases) if not case.size]
        median_ms = np.median(table, axis=0)
        growth = []
        for free in turn.free:
            # the first case is the example
            measured = [(turn.examples[free.name], 0)]
            measured += [(case.size, place) for place, case in enumerate(turn.cases) if case.name == free.name]
            sizes, places = zip(*sorted(measured), strict=True)
            growth.append(
                SizeGrowth.of(free.name, turn.examples[free.name], sizes, median_ms[:, list(places)].tolist())
            )
        p95_ms = np.percentile(table, 95, axis=0)
        return cls(turn.batches, median_ms[:, of_batches].tolist(), p95_ms[:, of_batches].tolist(), growth)

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
