"""Simplification: work in proportion to the graph, and one node per recurrent layer at every length."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.graph.nodes import graph_nodes
from nested_sparse.runtime import Session
from nested_sparse.trainer import export, nest
from nested_sparse.trainer.export.fuse import fuse
from nested_sparse.trainer.export.trace import trace
from nested_sparse.trainer.model.forward_call import ForwardCall


class Unrolled(nn.Module):
    """A loop that tracing unrolls, like farthest-point sampling; each step reads and writes by an index."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps, self.fc = steps, nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        for step in range(self.steps):
            furthest = x.max(-1, keepdim=True)[1]
            x = torch.where(x < x.gather(-1, furthest), x * (step + 2), x[:, :1])
        return x


class Recurrent(nn.Module):
    """A recurrent layer over a sequence, and a head."""

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.layer, self.fc = layer, nn.Linear(width, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, state = self.layer(x)
        return self.fc(y), (state[0] if isinstance(state, tuple) else state).transpose(0, 1)


def traced_and_fused(model: nn.Module, *examples: Tensor, keep_dense: tuple[str, ...] = ()) -> ir.Model:
    net = nest(model, densities=(0.5,), keep_dense=keep_dense).eval()
    call = ForwardCall(net.model, examples)
    with torch.no_grad():
        answer = call.answer(net.model, call.tensors)
    traced = trace(net.model, call, answer, input_names=None, output_names=None, fixed_batch=True)
    return fuse(traced.model, {}, 1).model


def test_work_grows_with_the_graph_as_the_graph_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four times the steps cost about four times the visits of nodes over all passes, not sixteen times."""
    visits = 0
    nodes_of = ir.Graph.__iter__

    def counted(graph: ir.Graph) -> Iterator[ir.Node]:
        nonlocal visits
        for node in nodes_of(graph):
            visits += 1
            yield node

    monkeypatch.setattr(ir.Graph, "__iter__", counted)
    per_size = []
    for steps in (6, 24):
        visits = 0
        traced_and_fused(Unrolled(steps), torch.randn(2, 4))
        per_size.append(visits)
    assert 0 < per_size[1] < 5 * per_size[0]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("keep_dense", [(), ("layer",)])
def test_recurrent_layers_are_traced_as_one_node(
    kind: type[nn.Module], keep_dense: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch runs as many operators for a long sequence as for a short one; a nested layer has a node a direction."""
    operators = 0
    dispatch = FakeTensorMode.dispatch

    def counted(self: FakeTensorMode, *args: object, **kwargs: object) -> object:
        nonlocal operators
        operators += 1
        return dispatch(self, *args, **kwargs)

    monkeypatch.setattr(FakeTensorMode, "dispatch", counted)
    per_length = []
    for steps in (3, 9):
        operators = 0
        model = Recurrent(kind(4, 5, batch_first=True, bidirectional=True), 10)
        graph = traced_and_fused(model, torch.randn(2, steps, 4), keep_dense=keep_dense).graph
        made = [node.op_type for node in graph]
        assert (made.count(kind.__name__), made.count(f"Nested{kind.__name__}")) == ((1, 0) if keep_dense else (0, 2))
        per_length.append(operators)
    assert 0 < per_length[0] == per_length[1]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (nn.LSTM, {"batch_first": True, "bidirectional": True, "num_layers": 2}),
        (nn.LSTM, {"batch_first": True, "bias": False, "dropout": 0.5, "num_layers": 2}),
        (nn.GRU, {"batch_first": True, "bidirectional": True}),
        (nn.RNN, {"batch_first": True}),
    ],
)
@pytest.mark.parametrize("keep_dense", [(), ("layer",)])
def test_recurrent_layers_answer_as_torch_does(
    kind: type[nn.Module], options: dict[str, object], keep_dense: tuple[str, ...], tmp_path: Path
) -> None:
    """The test has layers, directions, biases, a free batch and the states. Plain RNNs are left to torch."""
    torch.manual_seed(0)
    model = Recurrent(kind(6, 5, **options), 10 if "bidirectional" in options else 5)
    net = nest(model, densities=(0.3, 0.6), keep_dense=keep_dense).eval()
    path = export(net, (torch.randn(2, 7, 6),), tmp_path / "net.safetensors")
    x = torch.randn(3, 7, 6)
    with Session(path, threads=1) as session, torch.no_grad():
        got, expected = session.run({"input": x.numpy()}), net(x)
    for array, tensor in zip(got.values(), expected, strict=True):
        np.testing.assert_allclose(array, tensor, atol=1e-5)


def test_steps_that_do_nothing_are_left_out(tmp_path: Path) -> None:
    """Constants are folded, and reshapes, casts and clips of reshapes, casts and clips become one."""

    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.fc(x).double().float().transpose(0, 1).transpose(0, 1) * 1.0 + 0.0
            return x.reshape(-1, 2, 2).reshape(-1, 4).clamp(0, 9).clamp(-1, 6)

    path = export(nest(Idle(), densities=(0.5,)), (torch.randn(2, 4),), tmp_path / "net.safetensors")
    with Checkpoint.open(path) as checkpoint:
        graph = ir.serde.deserialize_model(ir.serde.onnx.load_from_string(checkpoint.graph()))
    operators = [node.op_type for node in graph.graph]
    assert not {"Transpose", "Mul", "Add"} & set(operators)
    assert operators.count("Reshape") <= 1
    assert operators.count("Clip") <= 1


class RootMeanSquare(nn.Module):
    """The norm of Llama, in torch's own words and as transformers spells it out, on either side of the product."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form, self.fc = form, nn.Linear(8, 8)
        self.norm = nn.RMSNorm(8, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        if self.form == "module":
            return self.norm(x)
        inverse = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.norm.weight * (x * inverse if self.form == "behind" else inverse * x)


@pytest.mark.parametrize("form", ["module", "behind", "in front"])
def test_a_root_mean_square_is_divided_by(form: str, tmp_path: Path) -> None:
    """ONNX Runtime makes one node of it; of a reciprocal and a product it does not."""
    net = nest(RootMeanSquare(form).eval(), densities=(0.5,))
    x = torch.randn(3, 8)
    path = export(net, (x,), tmp_path / "net.safetensors")
    with Checkpoint.open(path) as checkpoint:
        operators = [node.operator for node in graph_nodes(checkpoint.graph())]
    assert "Div" in operators
    assert "Reciprocal" not in operators
    with Session(path, threads=1) as session:
        np.testing.assert_allclose(session.run({"input": x.numpy()})["output"], net(x).detach().numpy(), atol=1e-5)
