"""load_model: an open checkpoint becomes a model to serve."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

from nested_sparse.errors import CheckpointError, ServingError
from nested_sparse.level import resolve_level
from nested_sparse.runtime.kept_profile import MOST_BATCH, profile_of
from nested_sparse.runtime.monitor import ResourceMonitor
from nested_sparse.runtime.policy import ElasticPolicy, FixedPolicy, LevelPolicy
from nested_sparse.runtime.profile_store import ProfileStore
from nested_sparse.runtime.scheduler import Scheduler
from nested_sparse.runtime.session import Session
from nested_sparse.serving.datatype import datatype_of
from nested_sparse.serving.served_model import ServedModel

log = logging.getLogger(__name__)


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


def load_model(
    session: Session,
    *,
    default_slo_ms: float,
    fixed_level: int | None = None,
    profiles: ProfileStore | None = None,
    max_batch: int = MOST_BATCH,
) -> ServedModel:
    """Measure the session's levels on this device, or check what was kept of it, and start its scheduler.

    fixed_level: every request runs at this level, None chooses per request. profiles: where measurements are kept,
    None keeps none. max_batch: the largest batch worth measuring. Raises CheckpointError, LevelError,
    InputError.
    """
    for spec in (*session.inputs, *session.outputs):
        datatype_of(spec.dtype)  # what cannot travel is said now, not on the first request
    if fixed_level is not None:
        resolve_level(fixed_level, len(session.levels))
    profiled = profile_of(session, profiles, max_batch=max_batch)
    profile = profiled.profile
    for level in session.levels:
        log.info("%s: level %d takes %.2f ms", session.name, level.index, profile.predict_ms(level.index))
    policy: LevelPolicy = ElasticPolicy(profile) if fixed_level is None else FixedPolicy(fixed_level, profile)
    for _ in range(2):  # a slowdown believes what two runs agree on: the first request finds it as it is now
        policy.observe(0, 1, profile.predict_ms(0) * profiled.ratio, time.monotonic())
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
