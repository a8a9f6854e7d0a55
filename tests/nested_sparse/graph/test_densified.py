"""densified: graphs in which ONNX Runtime runs layers, against our operators with the same weights, all kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.graph.dense_nodes import DenseLayer
from nested_sparse.graph.densified import densified, mark, replaceable
from nested_sparse.graph.placed import placed
from nested_sparse.runtime.profiling.random_copy import write_random_copy
from nested_sparse.runtime.session import Session, random_inputs
from nested_sparse.trainer import export, nest
from nested_sparse.writer import LayerRecord, LevelRecord, write_checkpoint

DENSITIES = (0.5, 1.0)


class Residual(nn.Module):
    """Convolutions in groups, with strides and dilations, a residual sum, and a pool between convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, (3, 2), (2, 1), (1, 0)), nn.BatchNorm2d(8), nn.ReLU())
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.first = nn.Sequential(nn.Conv2d(8, 8, 3, padding=2, dilation=2, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.second = nn.Conv2d(8, 8, 1, groups=2)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.stem(x))
        x = torch.relu(self.second(self.first(x)) + x)
        return torch.as_tensor(self.head(x.mean((2, 3))))


def functions() -> nn.Module:
    """Each function of outputs."""
    layers: list[nn.Module] = []
    for function in (nn.Sigmoid(), nn.SiLU(), nn.GELU(), nn.GELU("tanh"), nn.Hardsigmoid(), nn.Hardswish(), Quick()):
        layers += [nn.Linear(12, 12), function]
    return nn.Sequential(*layers)


class Quick(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(1.702 * x)


def transposed() -> nn.Module:
    """Transposed convolutions of one and two dimensions, and a convolution of one."""
    return nn.Sequential(
        nn.Conv1d(3, 8, 3, 2, 1),
        nn.ReLU(),
        nn.ConvTranspose1d(8, 4, 3, 2, 1, output_padding=1),
        nn.Unflatten(2, (4, 4)),
        nn.ConvTranspose2d(4, 8, (3, 2), (2, 3)),
        nn.ReLU(),
        nn.Conv2d(8, 4, 1),
    )


def volumes() -> nn.Module:
    """Convolutions of three dimensions."""
    return nn.Sequential(nn.Conv3d(2, 4, 3, padding=1), nn.ReLU(), nn.MaxPool3d(2), nn.Conv3d(4, 4, (1, 2, 3)))


class NormFirst(nn.Module):
    """Norms in front of convolutions, as DenseNet has them: operators of their own, two of them on a tiled image."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(3))
        self.convs = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))
        self.line = nn.Sequential(nn.Conv1d(8, 8, 3), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 4, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = x + conv(torch.nn.functional.silu(norm(x)))
        return torch.as_tensor(self.line(x.flatten(2)))


class Recurrent(nn.Module):
    """An LSTM of two layers in both directions, and a GRU, whose last states are in the answer."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 8, num_layers=2, bidirectional=True, batch_first=True)
        self.gru = nn.GRU(16, 5, bias=False)
        self.head = nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, (_, cells) = self.lstm(x)
        z, hidden = self.gru(y.transpose(0, 1))
        return torch.cat([self.head(z).transpose(0, 1).flatten(1), hidden[0], cells[1], cells[2]], 1)


class Streaming(nn.Module):
    """Recurrent layers that are given their states; the values between the two layers of the first are an output."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru, self.twice = nn.LSTM(6, 4), nn.GRU(4, 4), nn.GRU(4, 4)

    def forward(
        self, x: torch.Tensor, hidden: torch.Tensor, cells: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        y, (hidden, cells) = self.lstm(x, (hidden, cells))
        z, hidden = self.gru(y, hidden)
        for _ in range(2):
            z, hidden = self.twice(z, hidden)
        return z, hidden, cells


class Attending(nn.Module):
    """Attention within a packed projection and, with a mask that closes every key of one sequence, to other words."""

    def __init__(self) -> None:
        super().__init__()
        self.packed, self.query, self.both = nn.Linear(12, 36), nn.Linear(12, 12), nn.Linear(12, 12)
        self.head = nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.packed(x).unflatten(-1, (3, 4, 3)).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        q = self.query(y).unflatten(-1, (4, 3)).transpose(1, 2)
        k, v = self.both(x).unflatten(-1, (2, 2, 3)).permute(2, 0, 3, 1, 4)
        seen = (x[..., 0] > x[:1, :, 0])[:, None, None]
        y = nn.functional.scaled_dot_product_attention(q, k, v, seen, enable_gqa=True).transpose(1, 2).flatten(2)
        return torch.as_tensor(self.head(y))


class Normed(nn.Module):
    """Layers that normalise their inputs: one behind two norms, and one that multiplies an LSTM's inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(12, eps=epsilon) for epsilon in (1e-5, 0.1, 0.2))
        self.layer, self.lstm, self.head = nn.Linear(12, 12), nn.LSTM(12, 8, batch_first=True), nn.Linear(8, 3)
        for norm in self.norms:
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for norm in self.norms[:2]:
            x = x + self.layer(norm(x))
        return torch.as_tensor(self.head(self.lstm(self.norms[2](x))[0]))


NETS: Mapping[str, tuple[nn.Module, tuple[int, ...]]] = {
    "residual": (Residual(), (3, 19, 16)),
    "norm first": (NormFirst(), (3, 9, 8)),
    "functions": (functions(), (12,)),
    "tokens": (nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 7)), (5, 6)),
    "transposed": (transposed(), (3, 16)),
    "volumes": (volumes(), (2, 4, 6, 7)),
    "recurrent": (Recurrent(), (7, 6)),
    "attention": (Attending(), (7, 12)),
    "input norms": (Normed(), (7, 12)),
}


def exported(name: str, folder: Path) -> Path:
    """A file of one of NETS."""
    model, shape = NETS[name]
    torch.manual_seed(0)
    net = nest(model.eval(), densities=(0.3, 0.6), pattern="block4x1")
    return export(net, (torch.randn(2, *shape),), folder / "model.safetensors", verify=False)


def copied(path: Path, folder: Path, *, alike: bool = False) -> tuple[list[LayerRecord], Path]:
    """A copy whose densest level is whole, with a norm of its own for each layer and level.

    alike: whether a layer's norms are the same at all levels, as those of recurrent layers are.
    """
    with Checkpoint.open(path) as checkpoint:
        records = write_random_copy(checkpoint, folder / "first.safetensors", DENSITIES)
        rng = np.random.default_rng(1)
        normed = [replace(each, norms=rng.uniform(0.5, 1.5, each.norms.shape).astype(np.float32)) for each in records]
        if alike:
            normed = [replace(each, norms=np.repeat(each.norms[-1:], len(DENSITIES), axis=0)) for each in normed]
        copy = folder / "copy.safetensors"
        write(checkpoint, copy, normed, checkpoint.graph())
    return normed, copy


def write(checkpoint: Checkpoint, path: Path, records: list[LayerRecord], graph: bytes) -> None:
    """A file with the inputs and outputs of `checkpoint`."""
    write_checkpoint(
        path,
        graph_builder=lambda places: placed(graph, places),
        layers=records,
        levels=[LevelRecord(density, 0, {}) for density in DENSITIES],
        inputs=checkpoint.inputs,
        outputs=checkpoint.outputs,
    )


def close(got: np.ndarray, expected: np.ndarray) -> None:  # type: ignore[type-arg]
    """The same but for rounding."""
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5 * float(np.abs(expected).max()))


@pytest.mark.parametrize("name", NETS)
def test_onnx_runtime_alone_answers_as_our_operators_do(name: str, tmp_path: Path) -> None:
    """All layers replaced; the graph is one that onnx finds right, and takes the model's own inputs alone."""
    path = exported(name, tmp_path)
    records, copy = copied(path, tmp_path)
    with Checkpoint.open(copy) as checkpoint:
        graph = checkpoint.graph()
    names = [record.weight.name for record in records]
    assert sorted(sum(replaceable(graph), ())) == sorted(names)
    layers = {each.weight.name: DenseLayer(each.weight.values, each.norms[-1:]) for each in records}
    alone = densified(graph, layers, alone=True)
    onnx.checker.check_model(onnx.load_from_string(alone))
    assert not any(node.domain for node in onnx.load_from_string(alone).graph.node)
    dense = ort.InferenceSession(alone, providers=["CPUExecutionProvider"])
    with Session(copy, threads=1) as session:
        assert [each.name for each in dense.get_inputs()] == [spec.name for spec in session.inputs]
        for batch in (1, 3):
            x = random_inputs(session.inputs, batch, seed=batch)
            (expected,) = session.run(x).values()
            close(dense.run(None, x)[0], expected)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("every", [0, 1])
def test_layers_of_both_kinds_stand_side_by_side(name: str, every: int, tmp_path: Path) -> None:
    """Every other layer replaced, with norms that differ from level to level; images between them are not tiled."""
    path = exported(name, tmp_path)
    records, copy = copied(path, tmp_path, alike=name in ("recurrent", "input norms"))
    with Checkpoint.open(copy) as checkpoint:
        graph = checkpoint.graph()
        chosen = sum(replaceable(graph)[every::2], ())
        layers = {
            each.weight.name: DenseLayer(each.weight.values, each.norms)
            for each in records
            if each.weight.name in chosen
        }
        # the sparse level of the others is whole here too, so that both files have equal weights
        whole = [
            replace(each, weight=replace(each.weight, first_level=np.zeros_like(each.weight.first_level)))
            for each in records
        ]
        expected_file, mixed = tmp_path / "whole.safetensors", tmp_path / "mixed.safetensors"
        write(checkpoint, expected_file, whole, graph)
        rest = [each for each in whole if each.weight.name not in chosen]
        write(checkpoint, mixed, rest, densified(graph, layers))
    with Session(expected_file, threads=1) as reference, Session(mixed, threads=1) as session:
        x = random_inputs(session.inputs, 2, seed=5)
        for level in range(len(DENSITIES)):
            (expected,) = reference.run(x, level).values()
            close(*session.run(x, level).values(), expected)


def test_recurrent_layers_take_and_give_states(tmp_path: Path) -> None:
    """Hidden states and cells, also of layers that run twice; the halves of a layer are replaced together."""
    torch.manual_seed(0)
    net = nest(Streaming().eval(), densities=(0.3, 0.6), pattern="block4x1")
    sizes = ({1: "streams"}, {1: "streams"}, {1: "streams"})
    example = (torch.randn(3, 2, 6), torch.randn(1, 2, 4), torch.randn(1, 2, 4))
    path = export(net, example, tmp_path / "model.safetensors", dynamic_shapes=sizes, verify=False)
    records, copy = copied(path, tmp_path)
    with Checkpoint.open(copy) as checkpoint:
        graph = checkpoint.graph()
        assert replaceable(graph) == [(f"{each}.ih_l0", f"{each}.hh_l0") for each in ("lstm", "gru", "twice")]
    layers = {each.weight.name: DenseLayer(each.weight.values, each.norms[-1:]) for each in records}
    alone = densified(graph, layers, alone=True)
    onnx.checker.check_model(onnx.load_from_string(alone), full_check=True)
    dense = ort.InferenceSession(alone, providers=["CPUExecutionProvider"])
    with Session(copy, threads=1) as session:
        x = random_inputs(session.inputs, 5, seed=1)
        for got, expected in zip(dense.run(None, x), session.run(x).values(), strict=True):
            close(got, expected)


def test_the_inputs_of_a_recurrent_layer_that_are_read_elsewhere_stay(tmp_path: Path) -> None:
    """Neither layer can be replaced then: ONNX's operator does not give them."""
    net = nest(nn.GRU(6, 8, batch_first=True).eval(), densities=(0.5, 0.8))
    path = export(net, (torch.randn(1, 3, 6),), tmp_path / "model.safetensors", verify=False)
    with Checkpoint.open(path) as checkpoint:
        graph = checkpoint.graph()
        assert replaceable(graph) == [("ih_l0", "hh_l0")]
        model = onnx.load_from_string(graph)
        passed = next(each for each in model.graph.node if each.op_type == "NestedLinear").output[0]
        model.graph.output.append(onnx.helper.make_tensor_value_info(passed, onnx.TensorProto.FLOAT, None))
        assert replaceable(model.SerializeToString()) == [("ih_l0",)]


def test_the_mark_is_new_in_the_graph(tmp_path: Path) -> None:
    """Also where a layer of the model has its name."""

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.as_tensor(self.dense(x))

    net = nest(Named(), densities=(0.5,))
    path = export(net, (torch.randn(1, 4),), tmp_path / "model.safetensors", verify=False)
    with Checkpoint.open(path) as checkpoint:
        assert mark(checkpoint.graph()) == "dense_"
