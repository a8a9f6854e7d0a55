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
STOPS_S = 1.0
"""Time over which the share of the time is averaged in which this process was stopped; many periods of a quota."""
MOST_RUNNING_SHARE = 0.8
"""Reckoned with after a stop: what has gathered in one that does not come again is not waited for for ever."""
LEFT_SHARE, LEAST_HIGH_SHARE = 0.5, 0.1
"""Of the SLO less a standstill: the most that a queue may take beside it. Of the SLO: what it may take in any case."""
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

    Time in which a CPU quota stopped this process is waited like any other, but it is no overload. Nor is the queue
    that gathers meanwhile and is gone before the next stop. A call is refused for what its wait is longer than both, or
    where all of its wait is as long as the SLO.

    Free of any transport and clock: its owner sends the probes and reads the clock. Seconds.
    """

    def __init__(self, slo_ms: float) -> None:
        self.promise(slo_ms)
        self._delay_s = 0.0  # of the last probe, less the stops
        self._since_s: float | None = None  # what is taken in now has waited since then
        self._sent_s: float | None = None  # of the probe under way
        self._last_sent_s = -math.inf
        self._stopped_s = 0.0  # in all
        self._since_stopped_s = self._sent_stopped_s = 0.0  # of that, before _since_s and _sent_s
        self._delay_gathered_s = self._since_gathered_s = self._sent_gathered_s = 0.0  # of these, owed to a stop
        self._standstill_s, self._resumed_s = 0.0, -math.inf  # length and end of the last stop
        self._lost_s = 0.0  # by stops of late, as of _resumed_s
        self._calls = 0
        self._standing_s, self._entered_s = 0.0, -math.inf  # the wait on average, and when it was last looked at
        self._owed = 0.0  # refusals

    def promise(self, slo_ms: float) -> None:
        """Measure waits by `slo_ms` from now on, the shortest that a model promises."""
        self.average_s = AVERAGE_SHARE * slo_ms / 1e3
        self.period_s = min(max(PERIOD_SHARE * slo_ms / 1e3, LEAST_PERIOD_S), MOST_PERIOD_S)
        self._slo_s = slo_ms / 1e3
        self._low_s, self._high_s = LOW_SHARE * self._slo_s, HIGH_SHARE * self._slo_s

    @property
    def waits(self) -> bool:
        """Whether the wait must be watched even if no more requests come."""
        return self._since_s is not None or self._delay_s > self._low_s

    def wait_s(self, now_s: float) -> float:
        """The time that a request which is taken in now has waited."""
        return max(self._delay_s, 0.0 if self._since_s is None else now_s - self._since_s)

    def queued_s(self, now_s: float) -> float:
        """The part of that wait which no stop explains."""
        queued_s = self._delay_s - self._delay_gathered_s
        if self._since_s is not None:
            stopped_s = self._stopped_s - self._since_stopped_s
            queued_s = max(queued_s, now_s - self._since_s - stopped_s - self._since_gathered_s)
        return max(queued_s, 0.0)

    def enter(self, now_s: float, spared: bool = False) -> Entry:
        """Note a request that reaches its handler, and decide whether it is refused. spared: it is not."""
        self._calls += 1
        wait_s, queued_s, high_s = self.wait_s(now_s), self.queued_s(now_s), self._most_s(now_s)
        self._average(min(queued_s, high_s), now_s)
        if spared:
            return Entry(wait_s, False)
        if wait_s >= self._slo_s or queued_s >= high_s:
            return Entry(wait_s, True)
        low_s = high_s * LOW_SHARE / HIGH_SHARE
        share = (self._standing_s - low_s) / (high_s - low_s)
        # refusals are spread evenly, not drawn: equal waits end alike, and no row of requests is refused by chance
        self._owed = self._owed + share if share > 0.0 else 0.0
        refused = self._owed >= 1.0
        self._owed -= refused
        return Entry(wait_s, refused)

    def _most_s(self, now_s: float) -> float:
        """The longest queue. With a standstill before it, it must leave time for an answer."""
        if now_s - self._resumed_s > STOPS_S:
            return self._high_s
        return min(self._high_s, max(LEFT_SHARE * (self._slo_s - self._standstill_s), LEAST_HIGH_SHARE * self._slo_s))

    def _gathered_s(self, now_s: float) -> float:
        """The rest of a queue that gathers in a standstill where calls come as fast as they can be answered."""
        running_share = min(max(1.0 - self._lost_s / STOPS_S, 0.0), MOST_RUNNING_SHARE)
        worked_off_s = (1.0 - running_share) * (now_s - self._resumed_s)
        return max(running_share * self._standstill_s - worked_off_s, 0.0)

    def _average(self, queued_s: float, now_s: float) -> None:
        """One hiccup counts for no more than its time, and while nothing came nothing waited."""
        gap_s = now_s - self._entered_s
        held_s = min(gap_s, self.period_s)
        self._entered_s = now_s
        self._standing_s *= math.exp((held_s - gap_s) / self.average_s)
        weight = 1.0 - math.exp(-held_s / self.average_s)
        self._standing_s += weight * (queued_s - self._standing_s)

    def probe_due(self, now_s: float) -> bool:
        """Whether a probe should be sent."""
        if self._sent_s is not None or now_s - self._last_sent_s < self.period_s:
            return False
        return self._calls >= CALLS_PER_PROBE or self.waits

    def probe_sent(self, now_s: float) -> None:
        """Note that a probe was sent; there is one at a time."""
        self._sent_s = self._last_sent_s = now_s
        self._sent_stopped_s, self._sent_gathered_s = self._stopped_s, self._gathered_s(now_s)
        if self._since_s is None:
            self._since_s, self._since_stopped_s, self._since_gathered_s = now_s, self._stopped_s, self._sent_gathered_s
        self._calls = 0

    def probe_arrived(self, now_s: float) -> None:
        """Note that the probe's handler has started: calls that came before it have been taken in."""
        if self._sent_s is not None:
            stopped_s = self._stopped_s - self._sent_stopped_s
            self._delay_s = max(now_s - self._sent_s - stopped_s, 0.0)
            self._delay_gathered_s = self._sent_gathered_s
            if stopped_s > 0.0:  # behind the probe are calls that came meanwhile; the next one tells their end
                running_s = self._resumed_s - self._sent_s - stopped_s
                self._since_s, self._since_stopped_s = self._sent_s, self._sent_stopped_s
                self._since_gathered_s = max(running_s, 0.0) + self._gathered_s(self._resumed_s)
            else:
                self._since_s = None
            self._sent_s = None

    def probe_ended(self) -> None:
        """Note that the probe's call is over. If it did not arrive, it is lost, and the wait is not known."""
        if self._sent_s is not None:
            self.forget()

    def forget(self) -> None:
        """Forget the wait, as it cannot be measured; requests are then taken in as they come."""
        self._sent_s = self._since_s = None
        self._delay_s = 0.0

    def stood_still(self, since_s: float, now_s: float, stopped_s: float = 0.0) -> None:
        """Note that the loop handled no event from `since_s` until now, because of one callback, or of a quota.

        stopped_s: part of that time in which a quota stopped this process.
        """
        before_s = self._stopped_s
        if stopped_s > 0.0:
            self._lost_s = self._lost_s * math.exp((self._resumed_s - now_s) / STOPS_S) + stopped_s
            self._stopped_s, self._standstill_s, self._resumed_s = before_s + stopped_s, stopped_s, now_s
        if now_s - since_s > self._low_s and (self._since_s is None or since_s < self._since_s):
            if self._since_s is None:
                self._since_stopped_s = before_s
                self._since_gathered_s = self._gathered_s(now_s) if stopped_s > 0.0 else 0.0
            self._since_s = since_s
