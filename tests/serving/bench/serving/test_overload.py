"""Overload: the count of calls, and a server that is not overloaded."""

from __future__ import annotations

from typing import Any

import pytest

from nested_sparse.errors import BenchError
from nested_sparse.serving.bench.serving import overload
from nested_sparse.serving.bench.serving.raw_client import RawCall, drive


def test_each_call_is_counted_once() -> None:
    """Answers in time and late, refusals with a hint and without, and what is neither."""
    calls = [
        *[RawCall("OK", 5.0, False)] * 3,
        RawCall("OK", 25.0, False),
        *[RawCall("RESOURCE_EXHAUSTED", 1.0, True)] * 2,
        RawCall("RESOURCE_EXHAUSTED", 1.0, False),
        RawCall("DEADLINE_EXCEEDED", 20.0, False),
    ]
    it = overload.round_of(calls, 4.0, 20.0, 2.0)
    assert (it.offered_per_s, it.answered_per_s, it.of_peak, it.in_time) == (4.0, 2.0, 0.5, 0.75)
    assert (it.refused_per_s, it.unhinted_per_s, it.failed_per_s, it.p50_ms) == (1.5, 0.5, 0.5, 5.0)
    assert overload.round_of([], 0.0, 20.0, 2.0).of_peak == 0.0


def test_one_caller_is_served(serve: Any, model: Any) -> None:
    """The client's two ways, against a real server."""
    with serve([model]) as server:
        calls = drive(server.address, model.name, 0.2, callers=1) + drive(
            server.address, model.name, 0.2, rate_per_s=50
        )
    assert len(calls) > 1
    assert {(call.status, call.hinted) for call in calls} == {("OK", False)}


def test_a_model_that_is_not_there_is_said_in_a_line(serve: Any, model: Any) -> None:
    """The error names the model, and no call is left running."""
    with serve([model]) as server, pytest.raises(BenchError, match="could not begin to call 'other'"):
        drive(server.address, "other", 0.2, callers=1)


@pytest.mark.parametrize("arguments", [[], ["net.safetensors", "--target", "127.0.0.1:1", "net"]])
def test_servers_of_one_s_own_or_others(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Either is needed, both make no sense."""
    with pytest.raises(SystemExit):
        overload.main(arguments)
    assert "expected a checkpoint to serve, or servers" in capsys.readouterr().err
