"""choose_threads: whether more than one thread pays for a model on this device."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from ..session import fixed_batch, random_inputs
from .profile_key import ProfileKey, choice_key
from .turn import Profilable, timed_ms

if TYPE_CHECKING:
    from .profile_store import ProfileStore

WORTH = 1.15
"""The least speed-up of all cores over one: beside other work, threads that wait for each other lose more."""
TURNS = 4
RUNS = 3
LIMIT_S = 1.0
THREADS = "threads"
"""Name of the kept choice in a ProfileStore."""
_LOGGER = logging.getLogger("nested_sparse.runtime")


class Threaded(Profilable, Protocol):
    """A session whose threads can be set."""

    threads: int


def choose_threads(
    session: Threaded,
    clock: Callable[[], float] = time.perf_counter,
    *,
    store: ProfileStore | None = None,
    key: ProfileKey | None = None,
) -> bool:
    """Whether the threads of `session` run the densest level WORTH times as fast as one; if not, it gets one thread.

    Both numbers of threads take turns. The shortest run of each counts, as any disturbance makes a run longer. After
    LIMIT_S no new turn begins. A session of one thread is left as it is, and more threads may pay when cores are added.

    store, key: keep the choice until the profile is measured anew. key: profile_key() of the session.
    """
    many = session.threads
    if many == 1:
        return True
    if store is not None and key is not None and (kept := store.fact(choice_key(key), THREADS)) in (1, many):
        session.threads = kept
        _LOGGER.info("%s: runs with %d of %d threads, as measured before", session.name, kept, many)
        return bool(kept == many)
    densest = len(session.levels) - 1
    inputs = random_inputs(session.inputs, fixed_batch(session.inputs) or 1)
    least_ms = {many: float("inf"), 1: float("inf")}
    end_s = clock() + LIMIT_S
    for turn in range(TURNS):
        for threads in least_ms:
            session.threads = threads
            session.run(inputs, densest)  # the first of a new pool allocates
            times_ms = [timed_ms(session, densest, inputs, clock) for _ in range(RUNS)]
            least_ms[threads] = min(least_ms[threads], *times_ms)
        if turn and clock() > end_s:
            break
    pays = least_ms[1] >= WORTH * least_ms[many]
    session.threads = many if pays else 1
    if store is not None and key is not None:
        store.keep(choice_key(key), THREADS, session.threads)
    _LOGGER.info(
        "%s: %.2f ms with 1 thread, %.2f with %d: runs with %d",
        session.name,
        least_ms[1],
        least_ms[many],
        many,
        session.threads,
    )
    return pays
