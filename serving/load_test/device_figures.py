"""The rows that need no server: what a decision costs, rescues in mid-inference, memory, the offline oracle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from nested_sparse.runtime.monitor import ResourceMonitor
from nested_sparse.runtime.policy import ElasticPolicy
from nested_sparse.runtime.profile import LatencyProfile
from nested_sparse.runtime.session import Session
from nested_sparse.serving.load_test.capacity import THREADS
from nested_sparse.serving.load_test.decision_cost import decision_cost
from nested_sparse.serving.load_test.figure import Figure


def device_figures(
    checkpoint: Path, batch: int, service_ms: Sequence[float], arrivals: Path | None, say: Callable[[str], None]
) -> list[Figure]:
    """The rows, measured on this device."""
    say("what a decision costs")
    with Session(checkpoint, threads=THREADS) as session:
        policy = ElasticPolicy(LatencyProfile.measure(session, (1, batch), repeats=3))
        return [decision_cost(policy, ResourceMonitor(), len(session.levels), batch, service_ms[-1])]
