"""Refusals: a request that could never be served is told so, with the least time that can be."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from nested_sparse.errors import DeadlineError, OverloadedError
from nested_sparse.runtime.scheduling import Request

X = {"x": np.ones((1, 3), np.float32)}
LEAST = re.compile(r"the least time limit that can be served is ([0-9.]+|infinite)")


def refused(r: Any, request: Request) -> Exception:
    """The error of a request that is not run."""
    future = r.scheduler.submit(request)
    while r.scheduler.serve_next():
        pass
    error = future.exception(0)
    assert isinstance(error, DeadlineError | OverloadedError)
    return error


# levels take 2, 5, 9 and 14 ms; 2 ms and 8 % are kept for the reply. A request with half of a run's time may be a probe
@pytest.mark.parametrize(
    ("fields", "kind", "reason", "least"),
    [
        ({"slo_ms": 2.0}, DeadlineError, "2.2 ms are kept for the reply, and level 0 takes 2.00 ms", 4.4),
        ({"slo_ms": 3.2}, OverloadedError, "2.3 ms are kept for the reply, and level 0 takes 2.00 ms", 4.4),
        ({"timeout_ms": 3.2}, OverloadedError, "a time limit of 3.2 ms is too short", 4.4),
        ({"slo_ms": 4.8, "level": 1}, OverloadedError, "level 1 takes 5.00 ms", 7.7),
        ({"slo_ms": 4.8, "min_accuracy": 0.92}, OverloadedError, "level 1 takes 5.00 ms", 7.7),
        ({"slo_ms": 7.4, "inputs": {"x": np.ones((5, 3), np.float32)}}, OverloadedError, "takes 10.00 ms", 13.1),
    ],
)
def test_a_time_limit_that_no_run_fits_into_is_named_with_the_least(
    rig: Callable[..., Any], fields: dict[str, Any], kind: type, reason: str, least: float
) -> None:
    """The same request is served when it grants the time that the message names, in place of what it granted."""
    request = {"inputs": X, **fields}
    error = refused(rig(), Request(**request))
    assert type(error) is kind
    assert reason in str(error)
    assert "the server grants" not in str(error)
    if isinstance(error, OverloadedError):
        assert error.retry_after_ms is None
    found = LEAST.search(str(error))
    assert found is not None
    assert float(found[1]) == least
    r = rig()
    granted = "timeout_ms" if "timeout_ms" in fields else "slo_ms"
    future = r.scheduler.submit(Request(**{**request, granted: least}))
    assert r.scheduler.serve_next()
    assert future.result(0).level.index == fields.get("level", future.result(0).level.index)


def test_a_server_that_grants_too_little_says_so(rig: Callable[..., Any]) -> None:
    """No request can help itself there; a margin of all the time leaves no least."""
    error = refused(rig(default_slo_ms=3.0), Request(X, slo_ms=50.0))
    assert str(error).endswith("that can be served is 4.4 ms, and the server grants at most 3 (serve --slo-ms)")
    assert "is infinite, and the server" in str(refused(rig(reply_margin_share=1.0), Request(X)))


def test_the_message_of_a_request_that_waited_too_long_speaks_of_its_wait(rig: Callable[..., Any]) -> None:
    """Its time limit would have been enough."""
    r = rig()
    expired = str(refused(r, Request(X, slo_ms=50.0, received_s=r.clock() - 0.049)))
    assert "49.0 ms after it came in, too little of its 50.0 ms" in expired
    assert "; 6.0 ms are kept for the reply" in expired
    late = refused(r, Request(X, slo_ms=50.0, received_s=r.clock() - 0.043))
    assert isinstance(late, OverloadedError)
    assert late.retry_after_ms is not None
    assert "are left" in str(late)
