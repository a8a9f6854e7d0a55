"""Parameters of the protocol: those of a request, each obeyed or refused, and those that say what was served."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from nested_sparse.argument import finite
from nested_sparse.errors import InputError
from nested_sparse.excerpt import excerpts
from nested_sparse.proto.messages import InferParameter
from nested_sparse.runtime.scheduling import Request, Response

from ..rights.caller import client_name

MS_PER_S, US_PER_MS = 1000.0, 1000.0
INTEGER_KINDS = ("int64_param", "uint64_param")
NUMBER_KINDS = (*INTEGER_KINDS, "double_param")
FINAL = "triton_enable_empty_final_response"
"""Asks for a response without outputs behind the last one, if the last one is not known to be. Ours always is."""
RAW_OUTPUTS = "binary_data_output"
"""Of REST: asks for outputs as raw values, or not. Over gRPC they always are."""
KNOWN = ("slo_ms", "min_accuracy", "level", "timeout", "priority", FINAL, RAW_OUTPUTS)
MAX_PARAMETERS = 64
"""Limit of the parameters of a request, of an input or of an output."""
SEQUENCE = ("sequence_id", "sequence_start", "sequence_end")
"""Parameters of requests to models that have a state."""


def read_request(
    inputs: Mapping[str, NDArray[np.generic]],
    parameters: Mapping[str, InferParameter],
    received_s: float,
    time_left_s: float | None,
) -> Request:
    """The request of these inputs and parameters, which are all KNOWN. Raises InputError for one of the wrong type.

    The scheduler checks the ranges of `slo_ms`, `level` and `priority`, of which 0 stands for none.
    `timeout` (integer microseconds, 0 for none) is what the argument of tritonclient's infer() sends.
    time_left_s: seconds from arrival to the transport's deadline; None: no deadline.
    """
    timeout_ms = None if time_left_s is None else MS_PER_S * time_left_s
    if not parameters:  # as a rule
        return Request(inputs, received_s=received_s, timeout_ms=timeout_ms, client=client_name.get())
    check_raw(parameters, RAW_OUTPUTS, "The request")
    if FINAL in parameters:
        kind_of(parameters, FINAL, ("bool_param",))
    priority = _number(parameters, "priority", INTEGER_KINDS)
    timeout_us = _number(parameters, "timeout", INTEGER_KINDS)
    if timeout_us:
        given_ms = finite("timeout", timeout_us, 0) / US_PER_MS
        timeout_ms = given_ms if timeout_ms is None else min(given_ms, timeout_ms)
    min_accuracy = _number(parameters, "min_accuracy", NUMBER_KINDS)
    level = _number(parameters, "level", INTEGER_KINDS)
    return Request(
        inputs,
        slo_ms=_number(parameters, "slo_ms", NUMBER_KINDS),
        min_accuracy=None if min_accuracy is None else finite("min_accuracy", min_accuracy, 0),
        level=None if level is None else int(level),
        received_s=received_s,
        timeout_ms=timeout_ms,
        priority=int(priority) if priority else None,
        client=client_name.get(),
    )


def check_known(parameters: Collection[str], of: str, known: Sequence[str]) -> None:
    """Refuse parameters that would not be obeyed. of: their owner, in words. Raises InputError."""
    if len(parameters) > MAX_PARAMETERS:
        raise InputError(f"{of} has {len(parameters)} parameters; expected at most {MAX_PARAMETERS}.")
    unknown = [name for name in parameters if name not in known]
    if sequence := [name for name in unknown if name in SEQUENCE]:
        raise InputError(
            f"{of} has the parameter {sequence[0]!r}: this model keeps no state between requests; send each without a "
            "sequence, or say which outputs are its state (export(…, state=…), or `state` in the server's settings)."
        )
    if unknown:
        raise InputError(
            f"{of} has unknown parameters [{excerpts(sorted(unknown))}]; expected some of {', '.join(known)}."
        )


def check_raw(parameters: Mapping[str, InferParameter], name: str, of: str) -> None:
    """Refuse a parameter `name` that does not want values raw, as they always are. of: its owner, in words."""
    if name in parameters and not parameters[name].bool_param:
        raise InputError(f"{of}: parameter {name!r}: expected true, because the values of an answer are always raw.")


def _number(parameters: Mapping[str, InferParameter], name: str, kinds: tuple[str, ...]) -> float | None:
    if name not in parameters:  # looking a key up in a protobuf map would create it
        return None
    value: float = getattr(parameters[name], kind_of(parameters, name, kinds))
    return value


def kind_of(parameters: Mapping[str, InferParameter], name: str, kinds: tuple[str, ...]) -> str:
    """The field that holds the value of the parameter `name`, one of `kinds`. Raises InputError for another one."""
    kind = parameters[name].WhichOneof("parameter_choice")
    if kind not in kinds:
        expected = " or ".join(wanted.removesuffix("_param") for wanted in kinds)
        got = kind.removesuffix("_param") if kind else "no value"
        raise InputError(f"Parameter {name!r} has the wrong type: expected {expected}, got {got}.")
    return str(kind)


def served_parameters(response: Response) -> dict[str, InferParameter]:
    """The parameters of a response that say how it was computed; `accuracy` only where the checkpoint states it.

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
