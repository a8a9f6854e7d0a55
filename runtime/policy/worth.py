"""Worth: the level whose run brings the most accuracy in time, that of the requests behind it included."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .arrivals import Arrivals
from .decision import Waiting
from .forecast import BEHIND, Forecast

STEP = 0.05
"""Gain of a level over the one below, as a share of the lowest one's accuracy, where the model states no accuracy."""
RISE = 1.05
"""Factor on the run of a level above the present one. Without it, scatter of a few per cent turns the choice again and
again where a level takes nearly all the time that a request has."""


class Worth:
    """Weighs the accuracy that a denser level adds against the answers that it makes late.

    The worth of a level is the accuracy that is expected of this request and of those behind it: accuracy × chance to
    be in time, summed. Those behind run at their lowest levels. So do the requests that come in while the run goes on.
    With nothing else on the device, whatever fits is in time for certain, and the densest level is worth most.

    accuracy: of each level; None where they are not known.
    """

    def __init__(self, accuracy: Sequence[float] | None, forecast: Forecast, arrivals: Arrivals) -> None:
        count = forecast.profile.level_count
        self._scores = [1.0 + STEP * level for level in range(count)] if accuracy is None else list(accuracy)
        self._forecast = forecast
        self._arrivals = arrivals

    def best(
        self,
        levels: Sequence[int],
        request: Waiting,
        queue: Sequence[Waiting],
        now_s: float,
        present: int | None = None,
        share: float = 1.0,
        price: float = 0.0,
    ) -> int:
        """The level of most worth among `levels`, densest first; the last one is the lowest that `request` allows.

        queue: the requests behind, in the order of service. present: the level of the latest runs; None: any.
        share: of the time in which runs take place. The deadlines of `request` and `queue` leave out the rest.
        price: number of requests that the time of one costs later on (Overload).
        """
        self._forecast.chances.forget(now_s)
        mean = self._forecast.slowdown.mean(now_s)
        floor_ms = mean * self._forecast.profiled_ms(levels[-1], request.batch, request.sizes)
        longest_ms = mean * self._forecast.profiled_ms(levels[0], request.batch, request.sizes)
        slack_ms = request.slack_ms(now_s)
        lowest = self._scores[levels[-1]]
        behind = [
            (mean * self._floor_ms(each), each.slack_ms(now_s), self._floor_score(each, lowest))
            for each in queue[:BEHIND]
        ]
        coming = min(longest_ms / (share * self._arrivals.interval_ms), BEHIND) if self._arrivals.known else 0.0
        chance = self._forecast.chances.in_time
        best, most = levels[0], -math.inf
        for level in levels:
            run_ms = mean * self._forecast.profiled_ms(level, request.batch, request.sizes)
            if present is not None and level > present:
                run_ms *= RISE
            own = chance(run_ms, slack_ms)
            worth, certain, end_ms = self._scores[level] * own, own == 1.0, run_ms
            for each_ms, each_slack_ms, score in behind:
                end_ms += each_ms / self._forecast.workers
                theirs = chance(end_ms, each_slack_ms)
                worth += score * theirs
                certain = certain and theirs == 1.0
            if coming > 0.0:
                # of the time in which the longest run goes on, a shorter one takes a share; they wait half of it
                wait_ms = run_ms * run_ms / (2.0 * longest_ms)
                theirs = chance(wait_ms + floor_ms, share * self._arrivals.horizon_ms)
                worth += lowest * coming * theirs
                certain = certain and theirs == 1.0
            if price > 0.0:
                worth -= lowest * price * max(0.0, run_ms / floor_ms - 1.0)
            if worth > most:
                best, most = level, worth
            if certain and price == 0.0:  # a sparser one has no better chances
                break
        return best

    def _floor_ms(self, each: Waiting) -> float:
        if each.foreign_ms is not None:
            return each.foreign_ms
        return self._forecast.profiled_ms(each.lowest_level, each.batch, each.sizes)

    def _floor_score(self, each: Waiting, foreign: float) -> float:
        """The score of a request at its lowest level; `foreign` for that of another model."""
        return foreign if each.foreign_ms is not None else self._scores[each.lowest_level]
