"""Schedules: learning rate and density as functions of the progress of a phase, in [0, 1]."""

from __future__ import annotations

import math

ONE_CYCLE_RISE = 0.3


def learning_rate(schedule: str, peak: float, progress: float) -> float:
    """ "cosine": `peak` down to 0. "one_cycle": linearly up to `peak` over the first 30 %, then cosine down to 0."""
    if schedule == "one_cycle":
        if progress < ONE_CYCLE_RISE:
            return peak * (0.04 + 0.96 * progress / ONE_CYCLE_RISE)
        progress = (progress - ONE_CYCLE_RISE) / (1 - ONE_CYCLE_RISE)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))


def gradual_density(target: float, progress: float) -> float:
    """From 1 at progress 0 to `target` at 1, fast first, then slower: the cubic of arXiv:1710.01878."""
    return target + (1 - target) * (1 - progress) ** 3
