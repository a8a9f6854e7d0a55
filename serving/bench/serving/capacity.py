"""Capacity: the time of one request at each level, and an SLO that fits it."""

from __future__ import annotations

from collections.abc import Sequence

from nested_sparse.runtime.profiling import LatencyProfile
from nested_sparse.runtime.session import Session

THREADS = 1
"""Threads of a server. The second core is left to the client; a co-runner loads both."""


def service_times_ms(session: Session, batch: int) -> list[float]:
    """Milliseconds that a request of `batch` samples takes at each level, sparsest first, on the session's threads."""
    profile = LatencyProfile.measure(session, batches=(batch,))
    return [profile.predict_ms(level.index, batch) for level in session.levels]


def default_slo_ms(service_ms: Sequence[float]) -> float:
    """Three times the densest level's service time, and at least 20 ms above it.

    A queue of three requests breaks this SLO; Poisson arrivals at a quiet time keep it.
    """
    return max(3.0 * service_ms[-1], service_ms[-1] + 20.0)
