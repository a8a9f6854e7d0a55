"""Plan: whether what waits can be worked off in time if it runs at a level."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nested_sparse.runtime.forecast import Waiting

LOOK_AHEAD = 48
"""Requests looked at; those behind have time to be looked at again. 48 take some 10 µs a level."""

Cost = Callable[[int, int], float]
"""Profiled milliseconds of a run, by level and batch."""


class Plan:
    """One look at the queue: the request that is next, then what waits behind it, in the order of service.

    slowdown: factor on profiled times. `most_ms` bounds the time that is planned with: with a deadline far away the
    queue could grow until it is near, and every request would be answered as late as is allowed.
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
        self._known_ms: dict[tuple[int, int], float] = {}
        most_s = most_ms / 1e3
        scale = 1e3 / slowdown
        self._slack_ms = min(request.deadline_s - now_s, most_s) * scale
        self._behind: list[tuple[Waiting, float]] = []
        for each in queue[:LOOK_AHEAD]:
            slack_ms = min(each.deadline_s - now_s, most_s) * scale
            # what could not make it even if it were next is going to be shed and counts for nothing
            if self._cost_of(each, each.lowest_level) <= slack_ms:
                self._behind.append((each, slack_ms))

    @property
    def last_slack_ms(self) -> float:
        """Time until the last of them is due."""
        return (self._behind[-1][1] if self._behind else self._slack_ms) * self._slowdown

    @property
    def waiting(self) -> int:
        """Requests behind the one that is next."""
        return len(self._behind)

    @property
    def samples(self) -> int:
        """Of all of them."""
        return self._request.batch + sum(each.batch for each, _ in self._behind)

    def fits(self, level: int, behind: int, share: float) -> bool:
        """Whether all end in time: the first at `level`, the others at `behind` and within `share` of their time.

        Each within what it allows. Fairness is what scores best: of a queue that cannot all run dense, two at the
        level in the middle score more than one at the top and one at the bottom, since accuracy gains fall with cost.
        """
        end_ms = self._cost_of(self._request, level)
        if end_ms > self._slack_ms:
            return False
        for each, slack_ms in self._behind:
            end_ms += self._cost_of(each, behind)
            if end_ms > share * slack_ms:
                return False
        return True

    def _cost_of(self, each: Waiting, level: int) -> float:
        if each.foreign_ms is not None:
            return each.foreign_ms
        if level < each.lowest_level:
            level = each.lowest_level
        elif level > each.highest_level:
            level = each.highest_level
        case = level, each.batch
        known_ms = self._known_ms.get(case)
        if known_ms is None:
            known_ms = self._known_ms[case] = self._cost(level, each.batch)
        return known_ms
