"""load_model: an open checkpoint becomes a model to serve."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from nested_sparse.errors import CheckpointError, ServingError
from nested_sparse.level import resolve_level
from nested_sparse.runtime.monitor import ResourceMonitor
from nested_sparse.runtime.policy import ElasticPolicy, FixedPolicy, LevelPolicy
from nested_sparse.runtime.profile import LatencyProfile
from nested_sparse.runtime.scheduler import Scheduler
from nested_sparse.runtime.session import Session
from nested_sparse.serving.datatype import datatype_of
from nested_sparse.serving.served_model import ServedModel

log = logging.getLogger(__name__)
POLICIES = ("elastic", "slackfit")
"""Ours, and SuperServe's (NSDI'25) to compare with."""
PROFILED_BATCHES = (1, 8)
"""One sample and several: from one point alone, a batch would be taken to cost its size times a sample."""
SLACKFIT_BATCHES = (1, 2, 4, 8, 16, 32)
"""SlackFit knows no batches but its profile's: a request of more samples would seem cheaper than it is."""


def check_files(paths: Sequence[Path]) -> None:
    """Raise CheckpointError for a file that is not there, ServingError for two that would have one name."""
    by_name: dict[str, Path] = {}
    for path in paths:
        if not path.is_file():
            raise CheckpointError(f"{path}: no such file")
        if path.stem in by_name:
            raise ServingError(
                f"{by_name[path.stem]} and {path} would both be served as {path.stem!r}: a model is named after its "
                "file; rename one of them"
            )
        by_name[path.stem] = path


def make_policy(name: str, profile: LatencyProfile) -> LevelPolicy:
    """The policy called `name`, one of POLICIES. Raises ServingError."""
    if name == "elastic":
        return ElasticPolicy(profile)
    if name == "slackfit":
        from nested_sparse.runtime.baselines import SlackFitPolicy

        return SlackFitPolicy(profile)
    raise ServingError(f"no policy {name!r}; there are {', '.join(POLICIES)}")


def load_model(
    session: Session, *, default_slo_ms: float, fixed_level: int | None = None, policy_name: str = "elastic"
) -> ServedModel:
    """Measure the session's levels on this device and start its scheduler.

    fixed_level: every request runs at this level; None: `policy_name`, one of POLICIES, chooses per request. Raises
    CheckpointError, LevelError, InputError, ServingError.
    """
    for spec in (*session.inputs, *session.outputs):
        datatype_of(spec.dtype)  # what cannot travel is said now, not on the first request
    if fixed_level is not None:
        resolve_level(fixed_level, len(session.levels))
    log.info("%s: measuring %d levels", session.name, len(session.levels))
    profile = LatencyProfile.measure(session, SLACKFIT_BATCHES if policy_name == "slackfit" else PROFILED_BATCHES)
    for level in session.levels:
        log.info("%s: level %d takes %.2f ms", session.name, level.index, profile.predict_ms(level.index))
    policy = make_policy(policy_name, profile) if fixed_level is None else FixedPolicy(fixed_level, profile)
    scheduler = Scheduler(session, profile, policy, default_slo_ms=default_slo_ms, monitor=ResourceMonitor())
    return ServedModel(
        session.name,
        tuple(session.inputs),
        tuple(session.outputs),
        tuple(session.levels),
        scheduler,
        default_slo_ms,
        session.threads,
        session.isa,
    )
