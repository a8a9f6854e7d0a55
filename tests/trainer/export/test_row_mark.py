"""Row mark: files state whether rows are independent, and only such requests of several clients are joined."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from nested_sparse.amend import store_rows
from nested_sparse.checkpoint import Checkpoint
from nested_sparse.runtime import ElasticPolicy, LatencyProfile, Request, Scheduler, Session
from nested_sparse.trainer import export, nest


class Net(nn.Module):
    """A small body and a head that the test chooses."""

    def __init__(self, head: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 8))
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


HEADS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "less the mean": (lambda z: z - z.mean(0), "dependent"),
    "products": (lambda z: z @ z.T, "dependent"),
    "softmax over the batch": (lambda z: z.softmax(0), "dependent"),
    "normalised by the batch": (lambda z: functional.batch_norm(z, None, None, training=True), "dependent"),
    "classes": (lambda z: z.softmax(1), "independent"),
}


def exported(tmp_path: Path, head: Callable[[Tensor], Tensor], **options: bool) -> Path:
    net = nest(Net(head), densities=(0.3, 0.8), pattern="unstructured")
    return export(net, (torch.randn(2, 6),), tmp_path / "net.safetensors", **options)


def check_answers(path: Path, joins: bool) -> None:
    """Two requests of two samples, for which a joined run costs no more than one, get the answers of separate runs."""
    rng = np.random.default_rng(0)
    requests = [{"input": rng.standard_normal((2, 6)).astype(np.float32)} for _ in range(2)]
    profile = LatencyProfile((1, 2, 4), [[8.0] * 3] * 2)
    with Session(path, threads=1) as session:
        scheduler = Scheduler(session, profile, ElasticPolicy(profile), default_slo_ms=600_000.0, workers=0)
        futures = [scheduler.submit(Request(inputs)) for inputs in requests]
        assert scheduler.serve_next()
        done = [future.done() for future in futures]
        while scheduler.serve_next():
            pass
        for inputs, future in zip(requests, futures, strict=True):
            response = future.result(0)
            expected = session.run(inputs, response.level.index)["output"]
            np.testing.assert_allclose(response.outputs["output"], expected, rtol=1e-4, atol=1e-5)
            assert response.batch == (4 if joins else 2)
        assert done == [True, joins]


@pytest.mark.parametrize("name", HEADS)
def test_each_client_gets_what_it_would_get_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str) -> None:
    """Export tests whether samples may be joined, writes it into the file and logs a no; the scheduler obeys."""
    head, mark = HEADS[name]
    with caplog.at_level(logging.INFO, "nested_sparse"):
        path = exported(tmp_path, head)
    check_answers(path, joins=mark == "independent")
    with Checkpoint.open(path) as checkpoint:
        assert checkpoint.rows == mark
    said = [each for each in caplog.messages if "requests of different clients will not be batched" in each]
    assert len(said) == (mark == "dependent")
    assert [each.name for each in tmp_path.iterdir()] == ["net.safetensors"]
    store_rows(path, None)  # as in files older than the mark
    check_answers(path, joins=False)


def test_what_was_not_looked_at_is_not_said(tmp_path: Path) -> None:
    """There is no mark after an export without verification, or with a fixed batch, which is never joined."""
    for options in ({"verify": False}, {"fixed_batch": True, "force": True}):
        with Checkpoint.open(exported(tmp_path, HEADS["products"][0], **options)) as checkpoint:
            assert checkpoint.rows is None
