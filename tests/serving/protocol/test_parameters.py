"""Request parameters: taken when right, refused in a sentence when not, ignored when another extension's."""

from __future__ import annotations

import pytest

from nested_sparse.errors import InputError
from nested_sparse.level import Level
from nested_sparse.proto.messages import InferParameter
from nested_sparse.runtime.scheduling.request import Response
from nested_sparse.runtime.session import Lowering
from nested_sparse.serving.protocol.call import CallOptions
from nested_sparse.serving.protocol.parameters import read_options, served_parameters


def number(**kind):
    return InferParameter(**kind)


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, CallOptions()),
        ({"slo_ms": number(double_param=2.5)}, CallOptions(slo_ms=2.5)),
        ({"slo_ms": number(int64_param=30)}, CallOptions(slo_ms=30)),
        ({"slo_ms": number(uint64_param=30)}, CallOptions(slo_ms=30)),
        ({"timeout": number(int64_param=2500)}, CallOptions(slo_ms=2.5)),
        ({"timeout": number(int64_param=2500), "slo_ms": number(int64_param=1)}, CallOptions(slo_ms=1)),
        ({"timeout": number(int64_param=500), "slo_ms": number(int64_param=1)}, CallOptions(slo_ms=0.5)),
        ({"timeout": number(int64_param=0)}, CallOptions()),
        ({"min_accuracy": number(double_param=0.9)}, CallOptions(min_accuracy=0.9)),
        ({"level": number(int64_param=2)}, CallOptions(level=2)),
        ({"level": number(int64_param=-1)}, CallOptions(level=-1)),
        ({"priority": number(uint64_param=1), "mine": number(string_param="x")}, CallOptions()),
    ],
)
def test_accepted(parameters, expected):
    """What a client may say."""
    assert read_options(parameters) == expected


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"slo_ms": number(string_param="30")},
            "'slo_ms' has the wrong type: expected int64 or uint64 or double, got string",
        ),
        ({"slo_ms": number(bool_param=True)}, "got bool"),
        ({"slo_ms": InferParameter()}, "got no value"),
        ({"slo_ms": number(double_param=float("nan"))}, "'slo_ms' must be a finite number, 0 or more, got nan"),
        ({"slo_ms": number(double_param=float("inf"))}, "got inf"),
        ({"slo_ms": number(int64_param=-1)}, "got -1"),
        ({"slo_ms": number(double_param=0)}, "'slo_ms' must be more than 0"),
        ({"min_accuracy": number(double_param=-0.5)}, "'min_accuracy' must be a finite number"),
        ({"min_accuracy": number(string_param="high")}, "'min_accuracy' has the wrong type"),
        ({"level": number(double_param=1.0)}, "'level' has the wrong type: expected int64 or uint64, got double"),
        ({"level": number(int64_param=-2)}, "'level' must be a finite number, -1 or more, got -2"),
        ({"timeout": number(int64_param=-5)}, "'timeout' must be a finite number"),
    ],
)
def test_refused(parameters, message):
    """Wrong kinds, infinities and negative numbers."""
    with pytest.raises(InputError, match=message):
        read_options(parameters)


def test_reading_leaves_the_request_alone():
    """Looking for a parameter does not create it (protobuf maps would)."""
    from nested_sparse.proto.messages import ModelInferRequest

    request = ModelInferRequest()
    read_options(request.parameters)
    assert len(request.parameters) == 0


@pytest.mark.parametrize(
    ("slo_ms", "left_ms", "expected"),
    [(None, None, None), (5, None, 5), (None, 7, 7), (5, 7, 5), (9, 7, 7), (5, float("inf"), 5)],
)
def test_the_least_limit_wins(slo_ms, left_ms, expected):
    """A transport's deadline only ever shortens."""
    assert CallOptions(slo_ms, 0.5, 1).within(left_ms) == CallOptions(expected, 0.5, 1)


def test_served_parameters():
    """What was served is reported; accuracy only when known."""
    known = served_parameters(Response({}, Level(1, 0.25, 1, 1, {"accuracy": 0.75}), 12, 34, "why"))
    assert {name: value.WhichOneof("parameter_choice") for name, value in known.items()} == {
        "level": "int64_param",
        "density": "double_param",
        "accuracy": "double_param",
        "queue_us": "int64_param",
        "compute_us": "int64_param",
    }
    assert (known["level"].int64_param, known["density"].double_param, known["accuracy"].double_param) == (
        1,
        0.25,
        0.75,
    )
    assert (known["queue_us"].int64_param, known["compute_us"].int64_param) == (12, 34)
    assert "started_level" not in known
    level = Level(0, 0.5, 1, 1, {"accuracy": 0.75})
    once = served_parameters(Response({}, level, 0, 0, "why", lowering=Lowering(2, "conv3", 2, None)))
    assert (once["started_level"].int64_param, once["lowered_at"].string_param) == (2, "conv3")
    assert not {"accuracy", "lowered_from"} & once.keys()
    twice = served_parameters(Response({}, level, 0, 0, "why", lowering=Lowering(2, "conv4", 1, 0.5)))
    assert (twice["started_level"].int64_param, twice["lowered_from"].int64_param) == (2, 1)
    assert twice["accuracy"].double_param == 0.5
