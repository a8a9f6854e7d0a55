"""POLICIES: the policies that a server can be told to use, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from nested_sparse.argument import shown
from nested_sparse.errors import InputError

from ..profiling import LatencyProfile
from ..resources import QuotaReading
from .base import LevelPolicy
from .elastic import ElasticPolicy
from .slackfit import SlackFitPolicy

ELASTIC, SLACKFIT = "elastic", "slackfit"
DEFAULT_POLICY = ELASTIC


@dataclass(frozen=True, slots=True)
class Served:
    """The facts that a policy can know about the model that it serves.

    accuracy: of each level; None where the checkpoint does not state it of all levels.
    joins: requests of the model may run together as one batch.
    quota: reads the CPU quota of this process; None: there is none.
    """

    profile: LatencyProfile
    accuracy: Sequence[float] | None = None
    joins: bool = True
    quota: Callable[[], QuotaReading | None] = lambda: None


@dataclass(frozen=True, slots=True)
class PolicyKind:
    """One entry of POLICIES.

    summary: half a sentence for the help of the command line.
    make: makes the policy of one model.
    lowers_runs: a run that would be late is lowered while it runs.
    """

    summary: str
    make: Callable[[Served], LevelPolicy]
    lowers_runs: bool = False


POLICIES: Mapping[str, PolicyKind] = {
    ELASTIC: PolicyKind(
        "the densest level at which the whole queue is in time",
        lambda served: ElasticPolicy(served.profile, accuracy=served.accuracy, quota=served.quota),
        lowers_runs=True,
    ),
    SLACKFIT: PolicyKind(
        "SuperServe's, to compare with", lambda served: SlackFitPolicy(served.profile, joins=served.joins)
    ),
}


def policy_named(name: str) -> PolicyKind:
    """The entry of POLICIES called `name`. Raises InputError, which lists the names."""
    kind = POLICIES.get(name)
    if kind is None:
        raise InputError(f"policy: expected one of {', '.join(POLICIES)}, got {shown(name)}")
    return kind
