"""Waiting and Decision: a request as a policy sees it, and the policy's answer."""

from __future__ import annotations

from dataclasses import dataclass

from nested_sparse.record import record


@record(frozen=True, slots=True)
class Waiting:
    """A request as a policy sees it.

    deadline_s: clock reading at which the run must have ended: the client's deadline less the reply margin.
    lowest_level, highest_level: indices of the levels that the request allows, both included.
    batch: number of its samples. sizes: its free sizes, in the order of free_sizes().
    budget_ms: time that it had when it came in; None: unknown, then the time left counts as all that it had.
    foreign_ms: time of another model's request that is served before ours, divided by our slowdown; None: it is ours.
    first: the request is foreign and of a higher priority; it is served before ours whatever their deadlines are.
    joins: it may run in one batch with other requests that join.
    rank: of two requests of equal first, that of the lower rank is served first, whatever their deadlines are.
    """

    deadline_s: float
    lowest_level: int
    highest_level: int
    batch: int = 1
    budget_ms: float | None = None
    foreign_ms: float | None = None
    first: bool = False
    joins: bool = True
    rank: int = 0
    sizes: tuple[int, ...] = ()

    @property
    def due(self) -> tuple[int, float]:
        """Its place in the order of service: rank, then deadline."""
        return self.rank, self.deadline_s

    def slack_ms(self, now_s: float) -> float:
        """Time left until the deadline."""
        return (self.deadline_s - now_s) * 1e3


@dataclass(frozen=True, slots=True)
class Decision:
    """The policy's answer: the level of a request, or that it is shed.

    level: index of the level to run it at; None: shed it.
    predicted_ms: predicted time of the run at that level; of a shed request, at the lowest level that it allows.
    reason: cause of the choice, in words for logs and for the client.
    retry_after_ms: time until a request like it may be served, for a shed request: the queue has drained by then.
    drained_ms: predicted time of the runs that wait, for a shed request.
    take: number of requests that run together as one batch, the chosen one included, from the head of the queue.
    """

    level: int | None
    predicted_ms: float
    reason: str
    retry_after_ms: float = 0.0
    take: int = 1
    drained_ms: float = 0.0
