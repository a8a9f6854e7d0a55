"""QueuePlan: whether the waiting requests can all be served in time at a level."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .decision import Waiting

LOOK_AHEAD = 16
"""Number of requests that are looked at one by one; those behind count as the last of them. Three to five score
less."""

Cost = Callable[[int, int, tuple[int, ...]], float]
"""Profiled milliseconds of a run, by level, batch and free sizes."""


class QueuePlan:
    """One look at the queue: the request that is next, then the requests behind it, in the order of service.

    cost: profiled milliseconds of a run, by level, batch and free sizes.
    slowdown: factor on profiled times.
    most_ms: longest time that is planned with. Without it the queue could grow until a distant deadline is near, and
        every request would be answered as late as is allowed.

    last_slack_ms: time until the last of the requests is due. samples: number of samples of all of them.
    """

    def __init__(
        self,
        request: Waiting,
        queue: Sequence[Waiting],
        cost: Cost,
        *,
        slowdown: float,
        most_ms: float,
        now_s: float,
    ) -> None:
        self._request = request
        self._cost = cost
        self._slowdown = slowdown
        self._known_ms: dict[tuple[int, int, tuple[int, ...]], float] = {}
        most_s = most_ms / 1e3
        scale = 1e3 / slowdown
        self._slack_ms = min(request.deadline_s - now_s, most_s) * scale
        self._behind: list[Waiting] = []
        self._slacks_ms: list[float] = []
        self._alike = True
        first = queue[0] if queue else request
        floor_ms = self._cost_of(first, first.lowest_level)
        for each in queue[:LOOK_AHEAD]:
            slack_ms = min(each.deadline_s - now_s, most_s) * scale
            like_first = (
                each.batch == first.batch
                and each.sizes == first.sizes
                and each.lowest_level == first.lowest_level
                and each.highest_level == first.highest_level
                and each.foreign_ms == first.foreign_ms
            )
            # a request that could not meet its deadline even if it were next will be shed, so it does not count
            if (floor_ms if like_first else self._cost_of(each, each.lowest_level)) <= slack_ms:
                self._alike = self._alike and like_first
                self._behind.append(each)
                self._slacks_ms.append(slack_ms)
        self._beyond = max(0, len(queue) - LOOK_AHEAD)
        last_slack_ms = self._slacks_ms[-1] if self._behind else self._slack_ms
        if self._beyond:
            last_slack_ms = min(queue[-1].deadline_s - now_s, most_s) * scale
        self.last_slack_ms = last_slack_ms * slowdown
        # requests that were not looked at count as the mean of those that were
        looked_at = request.batch + sum([each.batch for each in self._behind])
        self.samples = looked_at * (1.0 + self._beyond / (1 + len(self._behind)))

    @property
    def waiting(self) -> int:
        """Number of requests behind the one that is next."""
        return len(self._behind) + self._beyond

    def fits(self, level: int, behind: int, share: float) -> bool:
        """Whether all end in time: the first at `level`, the others at `behind` and within `share` of their time.

        Each runs within the levels that it allows. An even choice scores best: where a queue cannot all run dense, two
        requests at the level in the middle score more than one at the top and one at the bottom, for each further level
        costs more and gains less accuracy.
        """
        end_ms = self._cost_of(self._request, level)
        if end_ms > self._slack_ms:
            return False
        if not self._behind:
            return True
        last_ms = self._cost_of(self._behind[-1], behind)
        if self._alike:  # the usual case, at a third of the time
            for slack_ms in self._slacks_ms:
                end_ms += last_ms
                if end_ms > share * slack_ms:
                    return False
        else:
            for each, slack_ms in zip(self._behind, self._slacks_ms, strict=True):
                end_ms += self._cost_of(each, behind)
                if end_ms > share * slack_ms:
                    return False
        return (end_ms + self._beyond * last_ms) * self._slowdown <= share * self.last_slack_ms or not self._beyond

    def _cost_of(self, each: Waiting, level: int) -> float:
        if each.foreign_ms is not None:
            return each.foreign_ms
        if level < each.lowest_level:
            level = each.lowest_level
        elif level > each.highest_level:
            level = each.highest_level
        case = level, each.batch, each.sizes
        known_ms = self._known_ms.get(case)
        if known_ms is None:
            known_ms = self._known_ms[case] = self._cost(level, each.batch, each.sizes)
        return known_ms
