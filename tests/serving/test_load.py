"""Load: the first request on a busy machine, and requests with independent rows."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import pytest

from nested_sparse.amend import store_rows
from nested_sparse.runtime.joining import joining
from nested_sparse.runtime.profiling.cached_profile import Profiled
from nested_sparse.runtime.profiling.profile import LatencyProfile
from nested_sparse.runtime.scheduling.device import Device
from nested_sparse.runtime.scheduling.request import Request
from nested_sparse.runtime.scheduling.scheduler import Scheduler
from nested_sparse.runtime.session.session import Session
from nested_sparse.runtime.session.tensors import random_inputs
from nested_sparse.serving import load
from nested_sparse.serving.load import ModelConfig, load_model
from support import EXAMPLE


@pytest.mark.parametrize("fixed_level", [None, 1])
@pytest.mark.parametrize("ratio", [1.0, 2.0, 3.0])
def test_a_busy_start_is_known_to_the_first_request(
    monkeypatch: pytest.MonkeyPatch, ratio: float, fixed_level: int | None
) -> None:
    """The slowdown that the profile's check saw is the one that the server begins with."""
    profile = LatencyProfile([1], [[1e3], [2e3], [3e3], [4e3]])
    monkeypatch.setattr(load, "profile_of", lambda *_, **__: Profiled(profile, ratio))
    with Session(EXAMPLE, threads=1) as session:
        model = load_model(session, ModelConfig(100.0, fixed_level), Device())
        try:
            assert model.engine.stats().slowdown == pytest.approx(ratio, rel=0.02)
        finally:
            model.engine.close(0.0)


@pytest.mark.parametrize(
    ("slo_ms", "fixed_level", "warned"),
    [
        (
            2.0,
            None,
            "a time limit of 2.0 ms is too short: 2.2 ms are kept for the reply, and level 0 takes 0.20 ms; the least "
            "time limit that can be served is 2.4 ms, and the server grants at most 2 (serve --slo-ms)",
        ),
        (2.4, None, None),
        (
            2.4,
            -1,
            "a time limit of 2.4 ms is too short: 2.2 ms are kept for the reply, and level 3 takes 4.00 ms; the least "
            "time limit that can be served is 6.6 ms, and the server grants at most 2.4 (serve --slo-ms)",
        ),
        (6.6, 3, None),
    ],
)
def test_an_slo_that_no_request_can_meet_is_told_at_the_start(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    slo_ms: float,
    fixed_level: int | None,
    warned: str | None,
) -> None:
    """The warning names the time that is kept for the reply, the sparsest level's, and the least time limit."""
    profile = LatencyProfile([1], [[0.2], [1.0], [2.0], [4.0]])
    monkeypatch.setattr(load, "profile_of", lambda *_, **__: Profiled(profile, 1.0))
    with caplog.at_level("WARNING"), Session(EXAMPLE, threads=1) as session:
        load_model(session, ModelConfig(slo_ms, fixed_level), Device()).engine.close(0.0)
    told = [f"{session.name}: requests will be refused: {warned}"] if warned else []
    assert [message for message in caplog.messages if "refused" in message] == told


@pytest.mark.parametrize(("ratio", "shown"), [(1.0, "2000.00 ms"), (0.5, "2000.00 ms (kept), 1000.00 ms now")])
def test_the_log_tells_kept_times_from_those_of_now(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, ratio: float, shown: str
) -> None:
    """A profile that was measured just now has one time for each level."""
    profile = LatencyProfile([1], [[1e3], [2e3], [3e3], [4e3]])
    monkeypatch.setattr(load, "profile_of", lambda *_, **__: Profiled(profile, ratio))
    with caplog.at_level("INFO"), Session(EXAMPLE, threads=1) as session:
        load_model(session, ModelConfig(100.0, 0), Device()).engine.close(0.0)
    assert f"{session.name}: level 1 takes {shown}" in caplog.messages


@pytest.mark.parametrize(
    ("rows", "options", "joins"),
    [
        ("independent", {}, True),
        (None, {}, True),
        ("dependent", {}, False),
        (None, {"joined_samples": 1}, False),
        (None, {"policy": "slackfit"}, True),
        ("dependent", {"policy": "slackfit"}, False),
    ],
)
def test_requests_are_joined_where_rows_are_independent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: str | None, options: dict[str, Any], joins: bool
) -> None:
    """The file says whether they are; without its statement, the check at the start does."""
    path = tmp_path / "m.safetensors"
    path.write_bytes(EXAMPLE.read_bytes())
    store_rows(path, rows)
    batches = [1, 2, 4] if options.get("joined_samples") != 1 else [1]
    profile = LatencyProfile(batches, [[1e3 * (level + 1)] * len(batches) for level in range(4)])
    monkeypatch.setattr(load, "profile_of", lambda *_, **__: Profiled(profile, 1.0))
    monkeypatch.setattr(load, "Scheduler", functools.partial(Scheduler, workers=0))
    monkeypatch.setattr(joining, "UNMARKED_S", math.inf)  # however slow this machine is
    with Session(path, threads=1) as session:
        model = load_model(session, ModelConfig(600_000.0, **options), Device())
        try:
            futures = [model.engine.submit(Request(random_inputs(session.inputs, 1, seed))) for seed in range(2)]
            while model.engine.serve_next():  # type: ignore[attr-defined]
                pass
            assert [future.result(0).batch for future in futures] == ([2, 2] if joins else [1, 1])
        finally:
            model.engine.close(0.0)
