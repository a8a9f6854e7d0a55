"""Request parameters: right ones are used, wrong and unknown ones refused."""

from __future__ import annotations

import pytest

from nested_sparse.errors import InputError
from nested_sparse.level import Level
from nested_sparse.proto.messages import InferParameter
from nested_sparse.runtime.scheduling.request import Request, Response
from nested_sparse.runtime.session import Lowering
from nested_sparse.serving.protocol.parameters import KNOWN, check_known, read_request, served_parameters
from nested_sparse.serving.rights.caller import client_name


def number(**kind):
    return InferParameter(**kind)


def asked(**fields):
    return Request({}, received_s=12.5, **fields)


def read(parameters, time_left_s=None):
    return read_request({}, parameters, 12.5, time_left_s)


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, asked()),
        ({"slo_ms": number(double_param=2.5)}, asked(slo_ms=2.5)),
        ({"slo_ms": number(int64_param=30)}, asked(slo_ms=30)),
        ({"slo_ms": number(uint64_param=30)}, asked(slo_ms=30)),
        ({"timeout": number(int64_param=2500)}, asked(timeout_ms=2.5)),
        ({"timeout": number(int64_param=2500), "slo_ms": number(int64_param=1)}, asked(slo_ms=1, timeout_ms=2.5)),
        ({"timeout": number(int64_param=0)}, asked()),
        ({"min_accuracy": number(double_param=0.9)}, asked(min_accuracy=0.9)),
        ({"level": number(int64_param=2)}, asked(level=2)),
        ({"level": number(int64_param=-1)}, asked(level=-1)),
        ({"priority": number(uint64_param=1)}, asked(priority=1)),
        ({"priority": number(uint64_param=0)}, asked()),
        ({"triton_enable_empty_final_response": number(bool_param=True)}, asked()),
        ({"binary_data_output": number(bool_param=True)}, asked()),
    ],
)
def test_valid_parameters_are_accepted(parameters, expected):
    """The parameters that a client may send."""
    assert read(parameters) == expected


@pytest.mark.parametrize("parameters", [{}, {"level": number(int64_param=2)}])
def test_a_request_has_the_name_of_its_client(parameters):
    """With parameters or without: else it would take from the share of another."""
    token = client_name.set("me")
    try:
        assert read(parameters).client == "me"
    finally:
        client_name.reset(token)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["slo"],
            r"The request has unknown parameters \['slo'\]; expected some of slo_ms, min_accuracy, level, timeout",
        ),
        (["b", "level", "a"], r"unknown parameters \['a', 'b'\]"),
        (["sequence_id"], "'sequence_id': this model keeps no state"),
        ([f"p{index}" for index in range(65)], "65 parameters; expected at most 64"),
    ],
)
def test_unknown_parameters_are_refused(names, message):
    """Each would have no effect, which a client would not notice."""
    with pytest.raises(InputError, match=message):
        check_known(names, "The request", KNOWN)


def test_every_known_parameter_is_known():
    """Those that read_request looks at."""
    check_known(KNOWN, "The request", KNOWN)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"slo_ms": number(string_param="30")},
            "'slo_ms' has the wrong type: expected int64 or uint64 or double, got string",
        ),
        ({"slo_ms": number(bool_param=True)}, "got bool"),
        ({"slo_ms": InferParameter()}, "got no value"),
        ({"min_accuracy": number(double_param=-0.5)}, "min_accuracy: expected a number of at least 0, got -0.5"),
        ({"min_accuracy": number(double_param=float("inf"))}, "min_accuracy: expected a finite number, got inf"),
        ({"min_accuracy": number(string_param="high")}, "'min_accuracy' has the wrong type"),
        ({"binary_data_output": number(bool_param=False)}, "'binary_data_output': expected true"),
        ({"priority": number(string_param="high")}, "'priority' has the wrong type"),
        ({"triton_enable_empty_final_response": number(int64_param=1)}, "expected bool, got int64"),
        ({"level": number(double_param=1.0)}, "'level' has the wrong type: expected int64 or uint64, got double"),
        ({"timeout": number(int64_param=-5)}, "timeout: expected a number of at least 0, got -5"),
    ],
)
def test_wrong_parameters_are_refused(parameters, message):
    """Wrong kinds, infinities and negative numbers."""
    with pytest.raises(InputError, match=message):
        read(parameters)


def test_reading_leaves_the_request_alone():
    """Looking for a parameter does not create it (protobuf maps would)."""
    from nested_sparse.proto.messages import ModelInferRequest

    request = ModelInferRequest()
    read(request.parameters)
    assert len(request.parameters) == 0


@pytest.mark.parametrize(
    ("timeout_us", "left_s", "expected_ms"),
    [(0, None, None), (5000, None, 5), (0, 0.007, 7), (5000, 0.007, 5), (9000, 0.007, 7), (5000, float("inf"), 5)],
)
def test_the_shorter_timeout_counts(timeout_us, left_s, expected_ms):
    """The shorter one of the protocol's parameter and the transport's deadline counts."""
    assert read({"timeout": number(int64_param=timeout_us)}, left_s) == asked(timeout_ms=expected_ms)


def test_a_response_states_its_level_and_a_known_accuracy():
    """The served level is reported, and its accuracy when it is known."""
    known = served_parameters(Response({}, Level(1, 0.25, 1, 1, {"accuracy": 0.75}), 12, 34, "why", 50.0))
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
    once = served_parameters(Response({}, level, 0, 0, "why", 50.0, lowering=Lowering(2, "conv3", 2, None)))
    assert (once["started_level"].int64_param, once["lowered_at"].string_param) == (2, "conv3")
    assert not {"accuracy", "lowered_from"} & once.keys()
    twice = served_parameters(Response({}, level, 0, 0, "why", 50.0, lowering=Lowering(2, "conv4", 1, 0.5)))
    assert (twice["started_level"].int64_param, twice["lowered_from"].int64_param) == (2, 1)
    assert twice["accuracy"].double_param == 0.5
