"""Forecast: the time that a run will take, and whether a request can still meet its deadline."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ..profiling import LatencyProfile
from .chances import Chances
from .decision import Decision, Waiting
from .residuals import Residuals
from .slowdown import MINIMUM, Slowdown

HOPEFUL = 0.8
"""Share of the mean slowdown that admission reckons with. Shedding by the prediction itself, with its deviations, cost
up to 4 points of accuracy beside a co-runner that comes and goes, and 0.4 in bursts without one
(docs/decisions/017)."""
BEHIND = 3
"""Number of requests behind the one that is next whose chances count."""
FREQUENT_PROBES = 4
"""Of the probes in a row, the first comes at once, the next ones after an eighth, a quarter and half of the usual time.
Where runs scatter, two long ones in a row look like a device that has become slower (docs/decisions/060)."""
REFRESH_S = 1.0
GAP_WEIGHT = 0.05
MOST_GAP_MS = 20.0
"""Longer gaps have causes outside of this process; the slowdown accounts for those."""


class Forecast:
    """Predicts runs, and admits or sheds requests by that: time = profile × residual of the level × slowdown + gap.

    The gap between two runs is not multiplied by the slowdown: it was measured on the device as it is now. Multiplied,
    a gap of half a millisecond beside a busy process became longer than an SLO, and every request was shed.

    The prediction has an allowance for scatter. A run that it calls late may be in time: the share of the latest runs
    that would have been is its chance. It runs if its chance is better than what it takes from those behind it.

    The slowdown is learned from served requests only. A wrong one could therefore shed every request for ever. To end
    that, one request is run as a probe in spite of its prediction every `probe_every_s` (or ten times the run, if that
    is longer), if the profile alone does not rule it out. Where by the prediction no request can be served, nothing is
    lost by a probe, and the first ones come sooner. While probes are fast enough, one follows another.

    workers: number of requests that run side by side. Not thread-safe: the scheduler locks.
    """

    def __init__(
        self,
        profile: LatencyProfile,
        slowdown: Slowdown | None = None,
        *,
        workers: int = 1,
        probe_every_s: float = 0.5,
    ) -> None:
        self.profile = profile
        self.slowdown = Slowdown() if slowdown is None else slowdown
        self.workers = workers
        self.probe_every_s = probe_every_s
        self._residuals = Residuals(profile.level_count)
        self._factors = [1.0] * profile.level_count
        self._refreshed_s = 0.0
        self._gap_ms = 0.0
        self._profiled_gap_ms = 0.0  # times the slowdown, this is the gap
        self._learned_s: float | None = None
        self._probing = False
        self._probed_ratio = math.inf
        self._probes = 0  # in a row
        self.chances = Chances()

    def observe(self, level: int, batch: int, service_ms: float, now_s: float) -> None:
        """Learn from a run that has ended, at the example's sizes."""
        profiled_ms = self.profile.predict_ms(level, batch)
        self.chances.note_run(service_ms / self.expected_ms(level, batch, now_s), now_s)
        self._residuals.observe(level, service_ms / (profiled_ms * self.slowdown.mean(now_s)), now_s)
        self.slowdown.observe(service_ms, profiled_ms * self._residuals.factor(level, now_s), now_s)
        self.chances.explain_runs(self.slowdown.renewed)
        self._refresh(now_s)
        self._learned_s = now_s
        if self._probing:
            self._probed_ratio = service_ms / profiled_ms

    def expected_ms(self, level: int, batch: int, now_s: float) -> float:
        """Time of one run at the example's sizes, without an allowance for scatter and without the gap before it."""
        return self.profile.predict_ms(level, batch) * self._factors[level] * self.slowdown.mean(now_s)

    def observe_gap(self, gap_ms: float) -> None:
        """Learn the time between two runs where the second was waiting already: the cost of serving beside the runs."""
        self._gap_ms += GAP_WEIGHT * (min(max(gap_ms, 0.0), MOST_GAP_MS) - self._gap_ms)
        self._profiled_gap_ms = self._gap_ms / self.slowdown.factor(self._refreshed_s)

    def profiled_ms(self, level: int, batch: int, sizes: Sequence[float] = ()) -> float:
        """Time of one run on a device that has nothing else to do, corrected by the latest runs."""
        return self.profile.predict_ms(level, batch, sizes) * self._factors[level] + self._profiled_gap_ms

    def _refresh(self, now_s: float) -> None:
        """Compute the factor of each level: once per run, and not for every prediction of every plan."""
        self._factors = [self._residuals.factor(level, now_s) for level in range(self.profile.level_count)]
        self._profiled_gap_ms = self._gap_ms / self.slowdown.factor(now_s)
        self._refreshed_s = now_s

    def run_ms(self, level: int, batch: int, now_s: float, sizes: Sequence[float] = ()) -> float:
        """Predicted time of one run."""
        return self.profiled_ms(level, batch, sizes) * self.slowdown.factor(now_s)

    def backlog_ms(self, queue: Sequence[Waiting], floor: Callable[[Waiting], int], now_s: float) -> float:
        """Predicted time to serve `queue` with every request at its `floor` level."""
        factor = self.slowdown.factor(now_s)
        return factor * sum(self._floor_ms(each, floor) for each in queue) / self.workers

    def _floor_ms(self, each: Waiting, floor: Callable[[Waiting], int]) -> float:
        """Profiled time of a request at its floor level; of another model's request, the time that it is known by."""
        return self.profiled_ms(floor(each), each.batch, each.sizes) if each.foreign_ms is None else each.foreign_ms

    def spare_ms(self, queue: Sequence[Waiting], floor: Callable[[Waiting], int], now_s: float) -> float:
        """Time that a worker may still be busy if `queue`, in order of service, is to meet its deadlines at the floors.

        It is infinite for an empty queue, and negative where a deadline cannot be met any more. A request that could
        not meet its deadline even if it were next will be shed, so it does not count.
        """
        factor = self.slowdown.factor(now_s)
        ahead_ms = 0.0
        spare_ms = math.inf
        for each in queue:
            slack_ms = each.slack_ms(now_s)
            cost_ms = factor * self._floor_ms(each, floor)
            if cost_ms <= slack_ms:
                spare_ms = min(spare_ms, slack_ms - cost_ms - ahead_ms)
                ahead_ms += cost_ms / self.workers
        return spare_ms

    def admit(
        self, request: Waiting, queue: Sequence[Waiting], floor: Callable[[Waiting], int], busy_ms: float, now_s: float
    ) -> Decision:
        """Admit a request that has just come in, at its floor level, or shed it.

        busy_ms: time until a worker is free. Requests that are due earlier are served first. The request is shed only
        if it cannot meet its deadline at HOPEFUL of the present slowdown, nor would have with the shortest of the
        latest runs: with a chance left, its turn will decide.
        """
        if now_s - self._refreshed_s > REFRESH_S:  # without runs, what was learned is forgotten step by step
            self._refresh(now_s)
        level = floor(request)
        rank, deadline_s = request.rank, request.deadline_s
        before = [  # as Waiting.due orders them, at a fifth of the time
            each
            for each in queue
            if each.first or (each.deadline_s <= deadline_s if each.rank == rank else each.rank < rank)
        ]
        wait_ms = busy_ms + self.backlog_ms(before, floor, now_s)
        cost_ms = self.run_ms(level, request.batch, now_s, request.sizes)
        slack_ms = request.slack_ms(now_s)
        if (wait_ms + cost_ms) * self._hope(now_s) <= slack_ms:
            return Decision(level, cost_ms, "admitted")
        if wait_ms == 0 and self._probe_due(request, queue, floor, now_s):
            return Decision(level, cost_ms, "admitted as a probe")
        self.chances.forget(now_s)
        usual_ms = (wait_ms + cost_ms) * self.slowdown.mean(now_s) / self.slowdown.factor(now_s)
        if self.chances.to_end(usual_ms, slack_ms) > 0.0:
            return Decision(level, cost_ms, "admitted, with a chance")
        drained_ms = busy_ms + self.backlog_ms(queue, floor, now_s)
        return self._shed(level, cost_ms, wait_ms, slack_ms, drained_ms)

    def _hope(self, now_s: float) -> float:
        """The lowest slowdown that admission reckons with, as a share of the predicted one."""
        mean = self.slowdown.mean(now_s)
        return min(mean, max(1.0, HOPEFUL * mean)) / self.slowdown.factor(now_s)

    def probe_or_shed(
        self,
        request: Waiting,
        queue: Sequence[Waiting],
        floor: Callable[[Waiting], int],
        slowdown: float,
        now_s: float,
    ) -> Decision | None:
        """None where `request`, which is next, is to run, at its floor level at least; else a probe, or shed.

        slowdown: factor at `now_s`.
        """
        level = floor(request)
        cost_ms = self.profiled_ms(level, request.batch, request.sizes) * slowdown
        slack_ms = request.slack_ms(now_s)
        if cost_ms <= slack_ms:
            self._probing = False
            self._probed_ratio = math.inf
            self._probes = 0
            return None
        if self._probe_due(request, queue, floor, now_s):
            self._learned_s = now_s
            self._probing = True
            self._probes += 1
            return Decision(level, cost_ms, f"probe: {cost_ms:.1f} ms predicted, {slack_ms:.1f} ms left")
        if self._pays(request, queue, floor, now_s):
            return None
        return self._shed(level, cost_ms, 0.0, slack_ms, self.backlog_ms(queue, floor, now_s))

    def _pays(self, request: Waiting, queue: Sequence[Waiting], floor: Callable[[Waiting], int], now_s: float) -> bool:
        """Whether a run that is predicted to be late has a better chance than it takes from the requests behind it."""
        mean, chance = self.slowdown.mean(now_s), self.chances.to_end
        self.chances.forget(now_s)
        run_ms = mean * self._floor_ms(request, floor)
        gain, end_ms = chance(run_ms, request.slack_ms(now_s)), 0.0
        for each in queue[:BEHIND]:
            if gain <= 0.0:
                return False
            end_ms += mean * self._floor_ms(each, floor) / self.workers
            slack_ms = each.slack_ms(now_s)
            gain -= chance(end_ms, slack_ms) - chance(end_ms + run_ms / self.workers, slack_ms)
        return gain > 0.0

    def _probe_due(
        self, request: Waiting, queue: Sequence[Waiting], floor: Callable[[Waiting], int], now_s: float
    ) -> bool:
        profiled_ms, slack_ms = self._floor_ms(request, floor), request.slack_ms(now_s)
        if profiled_ms * MINIMUM > slack_ms:
            return False
        if profiled_ms * self._probed_ratio <= slack_ms:
            return True
        factor = self.slowdown.factor(now_s)
        every_s = max(self.probe_every_s, profiled_ms * factor / 100)
        budget_ms = slack_ms if request.budget_ms is None else request.budget_ms
        if profiled_ms * factor > budget_ms and not any(
            self._floor_ms(each, floor) * factor <= each.slack_ms(now_s) for each in queue
        ):  # by the prediction no request can be served, so that a run takes nothing from others
            every_s = 0.0 if self._probes == 0 else every_s * 2.0 ** min(0, self._probes - FREQUENT_PROBES)
        return self._learned_s is None or now_s - self._learned_s >= every_s

    def _shed(self, level: int, cost_ms: float, wait_ms: float, slack_ms: float, drained_ms: float) -> Decision:
        reason = (
            f"shed: level {level} needs {cost_ms:.1f} ms after {wait_ms:.1f} ms of waiting, {slack_ms:.1f} ms are left"
        )
        # with nothing to drain, only the next probe may change the answer
        retry_after_ms = drained_ms if drained_ms > 0 else self.probe_every_s * 1e3
        return Decision(None, cost_ms, reason, max(1.0, retry_after_ms), drained_ms=drained_ms)
