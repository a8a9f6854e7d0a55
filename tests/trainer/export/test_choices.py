"""Choices: outputs that depend on a choice among rounded scores, and how far an int8 file of them may be from torch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import ExportError
from nested_sparse.graph.nodes import graph_nodes
from nested_sparse.runtime import Session
from nested_sparse.trainer import NestedModel, export, nest
from nested_sparse.trainer.export.choices import chosen_outputs


class Picks(nn.Module):
    """Scores of four rows of the input, the row with the largest score, and the row whose first value is largest.

    The scores are nearly alike, so rounded ones choose others now and then.
    """

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(32, 64), nn.ReLU())
        self.scores = nn.Linear(64, 4)
        with torch.no_grad():
            self.scores.weight.copy_(self.scores.weight[:1] + 0.003 * self.scores.weight)
            self.scores.bias.zero_()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows = x.reshape(-1, 4, 8)
        scores = self.scores(self.body(x))
        by_score = scores.topk(1, dim=1).indices
        by_input = rows[..., 0].topk(1, dim=1).indices
        return scores, taken(rows, by_score), taken(rows, by_input)


def taken(rows: Tensor, index: Tensor) -> Tensor:
    return rows.gather(1, index[..., None].expand(-1, -1, rows.shape[2]))


@pytest.fixture(scope="module")
def net() -> NestedModel:
    torch.manual_seed(0)
    return nest(Picks(), densities=(0.3, 0.6)).eval()


X = torch.randn(256, 32, generator=torch.Generator().manual_seed(1))


def test_outputs_behind_a_choice_of_ours(net: NestedModel, tmp_path: Path) -> None:
    """A choice by the input alone is exact, and the scores themselves are no choice."""
    path = export(net, (X[:2],), tmp_path / "picks.safetensors")
    with Checkpoint.open(path) as checkpoint:
        chosen = chosen_outputs(graph_nodes(checkpoint.graph()))
        assert [spec.name in chosen for spec in checkpoint.outputs] == [False, True, False]


def test_an_int8_file_may_choose_others(net: NestedModel, tmp_path: Path) -> None:
    """Some of the chosen rows are others. Their errors alone would have had the file refused."""
    path = export(net, (X[:2],), tmp_path / "picks.safetensors", values="int8", calibration=[(X, X)])
    with Session(path, threads=1) as session, torch.no_grad():
        net.set_level(0)
        _, expected, exact = (each.numpy() for each in net.model(X))
        _, got, same = session.run({session.inputs[0].name: X.numpy()}, level=0).values()
    others = (expected != got).any(axis=(1, 2)).mean()
    assert 0.13 < others < 0.5  # the errors are 0.5 of the output's and more
    assert (exact == same).all()


def test_other_rows_throughout_are_refused(net: NestedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a faulty operator: every chosen row is another one."""
    truth = Session.run

    def wrong(self: Session, inputs: dict, level: int = -1) -> dict:
        outputs = truth(self, inputs, level=level)
        name = list(outputs)[1]
        return {**outputs, name: outputs[name][::-1].copy()}

    monkeypatch.setattr(Session, "run", wrong)
    with pytest.raises(ExportError, match="expected at most 1"):
        export(net, (X[:2],), tmp_path / "picks.safetensors", values="int8", calibration=[(X, X)])
