"""FrontDelay: the time that requests wait before their handlers start, and the choice of those that are refused."""

from __future__ import annotations

import math
from dataclasses import dataclass

LOW_SHARE, HIGH_SHARE = 0.15, 0.35
"""Shares of the shortest SLO: the average wait from which some requests are refused; the wait from which all are."""
AVERAGE_SHARE = 5.0
"""Multiple of the shortest SLO: time over which waits are averaged, longer than a burst."""
PERIOD_SHARE = 0.5
"""Share of the shortest SLO: the least time between two probes, and between two looks at the delay of the loop."""
LEAST_PERIOD_S, MOST_PERIOD_S = 0.002, 0.05
CALLS_PER_PROBE = 32
"""Requests per probe while none wait: so a probe costs a few percent of them, and an idle server sends none."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A request that reaches its handler. wait_s: the time that it has waited. refused: whether it is refused."""

    wait_s: float
    refused: bool


class FrontDelay:
    """Measures the wait in front of the handlers: in sockets, in gRPC's queue of calls, in the event loop.

    A probe is a call through the same door. Calls are taken in as they came, so one that is taken in while a probe is
    outstanding has waited at least since the probe was sent, and one after it about as long as the probe did.
    Where the loop stood still, no probe could be sent: what is taken in next may have waited since.

    From LOW_SHARE of the SLO on, a share of the requests is refused that grows with the average wait. Refusing costs a
    quarter of answering, so the wait stays where what is taken in can still be answered in time. Without it the front
    would become as long as clients are patient, and every answer late (docs/decisions/021, also for what was tried).

    Free of any transport and clock: its owner sends the probes and reads the clock. Seconds.
    """

    def __init__(self, slo_ms: float) -> None:
        self.promise(slo_ms)
        self._delay_s = 0.0  # of the last probe
        self._since_s: float | None = None  # what is taken in now has waited since then
        self._sent_s: float | None = None  # of the probe under way
        self._last_sent_s = -math.inf
        self._calls = 0
        self._standing_s, self._entered_s = 0.0, -math.inf  # the wait on average, and when it was last looked at
        self._owed = 0.0  # refusals

    def promise(self, slo_ms: float) -> None:
        """Measure waits by `slo_ms` from now on, the shortest that a model promises."""
        self.average_s = AVERAGE_SHARE * slo_ms / 1e3
        self.period_s = min(max(PERIOD_SHARE * slo_ms / 1e3, LEAST_PERIOD_S), MOST_PERIOD_S)
        self._low_s, self._high_s = LOW_SHARE * slo_ms / 1e3, HIGH_SHARE * slo_ms / 1e3

    @property
    def waits(self) -> bool:
        """Whether the wait must be watched even if no more requests come."""
        return self._since_s is not None or self._delay_s > self._low_s

    def wait_s(self, now_s: float) -> float:
        """The time that a request which is taken in now has waited."""
        return max(self._delay_s, 0.0 if self._since_s is None else now_s - self._since_s)

    def enter(self, now_s: float, spared: bool = False) -> Entry:
        """Note a request that reaches its handler, and decide whether it is refused. spared: it is not."""
        self._calls += 1
        wait_s = self.wait_s(now_s)
        self._average(wait_s, now_s)
        if spared:
            return Entry(wait_s, False)
        if wait_s >= self._high_s:
            return Entry(wait_s, True)
        share = (self._standing_s - self._low_s) / (self._high_s - self._low_s)
        # refusals are spread evenly, not drawn: equal waits end alike, and no row of requests is refused by chance
        self._owed = self._owed + share if share > 0.0 else 0.0
        refused = self._owed >= 1.0
        self._owed -= refused
        return Entry(wait_s, refused)

    def _average(self, wait_s: float, now_s: float) -> None:
        """One hiccup counts for no more than its time, and while nothing came nothing waited."""
        gap_s = now_s - self._entered_s
        held_s = min(gap_s, self.period_s)
        self._entered_s = now_s
        self._standing_s *= math.exp((held_s - gap_s) / self.average_s)
        weight = 1.0 - math.exp(-held_s / self.average_s)
        self._standing_s += weight * (min(wait_s, self._high_s) - self._standing_s)

    def probe_due(self, now_s: float) -> bool:
        """Whether a probe should be sent."""
        if self._sent_s is not None or now_s - self._last_sent_s < self.period_s:
            return False
        return self._calls >= CALLS_PER_PROBE or self.waits

    def probe_sent(self, now_s: float) -> None:
        """Note that a probe was sent; there is one at a time."""
        self._sent_s = self._last_sent_s = now_s
        if self._since_s is None:
            self._since_s = now_s
        self._calls = 0

    def probe_arrived(self, now_s: float) -> None:
        """Note that the probe's handler has started: calls that came before it have been taken in."""
        if self._sent_s is not None:
            self._delay_s = now_s - self._sent_s
            self._sent_s = self._since_s = None

    def probe_ended(self) -> None:
        """Note that the probe's call is over. If it did not arrive, it is lost, and the wait is not known."""
        if self._sent_s is not None:
            self.forget()

    def forget(self) -> None:
        """Forget the wait, as it cannot be measured; requests are then taken in as they come."""
        self._sent_s = self._since_s = None
        self._delay_s = 0.0

    def stood_still(self, since_s: float, now_s: float) -> None:
        """Note that the loop handled no event from `since_s` until now, because one callback took all this time."""
        if now_s - since_s > self._low_s and (self._since_s is None or since_s < self._since_s):
            self._since_s = since_s
