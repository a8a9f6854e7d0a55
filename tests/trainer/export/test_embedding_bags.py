"""Embedding bags: the file answers as torch for each way to reduce a bag, and bags of one length need no loop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.graph.nodes import graph_nodes
from nested_sparse.runtime.session import Session
from nested_sparse.trainer import export, nest


class Bags(nn.Module):
    """A bag of each sample, reduced and multiplied; with weights of its items where they are given."""

    def __init__(self, **options: object) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.bag = nn.EmbeddingBag(11, 6, **options)  # type: ignore[arg-type]
        self.head = nn.Linear(6, 8)

    def forward(self, items: Tensor, shares: Tensor | None = None) -> Tensor:
        return torch.as_tensor(self.head(self.bag(items, per_sample_weights=shares)))


@pytest.mark.parametrize(
    ("options", "weighted", "loops"),
    [
        ({"mode": "sum"}, False, False),
        ({"mode": "mean"}, False, False),
        ({"mode": "max"}, False, False),
        ({"mode": "sum"}, True, False),
        ({"mode": "sum", "padding_idx": 3}, False, True),
    ],
)
def test_the_file_answers_as_torch(options: dict[str, object], weighted: bool, loops: bool, tmp_path: Path) -> None:
    """For other bags and batches than the example's, also with items that occur twice."""
    net = nest(Bags(**options).eval(), densities=(0.3, 0.7))
    items = torch.tensor([[1, 3, 3, 10], [0, 7, 2, 7]])
    shares = torch.tensor([[0.5, -1.0, 2.0, 0.0], [1.0, 1.0, 0.25, 3.0]])
    examples = (items, shares) if weighted else (items,)
    path = export(net, examples, tmp_path / "model.safetensors")
    with Checkpoint.open(path) as checkpoint:
        assert any(node.operator in ("Loop", "If") for node in graph_nodes(checkpoint.graph())) == loops
    rng = np.random.default_rng(4)
    with Session(path, threads=1) as session:
        for batch in (1, 5):
            x = {"items": rng.integers(0, 11, (batch, 4))}
            if weighted:
                x["shares"] = rng.standard_normal((batch, 4)).astype(np.float32)
            inputs = {spec.name: x["shares" if spec.dtype == "float32" else "items"] for spec in session.inputs}
            for level in range(2):
                net.set_level(level)
                expected = net(*(torch.from_numpy(each) for each in x.values())).detach().numpy()
                np.testing.assert_allclose(*session.run(inputs, level).values(), expected, rtol=1e-4, atol=1e-5)


class Offsets(Bags):
    """Bags of several lengths: where each begins in one row of items."""

    def forward(self, items: Tensor, offsets: Tensor) -> Tensor:  # type: ignore[override]
        return torch.as_tensor(self.head(self.bag(items, offsets)))


@pytest.mark.parametrize("mode", ["mean", "max"])
def test_an_empty_bag_answers_as_torch(mode: str, tmp_path: Path) -> None:
    """With zeros, as the first, the last or between others."""
    net = nest(Offsets(mode=mode).eval(), densities=(0.3, 0.7))
    items = torch.tensor([1, 3, 3, 10, 2])
    path = export(net, (items, torch.tensor([0, 2, 3])), tmp_path / "model.safetensors", fixed_batch=True)
    with Session(path, threads=1) as session:
        for starts in ([0, 0, 3], [0, 5, 5], [0, 2, 2]):
            offsets = torch.tensor(starts)
            (answer,) = session.run({"items": items.numpy(), "offsets": offsets.numpy()}).values()
            np.testing.assert_allclose(answer, net(items, offsets).detach().numpy(), rtol=1e-4, atol=1e-5)
