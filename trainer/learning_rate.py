"""Learning rate: its value at each point of a training stage."""

from __future__ import annotations

import math

LR_SCHEDULES = ("cosine", "one_cycle")
ONE_CYCLE_RISE = 0.3


def learning_rate(schedule: str, peak: float, progress: float) -> float:
    """The learning rate at `progress`, the part of the stage that is done, in [0, 1].

    "cosine" falls from `peak` to 0; "one_cycle" rises linearly from 4 % of `peak` to `peak` over the first 30 %, then
    falls to 0 as a cosine.
    """
    if schedule == "one_cycle":
        if progress < ONE_CYCLE_RISE:
            return peak * (0.04 + 0.96 * progress / ONE_CYCLE_RISE)
        progress = (progress - ONE_CYCLE_RISE) / (1 - ONE_CYCLE_RISE)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))
