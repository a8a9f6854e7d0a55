"""Request and Response: the input and the output of a scheduler."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nested_sparse.argument import as_float, real, shown, whole
from nested_sparse.errors import DeadlineError, InputError
from nested_sparse.level import Level, resolve_level
from nested_sparse.record import record

from ..session import Array, Arrays, Lowering

PRIORITY_LEVELS, DEFAULT_PRIORITY = 10, 5
"""Priorities of requests: 1 is the highest, as the protocol has it."""


@record(frozen=True, slots=True)
class Request:
    """One inference to be done in time.

    inputs: arrays by input name.
    slo_ms: time from arrival to answer that the client asks for, above 0; None: the scheduler's default.
    min_accuracy: only levels whose metric "accuracy" is at least this.
    level: exactly this level (-1 is the densest).
    received_s: time of arrival, a reading of the scheduler's clock; None: the moment of submission.
    priority: from 1, the highest, to PRIORITY_LEVELS; None: DEFAULT_PRIORITY. Requests of a higher priority are served
        first, whatever their deadlines are.
    timeout_ms: time from arrival until the client stops waiting, as its transport says; it has passed where it is 0 or
        less; None or infinite: the client waits as long as it takes.
    client: name of the client, which has its share of the queue.
    """

    inputs: Arrays
    slo_ms: float | None = None
    min_accuracy: float | None = None
    level: int | None = None
    received_s: float | None = None
    timeout_ms: float | None = None
    priority: int | None = None
    client: str = ""


@record(frozen=True, slots=True)
class Response:
    """The answer to a request: outputs, the level that they were computed at, and where the time went.

    level: that it ended at. queue_us: from received until the run began; compute_us: the run. Microseconds.
    time_limit_ms: time from arrival that the request might take, see time_limit_ms().
    batch: samples that ran together, other requests' included.
    lowering: where the level fell while the inference ran; None where it did not.
    ended_s: end of the run, a reading of the scheduler's clock; NaN: not known.
    """

    outputs: dict[str, Array]
    level: Level
    queue_us: int
    compute_us: int
    reason: str
    time_limit_ms: float
    batch: int = 1
    lowering: Lowering | None = None
    ended_s: float = math.nan

    @property
    def accuracy(self) -> float | None:
        """Expected accuracy of what was computed; None where the checkpoint states none."""
        return self.level.accuracy if self.lowering is None else self.lowering.accuracy


def time_limit_ms(request: Request, default_slo_ms: float) -> float:
    """Time from arrival that the request may take: the least of its SLO, its timeout and the scheduler's default.

    Raises InputError for an SLO or a timeout that is none, DeadlineError for a timeout that has passed.
    """
    limit_ms = default_slo_ms
    if request.slo_ms is not None:
        slo_ms = as_float(request.slo_ms)
        if slo_ms is None or not 0.0 < slo_ms < math.inf:
            raise InputError(f"slo_ms: expected a finite number of milliseconds above 0, got {shown(request.slo_ms)}")
        limit_ms = min(slo_ms, limit_ms)
    if request.timeout_ms is not None:
        limit_ms = min(real("timeout_ms", request.timeout_ms), limit_ms)
        if limit_ms <= 0:
            raise DeadlineError("expired: the client's deadline had passed when the request came in")
    return limit_ms


def rank_of(request: Request) -> int:
    """The place of a request's priority among all, lower first; 0 is the default's. Raises InputError."""
    if request.priority is None:
        return 0
    return whole("priority", request.priority, 1, PRIORITY_LEVELS) - DEFAULT_PRIORITY


def allowed_levels(request: Request, levels: Sequence[Level]) -> tuple[int, int]:
    """Lowest and highest level the request allows, both included. Raises LevelError, InputError."""
    asked = request.min_accuracy
    if asked is None and request.level is None:
        return 0, len(levels) - 1
    lowest = 0 if asked is None else _lowest_accurate(real("min_accuracy", asked), levels)
    if request.level is None:
        return lowest, len(levels) - 1
    level = resolve_level(request.level, len(levels))
    if level < lowest:
        raise InputError(
            f"level {level} is below min_accuracy {request.min_accuracy}, level {lowest} is not: ask for either"
        )
    return level, level


def _lowest_accurate(min_accuracy: float, levels: Sequence[Level]) -> int:
    known = {level.index: level.accuracy for level in levels if level.accuracy is not None}
    if not known:
        raise InputError(f"min_accuracy {min_accuracy}: this checkpoint states no accuracy; ask for a level instead")
    enough = [index for index, accuracy in known.items() if accuracy >= min_accuracy]
    if not enough:
        raise InputError(f"min_accuracy {min_accuracy}: no level reaches it, the best is {max(known.values())}")
    return min(enough)
