"""Policies: the registry of their names."""

from __future__ import annotations

import pytest

from nested_sparse.errors import InputError
from nested_sparse.runtime.policy.decision import Waiting
from nested_sparse.runtime.policy.policies import DEFAULT_POLICY, POLICIES, Served, policy_named
from nested_sparse.runtime.profiling.profile import LatencyProfile
from nested_sparse.runtime.simulation.comparison import default_policies
from nested_sparse.runtime.simulation.world import World

PROFILE = LatencyProfile((1, 2), [[2.0, 3.0], [5.0, 8.0], [9.0, 16.0]])


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("accuracy", [None, (0.8, 0.9, 0.95)])
def test_every_policy_serves_a_model(name: str, accuracy: tuple[float, ...] | None) -> None:
    """It takes a request in and chooses one of the levels that the request allows."""
    policy = policy_named(name).make(Served(PROFILE, accuracy=accuracy, joins=False))
    request = Waiting(1.0, 1, 2, budget_ms=1000.0)
    assert policy.admit(request, [], 0.0, 0.0).level is not None
    assert policy.choose(request, [], 0.0).level in (1, 2)


def test_a_model_that_joins_no_requests_takes_one_at_a_time() -> None:
    """Every policy is told that the requests of a model may not run together."""
    for kind in POLICIES.values():
        policy = kind.make(Served(PROFILE, joins=False))
        request = Waiting(1.0, 0, 0, budget_ms=1000.0, joins=False)
        assert policy.choose(request, [request], 0.0).take == 1


def test_an_unknown_name_is_answered_by_the_known_ones() -> None:
    with pytest.raises(InputError, match=f"^policy: expected one of {', '.join(POLICIES)}, got 'greedy'$"):
        policy_named("greedy")


def test_the_simulator_compares_all_of_them() -> None:
    assert set(POLICIES) <= set(default_policies(World()))
    assert DEFAULT_POLICY in POLICIES
