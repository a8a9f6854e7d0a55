"""LatencyProfile: what each level costs on this device when nothing else runs."""

from __future__ import annotations

import bisect
import json
import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from nested_sparse.errors import CheckpointError, InputError
from nested_sparse.runtime.tensors import Array, Arrays, fixed_batch, random_inputs

if TYPE_CHECKING:
    from nested_sparse.level import Level
    from nested_sparse.tensor_spec import TensorSpec

FORMAT_VERSION = 1


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
        self.batches = tuple(int(batch) for batch in batches)
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
                raise ValueError(f"version {fields['version']} is not {FORMAT_VERSION}")
            return cls(fields["batches"], fields["median_ms"], fields["p95_ms"])
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"latency profile: not one this version reads ({error!r}); measure it again") from error

    @classmethod
    def measure(
        cls,
        session: Profilable,
        batches: Sequence[int] = (1,),
        repeats: int = 15,
        *,
        limit_s: float = 20.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> LatencyProfile:
        """Runs every level `repeats` times per batch on random inputs, after a warm-up.

        The levels take turns, so that a disturbance hits all of them instead of reordering them. Stops early, after
        at least 3 turns, when `limit_s` have passed. A model of fixed batch is measured at that one. Raises
        CheckpointError if a level gives outputs that are not finite.
        """
        only = fixed_batch(session.inputs)
        measured = sorted(set(batches)) if only is None else [only]
        if not measured or measured[0] < 1 or repeats < 1:
            raise InputError(f"latency profile: batches and repeats start at 1, got {list(batches)} and {repeats}")
        cases = [
            (level.index, place, random_inputs(session.inputs, batch))
            for place, batch in enumerate(measured)
            for level in session.levels
        ]
        for level, _, inputs in cases:
            _check_finite(session, level, session.run(inputs, level))
        samples = _take_turns(session, cases, repeats, limit_s, clock)
        table = np.reshape(samples, (len(samples), len(measured), len(session.levels))).transpose(0, 2, 1)
        return cls(measured, np.median(table, axis=0).tolist(), np.percentile(table, 95, axis=0).tolist())

    def _table(self, rows: Sequence[Sequence[float]]) -> tuple[tuple[float, ...], ...]:
        if not self.batches or list(self.batches) != sorted(set(self.batches)) or self.batches[0] < 1:
            raise InputError(f"latency profile: batches must ascend from 1 on, got {list(self.batches)}")
        if not rows or any(len(row) != len(self.batches) for row in rows):
            raise InputError(
                f"latency profile: expected {len(self.batches)} times per level, got {[len(row) for row in rows]}"
            )
        table = np.asarray(rows, dtype=np.float64)
        if not (np.isfinite(table).all() and (table > 0).all()):
            raise InputError("latency profile: times must be finite and above 0 ms")
        risen = np.maximum.accumulate(np.maximum.accumulate(table, axis=0), axis=1)
        return tuple(tuple(float(ms) for ms in row) for row in risen)


def _take_turns(
    session: Profilable,
    cases: Sequence[tuple[int, int, Arrays]],
    repeats: int,
    limit_s: float,
    clock: Callable[[], float],
) -> list[list[float]]:
    """Milliseconds [turn][case]."""
    turns: list[list[float]] = []
    end_s = clock() + limit_s
    while len(turns) < repeats and (len(turns) < 3 or clock() < end_s):
        turn: list[float] = []
        for level, _, inputs in cases:
            started_s = clock()
            session.run(inputs, level)
            # a clock that did not tick still took some time
            turn.append(max((clock() - started_s) * 1e3, 1e-6))
        turns.append(turn)
    return turns


def _check_finite(session: Profilable, level: int, outputs: Arrays) -> None:
    for name, array in outputs.items():
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            count = math.prod(array.shape) - int(np.isfinite(array).sum())
            raise CheckpointError(
                f"{session.name}: level {level} gives {count} values that are not finite in output {name!r} "
                "on random input"
            )
