"""LoadGen: real runs of its Server scenario against the fake server, and the system under test by itself."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import grpc
import pytest
from clients import typed_request, wait_for

from nested_sparse.errors import BenchError, OverloadedError
from nested_sparse.serving.bench.loadgen.run import ServerScenario, measure, read_summary
from nested_sparse.serving.bench.loadgen.system import LATE_FACTOR, System


@pytest.fixture
def system(server):
    """A system with one request, and the list of what LoadGen is told."""
    told: list[int] = []
    with grpc.insecure_channel(server.address) as channel:
        it = System(channel, [typed_request().SerializeToString()], 0.2, told.append)
        yield it, told
        it.close()


def query(number):
    return SimpleNamespace(id=number, index=0)


def test_answers_are_told_with_their_levels(system):
    it, told = system
    it.issue([query(7), query(8)])
    assert wait_for(lambda: sum(it.levels.values()) == 2)
    assert sorted(told) == [7, 8]
    assert (dict(it.statuses), dict(it.levels)) == ({"OK": 2}, {2: 2})


def test_a_shed_query_is_told_when_its_bound_is_over(system, model, monkeypatch):
    """Told at once it would count as a fast answer."""
    it, told = system
    waits: list[float] = []
    monkeypatch.setattr("nested_sparse.serving.bench.loadgen.system.time.sleep", waits.append)
    model.engine.error = OverloadedError("shed", 1.0)
    it.issue([query(9)])
    assert wait_for(lambda: told == [9])
    assert 0 < max(waits) <= LATE_FACTOR * 0.2
    assert dict(it.statuses) == {"RESOURCE_EXHAUSTED": 1}


def test_summary_is_read():
    text = "===\nMLPerf Results Summary\n===\nResult is : VALID\n99.00 percentile latency (ns)   : 1200\n"
    assert read_summary(text) == {"Result is": "VALID", "99.00 percentile latency (ns)": "1200"}


def test_a_run_of_loadgen(server, model):
    """Its process is a process of its own: LoadGen's state is global. Ten seconds are bound enough for any machine."""
    pytest.importorskip("mlperf_loadgen", reason="mlcommons-loadgen is not installed")
    command = [sys.executable, "-m", "nested_sparse.serving.cli", "bench", "loadgen", "--target", server.address]
    options = [
        "--model",
        "net",
        "--qps",
        "50",
        "--seconds",
        "2",
        "--bound-ms",
        "10000",
        "--percentile",
        "0.9",
        "--json",
    ]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["queries"] == len(model.engine.requests) >= 50
    assert found["statuses"] == {"OK": found["queries"]}
    assert found["levels"] == {"2": found["queries"]}
    assert found["valid"]
    assert 0 < found["p50_ms"] <= found["p99_ms"] < 10_000
    assert {request.inputs["x"].shape for request in model.engine.requests} == {(1, 4)}
    model.engine.error = OverloadedError("shed", 1.0)
    shed = subprocess.run(
        [*command, *options[:-5], "--bound-ms", "100", "--json"], capture_output=True, text=True, timeout=300
    )
    found = json.loads(shed.stdout.splitlines()[-1])
    assert not found["valid"]
    assert found["statuses"] == {"RESOURCE_EXHAUSTED": found["queries"]}
    assert found["p50_ms"] > 100


def test_a_server_that_does_not_know_the_model(server):
    pytest.importorskip("mlperf_loadgen", reason="mlcommons-loadgen is not installed")
    with pytest.raises(BenchError, match="no model 'other'"):
        measure(server.address, "other", ServerScenario(1.0, 1.0))
