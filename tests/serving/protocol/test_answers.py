"""Answers: the bytes made without protobuf say what protobuf's say."""

from __future__ import annotations

import numpy as np
import pytest

from nested_sparse.level import Level
from nested_sparse.proto.messages import ModelInferResponse
from nested_sparse.runtime.scheduling.request import Response
from nested_sparse.runtime.session import Lowering
from nested_sparse.serving.protocol import answers as module
from nested_sparse.serving.protocol.answers import Answers
from nested_sparse.serving.protocol.convert import serialize_response
from nested_sparse.serving.protocol.parameters import served_parameters

OUTPUTS = {
    "y": np.arange(6, dtype=np.float32).reshape(2, 3),
    "columns": np.arange(6, dtype=np.int64).reshape(2, 3).T,
    "scalar": np.array(True),
}


def response(level: int = 1, queue_us: int = 0, compute_us: int = 0, outputs=OUTPUTS, **fields) -> Response:
    accuracy = {"accuracy": 0.9} if level else {}
    return Response(outputs, Level(level, 0.25, 10, 100, accuracy), queue_us, compute_us, "", 10.0, **fields)


def by_protobuf(name: str, wanted, served: Response) -> ModelInferResponse:
    message = ModelInferResponse(model_name="net", model_version="1", id=name, parameters=served_parameters(served))
    return ModelInferResponse.FromString(serialize_response(message, wanted, served.outputs))


@pytest.mark.parametrize("name", ["", "seven"])
@pytest.mark.parametrize("wanted", [("y",), ("scalar", "columns"), ("y", "columns", "scalar")])
@pytest.mark.parametrize(
    "served",
    [
        response(),
        response(0, 127, 128),
        response(1, 2**31, 2**40),
        response(1, -1, 0),
        response(1, 5, 6, {**OUTPUTS, "y": np.zeros((300, 200), np.float16)}),
        response(1, 5, 6, lowering=Lowering(1, "layer", 1, 0.5)),
    ],
)
def test_an_answer_says_what_protobuf_s_says(name, wanted, served):
    """The first time, when its beginning is made, and from then on."""
    answers = Answers()
    for _ in range(2):
        got = ModelInferResponse.FromString(answers.serialized("net", "1", name, wanted, served))
        assert got == by_protobuf(name, wanted, served)


def test_each_level_shape_and_model_has_its_own_beginning():
    answers = Answers()
    other = {**OUTPUTS, "y": np.zeros((1, 3), np.float32)}
    for _ in range(2):
        for served in (response(0), response(1), response(1, outputs=other)):
            got = ModelInferResponse.FromString(answers.serialized("net", "1", "", ("y",), served))
            assert got == by_protobuf("", ("y",), served)
    got = ModelInferResponse.FromString(answers.serialized("web", "2", "", ("y",), response()))
    assert (got.model_name, got.model_version) == ("web", "2")


def test_a_model_that_takes_the_name_of_another_has_its_own_beginning():
    """The same name, version, level and shapes, but other facts of the level, or another type of values."""
    answers = Answers()
    before, after = response(), response()
    after.level.metrics["accuracy"] = 0.5
    integers = response(outputs={**OUTPUTS, "y": np.zeros((2, 3), np.int32)})
    for served in (before, after, integers, before):
        got = ModelInferResponse.FromString(answers.serialized("net", "1", "", ("y",), served))
        assert got == by_protobuf("", ("y",), served)


def test_what_is_kept_is_bounded(monkeypatch):
    monkeypatch.setattr(module, "MOST", 4)
    answers = Answers()
    for rows in range(1, 20):
        answers.serialized("net", "1", "", ("y",), response(outputs={"y": np.zeros((rows, 1), np.float32)}))
        assert len(answers._beginnings) <= 4
