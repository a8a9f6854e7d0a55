"""The benchmark of the front: both clients against real servers, and the check of the answers."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nested_sparse.errors import BenchError
from nested_sparse.proto import messages
from nested_sparse.runtime.session import Session
from nested_sparse.serving.bench.front import run
from nested_sparse.serving.bench.front.bare_server import path_of, running_bare_server
from nested_sparse.serving.bench.front.caller import Target, at_once, calling, in_turns
from nested_sparse.serving.bench.front.trivial import Trivial
from support import EXAMPLE

X = np.arange(4, dtype=np.float32).reshape(1, 4)
SUM = Trivial(SimpleNamespace(name="net"), "x", X, tuple(np.float32([[6.0]]) for _ in range(3)))  # type: ignore[arg-type]
"""The first output of the fake model of tests/serving, at each of its levels."""


def test_each_target_is_called_once_in_a_round(serve: Any, model: Any) -> None:
    with running_bare_server([7, 0]) as bare, serve([model]) as server:
        targets = Target(bare, path_of(7), b"x" * 5000), Target(server.address, run.INFER, SUM.raw_request())
        with calling(*targets) as calls:
            done = in_turns([*calls, lambda: "work"], 3)
    assert [[result for _, result in each] for each in done[::2]] == [[bytes(7)] * 3, ["work"] * 3]
    assert len(done[1]) == 3
    for spent_ms, answer in done[1]:
        assert spent_ms > 0
        SUM.check(answer)


def test_the_floor_parses_and_runs_and_answers_with_as_many_bytes() -> None:
    """A request that is none fails: so the others were parsed."""
    with Session(EXAMPLE, threads=1) as session, running_bare_server([7], EXAMPLE) as floor:
        array = np.zeros((1, 1, 28, 28), np.float32)
        trivial = Trivial(session, session.inputs[0].name, array, ())
        with calling(*(Target(floor, path_of(7), data) for data in (trivial.raw_request(), b"\xff"))) as calls:
            assert calls[0]() == bytes(7)
            with pytest.raises(BenchError, match="/7: UNKNOWN"):
                calls[1]()


def test_every_connection_is_called(serve: Any, model: Any) -> None:
    with serve([model]) as server:
        rate, answers = at_once(Target(server.address, run.INFER, SUM.raw_request()), 3, 0.0)
        assert (rate, answers) == (0.0, [])
        rate, answers = at_once(Target(server.address, run.INFER, SUM.raw_request()), 3, 0.2)
    assert rate > 0
    assert len(answers) >= 3
    for answer in answers:
        SUM.check(answer)


def test_an_answer_of_another_level_is_an_error(serve: Any, model: Any) -> None:
    with serve([model]) as server, calling(Target(server.address, run.INFER, SUM.raw_request())) as (call,):
        answer = call()
    level = messages.ModelInferResponse.FromString(answer).parameters["level"].int64_param
    outputs = [np.float32([[6.0]])] * 3
    outputs[level] = np.float32([[6.1]])
    with pytest.raises(BenchError, match=f"is not the output of level {level}"):
        dataclasses.replace(SUM, outputs=tuple(outputs)).check(answer)


def test_a_call_that_fails_is_told_in_a_line(serve: Any, model: Any) -> None:
    other = dataclasses.replace(SUM, session=SimpleNamespace(name="other")).raw_request()  # type: ignore[arg-type]
    with serve([model]) as server:
        target = Target(server.address, run.INFER, other)
        with (
            calling(target) as (call,),
            pytest.raises(BenchError, match="ModelInfer: NOT_FOUND: There is no model 'other'"),
        ):
            call()
        with pytest.raises(BenchError, match="ModelInfer: NOT_FOUND"):
            at_once(target, 2, 0.2)


def test_times_are_told_by_percentiles() -> None:
    """A thousand times each would make a line of JSON that fills the terminal."""
    assert run._spread([float(each) for each in range(101)]) == {
        "calls": 101,
        **{f"p{percent}": float(percent) for percent in run.PERCENTS},
    }
