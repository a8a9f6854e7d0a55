"""choose_threads: as many threads as this model gains from on this device."""

from __future__ import annotations

import logging
import statistics
import time

from nested_sparse.runtime.probes import usable_cores
from nested_sparse.runtime.session import Session
from nested_sparse.runtime.tensors import fixed_batch, random_inputs

GAIN = 1.15
"""Below it the other cores do more for whatever else the device has to do."""
ROUNDS = 5
_LOGGER = logging.getLogger("nested_sparse.runtime")


def choose_threads(session: Session, rounds: int = ROUNDS) -> int:
    """Sets and returns the threads of `session`: all usable cores, or one where they gain less than 15 %.

    Measured at the densest level, batch 1, medians of `rounds` runs after a warm-up.
    """
    cores = usable_cores()
    if cores > 1:
        spent_ms = {threads: _median_ms(session, threads, rounds) for threads in (cores, 1)}
        gain = spent_ms[1] / spent_ms[cores]
        _LOGGER.info("%s: %d threads are %.2f times as quick as one", session.name, cores, gain)
        if gain < GAIN:
            cores = 1
    if session.threads != cores:
        session.threads = cores
    return cores


def _median_ms(session: Session, threads: int, rounds: int) -> float:
    session.threads = threads
    inputs = random_inputs(session.inputs, fixed_batch(session.inputs) or 1)
    session.run(inputs)
    spent_ms = []
    for _ in range(rounds):
        begun_s = time.perf_counter()
        session.run(inputs)
        spent_ms.append((time.perf_counter() - begun_s) * 1e3)
    return max(statistics.median(spent_ms), 1e-6)
