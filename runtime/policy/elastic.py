"""ElasticPolicy: the densest level that still meets the deadline of a request and of those behind it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from nested_sparse.errors import InputError, LevelError
from nested_sparse.level import resolve_level

from ..profiling import LatencyProfile
from ..resources import QuotaReading
from .arrivals import Arrivals
from .decision import Decision, Waiting
from .forecast import Forecast
from .overload import Overload
from .plan import QueuePlan
from .ramp import Ramp
from .slowdown import Slowdown
from .standstill import Standstill
from .worth import Worth

HOLD_SHARE, RISE_SHARE = 0.9, 0.8
"""Shares of the time left that a plan may use, at levels up to the present one and at levels above it."""
RISE_BUDGET_SHARE = 0.95
"""Largest predicted time of a run at a level above the present one, as a share of all the time that its request has.
Between this share and all of it, scatter of a few per cent would turn the answer again and again."""
AMPLE = 20.0
"""A run that takes this share of its request's time at most, with nothing behind it, cannot make anything late."""
DENSEST_RUNS = 8.0
"""How far a plan looks ahead at most, in runs of the densest level."""
HOLD_UTILISATION, RISE_UTILISATION = 0.95, 0.85
"""Busy shares of the workers that regular arrivals may cause, at levels up to the present one and above it."""
RECOVERY_UTILISATION = 0.85
"""Busy share of irregular arrivals. A level that the workers cannot keep up with may run while the level below it stays
under this share, so that the queue could be worked off there."""
BATCH_SHARE = 0.85
"""Largest time of a batch, as a share of separate runs: a smaller saving is not worth the wait of the first
requests."""


class ElasticPolicy:
    """The densest level at which this request, the queue and the usual arrivals can all be served in time.

    Predictions are profile × slowdown (Clipper, NSDI'17; ALERT, USENIX ATC'20). A level runs if both are true:

    1. The queue allows it. This request at that level, and those behind it at the next sparser level, all meet their
       deadlines with a tenth of their time to spare. SlackFit (SuperServe, NSDI'25) looks at the first deadline only.
       To run this request as dense as possible and the others at their lowest levels scores less (see QueuePlan.fits).
    2. The load allows it. Take the queue, and the samples that usually follow an arrival within the time that a request
       has. They can all be served at that level in twice that time, which is when the last of them is due. So a level
       that the workers cannot keep up with takes turns with the level below, if they can keep up with that one. Where
       arrivals are regular, at a camera's pace, the rate decides instead. There the limit for rising is lower than that
       for falling; otherwise two levels would take turns for ever, without a gain.

    Of these levels the one of most worth runs (see Worth). Where requests were refused of late behind a queue as long,
    the time of a run has a price (see Overload).

    The level falls at once. It rises by one level, after `rise_decisions` decisions that would have allowed more, and
    not to a level whose run would take nearly all the time that the request had when it came in. It rises at once for
    a request alone that has AMPLE times the time that it needs.
    Requests that an idle device would run at the same level rise together. A request that is too tight for a dense
    level says nothing about the load, and does not hold back requests with time to spare.

    accuracy: expected accuracy of each level; a level that scores no more than a sparser one is never chosen. None: all
        levels may be chosen.
    Raises InputError.
    """

    def __init__(
        self,
        profile: LatencyProfile,
        slowdown: Slowdown | None = None,
        *,
        workers: int = 1,
        accuracy: Sequence[float] | None = None,
        rise_decisions: int = 2,
        quota: Callable[[], QuotaReading | None] = lambda: None,
    ) -> None:
        if accuracy is not None and len(accuracy) != profile.level_count:
            raise InputError(f"accuracy: expected one for each of {profile.level_count} levels, got {len(accuracy)}")
        self._forecast = Forecast(profile, slowdown, workers=workers)
        self._arrivals = Arrivals()
        self._standstill = Standstill(quota)
        self._overload = Overload(self._forecast, self._arrivals)
        self._worth = Worth(accuracy, self._forecast, self._arrivals)
        self._useful = tuple(
            accuracy is None or all(accuracy[level] > lower for lower in accuracy[:level])
            for level in range(profile.level_count)
        )
        self._ramps = [Ramp(level, rise_decisions) for level in range(profile.level_count)]

    def admit(self, request: Waiting, queue: Sequence[Waiting], busy_ms: float, now_s: float) -> Decision:
        """As LevelPolicy."""
        if busy_ms <= 0 and not queue:
            self._overload.idle()
        self._arrivals.note(request.batch, _budget_ms(request, now_s), now_s, request.sizes)
        decision = self._admit(request, queue, busy_ms, now_s)
        self._note_refusal(decision, request, now_s)
        return decision

    def _admit(self, request: Waiting, queue: Sequence[Waiting], busy_ms: float, now_s: float) -> Decision:
        if self._standstill.active(now_s):
            running_ms = self._standstill.left_ms(now_s, now_s + busy_ms / 1e3)
            ready, behind = self._without_stops(request, now_s), [self._without_stops(each, now_s) for each in queue]
            return self._with_stops(self._forecast.admit(ready, behind, _lowest, running_ms, now_s), request, now_s)
        return self._forecast.admit(request, queue, _lowest, busy_ms, now_s)

    def arrived(self, request: Waiting, now_s: float) -> None:
        """As LevelPolicy."""
        self._overload.idle()
        self._arrivals.note(request.batch, _budget_ms(request, now_s), now_s, request.sizes)

    def choose(self, request: Waiting, queue: Sequence[Waiting], now_s: float) -> Decision:
        """As LevelPolicy. Raises LevelError if the request allows a level that was not profiled, or none at all."""
        request = self._resolved(request)
        if self._standstill.active(now_s):
            ready, behind = self._without_stops(request, now_s), [self._without_stops(each, now_s) for each in queue]
            decision = self._with_stops(self._choose(ready, behind, now_s), request, now_s)
        else:
            decision = self._choose(request, queue, now_s)
        self._note_refusal(decision, request, now_s)
        return decision

    def _choose(self, request: Waiting, queue: Sequence[Waiting], now_s: float) -> Decision:
        """choose() where nothing stops this process."""
        slowdown = self._forecast.slowdown.factor(now_s)
        hopeless = self._forecast.probe_or_shed(request, queue, _lowest, slowdown, now_s)
        if hopeless is not None:
            return hopeless
        slack_ms = request.slack_ms(now_s)
        ramp = self._ramps[self._reachable(request, _budget_ms(request, now_s))]
        plan = self._plan(request, queue, slowdown, now_s)
        rise_ms = RISE_BUDGET_SHARE * _budget_ms(request, now_s)
        fitting, why = self._fitting(request, plan, ramp.level, slowdown, rise_ms)
        if fitting > request.lowest_level:
            fits, fitting = fitting, self._worthwhile(fitting, request, queue, now_s, ramp.level)
            if fitting < fits:
                why = f"level {fits} would make too many late"
        level = max(ramp.step(fitting), request.lowest_level)
        fitting_ms = slowdown * self._forecast.profiled_ms(fitting, request.batch, request.sizes)
        if not queue and AMPLE * fitting_ms <= slack_ms:
            level = ramp.rise_to(fitting)  # after a burst, a picture a second need not wait for decisions
        if level < fitting:
            why = f"level {fitting} fits, rising slowly"
        fill = self._overload.fill(len(queue), slowdown, self._standstill.share)
        price = self._overload.price(fill)
        if price > 0.0 and level > request.lowest_level:  # the ramp does not follow: a moment later time may be free
            dear, level = level, self._worthwhile(level, request, queue, now_s, level, price)
            if level < dear:
                why = f"level {dear} would take time that requests lacked of late"
        self._overload.ran(fill)
        reason = f"{why}; {slack_ms:.1f} ms left"
        take, profiled_ms = self._take(level, request, queue, slack_ms / slowdown)
        return Decision(level, profiled_ms * slowdown, reason, take=take)

    def stopped_ms(self, started_s: float, ended_s: float, profiled_ms: float) -> float:
        """As LevelPolicy."""
        return self._standstill.learn(started_s, ended_s, profiled_ms * self._forecast.slowdown.mean(ended_s))

    def observe(self, level: int, batch: int, service_ms: float, now_s: float) -> None:
        """As LevelPolicy."""
        self._forecast.observe(level, batch, service_ms, now_s)

    def observe_gap(self, gap_ms: float, now_s: float) -> None:
        """As LevelPolicy."""
        self._forecast.observe_gap(self._standstill.working_ms(now_s - gap_ms / 1e3, now_s))

    def observe_reply(self, reply_ms: float, now_s: float) -> None:
        """As LevelPolicy."""
        self._forecast.chances.note_reply(reply_ms, now_s)

    def spare_ms(self, queue: Sequence[Waiting], now_s: float) -> float:
        """As LevelPolicy."""
        if not self._standstill.active(now_s):
            return self._forecast.spare_ms(queue, _lowest, now_s)
        spare_ms = self._forecast.spare_ms([self._without_stops(each, now_s) for each in queue], _lowest, now_s)
        return self._standstill.wall_ms(now_s, spare_ms) if 0 < spare_ms < math.inf else spare_ms

    def slowdown_factor(self, now_s: float) -> float:
        """As LevelPolicy."""
        return self._forecast.slowdown.factor(now_s)

    def _without_stops(self, waiting: Waiting, now_s: float) -> Waiting:
        """`waiting`, due after the time that is left to it for runs."""
        return replace(
            waiting,
            deadline_s=now_s + self._standstill.left_ms(now_s, waiting.deadline_s) / 1e3,
            budget_ms=_budget_ms(waiting, now_s),
        )

    def _with_stops(self, decision: Decision, request: Waiting, now_s: float) -> Decision:
        """`decision` about a request that was given without its stops, with the times of the clock."""
        stop, reason = self._standstill, decision.reason
        stopped_ms = request.slack_ms(now_s) - stop.left_ms(now_s, request.deadline_s)
        if stopped_ms > 0:
            reason = f"{reason} besides {stopped_ms:.1f} ms in which the CPU quota stops this process"
        return replace(
            decision,
            predicted_ms=stop.wall_ms(now_s, decision.predicted_ms),
            retry_after_ms=self._retry_ms(decision, request, now_s) if decision.level is None else 0.0,
            reason=reason,
        )

    def _retry_ms(self, decision: Decision, request: Waiting, now_s: float) -> float:
        """Time of the clock until a request like a shed one may be served: between the standstills, or by a probe."""
        stop, budget_ms = self._standstill, _budget_ms(request, now_s)
        drained_ms = stop.wall_ms(now_s, decision.drained_ms)
        for after_ms in (drained_ms, drained_ms + stop.refill_ms(now_s + drained_ms / 1e3)):
            at_s = now_s + after_ms / 1e3
            left_ms = stop.left_ms(now_s, at_s + budget_ms / 1e3) - stop.left_ms(now_s, at_s)
            if decision.predicted_ms <= left_ms:
                return max(1.0, after_ms)
        return max(1.0, drained_ms) if decision.drained_ms > 0 else self._forecast.probe_every_s * 1e3

    def _resolved(self, request: Waiting) -> Waiting:
        """`request` with its levels as indices. Raises LevelError where it allows no level of the profile."""
        count = len(self._ramps)
        lowest, highest = resolve_level(request.lowest_level, count), resolve_level(request.highest_level, count)
        if lowest > highest:
            raise LevelError(f"the request allows no level: its lowest is {lowest}, its highest {highest}")
        if lowest == request.lowest_level and highest == request.highest_level:
            return request
        return replace(request, lowest_level=lowest, highest_level=highest)

    def _plan(self, request: Waiting, queue: Sequence[Waiting], slowdown: float, now_s: float) -> QueuePlan:
        cost, factor = self._forecast.profiled_ms, slowdown / self._forecast.workers
        most_ms = DENSEST_RUNS * slowdown * cost(len(self._ramps) - 1, request.batch, request.sizes)
        return QueuePlan(request, queue, cost, slowdown=factor, most_ms=most_ms, now_s=now_s)

    def _fitting(
        self, request: Waiting, plan: QueuePlan, present: int, slowdown: float, rise_ms: float
    ) -> tuple[int, str]:
        """The densest level that plan and load allow, and the reason why it is not denser.

        rise_ms: longest run at a level above `present`.
        """
        why = "the densest allowed"
        for level in range(request.highest_level, request.lowest_level, -1):
            if not self._useful[level]:
                continue
            rises = level > present
            if not self._sustains(level, rises, plan, slowdown):
                why = f"level {level} cannot keep up with the arrivals"
            elif not plan.fits(level, self._next_below(level), RISE_SHARE if rises else HOLD_SHARE):
                why = f"level {level} is too slow for this and the {plan.waiting} behind"
            elif rises and slowdown * self._forecast.profiled_ms(level, request.batch, request.sizes) > rise_ms:
                why = f"level {level} would leave hardly any time to spare"
            else:
                return level, why
        return request.lowest_level, why

    def _worthwhile(
        self, fitting: int, request: Waiting, queue: Sequence[Waiting], now_s: float, present: int, price: float = 0.0
    ) -> int:
        """The level of most worth among those up to `fitting`. present: the level of the latest runs."""
        between = range(fitting, request.lowest_level, -1)
        levels = [*(level for level in between if self._useful[level]), request.lowest_level]
        return self._worth.best(levels, request, queue, now_s, present, self._standstill.share, price)

    def _note_refusal(self, decision: Decision, request: Waiting, now_s: float) -> None:
        if decision.level is None and decision.predicted_ms <= _budget_ms(request, now_s):
            self._overload.refused()

    def _sustains(self, level: int, rises: bool, plan: QueuePlan, slowdown: float) -> bool:
        """Whether the queue and the samples that usually follow can be served at `level`."""
        arrivals, workers = self._arrivals, self._forecast.workers
        if not arrivals.known:
            return True
        batch, sizes = max(1, round(arrivals.batch)), arrivals.sizes
        run_ms = slowdown * self._forecast.profiled_ms(level, batch, sizes) / workers
        share = self._standstill.share
        interval_ms = share * arrivals.interval_ms
        if arrivals.regular:
            return run_ms <= (RISE_UTILISATION if rises else HOLD_UTILISATION) * interval_ms
        below_ms = slowdown * self._forecast.profiled_ms(self._next_below(level), batch, sizes) / workers
        if run_ms > interval_ms and below_ms > RECOVERY_UTILISATION * interval_ms:
            return False
        requests = (plan.samples + arrivals.following) / arrivals.batch
        return requests * run_ms <= share * arrivals.horizon_ms + plan.last_slack_ms

    def _take(self, level: int, request: Waiting, queue: Sequence[Waiting], room_ms: float) -> tuple[int, float]:
        """The number of requests that run together, where that saves time, and the profiled time of their run.

        room_ms: profiled time until the earliest deadline. That request waits for the samples of the others, too.
        """
        cost, most_samples = self._forecast.profiled_ms, self._forecast.profile.batches[-1]
        taken, samples, sizes = 1, request.batch, request.sizes
        taken_ms = apart_ms = cost(level, samples, sizes)
        for place, each in enumerate(queue):
            samples += each.batch
            allowed = each.foreign_ms is None and each.lowest_level <= level <= each.highest_level
            joins = request.joins and each.joins and each.sizes == sizes
            if not (joins and allowed) or samples > most_samples:
                break
            apart_ms += cost(level, each.batch, sizes)
            together_ms = cost(level, samples, sizes)
            if together_ms > room_ms:
                break
            if together_ms <= BATCH_SHARE * apart_ms:
                taken, taken_ms = place + 2, together_ms
        return taken, taken_ms

    def _reachable(self, request: Waiting, profiled_ms: float) -> int:
        """The densest allowed level that takes at most `profiled_ms`; the lowest allowed level if none does."""
        for level in range(request.highest_level, request.lowest_level, -1):
            if self._forecast.profiled_ms(level, request.batch, request.sizes) <= profiled_ms:
                return level
        return request.lowest_level

    def _next_below(self, level: int) -> int:
        return next((below for below in range(level - 1, 0, -1) if self._useful[below]), 0)


def _lowest(request: Waiting) -> int:
    return request.lowest_level


def _budget_ms(request: Waiting, now_s: float) -> float:
    return request.slack_ms(now_s) if request.budget_ms is None else request.budget_ms
