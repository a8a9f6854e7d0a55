"""quantise: networks exported as int8, against torch, against integers bit for bit, and layers that stay float32."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from int8_exports import DENSITIES, WORST_ERROR, exported, facts, images, nested, worst_error
from integer_model import IntegerModel
from nets import CASES
from numpy.typing import NDArray
from torch import Tensor, nn

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.quantization import row_scales
from nested_sparse.runtime import Session
from nested_sparse.runtime.profiling import layer_profile
from nested_sparse.runtime.rerouting.guard import RouteGuard
from nested_sparse.runtime.rerouting.table import RouteTable
from nested_sparse.slice import slice_checkpoint
from nested_sparse.trainer import NestedModel
from nested_sparse.value_type import INT8
from nested_sparse.weight import NestedWeight

OPERATORS: dict[str, tuple[Mapping[str, int], int]] = {
    "residual": ({"QuantizeImage": 1, "QuantizedConv": 5, "DequantizeImage": 1}, 2),
    "depthwise": ({"QuantizeImage": 1, "QuantizedConv": 5, "DequantizeImage": 1}, 2),
    "geometry_unstructured": ({"QuantizeImage": 1, "QuantizedConv": 5, "DequantizeImage": 1}, 2),
    "mobilenet_block16": (
        {
            **{"QuantizeImage": 1, "QuantizedConv": 8, "QuantizedGlobalAveragePool": 1, "Reshape": 1},
            "QuantizedLinear": 1,
        },
        1,
    ),
    "jasper": (
        {"QuantizeImage": 1, "QuantizedConv": 7, "QuantizedMaxPool": 1, "DequantizeImage": 1, "LogSoftmax": 1},
        2,
    ),
    "dense": (
        {
            **{"QuantizeImage": 2, "QuantizedConv": 2, "DequantizeImage": 2, "Concat": 2, "NestedNorm": 2},
            "AveragePool": 1,
        },
        4,
    ),
    "bias_no_norm": ({"QuantizeImage": 2, "QuantizedConv": 2, "DequantizeImage": 2, "Relu": 1}, 4),
    "odd_sums": (
        {
            **{"QuantizeImage": 3, "QuantizedConv": 4, "DequantizeImage": 3, "Add": 2, "Relu": 1, "Mul": 1},
            **{"QuantizedAdd": 1, "Sigmoid": 1},
        },
        6,
    ),
    "depthwise_channels": ({"QuantizeImage": 1, "QuantizedConv": 5, "DequantizeImage": 1}, 2),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_networks_of_every_kind(name: str, tmp_path: Path) -> None:
    """Layers and what stands between them compute in bytes; the answers are torch's but for rounding."""
    case = CASES[name]
    torch.manual_seed(0)
    net = nested(case.make(), case.pattern, (0.4, 0.9))
    x = torch.randn(6, *case.inputs()[0].shape[1:])
    path = exported(net, x, tmp_path / "net.safetensors")
    assert facts(path) == OPERATORS[name]
    assert 0 < worst_error(net, path, (x,)) < WORST_ERROR
    with Checkpoint.open(path) as checkpoint:
        assert all(layer.value_type is INT8 for layer in checkpoint.layers)
        assert all(len(layer.sqnr_db) == 2 and min(layer.sqnr_db) > 30 for layer in checkpoint.layers)


# ---- bit for bit, at every level and on every route ----


class Everything(nn.Module):
    """Every operator in bytes, and none that rounds floats: so that all of it can be computed in integers.

    A table of two nodes, a max pool, a folded residual, a sum of two branches, squeeze-and-excitation by linear layers,
    a depthwise layer of stride 2, an average pool, a classifier behind a global pool, and an image as second output.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm0 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv, self.norm1 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.left, self.right = nn.Conv2d(8, 8, (1, 5), padding=(0, 2)), nn.Conv2d(8, 8, 1)
        self.squeeze, self.excite = nn.Linear(8, 4), nn.Linear(4, 8)
        self.depthwise, self.norm2 = nn.Conv2d(8, 8, 3, 2, 1, groups=8), nn.BatchNorm2d(8)
        self.point = nn.Conv2d(8, 12, 1)
        self.fc = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.max_pool2d(F.silu(self.norm0(self.stem(x))), 3, 2, 1)
        x = F.relu(self.norm1(self.conv(x)) + x)
        x = F.relu(F.relu(self.left(x)) + self.right(x).clamp(-1, 2))
        gate = F.hardtanh(self.excite(F.relu(self.squeeze(x.mean((2, 3))))), 0, 1)
        x = x * gate[:, :, None, None]
        x = F.avg_pool2d(F.relu6(self.norm2(self.depthwise(x))), 2)
        x = self.point(x)
        return self.fc(x.mean((2, 3))), x


LAYERS = ("stem", "conv", "left", "right", "squeeze", "excite", "depthwise", "point", "fc")
PAIRS = [(1, 0), (2, 0), (2, 1)]
X = images(3, size=12, seed=4)


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> tuple[NestedModel, Path]:
    """The network, and its file."""
    torch.manual_seed(3)
    net = nested(Everything())
    with torch.no_grad():
        net.model.excite.bias.uniform_(0.3, 0.8)  # gates that are neither open nor shut
    return net, exported(net, images(16, size=12), tmp_path_factory.mktemp("int8") / "net.safetensors")


@pytest.fixture(scope="module")
def session(everything: tuple[NestedModel, Path]) -> Iterator[Session]:
    with Session(everything[1], threads=1) as session:
        yield session


def feeds_of(session: Session) -> dict[str, NDArray[Any]]:
    return {session.inputs[0].name: X.numpy()}


def same(got: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]]) -> None:
    """Bit for bit."""
    assert list(got) == list(expected)
    for name, values in expected.items():
        assert got[name].dtype == values.dtype
        np.testing.assert_array_equal(got[name], values)


def test_every_operator_stands_in_the_graph(everything: tuple[NestedModel, Path]) -> None:
    """One conversion at the entry, one for the output that is an image."""
    net, path = everything
    operators, count = facts(path)
    shapes = {name: operators[name] for name in operators if not name.startswith(("Quant", "Dequant"))}
    assert set(shapes) <= {"Reshape", "Unsqueeze", "Squeeze"}
    assert {name: times for name, times in operators.items() if name not in shapes} == {
        **{"QuantizeImage": 1, "QuantizedConv": 6, "QuantizedMaxPool": 1, "QuantizedAdd": 1, "QuantizedMultiply": 1},
        **{"QuantizedGlobalAveragePool": 2, "QuantizedAveragePool": 1, "QuantizedLinear": 3, "DequantizeImage": 1},
    }
    assert count == 2
    assert worst_error(net, path, (images(16, size=12),)) < WORST_ERROR


def test_a_file_answers_as_the_integer_reference(everything: tuple[NestedModel, Path], session: Session) -> None:
    """At every level, bit for bit; levels differ."""
    model, answers = IntegerModel(everything[1]), []
    for level in range(len(DENSITIES)):
        got = session.run(feeds_of(session), level=level)
        same(got, model.run(feeds_of(session), level))
        answers.append(next(iter(got.values())))
    assert not np.array_equal(answers[0], answers[1])
    assert not np.array_equal(answers[1], answers[2])


def test_every_route_answers_as_the_integer_reference(everything: tuple[NestedModel, Path], session: Session) -> None:
    """A level that falls at any operator to any lower one: the scales travel with the bytes, so each byte is right."""
    model = IntegerModel(everything[1])
    order = [node.layer for node in layer_profile(everything[1], repeats=1, threads=1)]
    table = RouteTable.measure(session, repeats=1)
    assert set(table.layers) == model.layers == set(LAYERS)
    guard, whole = RouteGuard(table), 0
    for start, end in PAIRS:
        for layer in table.layers:
            guard.force(start, end, layer)
            got = session.run(feeds_of(session), start, guard=guard)
            assert guard.level == end
            lowered = order[order.index(layer) :]
            same(got, model.run(feeds_of(session), {node: end if node in lowered else start for node in order}))
            alone = session.run(feeds_of(session), end)
            whole += np.array_equal(next(iter(got.values())), next(iter(alone.values())))
    assert whole <= 2 * len(PAIRS)  # the others are no level's answer


def weights_of(path: Path) -> dict[str, NestedWeight]:
    """q · scale of each layer."""
    with Checkpoint.open(path) as checkpoint:
        return {layer.name: checkpoint.load_layer(layer.name)[0] for layer in checkpoint.layers}


@pytest.mark.parametrize("levels", [1, 2])
def test_slices_answer_as_the_whole_file(
    everything: tuple[NestedModel, Path], session: Session, levels: int, tmp_path: Path
) -> None:
    """Bit for bit, and their weights are the whole file's: its scales are those of the densest level."""
    whole, part = everything[1], tmp_path / "part.safetensors"
    slice_checkpoint(whole, levels, part)
    with Session(part, threads=1) as sliced:
        for level in range(levels):
            same(sliced.run(feeds_of(session), level=level), session.run(feeds_of(session), level=level))
    all_weights, weights = weights_of(whole), weights_of(part)
    assert list(weights) == list(all_weights)
    for name, weight in weights.items():
        for level in range(levels):
            np.testing.assert_array_equal(weight.at(level), all_weights[name].at(level))


def test_weights_are_the_nets_rounded_and_levels_share_them(everything: tuple[NestedModel, Path]) -> None:
    """A weight that a level keeps is the same at every denser level, and half a step from the net's at most."""
    net, path = everything
    for name, weight in weights_of(path).items():
        exact = net.nested_weight(name)
        steps = row_scales(exact)[:, None]
        for level in range(len(DENSITIES)):
            held, kept = weight.at(level), exact.mask(level)
            np.testing.assert_array_equal(held, np.where(kept, weight.at(2), 0))
            assert (np.abs(held - exact.at(level)) <= steps * 0.501).all()
        assert name == "depthwise" or np.count_nonzero(weight.at(0)) < np.count_nonzero(weight.at(2))


# ---- linear layers ----


def linear_net() -> NestedModel:
    torch.manual_seed(5)
    return nested(nn.Sequential(nn.Linear(24, 17), nn.ReLU(), nn.Linear(17, 6)))


@pytest.mark.parametrize("form", ["static", "dynamic", "float32", None])
def test_forms_of_a_linear_layers_input(form: str | None, tmp_path: Path) -> None:
    """Without calibration ranges are found at run time; integers give the same bits but for "float32"."""
    net, x = linear_net(), torch.randn(9, 24, generator=torch.Generator().manual_seed(0))
    path = exported(
        net, x, tmp_path / "net.safetensors", activations=form, calibration=[(x, None)] if form == "static" else None
    )
    with Checkpoint.open(path) as checkpoint:
        nodes = onnx.load_from_string(checkpoint.graph()).graph.node
    stored = {
        each.s.decode() for node in nodes for each in node.attribute if node.op_type and each.name == "activations"
    }
    assert stored == {form or "dynamic"}
    assert facts(path) == ({"QuantizedLinear": 2}, 0)
    assert 0 < worst_error(net, path, (x,)) < WORST_ERROR
    if form == "float32":
        return
    model = IntegerModel(path)
    with Session(path, threads=1) as session:
        for level in range(len(DENSITIES)):
            feeds = {session.inputs[0].name: x.numpy()}
            same(session.run(feeds, level=level), model.run(feeds, level))


# ---- what stays float32 ----


class Functional(nn.Module):
    """A convolution that forward calls with a weight of its own, between two nested ones."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 4, 1)
        self.kernel = nn.Parameter(torch.randn(6, 6, 3, 3) / 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.conv2d(self.first(x), self.kernel, padding=1))


def test_a_convolution_that_is_not_nested_stays_onnx_runtimes(tmp_path: Path) -> None:
    """With a conversion on each side, both counted."""
    torch.manual_seed(0)
    net = nested(Functional())
    path = exported(net, images(8), tmp_path / "net.safetensors")
    assert facts(path) == ({"QuantizeImage": 2, "QuantizedConv": 2, "Conv": 1, "DequantizeImage": 2}, 4)
    assert worst_error(net, path, (images(8),)) < WORST_ERROR
