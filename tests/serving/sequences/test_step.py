"""SequenceStep: parameters of a request that name its sequence, and those that are refused."""

from __future__ import annotations

import random
from typing import Any

import pytest

from nested_sparse.errors import InputError
from nested_sparse.proto.messages import InferParameter, ModelInferRequest
from nested_sparse.serving.sequences.step import SequenceStep, read_step


def parameters(**values: InferParameter) -> Any:
    """As in a request's message."""
    return ModelInferRequest(parameters=values).parameters


def number(value: int) -> InferParameter:
    return InferParameter(int64_param=value)


YES, NO = InferParameter(bool_param=True), InferParameter(bool_param=False)


@pytest.mark.parametrize(
    ("given", "step"),
    [
        ({}, None),
        ({"slo_ms": number(3)}, None),
        ({"sequence_id": number(7)}, SequenceStep(7)),
        ({"sequence_id": InferParameter(uint64_param=2**64 - 1)}, SequenceStep(2**64 - 1)),
        ({"sequence_id": number(-1), "sequence_end": YES}, SequenceStep(-1, ends=True)),
        ({"sequence_id": InferParameter(string_param="7"), "sequence_start": YES}, SequenceStep("7", starts=True)),
        ({"sequence_id": number(0), "sequence_start": NO, "sequence_end": NO}, None),
        ({"sequence_id": InferParameter(string_param="")}, None),
        ({"sequence_start": NO}, None),
    ],
)
def test_the_parameters_of_triton_are_read(given: dict[str, InferParameter], step: SequenceStep | None) -> None:
    """The number 7 and the text "7" are two sequences; 0 and "" are none. Nothing is added to the message."""
    message = parameters(**given)
    before = set(message)
    assert read_step(message) == step
    assert set(message) == before


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"sequence_id": YES}, "'sequence_id' has the wrong type"),
        ({"sequence_id": InferParameter(double_param=7.0)}, "expected int64 or uint64 or string, got double"),
        ({"sequence_id": InferParameter()}, "got no value"),
        ({"sequence_id": InferParameter(string_param="é" * 65)}, "at most 128 bytes"),
        ({"sequence_id": number(1), "sequence_start": number(1)}, "'sequence_start' has the wrong type"),
        ({"sequence_id": number(1), "sequence_end": InferParameter(string_param="true")}, "expected bool"),
        ({"sequence_start": YES}, "'sequence_start' without 'sequence_id'"),
        ({"sequence_id": number(0), "sequence_end": YES}, "'sequence_end' without 'sequence_id'"),
    ],
)
def test_other_parameters_are_refused(given: dict[str, InferParameter], said: str) -> None:
    """With the name at fault."""
    with pytest.raises(InputError, match=said):
        read_step(parameters(**given))


def test_any_parameters_give_a_step_or_an_input_error() -> None:
    """Random kinds and values, also such as no client sends."""
    rng = random.Random(5)
    kinds: list[Any] = [
        lambda: InferParameter(bool_param=rng.random() < 0.5),
        lambda: number(rng.choice((0, 1, -(2**63), 2**63 - 1))),
        lambda: InferParameter(uint64_param=rng.choice((0, 2**64 - 1))),
        lambda: InferParameter(string_param=rng.choice(("", "a", "\0", "\U0001f40c" * 40))),
        lambda: InferParameter(double_param=rng.choice((0.0, float("nan"), 1e308))),
        InferParameter,
    ]
    seen = set()
    for _ in range(2000):
        names = [name for name in ("sequence_id", "sequence_start", "sequence_end", "level") if rng.random() < 0.7]
        try:
            step = read_step(parameters(**{name: rng.choice(kinds)() for name in names}))
            seen.add(type(step))
        except InputError:
            seen.add(InputError)
    assert seen == {type(None), SequenceStep, InputError}
