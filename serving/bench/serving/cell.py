"""Cells: every trace beside every co-runner, and the arrivals of each, the same for all configurations."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from nested_sparse.errors import BenchError
from nested_sparse.runtime.simulation import Trace, arrivals_of, gamma, poisson, ramp

from .open_loop import Arrival

MakeTrace = Callable[[float, float, int], Trace]
"""Mean rate (1/s), duration (s), seed."""

RAMP_FLOOR = 0.05
"""The rate that a ramp begins and ends at, as a share of its mean."""


def _gamma(cv2: float) -> MakeTrace:
    return lambda rate_per_s, duration_s, seed: gamma(rate_per_s, duration_s, cv2, seed)


def _up_and_down(rate_per_s: float, duration_s: float, seed: int) -> Trace:
    """Rises linearly to nearly twice the mean, and falls again."""
    low, high, half_s = RAMP_FLOOR * rate_per_s, (2.0 - RAMP_FLOOR) * rate_per_s, duration_s / 2.0
    up, down = ramp(low, high, half_s, seed), ramp(high, low, half_s, seed + 1)
    return Trace("ramp", np.concatenate((up.times_s, half_s + down.times_s)))


TRACES: Mapping[str, MakeTrace] = {
    "poisson": poisson,
    "gamma-2": _gamma(2.0),
    "gamma-4": _gamma(4.0),
    "gamma-8": _gamma(8.0),
    "ramp": _up_and_down,
}
BURSTY = ("gamma-4", "gamma-8")


@dataclass(frozen=True, slots=True)
class Cell:
    """A condition: a trace, and what arrives beside it."""

    trace: str
    co_runner: str

    def __str__(self) -> str:
        return self.trace if self.co_runner == "none" else f"{self.trace} with {self.co_runner}"


@dataclass(frozen=True, slots=True)
class Span:
    """When a segment's co-runner is there: [begin_s, end_s)."""

    begin_s: float
    end_s: float

    def phase(self, at_s: float) -> str:
        """Where `at_s` lies: before, beside or after it."""
        return "before" if at_s < self.begin_s else "beside" if at_s < self.end_s else "after"


@dataclass(frozen=True, slots=True)
class Load:
    """rate_per_s: mean, of requests; segment_s: how long one configuration's turn is; rounds: turns of each."""

    rate_per_s: float
    segment_s: float
    rounds: int

    @property
    def span(self) -> Span:
        """A co-runner comes at one third of every segment and goes at two thirds."""
        return Span(self.segment_s / 3.0, 2.0 * self.segment_s / 3.0)


def chosen_traces(names: Sequence[str], arrivals: Path | None) -> dict[str, MakeTrace]:
    """The named ones, all if none is named; with the file `arrivals` as one more, under its stem. Raises BenchError."""
    known = dict(TRACES)
    if arrivals is not None:
        known[arrivals.stem] = partial(_from_file, arrivals)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise BenchError(f"no trace {unknown[0]!r}; there are {', '.join(known)}, and a file by --arrivals")
    return {name: known[name] for name in names or known}


def segments(cell: Cell, make_trace: MakeTrace, load: Load, item_count: int, seed: int) -> list[list[Arrival]]:
    """The cell's arrivals: one trace over all rounds, cut into segments that each begin at 0.

    Drawn from `seed` and the cell's name alone, whatever other cells are measured.
    """
    rng = np.random.default_rng((seed, zlib.crc32(cell.trace.encode()), zlib.crc32(cell.co_runner.encode())))
    times = make_trace(load.rate_per_s, load.rounds * load.segment_s, int(rng.integers(2**31))).times_s
    items = rng.integers(item_count, size=len(times))
    turns: list[list[Arrival]] = [[] for _ in range(load.rounds)]
    for at_s, item in zip(times.tolist(), items.tolist(), strict=True):
        turn, rest_s = divmod(at_s, load.segment_s)
        turns[min(int(turn), load.rounds - 1)].append(Arrival(rest_s, item, load.span.phase(rest_s)))
    return turns


def rotated(names: Sequence[str], turn: int) -> list[str]:
    """`names` in the order of their turn: each comes first, second, … equally often."""
    first = turn % len(names) if names else 0
    return [*names[first:], *names[:first]]


def _from_file(path: Path, rate_per_s: float, duration_s: float, _: int) -> Trace:
    return arrivals_of(path, rate_per_s, duration_s)
