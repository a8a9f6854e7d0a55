"""Request and Response: what goes into a scheduler and what comes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nested_sparse.argument import finite, real
from nested_sparse.errors import InputError
from nested_sparse.level import Level, resolve_level

from ..session import Array, Arrays, Lowering


@dataclass(frozen=True, slots=True)
class Request:
    """One inference to be done in time.

    slo_ms: time it may take in all; None, or more than the scheduler's default: the default.
    min_accuracy: only levels whose metric "accuracy" is at least this.
    level: exactly this level (-1 is the densest).
    received_s: when it came in, a reading of the scheduler's clock; None: now.
    """

    inputs: Arrays
    slo_ms: float | None = None
    min_accuracy: float | None = None
    level: int | None = None
    received_s: float | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """What was computed, at which level, and where the time went.

    level: that it ended at. queue_us: from received until the run began; compute_us: the run. Microseconds.
    batch: samples that ran together, other requests' included.
    lowering: where the level fell while the inference ran; None where it did not.
    """

    outputs: dict[str, Array]
    level: Level
    queue_us: int
    compute_us: int
    reason: str
    batch: int = 1
    lowering: Lowering | None = None

    @property
    def accuracy(self) -> float | None:
        """Expected accuracy of what was computed; None where the checkpoint states none."""
        return self.level.accuracy if self.lowering is None else self.lowering.accuracy


def allowed_slo_ms(request: Request, default_slo_ms: float) -> float:
    """Time the request may take. Raises InputError."""
    if request.slo_ms is None:
        return default_slo_ms
    return min(finite("slo_ms", request.slo_ms, above=0.0), default_slo_ms)


def allowed_levels(request: Request, levels: Sequence[Level]) -> tuple[int, int]:
    """Lowest and highest level the request allows, both included. Raises LevelError, InputError."""
    asked = request.min_accuracy
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
