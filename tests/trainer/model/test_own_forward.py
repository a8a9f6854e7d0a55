"""Own forwards: convolutions and linear layers of a user's own class, compared with the class itself at every level."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import InputError
from nested_sparse.runtime import Session
from nested_sparse.trainer import NestedModel, export, nest

DENSITIES = (0.3, 1.0)


def padded_same(x: Tensor, window: Sequence[int], strides: Sequence[int]) -> Tensor:
    """TensorFlow's padding, which depends on the size of the image."""
    sides: list[int] = []
    for size, kernel, stride in zip(x.shape[-2:], window, strides, strict=True):
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        sides = [total // 2, total - total // 2, *sides]
    return F.pad(x, sides)


def conv2d_same(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, dilation: Any, groups: int) -> Tensor:
    """A convolution of an image padded so."""
    return F.conv2d(padded_same(x, weight.shape[-2:], stride), weight, bias, stride, (0, 0), dilation, groups)


class Conv2dSame(nn.Conv2d):
    """As timm has it."""

    def forward(self, x: Tensor) -> Tensor:
        return conv2d_same(x, self.weight, self.bias, self.stride, self.dilation, self.groups)


class StdConv2d(nn.Conv2d):
    """As timm has it: a convolution with a standardised weight."""

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(flat, None, None, training=True, momentum=0.0, eps=1e-6).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Conv1D(nn.Module):
    """As Hugging Face's GPT-2 has it: a linear layer whose weight lies transposed."""

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.nf = outputs
        self.weight, self.bias = nn.Parameter(torch.randn(inputs, outputs)), nn.Parameter(torch.randn(outputs))

    def forward(self, x: Tensor) -> Tensor:
        size = (*x.size()[:-1], self.nf)
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(size)


class Kernel(nn.Module):
    """A matrix of another name, and a step behind the product."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(inputs, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.kernel).sin()


class Cosine(nn.Linear):
    """A classifier by the angle: its weight is normalised at each call."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.normalize(x, dim=-1), F.normalize(self.weight, dim=1))


class Line(nn.Conv1d):
    """A convolution of its own class with groups and one padded side."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv1d(F.pad(x, (2, 0)), weight=self.weight, bias=self.bias, groups=self.groups, dilation=2)


def padded(mode: str, kind: type[nn.Conv1d | nn.Conv2d] = nn.Conv2d) -> nn.Module:
    return kind(6, 8, 3, stride=2, padding=2, dilation=1, groups=2, padding_mode=mode)


@dataclass(frozen=True)
class Case:
    """A layer, its input, and the kinds of nodes in the graph beside ours."""

    make: Callable[[], nn.Module]
    shape: Sequence[int]
    others: Sequence[str] | None = ()


IMAGE, LINE, ROWS = (2, 6, 9, 7), (2, 6, 11), (2, 5, 6)
CASES = {
    "Conv2dSame": Case(lambda: Conv2dSame(6, 8, 3, stride=2), IMAGE),
    "Conv2dSame, depthwise": Case(lambda: Conv2dSame(6, 6, 5, stride=2, groups=6, bias=False), IMAGE),
    "StdConv2d": Case(lambda: StdConv2d(6, 8, 3, padding=1), IMAGE),
    "Conv1D": Case(lambda: Conv1D(8, 6), ROWS, None),
    "Conv1D, square": Case(lambda: Conv1D(6, 6), ROWS, None),
    "Kernel": Case(lambda: Kernel(6, 8), ROWS, ["Sin"]),
    "Cosine": Case(lambda: Cosine(6, 8, bias=False), ROWS, None),
    "Line": Case(lambda: Line(6, 8, 2, groups=2), LINE),
    "reflect": Case(lambda: padded("reflect"), IMAGE, ["Pad"]),
    "replicate": Case(lambda: padded("replicate"), IMAGE, ["Pad"]),
    "circular": Case(lambda: padded("circular"), IMAGE, None),
    "circular, one dimension": Case(lambda: padded("circular", nn.Conv1d), LINE, None),
    "prune": Case(lambda: prune.random_unstructured(Conv1D(6, 6), "weight", amount=0.5), ROWS, None),
    "weight_norm": Case(lambda: parametrizations.weight_norm(Conv2dSame(6, 8, 3)), IMAGE),
}


def of(case: Case, densities: Sequence[float] = DENSITIES) -> tuple[nn.Module, NestedModel, Tensor]:
    torch.manual_seed(0)
    model, x = nn.Sequential(case.make()).eval(), torch.randn(*case.shape)
    return model, nest(model, densities=densities), x


@torch.no_grad()
def with_values(model: nn.Module, net: NestedModel, level: int) -> nn.Module:
    """The user's own class with the level's weight and bias. (For a weight that the forward computes: see below.)"""
    plain = copy.deepcopy(model)
    (layer,) = net.nested_layers().values()
    (module,) = plain.children()
    weight = layer.values * layer.mask(level)
    (name,) = (name for name, held in module.named_parameters() if held.ndim >= 2)
    parameter = getattr(module, name)
    parameter.copy_(weight if weight.shape == parameter.shape and not isinstance(module, Conv1D) else weight.t())
    if layer.biases is not None:
        module.bias.copy_(layer.biases[level])  # type: ignore[operator, union-attr]
    return plain


@pytest.mark.parametrize("name", CASES)
def test_the_file_and_torch_compute_as_the_class_does(name: str, tmp_path: Path) -> None:
    """A whole level is the user's module; every level of the file is that of torch; one operator of ours runs it."""
    case = CASES[name]
    model, net, x = of(case)
    assert list(net.nested_layers()) == ["0.inner"]
    assert not net.dense_layers()
    with torch.no_grad():
        assert torch.allclose(net(x), model(x), atol=1e-5)
    (layer,) = net.nested_layers().values()
    if layer.biases is not None:
        nn.init.normal_(layer.biases)
    path = export(net, (x,), tmp_path / "net.safetensors", verify=False)
    with Checkpoint.open(path) as file:
        nodes = [node.op_type for node in onnx.load_from_string(file.graph()).graph.node]
    assert sum(node.startswith("Nested") for node in nodes) == 1
    assert case.others is None or [node for node in nodes if not node.startswith("Nested")] == list(case.others)
    more = torch.cat([x, x[:1]])
    with Session(path, threads=1) as session, torch.no_grad():
        for level in range(2):
            net.set_level(level)
            expected = net(more)
            (got,) = session.run({session.inputs[0].name: more.numpy()}, level=level).values()
            assert torch.allclose(torch.from_numpy(got), expected, atol=1e-5)
            if name in ("Conv2dSame", "Conv1D", "Conv1D, square", "Kernel", "Line", "reflect", "circular"):
                assert torch.allclose(expected, with_values(model, net, level)(more), atol=1e-5)


@pytest.mark.parametrize("name", ["Conv2dSame", "StdConv2d", "Conv1D", "Kernel", "reflect", "Cosine"])
def test_gradients_reach_the_weights_that_a_level_keeps(name: str) -> None:
    """Each level trains its own weights, and no others; copies and pickles train and run as well."""
    _, net, x = of(CASES[name], (0.3, 0.6))
    for again in (net, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        (layer,) = again.nested_layers().values()
        for level in range(2):
            again.zero_grad()
            again.train().set_level(level)
            again(x).sin().sum().backward()
            gradient = layer.values.grad
            assert gradient is not None
            assert not gradient[~layer.mask(level)].any()
            assert gradient[layer.mask(level)].any()
        again.eval()
        net.eval()
        assert torch.equal(again(x), net(x))


def test_the_weight_is_found_under_its_name() -> None:
    """Code that looks at the module sees its class, its weight as it lay there, and its bias."""
    model, net, _ = of(CASES["Conv1D"])
    (module,) = net.model.children()
    assert isinstance(module, Conv1D)
    assert torch.equal(module.weight, model[0].weight)  # type: ignore[index]
    assert module.bias.shape == (2, 8)
    assert module.nf == 8


class Tied(nn.Module):
    """A language model whose last layer has the weight of its table."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.body, self.head = nn.Embedding(11, 6), Conv1D(6, 6), nn.Linear(6, 11, bias=False)
        self.head.weight = self.table.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.body(self.table(tokens)).tanh())


def test_a_tied_output_layer_is_sparse(tmp_path: Path) -> None:
    """It has a weight of its own, the table stays whole; keep_dense leaves them tied."""
    torch.manual_seed(0)
    model, tokens = Tied().eval(), torch.randint(11, (3, 5))
    net = nest(model, densities=DENSITIES)
    assert list(net.nested_layers()) == ["body.inner", "head"]
    assert "'head' has a copy of its weight" in net.dense_layers()["table"]
    assert net.nested_layers()["head"].values is not net.model.table.weight
    assert torch.equal(net.model.table.weight, model.table.weight)
    assert torch.allclose(net(tokens), model(tokens), atol=1e-5)
    path = export(net, (tokens,), tmp_path / "net.safetensors", verify=False)
    with Session(path, threads=1) as session, torch.no_grad():
        for level in range(2):
            net.set_level(level)
            (got,) = session.run({session.inputs[0].name: tokens.numpy()}, level=level).values()
            assert torch.allclose(torch.from_numpy(got), net(tokens), atol=1e-5)
    kept = nest(model, densities=DENSITIES, keep_dense=("head",))
    assert "shares its weight with 'table'" in kept.dense_layers()["head"]
    assert kept.model.head.weight is kept.model.table.weight


class Twice(nn.Linear):
    """Multiplies twice."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, self.weight).relu(), self.weight)


class OfInput(nn.Linear):
    """Its weight depends on the input."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * x.mean())


class DropConnect(nn.Linear):
    """Its weight is another one at each step of training."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, F.dropout(self.weight, 0.5, self.training), self.bias)


class Angle(nn.Linear):
    """Reads its weight for the product, and for the length of its rows."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight) / self.weight.norm(dim=1)


class Fails(nn.Module):
    """Wants two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x @ self.weight + y


class Shift(nn.Module):
    """Adds its parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.randn(1, 4))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.shift


def test_what_stays_dense_says_why() -> None:
    """Two products, a weight that depends on input or chance, another signature, no product; nothing is changed."""
    parts = {"twice": Twice(4, 4), "of_input": OfInput(4, 4), "fails": Fails(), "shift": Shift()}
    parts |= {"drops": DropConnect(4, 4), "angle": Angle(4, 4)}
    kept = Conv1D(4, 4)
    shared, other = Conv1D(4, 4), Fails()
    other.weight = shared.weight
    model = nn.ModuleDict({**parts, "kept": kept, "shared": shared, "other": other, "fc": nn.Linear(4, 4)})
    net = nest(model, densities=(0.5,), keep_dense=("kept",))
    assert list(net.nested_layers()) == ["fc"]
    reasons = net.dense_layers()
    for name in ("twice", "of_input", "shift", "drops"):
        assert "makes no single product with its weight" in reasons[name]
        assert type(net.model.get_submodule(name)) is type(parts[name])
    assert "also reads its weight" in reasons["angle"]
    assert type(net.model.angle) is Angle
    assert "fails on a tensor" in reasons["fails"]
    assert reasons["kept"] == "keep_dense names it"
    assert "shares its weight with 'other'" in reasons["shared"]


def unsteady(x: Tensor, weight: Tensor) -> Tensor:
    """A product with all of the weight or a part of it."""
    return F.linear(x, part_for(x, weight))


def part_for(x: Tensor, weight: Tensor) -> Tensor:
    """The weight, or a part for large batches."""
    return weight if len(x) < 5 else weight[:2]


class Unsteady(nn.Linear):
    """Computes its weight, and does something else where the batch is large."""

    def forward(self, x: Tensor) -> Tensor:
        return unsteady(x, F.normalize(self.weight, dim=1))


def test_another_product_than_at_first_is_an_error() -> None:
    """The computed weight is gone by then, so that any answer would be wrong."""
    net = nest(nn.Sequential(Unsteady(4, 4, bias=False)), densities=(0.5,))
    assert net(torch.randn(3, 4)).shape == (3, 4)
    with pytest.raises(InputError, match=r"another product with its computed weight.*keep_dense"):
        net(torch.randn(6, 4))
