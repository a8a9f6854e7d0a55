"""Fixtures: outcomes made by hand, and a tiny checkpoint."""

from __future__ import annotations

import pytest

from nested_sparse.serving.bench.serving.cell import Cell, Span
from nested_sparse.serving.bench.serving.experiment import CellResult
from nested_sparse.serving.bench.serving.open_loop import Arrival, Outcome
from nested_sparse.serving.bench.serving.reference import Graded


def graded(status="ok", score=1.0, *, at_s=0.0, latency_ms=5.0, level=0, check="right", item=0):
    """One graded request; a lost one where the status is not ok or late."""
    answered = status in ("ok", "late")
    outcome = Outcome(Arrival(at_s, item), status, latency_ms, level if answered else None, None)
    return Graded(outcome, score if answered else 0.0, check if answered else "")


@pytest.fixture
def make_graded():
    return graded


@pytest.fixture
def make_cell():
    """A cell in which each server scored so many of a hundred requests, in one segment."""

    def make(trace="gamma-8", co_runner="cpu", **in_time_scores):
        result = CellResult(Cell(trace, co_runner), Span(0.0, 10.0))
        for name, (in_time, score) in in_time_scores.items():
            part = [graded("ok" if place < in_time else "shed", score, at_s=place / 10) for place in range(100)]
            result.rounds[name.replace("_", " ")] = [part]
        return result

    return make


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """Two linear layers, two levels that state an accuracy."""
    return exported(tmp_path_factory.mktemp("load"), inputs=1)


@pytest.fixture(scope="session")
def two_inputs(tmp_path_factory):
    """The same, of the difference of two inputs."""
    return exported(tmp_path_factory.mktemp("load"), inputs=2)


def exported(folder, inputs):
    torch = pytest.importorskip("torch", reason="torch, which the checkpoint is made with, is not installed")
    from nested_sparse.trainer import export, nest

    class Difference(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = layers

        def forward(self, these, those):
            return self.layers(these - those)

    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Linear(64, 2048), torch.nn.ReLU(), torch.nn.Linear(2048, 10))
    net = nest(Difference() if inputs == 2 else layers, densities=(0.1, 0.9))
    path = folder / "tiny.safetensors"
    export(net, tuple(torch.randn(1, 64) for _ in range(inputs)), path, metrics={"accuracy": [0.5, 0.75]})
    return path
