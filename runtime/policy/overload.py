"""Overload: the number of requests that a run's time costs later on, while the device is busy without a pause."""

from __future__ import annotations

from .arrivals import Arrivals
from .forecast import Forecast

WEIGHT = 0.03
"""Weight of one more run in a share: about thirty runs count. 0.01 gains less, 0.05 and 0.1 no more (decision 073)."""
PARTS = 6
"""Parts of the time that a request has, by which queues are told apart. One share for all queues gains less (decision
073)."""


class Overload:
    """Learns how often a request was refused, after a run, before the device was idle again.

    While the device is busy without a pause, all that comes in is served later by the time that a run takes. If a
    request is refused before the device is idle, a run that had been shorter by the time of one request would have let
    one more in. If none is refused, the time was free. So the share of the runs that a refusal followed is the price of
    time, in requests per time of one request. A queue tells how many are waiting, but not how many more a burst brings;
    the price is therefore learned for queues of different lengths, from the runs at whatever level.

    Only what this model's policy refuses counts: no refusal of another model, and no request that was run and came
    late. Not thread-safe: the scheduler locks.
    """

    def __init__(self, forecast: Forecast, arrivals: Arrivals) -> None:
        self._forecast = forecast
        self._arrivals = arrivals
        self._shares = [0.0] * (PARTS + 1)
        self._open = [0] * (PARTS + 1)  # runs since the device was idle or a request refused

    def fill(self, waiting: int, slowdown: float, share: float) -> float:
        """Time that `waiting` usual requests take at level 0, as a share of the time that a request has.

        slowdown: factor now. share: of the time in which runs take place.
        """
        horizon_ms = share * self._arrivals.horizon_ms
        if not waiting or horizon_ms <= 0.0:
            return 0.0
        samples = max(1, round(self._arrivals.batch))
        run_ms = slowdown * self._forecast.profiled_ms(0, samples, self._arrivals.sizes)
        return waiting * run_ms / (self._forecast.workers * horizon_ms)

    def price(self, fill: float) -> float:
        """Share of the runs, with a queue of `fill` behind them, that a refusal followed: 0 to 1."""
        return self._shares[_part(fill)]

    def ran(self, fill: float) -> None:
        """Take note of a run with a queue of `fill` behind it."""
        self._open[_part(fill)] += 1

    def refused(self) -> None:
        """Take note of a request that was refused, and that an idle device would have served."""
        self._close(1.0)

    def idle(self) -> None:
        """Take note that a request has found the device idle."""
        self._close(0.0)

    def _close(self, outcome: float) -> None:
        for part, runs in enumerate(self._open):
            if runs:
                self._shares[part] += (1.0 - (1.0 - WEIGHT) ** runs) * (outcome - self._shares[part])
                self._open[part] = 0


def _part(fill: float) -> int:
    """0 for an empty queue, then one for each part of the time, the last one for all longer queues."""
    return 0 if fill <= 0.0 else 1 + int(min(fill * PARTS, PARTS - 1))
