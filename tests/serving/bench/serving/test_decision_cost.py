"""Decision cost: the time that the clock shows."""

from __future__ import annotations

import itertools

from nested_sparse.runtime import ElasticPolicy, LatencyProfile, ResourceMonitor
from nested_sparse.serving.bench.serving.decision_cost import QUEUE_LENGTHS, decision_cost


def test_the_median_of_a_clock_that_ticks():
    """Every decision spans one tick of 30 µs, at every length of the queue."""
    policy = ElasticPolicy(LatencyProfile([1], [[1.0], [4.0]]))
    ticks = itertools.count()
    figure = decision_cost(policy, ResourceMonitor(()), 2, 1, 4.0, clock=lambda: next(ticks) * 30e-6)
    assert round(figure.measured or 0.0, 6) == 30.0
    assert figure.met is True
    assert set(figure.details["median_us"]) == {str(length) for length in QUEUE_LENGTHS}
