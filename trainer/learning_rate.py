"""Learning rate: how it moves over a stage of training."""

from __future__ import annotations

import math

LR_SCHEDULES = ("cosine", "one_cycle")
ONE_CYCLE_RISE = 0.3


def learning_rate(schedule: str, peak: float, progress: float) -> float:
    """ "cosine": `peak` down to 0. "one_cycle": linearly up to `peak` over the first 30 %, then cosine down to 0.

    progress: of the stage, in [0, 1].
    """
    if schedule == "one_cycle":
        if progress < ONE_CYCLE_RISE:
            return peak * (0.04 + 0.96 * progress / ONE_CYCLE_RISE)
        progress = (progress - ONE_CYCLE_RISE) / (1 - ONE_CYCLE_RISE)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))
