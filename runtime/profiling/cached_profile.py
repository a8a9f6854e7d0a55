"""profile_of: a session's latency profile, the kept one where it still holds, else measured now."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..session import random_inputs
from .profile import LatencyProfile, Profilable, check_finite, timed_ms
from .profile_key import profile_key

if TYPE_CHECKING:
    from ..session import Session
    from .profile_store import ProfileStore

CHECK_S = 0.5
CHECK_TURNS = 2
BELIEVED = (0.7, 1.4)
"""Measured over kept time for which a kept profile stands; the median of the levels, as those of one level scatter."""
CLEAR_STEP = 1.4
"""Levels whose kept times differ by this much must differ the same way now."""
MOST_BATCH = 16
"""Beyond, a batch is taken to cost in proportion. digits, 2 threads: 16 samples at once are 1.5 to 3 times quicker than
one by one, and 32 add under 10 % to that; ResNet-50 is 15 % slower at 16 already."""
ENOUGH_S = 2.0
LIMIT_S = 10.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Profiled:
    """profile: of this device when nothing else runs. ratio: what was measured just now, over that."""

    profile: LatencyProfile
    ratio: float


def profile_of(
    session: Session,
    store: ProfileStore | None,
    *,
    max_batch: int = MOST_BATCH,
    clock: Callable[[], float] = time.perf_counter,
) -> Profiled:
    """The profile of `session`, from `store` if a quick check agrees with it; else measured, and kept there.

    A measurement of now does not replace kept ones that were quicker: a machine that is busy while a server starts is
    no slower machine, and the ratio says how busy it is. Raises CheckpointError as LatencyProfile.measure() does.
    """
    up_to = min(max_batch, MOST_BATCH)
    key = None if store is None else profile_key(session, up_to)
    if store is not None and key is not None:
        kept = store.load(key)
        if kept is not None and (ratio := check(session, kept, clock=clock)) is not None:
            return Profiled(kept, ratio)
    log.info("%s: measuring %d levels", session.name, len(session.levels))
    started_s = clock()
    measured = LatencyProfile.measure(session, max_batch=up_to, limit_s=LIMIT_S, enough_s=ENOUGH_S, clock=clock)
    log.info("%s: measured at batches %s in %.1f s", session.name, measured.batches, clock() - started_s)
    if store is None or key is None:
        return Profiled(measured, 1.0)
    agreed = store.save(key, measured)
    first = measured.batches[0]
    ratios = [
        measured.predict_ms(level.index, first) / agreed.predict_ms(level.index, first) for level in session.levels
    ]
    return Profiled(agreed, statistics.median(ratios))


def check(session: Profilable, kept: LatencyProfile, *, clock: Callable[[], float] = time.perf_counter) -> float | None:
    """Measured over kept time, the median of the levels; None, and why in the log, where `kept` does not hold now.

    Each level runs once for warming up and CHECK_TURNS times in turn with the others, at the smallest batch, the
    quickest of them counting: what disturbs a run makes it longer. Where they disagree with `kept`, there are more
    turns until CHECK_S have passed. Of a model too slow for that only the sparsest levels are checked.
    """
    if kept.level_count != len(session.levels):
        log.warning("%s: the kept latency profile has %d levels; measured anew", session.name, kept.level_count)
        return None
    batch = kept.batches[0]
    kept_ms = _checked_levels([kept.predict_ms(level, batch) for level in range(kept.level_count)])
    inputs = random_inputs(session.inputs, batch)
    started_s = clock()
    for level in range(len(kept_ms)):
        check_finite(session, level, session.run(inputs, level))
    warm_s = clock()
    turns: list[list[float]] = []
    why: str | None = "not checked yet"
    while len(turns) < CHECK_TURNS or (why is not None and clock() < warm_s + CHECK_S):
        turns.append([timed_ms(session, level, inputs, clock) for level in range(len(kept_ms))])
        why = _disagreement(kept_ms, [min(times) for times in zip(*turns, strict=True)])
    ratio = _ratio(kept_ms, [statistics.median(times) for times in zip(*turns, strict=True)])
    log.info(
        "%s: kept latency profile checked in %.2f s: levels take %.2f times as long%s",
        session.name,
        clock() - started_s,
        ratio,
        "" if why is None else f"; {why}, so it is measured anew",
    )
    return ratio if why is None else None


def _ratio(kept_ms: Sequence[float], measured_ms: Sequence[float]) -> float:
    return statistics.median(now / then for now, then in zip(measured_ms, kept_ms, strict=True))


def _checked_levels(kept_ms: Sequence[float]) -> Sequence[float]:
    """As many of the sparsest levels as fit into CHECK_S, at least one."""
    spent_ms = 0.0
    for count, level_ms in enumerate(kept_ms):
        spent_ms += level_ms * (1 + CHECK_TURNS)
        if spent_ms > CHECK_S * 1e3:
            return kept_ms[: max(1, count)]
    return kept_ms


def _disagreement(kept_ms: Sequence[float], measured_ms: Sequence[float]) -> str | None:
    """Why the kept times do not hold now, None where they do."""
    low, high = BELIEVED
    ratio = _ratio(kept_ms, measured_ms)
    if not low <= ratio <= high:
        return f"{ratio:.2f} at best is not within {low:g} and {high:g}"
    for denser in range(1, len(kept_ms)):
        for sparser in range(denser):
            swapped = measured_ms[sparser] >= measured_ms[denser]
            if swapped and kept_ms[denser] >= CLEAR_STEP * kept_ms[sparser]:
                return f"level {denser} is not slower than level {sparser} any more"
    return None
