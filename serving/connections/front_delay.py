"""FrontDelay: how long requests wait before their handlers start, and which of them are refused because of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

LOW_SHARE, HIGH_SHARE = 0.15, 0.35
"""Of the shortest SLO: an average wait from which requests are refused, and a wait of a moment from which all are."""
AVERAGE_SHARE = 5.0
"""Of the shortest SLO: time over which waits are averaged; a burst is over before."""
PERIOD_SHARE = 0.5
"""Of the shortest SLO: time between two probes at least, and between two looks at the loop's own clock."""
LEAST_PERIOD_S, MOST_PERIOD_S = 0.002, 0.05
CALLS_PER_PROBE = 32
"""Of requests that do not wait: so a probe costs a few percent of what they do, and an idle server sends none."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A request that comes to its handler. wait_s: what it has waited. refused: it is not to be taken in."""

    wait_s: float
    refused: bool


class FrontDelay:
    """What waits in front of the handlers, unseen by them: in sockets, in gRPC's queue of calls, in the event loop.

    A probe is a call through the same door. Calls are taken in as they came, so one that is taken in while a probe is
    outstanding has waited at least since the probe was sent, and one after it about as long as the probe did.
    Where the loop stood still, no probe could be sent: what is taken in next may have waited since.

    From LOW_SHARE of the SLO on, a share of the requests is refused that grows with the average wait. Refusing costs a
    quarter of answering, so the wait stays where what is taken in can still be answered in time. Without it the front
    would become as long as clients are patient, and every answer late (docs/decisions/021, also for what was tried).

    Free of any transport and clock: its owner sends the probes and reads the clock. Seconds.
    """

    def __init__(self, slo_ms: float) -> None:
        self.period_s = min(max(PERIOD_SHARE * slo_ms / 1e3, LEAST_PERIOD_S), MOST_PERIOD_S)
        self._low_s, self._high_s = LOW_SHARE * slo_ms / 1e3, HIGH_SHARE * slo_ms / 1e3
        self._average_s = AVERAGE_SHARE * slo_ms / 1e3
        self._delay_s = 0.0  # of the last probe
        self._since_s: float | None = None  # what is taken in now has waited since then
        self._sent_s: float | None = None  # of the probe under way
        self._last_sent_s = -math.inf
        self._calls = 0
        self._standing_s, self._entered_s = 0.0, -math.inf  # the wait on average, and when it was last looked at
        self._owed = 0.0  # refusals

    @property
    def waits(self) -> bool:
        """Whether there is a wait worth looking at, even if no more requests come."""
        return self._since_s is not None or self._delay_s > self._low_s

    def wait_s(self, now_s: float) -> float:
        """How long a request that is taken in now has waited."""
        return max(self._delay_s, 0.0 if self._since_s is None else now_s - self._since_s)

    def enter(self, now_s: float) -> Entry:
        """A request comes to its handler."""
        self._calls += 1
        wait_s = self.wait_s(now_s)
        self._average(wait_s, now_s)
        if wait_s >= self._high_s:
            return Entry(wait_s, True)
        share = (self._standing_s - self._low_s) / (self._high_s - self._low_s)
        # spread evenly rather than drawn: the same waits always end alike, and no unlucky row is refused
        self._owed = self._owed + share if share > 0.0 else 0.0
        refused = self._owed >= 1.0
        self._owed -= refused
        return Entry(wait_s, refused)

    def _average(self, wait_s: float, now_s: float) -> None:
        """One hiccup counts for no more than its time, and while nothing came nothing waited."""
        gap_s = now_s - self._entered_s
        held_s = min(gap_s, self.period_s)
        self._entered_s = now_s
        self._standing_s *= math.exp((held_s - gap_s) / self._average_s)
        weight = 1.0 - math.exp(-held_s / self._average_s)
        self._standing_s += weight * (min(wait_s, self._high_s) - self._standing_s)

    def probe_due(self, now_s: float) -> bool:
        """Whether a probe should be sent."""
        if self._sent_s is not None or now_s - self._last_sent_s < self.period_s:
            return False
        return self._calls >= CALLS_PER_PROBE or self.waits

    def probe_sent(self, now_s: float) -> None:
        """A probe was sent; there is one at a time."""
        self._sent_s = self._last_sent_s = now_s
        if self._since_s is None:
            self._since_s = now_s
        self._calls = 0

    def probe_arrived(self, now_s: float) -> None:
        """Its handler has started: what came before it has been taken in."""
        if self._sent_s is not None:
            self._delay_s = now_s - self._sent_s
            self._sent_s = self._since_s = None

    def probe_ended(self) -> None:
        """The call is over. One that has not arrived is lost: nothing is known then."""
        if self._sent_s is not None:
            self.forget()

    def forget(self) -> None:
        """Nothing can be measured: requests are taken as they come."""
        self._sent_s = self._since_s = None
        self._delay_s = 0.0

    def stood_still(self, since_s: float, now_s: float) -> None:
        """The loop did nothing from `since_s` until now, apart from one thing that took all this time."""
        if now_s - since_s > self._low_s and (self._since_s is None or since_s < self._since_s):
            self._since_s = since_s
