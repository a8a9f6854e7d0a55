"""bench serving: the command's errors, and one run against its own servers."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nested_sparse.errors import BenchError, ServingError
from nested_sparse.level import Level
from nested_sparse.serving import cli
from nested_sparse.serving.bench.serving.cell import Cell, Load, Span, chosen_traces
from nested_sparse.serving.bench.serving.experiment import CellResult
from nested_sparse.serving.bench.serving.open_loop import Arrival, Event, Outcome, open_loop
from nested_sparse.serving.bench.serving.picture import Shade, draw
from nested_sparse.serving.bench.serving.report import errors_of, report
from nested_sparse.serving.bench.serving.workload import Workload

COMMAND = [sys.executable, "-m", "nested_sparse.serving.cli", "bench", "serving"]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("absent.safetensors",), 1, "absent.safetensors: no such file (FILE)"),
        (("--arrivals", "absent.npz"), 1, "absent.npz: no such file (--arrivals)"),
        (("--co-runner", "gpu"), 2, "expected one of none, cpu, memory"),
        (("--model", "net"), 2, "names a model of the --target"),
        (("--trace", "sawtooth"), 1, "no trace 'sawtooth'; there are poisson"),
        (("--seconds", "0"), 2, "Invalid value for '--seconds'"),
        (("--utilisation", "-1"), 2, "Invalid value for '--utilisation'"),
        (("--seconds", "inf"), 1, "seconds: expected a finite number above 0, got inf"),
        (("--slo-ms", "inf"), 1, "slo_ms: expected a finite number above 0, got inf"),
        (("--picture", "absent/picture.png"), 1, "there is no folder absent"),
        (("--picture", __file__), 1, "is not an earlier run's picture"),
    ],
)
def test_nonsense_is_refused_before_anything_is_measured(monkeypatch, capsys, arguments, code, message):
    pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # pytest keeps its own
    monkeypatch.setattr(sys, "argv", ["nested-sparse", "bench", "serving", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    said = capsys.readouterr()
    assert caught.value.code == code
    assert message in " ".join(said.err.split())
    assert said.out == ""


def test_one_run_measures_every_server_and_verifies_their_answers(two_inputs: Path):
    """Two levels of a model of two inputs, elastic and whatever else starts; one cell, a table, rows, one JSON line."""
    pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")
    options = ("--trace", "gamma-8", "--co-runner", "cpu", "--seconds", 1, "--utilisation", 0.05)
    done = run(two_inputs, *options)
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout.splitlines()[-1])
    (cell,) = line["cells"]
    assert {"level 0", "level 1", "elastic"} <= cell["servers"].keys()
    offered = {name: score["offered"] for name, score in cell["servers"].items()}
    assert len(set(offered.values())) == 1
    assert offered["elastic"] > 0
    for name, score in cell["servers"].items():
        assert score["wrong"] == score["errors"] == 0
        counted = score["in_time"] + score["shed"] + score["late"] + score["expired"]
        assert counted == score["offered"], name
    assert set(cell["servers"]["level 0"]["levels"]) <= {"0"}
    assert all(row["measured"] is not None or row["unavailable"] for row in line["rows"])
    assert "Effective accuracy" in done.stdout
    assert "no labels" in done.stdout


def test_a_target_is_measured_alone(serve, model, tmp_path: Path):
    """Any server of the protocol: its first model, labels of no use here, levels as it names them."""
    from nested_sparse.serving.bench.serving.contenders import target_ms, target_server
    from nested_sparse.serving.bench.serving.experiment import Experiment
    from nested_sparse.serving.bench.serving.reference import make_reference

    pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")
    workload = Workload("rows", [np.ones((2, 4), np.float32)], None, None)
    with serve([model]) as server:
        target = target_server(server.address, None)
        assert target.model == "net"
        assert 0 < target_ms(target, workload.items[0]) < 60_000
        with pytest.raises(BenchError, match=r"answers no request of shape \[2, 3\]"):
            target_ms(target, np.ones((2, 3), np.float32))
        with pytest.raises(ServingError, match="does not say what model 'absent' takes"):
            target_ms(target_server(server.address, "absent"), workload.items[0])
        load = Load(40.0, 0.5, 2)
        traces = chosen_traces(["poisson"], None)
        kinds = ("none", "quota")
        experiment = Experiment([target], workload, make_reference(workload, None), load, 60_000.0, traces, kinds)
        (cell,) = experiment.run()
    score = cell.scores["target"]
    assert score.offered > 5
    assert score.attainment == score.effective_accuracy == 1.0
    assert score.unverified == score.offered
    assert "the server is not ours" in experiment.unavailable["quota"]


def wrong_answer() -> CellResult:
    from nested_sparse.serving.bench.serving.reference import Reference

    expected = [[np.ones((1, 2))]]
    graded = Reference(expected, None, []).grade(Outcome(Arrival(0.0, 0), "ok", 5.0, 0, np.zeros((1, 2))))
    return CellResult(Cell("poisson", "none"), Span(0.0, 1.0), {"elastic": [[graded]]})


def test_a_wrong_answer_is_an_error_of_the_run():
    """It is named, and it is in the JSON line."""
    (error,) = errors_of([wrong_answer()])
    assert error.startswith("elastic, poisson: 1 of 1 answers are not those of the level they name")
    assert json.loads(json.dumps(report([wrong_answer()], [], {}), allow_nan=False))["errors"] == [error]


def test_the_open_loop_serves_events_in_time_and_returns_every_arrival_in_order(serve, model):
    """Against a server with a fake engine: answers, levels, and two connections that take turns."""
    import asyncio

    pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")
    happened: list[str] = []
    with serve([model]) as server:
        arrivals = [Arrival(0.01 * place, place % 2) for place in range(20)]
        events = [Event(0.05, lambda: happened.append("come")), Event(0.3, lambda: happened.append("go"))]
        batches = [np.full((1, 4), value, np.float32) for value in (1.0, 2.0)]
        load = open_loop(server.address, "net", arrivals, batches, 60_000.0, events=events, connections=2)
        outcomes = asyncio.run(load)
    assert [outcome.arrival for outcome in outcomes] == arrivals
    assert happened == ["come", "go"]
    for outcome in outcomes:
        assert outcome.status == "ok"
        assert outcome.level == 2
        assert outcome.compute_ms == 2.5
        assert outcome.lowering is None
        assert outcome.output is not None
        assert outcome.output.item() == 4.0 * (1 + outcome.arrival.item)
    assert isinstance(model.levels[0], Level)


def test_the_picture_shows_lost_and_answered_requests(tmp_path: Path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    outcomes = [Outcome(Arrival(t / 10, 0), "ok", 5.0 + t, t % 2, None, compute_ms=2.0) for t in range(30)]
    outcomes.append(Outcome(Arrival(3.0, 0), "shed", 1.0, None, None))
    path = tmp_path / "picture.png"
    nameless = [Outcome(Arrival(t / 10, 0), "ok", 5.0, None, None) for t in range(9)]
    draw(path, {"target": nameless}, 20.0, [1.0], [])
    draw(path, {"elastic": outcomes, "level 1": outcomes[:3]}, 20.0, [1.0, 2.0], [Shade("busy", 1.0, 2.0, dark=True)])
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size < 200_000
