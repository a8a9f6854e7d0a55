"""profile_of: a session's latency profile: the cached one where it still holds, else a new measurement."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..session import random_inputs
from .profile import LatencyProfile
from .profile_key import choice_key
from .thread_choice import THREADS
from .turn import Profilable, check_finite, timed_ms

if TYPE_CHECKING:
    from ..session import Session
    from .profile_store import ProfileStore

CHECK_S = 0.5
CHECK_TURNS = 2
BELIEVED = (0.7, 1.4)
"""A cached profile holds while measured / cached time lies between these. The median of the levels is compared, as a
single level's times scatter."""
CLEAR_STEP = 1.4
"""Two levels whose cached times differ by this factor must still have the same order."""
MOST_BATCH = 16
"""The largest batch that is measured; the time of a larger one is taken to grow in proportion. The digits' model on 2
threads runs 16 samples at once 1.5 to 3 times as fast as one by one, and 32 under 10 % faster than that; ResNet-50 is
15 % slower at 16 already."""
ENOUGH_S = 2.0
LIMIT_S = 10.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Profiled:
    """profile: of this device when nothing else runs. ratio: times measured just now / times of the profile."""

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

    A new measurement does not replace kept ones with shorter times: a machine that is busy while a server starts is not
    a slower machine, and the ratio tells how busy it is. max_batch: the largest batch to measure.
    Raises CheckpointError as LatencyProfile.measure() does.
    """
    up_to = min(max_batch, MOST_BATCH)
    key = None if store is None else store.key(session, up_to)
    if store is not None and key is not None:
        kept = store.load(key)
        if kept is not None and (ratio := check(session, kept, clock=clock)) is not None:
            return Profiled(kept, ratio)
        if kept is not None:
            store.keep(choice_key(key), THREADS, None)  # it was made when the device was as it was then
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
    """Measured / kept time, median of the levels; None where `kept` does not hold now, with the reason in the log.

    Each level runs once to warm up, then CHECK_TURNS times in turn with the others, at the smallest batch. Its shortest
    run counts, as any disturbance makes a run longer. Where the times disagree with `kept`, more turns follow until
    CHECK_S have passed. Of a model that is too slow for that, only the sparsest levels are checked.
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
        "%s: kept latency profile checked in %.2f s: levels now take %.2f times the kept times%s",
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
    """The reason why the kept times do not hold now; None where they do."""
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
