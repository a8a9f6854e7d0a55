"""load_model: an open checkpoint becomes a model to serve."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from nested_sparse.errors import CheckpointError, ServingError
from nested_sparse.level import resolve_level
from nested_sparse.runtime.device import Device
from nested_sparse.runtime.monitor import ResourceMonitor
from nested_sparse.runtime.policy import ElasticPolicy, FixedPolicy, LevelPolicy
from nested_sparse.runtime.profile import LatencyProfile
from nested_sparse.runtime.request import ACCURACY
from nested_sparse.runtime.scheduler import Scheduler
from nested_sparse.runtime.session import Session
from nested_sparse.serving.datatype import datatype_of
from nested_sparse.serving.served_model import ServedModel

log = logging.getLogger(__name__)
PROFILED_BATCHES = (1, 8)
"""One sample and several: from one point alone, a batch would be taken to cost its size times a sample."""


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


def read_priorities(texts: Sequence[str], paths: Sequence[Path]) -> dict[str, int]:
    """Priority of each model by name, from NAME=N; 0 where none is given. Raises ServingError."""
    priorities = {path.stem: 0 for path in paths}
    for text in texts:
        name, _, number = text.rpartition("=")
        if name not in priorities:
            known = ", ".join(map(repr, priorities))
            raise ServingError(f"--priority {text}: expected NAME=N with one of the models served, {known}")
        try:
            priorities[name] = int(number)
        except ValueError:
            raise ServingError(f"--priority {text}: expected a whole number after '=', got {number!r}") from None
    return priorities


def load_model(
    session: Session, *, default_slo_ms: float, fixed_level: int | None = None, device: Device, priority: int = 0
) -> ServedModel:
    """Measure the session's levels on this device and start its scheduler.

    fixed_level: every request runs at this level, None chooses per request. priority: among the models that share
    `device`, higher goes first. Raises CheckpointError, LevelError, InputError.
    """
    for spec in (*session.inputs, *session.outputs):
        datatype_of(spec.dtype)  # what cannot travel is said now, not on the first request
    if fixed_level is not None:
        resolve_level(fixed_level, len(session.levels))
    log.info("%s: measuring %d levels", session.name, len(session.levels))
    profile = LatencyProfile.measure(session, PROFILED_BATCHES)
    for level in session.levels:
        log.info("%s: level %d takes %.2f ms", session.name, level.index, profile.predict_ms(level.index))
    policy: LevelPolicy = (
        ElasticPolicy(profile, accuracy=_accuracy(session))
        if fixed_level is None
        else FixedPolicy(fixed_level, profile)
    )
    scheduler = Scheduler(
        session,
        profile,
        policy,
        default_slo_ms=default_slo_ms,
        monitor=ResourceMonitor(),
        device=device,
        priority=priority,
    )
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


def _accuracy(session: Session) -> list[float] | None:
    """What the checkpoint says that each level scores; None where it does not say it of all."""
    stated = [level.metrics.get(ACCURACY) for level in session.levels]
    known = [accuracy for accuracy in stated if accuracy is not None]
    return known if len(known) == len(stated) else None
