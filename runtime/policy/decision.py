"""Waiting and Decision: what a policy sees of a request, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Waiting:
    """What a policy sees of a request.

    deadline_s: clock reading at which the run must have ended: the client's deadline less the reply margin.
    lowest_level, highest_level: what the request allows, both included.
    budget_ms: time it had when it came in; None: unknown, what is left counts as all it had.
    foreign_ms: of another model's request that is served before ours: its time but for our slowdown; None: it is ours.
    first: foreign and of a higher priority, hence before ours whenever these are due.
    joins: it may run in one batch with others that do.
    """

    deadline_s: float
    lowest_level: int
    highest_level: int
    batch: int = 1
    budget_ms: float | None = None
    foreign_ms: float | None = None
    first: bool = False
    joins: bool = True

    def slack_ms(self, now_s: float) -> float:
        """Time left."""
        return (self.deadline_s - now_s) * 1e3


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do with a request.

    level: the level to run it at; None: shed it.
    predicted_ms: of the run, at that level (at the lowest allowed one when shed).
    reason: why this level, in words for logs and for the client.
    retry_after_ms: when shed, the time until the queue should have drained.
    take: how many requests from the head of the queue, the chosen one included, run together as one batch.
    """

    level: int | None
    predicted_ms: float
    reason: str
    retry_after_ms: float = 0.0
    take: int = 1
