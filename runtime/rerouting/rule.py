"""Rule: when the level of a running inference falls. kernels/route.cc does the same, and is tested against this.

A run has N operators. Operator n starts after `elapsed_ms`; the run is at level a. T_b is the profiled time of a whole
run at level b, and R_b(m) the share of it that is left when operator m starts (`RouteTable.remaining_share`).

    s         slowdown: what was seen lately of this run (`fade`) mixed with the forecast, and never below the forecast
    r(x)      reserve for the x ms that are left when the level no longer changes: margin · √(T_a · x). The
              times that independent operators take beyond their forecast add up like variances.
    t         part of another process's turn on this core: (1 − 1/s) · min(4 ms, T_a · R_a(n)). Whether one more turn
              falls into the run is chance; it counts in proportion to the time that the others take.
    stay      the end of a run that stays at a:
              elapsed_ms + t + s · (x + r(x)) with x = T_a · R_a(n)
    fall      the end of a run that falls to b at operator m ≥ n:
              elapsed_ms + t + s · (T_a · (R_a(n) − R_a(m)) + x + r(x)) with x = T_b · R_b(m)

1. If staying ends within the budget, the run stays.
2. Else, of all allowed falls (m, b) that end within the budget, the run aims for the one of the highest rank
   (`RouteTable.order`), which is the most accurate one; of equals, for the latest one.
3. If none does, the run aims for the fall that ends first, if that is before staying would end.
4. The run falls now if the m that it aims for is n. Else it goes on, and decides anew at the next operator.

A fall is allowed where its rank is known and at least `least_accuracy`, and b is at least `lowest_level`. Where no
level states an accuracy, the ranks are no accuracies; no request can then ask for a least accuracy, which is thus -inf.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .table import RouteTable

MARGIN = 0.1
"""Reserve at the start of a run, as a share of the whole run; `margin` of the formula."""
_MEMORY_SHARE, _MEMORY_MS = 0.1, 0.5
_TURN_MS = 4.0
"""About the time for which a system lets another process run (of 4 ms at a timer of 250 Hz)."""


@dataclass(frozen=True, slots=True)
class RunTerms:
    """Forecast and limits of one run; L levels.

    level_ms: (L,) profiled time of a whole run at each level, undisturbed, in milliseconds.
    budget_ms: time that the run may take.
    slowdown: forecast factor on `level_ms`.
    least_accuracy: lowest expected accuracy that the run may fall to.
    lowest_level: lowest level that the run may fall to.
    margin: reserve, see MARGIN.
    """

    level_ms: Sequence[float]
    budget_ms: float
    slowdown: float
    least_accuracy: float = -math.inf
    lowest_level: int = 0
    margin: float = MARGIN


class Seen(NamedTuple):
    """Time that passed, and profiled time of the work that was done in it; both in milliseconds."""

    elapsed_ms: float = 0.0
    done_ms: float = 0.0


def fade(lately: Seen, last: Seen, now: Seen, level_ms: float) -> Seen:
    """`lately`, what was seen lately of a run, brought from `last` up to `now`.

    level_ms: profiled time of a whole run at the present level.
    It is a sum in which older time counts less: its memory is a tenth of a run at this level, and half a millisecond,
    because disturbances (other processes, interrupts) come in pieces of about that length. The mean of the whole run so
    far notices a neighbour too late that has just begun: of the runs of 20 to 35 ms that a neighbour made late, the
    mean rescued 0.65 to 0.7, and this sum 0.8 to 0.9.
    """
    progress_ms = now.done_ms - last.done_ms
    kept = _memory_ms(level_ms) / (_memory_ms(level_ms) + progress_ms)
    return Seen(lately.elapsed_ms * kept + (now.elapsed_ms - last.elapsed_ms), lately.done_ms * kept + progress_ms)


def decide(table: RouteTable, terms: RunTerms, level: int, n: int, elapsed_ms: float, lately: Seen) -> int:
    """The level from operator `n` on, `level` or a lower one, by the formula above.

    elapsed_ms: time since the run began, when operator `n` starts. lately: as `fade` gives it.
    """
    level_ms, left, order = terms.level_ms, table.remaining_share[level], table.order
    # the forecast weighs half as much as the memory of what was seen
    forecast_ms = _memory_ms(level_ms[level]) / 2
    seen = (lately.elapsed_ms + forecast_ms * terms.slowdown) / (lately.done_ms + forecast_ms)
    slowdown = max(terms.slowdown, seen)

    def with_reserve(after_ms: float) -> float:
        return after_ms + terms.margin * math.sqrt(level_ms[level] * after_ms)

    left_ms = level_ms[level] * float(left[n])
    begun_ms = elapsed_ms + max(0.0, 1.0 - 1.0 / slowdown) * min(_TURN_MS, left_ms)
    stays_ms = begun_ms + slowdown * with_reserve(left_ms)
    if stays_ms <= terms.budget_ms:
        return level
    in_time: list[tuple[float, int, int]] = []
    soonest = (stays_ms, len(table.layers), level)
    for m in range(n, len(table.layers)):
        before_ms = level_ms[level] * float(left[n] - left[m])
        for end in range(terms.lowest_level, level):
            rank = float(order[level, end, m])
            if not rank >= terms.least_accuracy:  # a fall that is not allowed has NaN, which compares false
                continue
            after_ms = level_ms[end] * float(table.remaining_share[end, m])
            ends_ms = begun_ms + slowdown * (before_ms + with_reserve(after_ms))
            if ends_ms <= terms.budget_ms:
                in_time.append((rank, m, end))
            soonest = min(soonest, (ends_ms, m, end), key=lambda fall: fall[0])
    _, place, end = max(in_time) if in_time else soonest
    return end if place == n else level


class RuledRun:
    """One run under the rule, operator by operator: what the operators keep in GuardedRun (kernels/route.h).

    level: index of the level now.
    lowered_at: number of the operator at which the level fell last; None before any fall.
    lowered_from: index of the level before that fall; None before any fall.
    """

    def __init__(self, table: RouteTable, terms: RunTerms, level: int) -> None:
        self.level = level
        self.lowered_at: int | None = None
        self.lowered_from: int | None = None
        self._table = table
        self.terms = terms
        self._lately = self._last = Seen()
        self._share_left, self._done_ms = 1.0, 0.0  # when the run came to the present level

    @property
    def nominal_ms(self) -> float:
        """Profiled time of the whole path, if the level does not fall again."""
        return self._done_ms + self.terms.level_ms[self.level] * self._share_left

    def arrive(self, n: int, elapsed_ms: float) -> int:
        """The level to run at from operator `n` on, which starts `elapsed_ms` after the run began.

        Operators come in rising order. One at which no fall is allowed may be left out.
        """
        table, terms = self._table, self.terms
        falls = table.order[self.level, terms.lowest_level : self.level, n]
        if not (falls >= terms.least_accuracy).any():
            return self.level
        level_ms = terms.level_ms[self.level]
        share = float(table.remaining_share[self.level, n])
        now = Seen(elapsed_ms, self._done_ms + level_ms * (self._share_left - share))
        self._lately, self._last = fade(self._lately, self._last, now, level_ms), now
        end = decide(table, terms, self.level, n, elapsed_ms, self._lately)
        if end < self.level:
            self._done_ms, self._share_left = now.done_ms, float(table.remaining_share[end, n])
            self.level, self.lowered_at, self.lowered_from = end, n, self.level
        return self.level


def _memory_ms(level_ms: float) -> float:
    return _MEMORY_SHARE * level_ms + _MEMORY_MS
