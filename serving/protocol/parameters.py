"""Request and response parameters of the protocol: `slo_ms`, `min_accuracy`, `level`, and what was served."""

from __future__ import annotations

import math
from collections.abc import Mapping

from nested_sparse.errors import InputError
from nested_sparse.proto.messages import InferParameter
from nested_sparse.runtime.scheduling import Response

from .call import CallOptions

US_PER_MS = 1000.0
INTEGER_KINDS = ("int64_param", "uint64_param")
NUMBER_KINDS = (*INTEGER_KINDS, "double_param")
DENSEST = -1
"""As `level`: whichever is the densest of the model."""


def read_options(parameters: Mapping[str, InferParameter]) -> CallOptions:
    """Options from a request's parameters; unknown ones are other extensions' and ignored. Raises InputError.

    `timeout` (integer µs, 0 for none) is what tritonclient's own argument sends; it bounds the SLO like `slo_ms`.
    """
    slo_ms = _number(parameters, "slo_ms", NUMBER_KINDS)
    if slo_ms == 0:
        raise InputError("Parameter 'slo_ms' must be more than 0 milliseconds, got 0.")
    level = _number(parameters, "level", INTEGER_KINDS, DENSEST)
    timeout_us = _number(parameters, "timeout", INTEGER_KINDS)
    options = CallOptions(
        slo_ms, _number(parameters, "min_accuracy", NUMBER_KINDS), None if level is None else int(level)
    )
    return options.within(timeout_us / US_PER_MS if timeout_us else None)


def _number(
    parameters: Mapping[str, InferParameter], name: str, kinds: tuple[str, ...], least: int = 0
) -> float | None:
    if name not in parameters:  # looking a key up in a protobuf map would create it
        return None
    parameter = parameters[name]
    kind = parameter.WhichOneof("parameter_choice")
    if kind not in kinds:
        expected = " or ".join(wanted.removesuffix("_param") for wanted in kinds)
        got = kind.removesuffix("_param") if kind else "no value"
        raise InputError(f"Parameter {name!r} has the wrong type: expected {expected}, got {got}.")
    value: float = getattr(parameter, kind)
    if not math.isfinite(value) or value < least:
        raise InputError(f"Parameter {name!r} must be a finite number, {least} or more, got {value}.")
    return value


def served_parameters(response: Response) -> dict[str, InferParameter]:
    """What a response says of how it was made; `accuracy` only where the checkpoint knows it.

    `started_level` and `lowered_at`, the first layer that ran at `level`, only where the level fell during the run, and
    `lowered_from`, the level just before, where it fell more than once.
    """
    level = response.level
    parameters = {
        "level": InferParameter(int64_param=level.index),
        "density": InferParameter(double_param=level.density),
        "queue_us": InferParameter(int64_param=response.queue_us),
        "compute_us": InferParameter(int64_param=response.compute_us),
    }
    if response.accuracy is not None:
        parameters["accuracy"] = InferParameter(double_param=response.accuracy)
    if (lowering := response.lowering) is not None:
        parameters["started_level"] = InferParameter(int64_param=lowering.started_level)
        parameters["lowered_at"] = InferParameter(string_param=lowering.lowered_at)
        if lowering.fell_again:
            parameters["lowered_from"] = InferParameter(int64_param=lowering.lowered_from)
    return parameters
