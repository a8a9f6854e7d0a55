"""Capacity: what one request takes at each level, and the SLO that fits it."""

from __future__ import annotations

from collections.abc import Sequence

from nested_sparse.runtime.profiling import LatencyProfile
from nested_sparse.runtime.session import Session

THREADS = 1
"""Of the server: the second core is the client's, and a co-runner burns both."""


def service_times_ms(session: Session, batch: int) -> list[float]:
    """Milliseconds of a request of `batch` samples at each level, sparsest first, on the session's threads."""
    profile = LatencyProfile.measure(session, batches=(batch,))
    return [profile.predict_ms(level.index, batch) for level in session.levels]


def default_slo_ms(service_ms: Sequence[float]) -> float:
    """Three times the densest level's service time, at least 20 ms above it.

    Tight enough that a queue of three breaks it, loose enough that Poisson arrivals at a quiet time do not.
    """
    return max(3.0 * service_ms[-1], service_ms[-1] + 20.0)
