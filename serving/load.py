"""load_model(): makes a served model of an open checkpoint."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nested_sparse.errors import CheckpointError, NestedSparseError, ServingError
from nested_sparse.level import resolve_level, stated_accuracies
from nested_sparse.runtime.policy import DEFAULT_POLICY, FixedPolicy, LevelPolicy, Served, policy_named
from nested_sparse.runtime.profiling import MOST_BATCH, LatencyProfile, ProfileStore, choose_threads, profile_of
from nested_sparse.runtime.rerouting import RouteGuard
from nested_sparse.runtime.resources import CpuQuota, Governor, LimitConfig
from nested_sparse.runtime.scheduling import Device, Scheduler
from nested_sparse.runtime.session import Session
from nested_sparse.state import State, check_state
from nested_sparse.tensor_spec import batch_is_first

from .kept import Kept
from .protocol.datatype import datatype_of
from .served_model import VERSION, ServedModel

log = logging.getLogger(__name__)
AT_ONCE_MS = 0.25
"""Longest run, as profiled, that the event loop makes itself. To have a worker make it costs about as much."""


def file_problems(paths: Sequence[Path]) -> Iterator[NestedSparseError]:
    """An error for each file that is not there, and for each that would have the name of one before it."""
    by_name: dict[str, Path] = {}
    for path in paths:
        if not path.is_file():
            yield CheckpointError(f"{path}: no such file")
        elif path.stem in by_name:
            yield ServingError(
                f"{by_name[path.stem]} and {path} would both be served as {path.stem!r}: a model is named after its "
                "file; rename one of them"
            )
        else:
            by_name[path.stem] = path


def check_types(session: Session) -> None:
    """Raise InputError for a type that the protocol lacks: now, not on the first request."""
    for spec in (*session.inputs, *session.outputs):
        datatype_of(spec.dtype)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """How one model is served.

    default_slo_ms: time from arrival to answer of a request that states none, and the most that any request gets.
    fixed_level: every request runs at this level; None: `policy`, a name in POLICIES, chooses per request.
    priority: of the model among those that share the device; higher goes first.
    joined_samples: number of samples that waiting requests may bring to one run together; 1: they are never joined.
    choose_threads: use as many threads as make runs faster here, and follow the number of usable cores.
    limits: the readings at which its level falls; None: the governor's own.
    state: of a file that names none: the outputs that are inputs of the next request of a sequence.
    """

    default_slo_ms: float
    fixed_level: int | None = None
    policy: str = DEFAULT_POLICY
    priority: int = 0
    joined_samples: int = MOST_BATCH
    choose_threads: bool = False
    limits: LimitConfig | None = None
    state: State = field(default_factory=dict)


def load_model(
    session: Session,
    config: ModelConfig,
    device: Device,
    profiles: ProfileStore | None = None,
    governor: Governor | None = None,
    *,
    name: str = "",
    version: str = VERSION,
) -> ServedModel:
    """Measure the session's levels on this device, or check the kept measurements, and start its scheduler.

    profiles: store of measurements; None keeps none. governor: limits the model from then on.
    name: name that it is served under; "": the session's. Raises CheckpointError, LevelError, InputError, ServingError.
    """
    check_types(session)
    state = state_of(session, config)
    lowest_level = 0 if config.fixed_level is None else resolve_level(config.fixed_level, len(session.levels))
    policy_named(config.policy)
    kept = Kept(session, profiles, config.joined_samples)
    scales = config.choose_threads and choose_threads(session, store=profiles, key=kept.key)
    profiled = profile_of(session, profiles, max_batch=config.joined_samples)
    profile = profiled.profile
    _log_levels(session.name, profile, profiled.ratio)
    # a model of a fixed level joins no requests, nor does one without batches: then the trial of may_join is spared
    joins = config.fixed_level is None and config.joined_samples > 1 and kept.joins()
    policy = _policy(config, Served(profile, stated_accuracies(session.levels), joins=joins, quota=CpuQuota()))
    # the slowdown that the profile's check met is known before the first request: it is believed after two equal runs
    for _ in range(2):
        policy.observe(0, 1, profile.predict_ms(0) * profiled.ratio, time.monotonic())
    scheduler = Scheduler(
        session,
        profile,
        policy,
        default_slo_ms=config.default_slo_ms,
        monitor=None if governor is None else governor.monitor,
        guard=_guard(session, config, kept),
        device=device,
        priority=config.priority,
        joins=joins,
        # how long a run takes may depend on the values where the graph has loops, and the loop must not wait for it
        at_once_ms=0.0 if session.decides else AT_ONCE_MS,
    )
    hopeless = scheduler.hopeless(lowest_level)
    if hopeless is not None:
        log.warning("%s: requests will be refused: %s", session.name, hopeless)
    if governor is not None:
        governor.watch(session, scheduler, follows_cores=scales, priority=config.priority, config=config.limits)
    return ServedModel(
        name=name or session.name,
        inputs=tuple(session.inputs),
        outputs=tuple(session.outputs),
        levels=tuple(session.levels),
        engine=scheduler,
        default_slo_ms=config.default_slo_ms,
        threads=session.threads,
        isa=session.int8_isa or session.isa,
        version=version,
        samples=config.joined_samples if batch_is_first((*session.inputs, *session.outputs)) else 0,
        joins=joins,
        resident_bytes=lambda: _resident_bytes(session),
        state=state,
        run_ms=tuple(profile.predict_ms(level) for level in range(profile.level_count)),
    )


def state_of(session: Session, config: ModelConfig) -> State:
    """The state of a model: the settings' own, or else the file's. Raises ServingError where it does not fit."""
    if not config.state:
        return session.state
    try:
        check_state(config.state, session.inputs, session.outputs)
    except ValueError as error:
        raise ServingError(f"{session.name}: {error}") from None
    return config.state


def _resident_bytes(session: Session) -> int | None:
    resident = session.resident_bytes()
    return None if resident is None else sum(resident)


def _log_levels(name: str, profile: LatencyProfile, ratio: float) -> None:
    for level in range(profile.level_count):
        level_ms = profile.predict_ms(level)
        now = "" if ratio == 1.0 else f" (kept), {level_ms * ratio:.2f} ms now"
        log.info("%s: level %d takes %.2f ms%s", name, level, level_ms, now)


def _policy(config: ModelConfig, served: Served) -> LevelPolicy:
    if config.fixed_level is not None:
        return FixedPolicy(config.fixed_level, served.profile)
    return policy_named(config.policy).make(served)


def _guard(session: Session, config: ModelConfig, kept: Kept) -> Callable[[], RouteGuard] | None:
    """Maker of the guards that lower late runs; None where the level of a run never falls."""
    if config.fixed_level is not None or not policy_named(config.policy).lowers_runs or len(session.levels) == 1:
        return None
    table = kept.routes()
    return lambda: RouteGuard(table)
