"""Refusals: the errors of requests that are not run, for lack of time."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nested_sparse.errors import DeadlineError, OverloadedError

from ..policy import Decision
from ..profiling import LatencyProfile
from .job import Job, Terms


class Refusals:
    """Makes the error of a request that has expired or is shed. It tells a request that could never be served so.

    Such a request has a time limit in which the sparsest level that it allows does not fit, on a device that has
    nothing else to do, because the scheduler keeps some of the time for the reply. A retry does not help it.

    terms: the scheduler's, which may change.
    """

    def __init__(self, profile: LatencyProfile, terms: Terms) -> None:
        self._profile = profile
        self.terms = terms

    def expired(self, job: Job, now_s: float) -> DeadlineError:
        """The error of a job that has expired."""
        if (hopeless := self._hopeless(job)) is not None:
            return DeadlineError(f"expired: {hopeless}")
        waited_ms, limit_ms = (now_s - job.received_s) * 1e3, job.time_limit_ms
        kept_ms = limit_ms - self.terms.budget_ms(limit_ms)
        return DeadlineError(
            f"expired: {waited_ms:.1f} ms after it came in, too little of its {limit_ms:.1f} ms was left to run it "
            f"and reply; {kept_ms:.1f} ms are kept for the reply"
        )

    def shed(self, job: Job, decision: Decision) -> OverloadedError:
        """The error of a job that the policy sheds."""
        if (hopeless := self._hopeless(job)) is not None:
            return OverloadedError(f"shed: {hopeless}", None)
        return OverloadedError(decision.reason, decision.retry_after_ms)

    def over_its_share(self, job: Job, now_s: float) -> OverloadedError:
        """The error of a job that makes way for another client's."""
        return OverloadedError(
            "shed: this client had more requests waiting than its share while others came; send fewer at once",
            max(1.0, job.waiting.slack_ms(now_s)),
        )

    def hopeless(self, limit_ms: float, level: int, batch: int = 1, sizes: Sequence[int] = ()) -> str | None:
        """The reason why no run of `level` can be answered within `limit_ms` of its arrival; None where one can."""
        run_ms = self._profile.predict_ms(level, batch, sizes)
        budget_ms = self.terms.budget_ms(limit_ms)
        if budget_ms > 0 and run_ms <= budget_ms:
            return None
        least_ms = self.terms.least_limit_ms(run_ms)
        most_ms = self.terms.default_slo_ms
        granted = "" if least_ms <= most_ms else f", and the server grants at most {most_ms:g} (serve --slo-ms)"
        return (
            f"a time limit of {limit_ms:.1f} ms is too short: {limit_ms - budget_ms:.1f} ms are kept for the reply, "
            f"and level {level} takes {run_ms:.2f} ms; the least time limit that can be served is "
            f"{_rounded_up(least_ms)}{granted}"
        )

    def _hopeless(self, job: Job) -> str | None:
        waiting = job.waiting
        return self.hopeless(job.time_limit_ms, waiting.lowest_level, waiting.batch, waiting.sizes)


def _rounded_up(ms: float) -> str:
    return f"{math.ceil(ms * 10) / 10:.1f} ms" if math.isfinite(ms) else "infinite"
