"""Call: what a client asked for, free of any transport."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nested_sparse.errors import InputError
from nested_sparse.excerpt import excerpt, excerpts
from nested_sparse.tensor_spec import TensorSpec


@dataclass(frozen=True, slots=True)
class CallOptions:
    """How the caller wants to be served; None leaves it to the server.

    slo_ms: milliseconds from arrival to answer, more than 0.
    min_accuracy: a level below this accuracy is no answer.
    level: this level and no other.
    """

    slo_ms: float | None = None
    min_accuracy: float | None = None
    level: int | None = None

    def within(self, time_left_ms: float | None) -> CallOptions:
        """These options with the SLO cut to `time_left_ms`, which a transport knows of (None or infinite: no limit)."""
        if time_left_ms is None or math.isinf(time_left_ms):
            return self
        slo_ms = time_left_ms if self.slo_ms is None else min(self.slo_ms, time_left_ms)
        return CallOptions(slo_ms, self.min_accuracy, self.level)


@dataclass(frozen=True, slots=True)
class Call:
    """One inference: input arrays by name, the wanted outputs in the order wanted (none: all), and when it arrived.

    received_s: reading of time.monotonic.
    """

    inputs: Mapping[str, NDArray[np.generic]]
    received_s: float
    outputs: tuple[str, ...] = ()
    options: CallOptions = field(default_factory=CallOptions)


def wanted_outputs(names: tuple[str, ...], outputs: tuple[TensorSpec, ...]) -> tuple[str, ...]:
    """`names`, or all outputs where it is empty. Raises InputError for one that the model does not have."""
    known = dict.fromkeys(spec.name for spec in outputs)
    for name in names:
        if name not in known:
            raise InputError(f"The model has no output '{excerpt(name)}'; expected {excerpts(known)}.")
    return names or tuple(known)
