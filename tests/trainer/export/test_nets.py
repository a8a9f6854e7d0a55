"""Every kind of network, exported and compared with torch at every level by two evaluators."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.reference
import pytest
import torch
import torch.nn.functional as F
from onnx.reference.op_run import OpRun
from torch import Tensor, nn

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.runtime import Session, check_rows
from nested_sparse.slice import slice_checkpoint
from nested_sparse.trainer import export, nest
from nested_sparse.trainer.model.layers import NestedConv, NestedLinear
from nested_sparse.trainer.model.nested_model import NestedModel
from nested_sparse.trainer.model.norm import LevelBatchNorm

TOLERANCE = 1e-4  # of the largest magnitude: the same float32 products, summed in another order
DENSITIES = (0.2, 0.4, 0.7)


class ConvNormRelu(nn.Module):
    """The pattern of most networks, with odd channel counts and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 10, 3, padding=1, bias=False),
            nn.BatchNorm2d(10),
            nn.ReLU(),
            nn.Conv2d(10, 7, 3, stride=2),
            nn.BatchNorm2d(7, affine=False),
            nn.ReLU(inplace=True),
        )
        self.fc = nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).mean((2, 3)))


class Residual(nn.Module):
    """Bottleneck chain: the sum in both orders, a projection on the shortcut, relu after the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv1, self.norm1 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv3, self.norm3 = nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.BatchNorm2d(12)
        self.short, self.norm_short = nn.Conv2d(8, 12, 1, stride=2, bias=False), nn.BatchNorm2d(12)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(self.norm1(self.conv1(x)) + x)
        x = F.relu(x + self.norm2(self.conv2(x)))
        return torch.relu(self.norm3(self.conv3(x)) + self.norm_short(self.short(x)))


class PreActivation(nn.Module):
    """Norms before convolutions: nothing to fold them into."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm1, self.conv1 = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1)
        self.norm2, self.conv2 = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        inner = self.conv1(F.relu(self.norm1(x)))
        return x + self.conv2(F.relu(self.norm2(inner)))


class Dense(nn.Module):
    """DenseNet: concatenations, then norm and activation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(9, 4, 3, padding=1)
        self.norm1, self.norm2 = nn.BatchNorm2d(9), nn.BatchNorm2d(13)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, self.conv1(x)], 1)
        x = torch.cat([x, self.conv2(F.relu(self.norm1(x)))], 1)
        return self.pool(F.relu(self.norm2(x)))


class Depthwise(nn.Module):
    """Depthwise and grouped convolutions of odd sizes; ReLU6, Hardtanh, hardswish."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.norm1 = nn.Conv2d(3, 12, 1, bias=False), nn.BatchNorm2d(12)
        self.depthwise, self.norm2 = nn.Conv2d(12, 12, 3, groups=12, padding=1, bias=False), nn.BatchNorm2d(12)
        self.project, self.norm3 = nn.Conv2d(12, 6, 1, bias=False), nn.BatchNorm2d(6)
        self.grouped = nn.Conv2d(6, 4, 3, groups=2)
        self.last = nn.Conv2d(4, 9, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.norm1(self.expand(x)))
        x = nn.ReLU6()(self.norm2(self.depthwise(x)))
        x = F.hardtanh(self.norm3(self.project(x)), -0.5, 0.75)
        return F.hardswish(self.last(self.grouped(x)))


class Geometry(nn.Module):
    """Dilation, uneven strides, rectangular kernels, "same" with even kernels (uneven padding), 1×1 with stride 2."""

    def __init__(self) -> None:
        super().__init__()
        self.same = nn.Conv2d(3, 8, 4, padding="same")
        self.dilated = nn.Conv2d(8, 8, 3, padding=2, dilation=2)
        self.wide = nn.Conv2d(8, 5, (1, 5), stride=(2, 1), padding=(0, 2), dilation=(1, 2))
        self.point = nn.Conv2d(5, 17, 1, stride=2)
        self.dilated_same = nn.Conv2d(17, 3, (2, 3), padding="same", dilation=(3, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.dilated_same(F.relu(self.point(self.wide(self.dilated(self.same(x))))))


class MobileNet(nn.Module):
    """Depthwise separable blocks with strides, an inverted residual, a channel multiplier, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _convolved(nn.Conv2d(3, 12, 3, 2, 1, bias=False))
        self.first = _separable(12, 20, 1)
        self.second = _separable(20, 24, 2)
        self.expand = _convolved(nn.Conv2d(24, 48, 1, bias=False))
        self.widen = _convolved(nn.Conv2d(48, 96, 5, 1, 2, groups=48, bias=False))
        self.project, self.norm = nn.Conv2d(96, 24, 1, bias=False), nn.BatchNorm2d(24)
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(self.stem(x)))
        x = x + self.norm(self.project(self.widen(self.expand(x))))
        return self.fc(self.pool(x).flatten(1))


def _convolved(conv: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU6())


def _separable(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        _convolved(nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False)),
        _convolved(nn.Conv2d(inputs, outputs, 1, bias=False)),
    )


class Jasper(nn.Module):
    """Lines: plain, dilated, separable and grouped convolutions, residual sums, a pool of ONNX Runtime's."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm0 = nn.Conv1d(6, 16, 11, stride=2, padding=5, bias=False), nn.BatchNorm1d(16)
        self.depthwise = nn.Conv1d(16, 16, 5, padding=2, groups=16, bias=False)
        self.pointwise, self.norm1 = nn.Conv1d(16, 16, 1, bias=False), nn.BatchNorm1d(16)
        self.short, self.norm_short = nn.Conv1d(16, 24, 1), nn.BatchNorm1d(24)
        self.dilated, self.norm2 = nn.Conv1d(16, 24, 3, padding="same", dilation=2), nn.BatchNorm1d(24)
        self.grouped, self.same = nn.Conv1d(24, 12, 3, groups=2), nn.Conv1d(12, 9, 4, padding="same")

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm0(self.stem(x)))
        x = F.relu(x + self.norm1(self.pointwise(self.depthwise(x))))
        x = F.relu(self.norm2(self.dilated(x)) + self.norm_short(self.short(x)))
        return self.same(F.max_pool1d(F.relu(self.grouped(x)), 2)).log_softmax(1)


class TransformerBlock(nn.Module):
    """Linear layers on rank 3, attention spelled out, layer norm, gelu, residuals."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.up, self.down = nn.Linear(16, 40), nn.Linear(40, 16)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).chunk(3, dim=-1)
        attention = (q @ k.transpose(1, 2) / 4.0).softmax(-1)
        x = x + self.out(attention @ v)
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class TwoInOut(nn.Module):
    """Two inputs, one of them indices, and a nested answer of two outputs, one of them whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.left, self.right = nn.Embedding(11, 8), nn.Linear(8, 8), nn.Linear(6, 8)

    def forward(self, tokens: Tensor, features: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        total = self.left(self.embed(tokens)).sum(1) + self.right(features)
        return total, {"best": total.argmax(1)}


class BiasNoNorm(nn.Module):
    """Per-level biases only; the inner value is an output too, so nothing may be folded past it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        inner = self.conv1(x)
        return inner, F.relu(self.conv2(F.relu(inner)))


class Shared(nn.Module):
    """One convolution called twice, once with a norm and a residual, once without."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm(self.conv(x)) + x)
        return self.conv(y)


class SharedAlike(nn.Module):
    """One convolution and its norm called twice: the norm folds at both places."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(F.relu(self.norm(self.conv(x)))))


class TwoNorms(nn.Module):
    """One convolution under two norms, as weight-shared detection heads have it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm1, self.norm2 = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.BatchNorm2d(5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.norm1(self.conv(x)).relu(), self.norm2(self.conv(x * 0.5)).relu()


class LinearNorm(nn.Module):
    """BatchNorm1d after a linear layer: folds on rank 2, but on rank 3 its channels are another dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.norm1 = nn.Linear(9, 14), nn.BatchNorm1d(14)
        self.fc2, self.norm2 = nn.Linear(7, 2), nn.BatchNorm1d(2)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.fc1(x)))
        return self.norm2(self.fc2(y.reshape(-1, 2, 7)))


class OddSums(nn.Module):
    """Sums that must not be folded as residuals (broadcast, doubled, read twice), and one that may (scaled)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.shift = nn.Conv2d(3, 3, 3, padding=1), nn.Parameter(torch.randn(1, 3, 1, 1))
        self.twice, self.scaled, self.again = (nn.Conv2d(3, 3, 1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x) + self.shift
        y = F.relu(y)
        double = self.twice(y)
        y = double + double
        y = torch.add(self.scaled(y), x, alpha=2)
        z = self.again(y)
        return F.relu(z + y) + z.sigmoid()


class Encoder(nn.Module):
    """torch's own transformer layers, whose fast path must not read weights past the nested layers."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 2)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x)[:, 0])


class UNet(nn.Module):
    """Down and up again: transposed convolution, resize, concatenation with the input; one image without a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.norm = nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4)
        self.up, self.out = nn.ConvTranspose2d(4, 3, 2, 2), nn.Conv2d(6, 2, 1)
        self.first = nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.interpolate(self.up(F.relu(self.norm(self.down(x)))), size=x.shape[2:], mode="bilinear")
        return self.out(torch.cat([y, x], 1)).sigmoid() + self.first(x[0])


TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])
TRANSFORMER: Sequence[str] | None = (  # older releases spell some of them out
    ["LayerNormalization"] * 2 + ["Split", "Transpose", "MatMul", "Div", "Softmax", "MatMul", "Gelu"]
    if TORCH >= (2, 13)
    else None
)


def tokens_and_features() -> tuple[Tensor, ...]:
    return torch.randint(11, (3, 4)), torch.randn(3, 6)


def image(*shape: int) -> tuple[Tensor]:
    return (torch.randn(shape or (2, 3, 11, 9)),)


def line() -> tuple[Tensor]:
    return image(2, 6, 75)


GATHERED = ["Gather", "Gather", "Mul", "Add"]  # what a level norm becomes where it cannot be folded


@dataclass(frozen=True)
class Case:
    """A network, its inputs, how it is nested, and the operators its file must have."""

    make: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Tensor, ...]] = image
    nested: int = 0  # NestedConv and NestedLinear nodes
    others: Sequence[str] | None = ()  # None: whatever torch.onnx makes of the rest
    pattern: str = "block4x1"
    permuted: bool = False
    keep_dense: Sequence[str] = ()


GATHERLESS = ("expand", "project", "last")  # fewer weights in a row than the densest level of gather groups asks for

CASES = {
    "conv_norm_relu": Case(ConvNormRelu, nested=3, others=["ReduceMean"], keep_dense=("fc",)),
    "unstructured": Case(ConvNormRelu, nested=3, others=["ReduceMean"], pattern="unstructured"),
    "block16": Case(ConvNormRelu, nested=3, others=["ReduceMean"], pattern="block16x1", permuted=True),
    "residual": Case(Residual, nested=5, permuted=True),
    "pre_activation": Case(PreActivation, nested=3, others=[*GATHERED, "Relu"]),
    "dense": Case(Dense, nested=2, others=["Concat", "Relu"] * 2 + GATHERED * 2 + ["AveragePool"]),
    "depthwise": Case(Depthwise, nested=5, others=["HardSwish"], permuted=True),
    "depthwise_gathers": Case(Depthwise, nested=5, others=["HardSwish"], pattern="gs8x1", keep_dense=GATHERLESS),
    "depthwise_channels": Case(Depthwise, nested=5, others=["HardSwish"], pattern="channel"),
    "mobilenet": Case(MobileNet, nested=9, others=["ReduceMean", "Reshape"], keep_dense=("fc",)),
    "mobilenet_block16": Case(MobileNet, nested=9, others=["ReduceMean", "Reshape"], pattern="block16x1"),
    "jasper": Case(Jasper, line, nested=7, others=["MaxPool", "LogSoftmax"]),
    "jasper_unstructured": Case(Jasper, line, nested=7, others=["MaxPool", "LogSoftmax"], pattern="unstructured"),
    "jasper_permuted": Case(
        Jasper, line, nested=7, others=["MaxPool", "LogSoftmax"], pattern="block2x1", permuted=True
    ),
    "geometry": Case(Geometry, nested=5, permuted=True),
    "geometry_unstructured": Case(Geometry, nested=5, pattern="unstructured"),
    "transformer": Case(TransformerBlock, lambda: image(2, 5, 16), 4, TRANSFORMER, permuted=True),
    "two_in_out": Case(TwoInOut, tokens_and_features, 2, ["Gather", "ReduceSum", "ArgMax"]),
    "bias_no_norm": Case(BiasNoNorm, nested=2, others=["Relu"]),
    "shared": Case(Shared, nested=2, others=[*GATHERED, "Add", "Relu"]),
    "shared_alike": Case(SharedAlike, nested=2),
    "two_norms": Case(TwoNorms, nested=2, others=["Mul", "Relu", "Relu", *GATHERED, *GATHERED]),
    "linear_norm": Case(LinearNorm, lambda: image(1, 9), 2, ["Reshape", *GATHERED]),
    "encoder": Case(Encoder, lambda: image(2, 5, 16), 5, None),
    "unet": Case(UNet, nested=3, others=None),
    "odd_sums": Case(OddSums, nested=4, others=["Add", "Relu", "Add", "Mul", "Add", "Relu", "Sigmoid", "Add"]),
}


def randomise(net: NestedModel) -> None:
    """Every level gets its own biases, affines and statistics, so that a mix-up shows."""
    for module in net.modules():
        if isinstance(module, LevelBatchNorm):
            for norm in module.norms:
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.25, 2.0)
                if norm.weight is not None:
                    nn.init.normal_(norm.weight)
                    nn.init.normal_(norm.bias)
        if isinstance(module, NestedConv | NestedLinear) and module.bias is not None:
            nn.init.normal_(module.bias)


def permute(net: NestedModel) -> None:
    """Random row permutations, which nest() need not have chosen, each within its group of channels."""
    for module in net.modules():
        if isinstance(module, NestedConv | NestedLinear):
            groups = getattr(module, "groups", 1)
            rows = module.weight.shape[0] // groups
            order = [torch.randperm(rows) + group * rows for group in range(groups)]
            module.permutation = torch.cat(order).to(torch.int32)


def run_reference(path: Path, feeds: Mapping[str, np.ndarray], level: int) -> dict[str, np.ndarray]:
    """The file's graph by onnx's own evaluator, the nested operators by their definition in torch."""
    with Checkpoint.open(path) as checkpoint:
        layers = {layer.name: checkpoint.load_layer(layer.name) for layer in checkpoint.layers}
        model = onnx.load_from_string(checkpoint.graph())
        onnx.checker.check_model(model)
        empty = {f"__segment_{index}__": np.zeros(0, np.uint8) for index in range(len(checkpoint.levels))}
        names = [spec.name for spec in checkpoint.outputs]
    evaluator = onnx.reference.ReferenceEvaluator(model, new_ops=[_operator(layers, op) for op in ("Conv", "Linear")])
    answers = evaluator.run(names, {**feeds, **empty, "__level__": np.array(level)})
    return dict(zip(names, answers, strict=True))


def _operator(layers: Mapping[str, tuple], op: str) -> type[OpRun]:
    def run(self, x, level, residual, *segments, layer=None, clip_min=None, clip_max=None, **attributes):
        weight, norms = layers[layer]
        dense, (scale, shift) = torch.from_numpy(weight.at(int(level))), torch.from_numpy(norms[int(level)])
        x = torch.from_numpy(x)
        if op == "Conv":
            top, left, bottom, right = attributes["pads"]
            line = attributes.get("spatial_dimensions") == 1
            dense = dense.reshape(weight.rows, -1, *attributes["kernel_shape"])
            padded = F.pad(x.unsqueeze(2) if line else x, (left, right, top, bottom))
            strides, dilations, groups = (attributes.get(name, 1) for name in ("strides", "dilations", "groups"))
            y = F.conv2d(padded, dense, None, strides, 0, dilations, groups)
            y = y.squeeze(2) if line else y
            scale, shift = (part.reshape(-1, *(1,) * (x.dim() - 2)) for part in (scale, shift))
        else:
            y = F.linear(x, dense)
        y = y * scale + shift
        if residual is not None:
            y = y + torch.from_numpy(residual)
        return (y.clamp(clip_min, clip_max).numpy(),)

    return type(f"Nested{op}", (OpRun,), {"op_domain": "nested_sparse", "_run": run})


def run_session(path: Path, feeds: Mapping[str, np.ndarray], level: int) -> dict[str, np.ndarray]:
    with Session(path, threads=1) as session:
        return session.run(feeds, level=level)


def assert_alike(net: NestedModel, path: Path, examples: tuple[Tensor, ...], run: Callable) -> None:
    """`run` answers as torch does, at every level, on the examples and on another batch size."""
    with Checkpoint.open(path) as checkpoint:
        names = [spec.name for spec in checkpoint.inputs]
    more = tuple(torch.cat([example, example[:1], example]) for example in examples)
    outputs = []
    for inputs in (examples, more):
        for level in range(net.level_count):
            net.set_level(level)
            with torch.no_grad():
                expected = torch.utils._pytree.tree_leaves(net.eval()(*inputs))
            got = run(path, {name: value.numpy() for name, value in zip(names, inputs, strict=True)}, level)
            for reference, answer in zip(expected, got.values(), strict=True):
                assert answer.dtype == reference.numpy().dtype
                np.testing.assert_allclose(answer, reference, rtol=0, atol=TOLERANCE * float(reference.abs().max()))
            outputs.append(expected[0][:1].numpy())
    assert not np.allclose(outputs[0], outputs[1]), "the levels must differ, or the comparison shows nothing"


def operators(path: Path) -> tuple[int, list[str]]:
    """How many nested nodes the file's graph has, and its other operators, sorted."""
    with Checkpoint.open(path) as checkpoint:
        nodes = onnx.load_from_string(checkpoint.graph()).graph.node
    others = [node.op_type for node in nodes if node.domain != "nested_sparse"]
    return len(nodes) - len(others), sorted(others)


def leaks(path: Path) -> list[str]:
    """Things of this machine that must not be in the graph."""
    with Checkpoint.open(path) as checkpoint:
        graph = checkpoint.graph()
    words = (".py", "stack_trace", "torch", "namespace", str(Path.cwd()), str(Path(torch.__file__).parent))
    return [word for word in words if word.encode() in graph]


@pytest.mark.parametrize("name", CASES)
def test_network_answers_like_torch_at_every_level(name: str, tmp_path: Path) -> None:
    """The file computes what torch computes, at every level and another batch size, and all that can be folded is."""
    torch.manual_seed(0)
    case = CASES[name]
    examples = case.inputs()
    net = nest(case.make(), densities=DENSITIES, pattern=case.pattern, keep_dense=case.keep_dense)
    randomise(net)
    if case.permuted:
        permute(net)
    path = export(net, examples, tmp_path / "net.safetensors", verify=False)
    nested, others = operators(path)
    assert nested == case.nested
    assert case.others is None or others == sorted(case.others)
    assert leaks(path) == []
    for run in (run_reference, run_session):
        assert_alike(net, path, examples, run)
    with Session(path, threads=1) as session:
        feeds = {spec.name: tensor.numpy() for spec, tensor in zip(session.inputs, examples, strict=True)}
        assert check_rows(session, feeds).independent is (name != "unet")  # which adds what it makes of the first image


@pytest.mark.parametrize("name", ["mobilenet", "jasper"])
def test_slices_answer_like_the_whole(name: str, tmp_path: Path) -> None:
    """A file cut after two of three levels gives the same bits at both."""
    torch.manual_seed(1)
    case = CASES[name]
    net = nest(case.make(), densities=DENSITIES, pattern=case.pattern, keep_dense=case.keep_dense)
    randomise(net)
    examples = case.inputs()
    whole = export(net, examples, tmp_path / "whole.safetensors")
    cut = tmp_path / "cut.safetensors"
    slice_checkpoint(whole, 2, cut)
    assert cut.stat().st_size < whole.stat().st_size
    feeds = {"input": examples[0].numpy()}
    for level in range(2):
        assert np.array_equal(run_session(cut, feeds, level)["output"], run_session(whole, feeds, level)["output"])


def test_files_say_what_kind_of_convolution_a_layer_is(tmp_path: Path) -> None:
    """Groups and the number of dimensions are in the file where they are not 1 and 2."""
    path = export(nest(Jasper(), densities=(0.5,)), line(), tmp_path / "net.safetensors", verify=False)
    with Checkpoint.open(path) as checkpoint:
        kinds = {layer.name: layer.attributes for layer in checkpoint.layers}
    assert kinds["depthwise"]["groups"] == [16]
    assert kinds["grouped"]["kernel_shape"] == [1, 3]
    assert kinds["stem"]["pads"] == [0, 5, 0, 5]
    assert all(kind["spatial_dimensions"] == [1] for kind in kinds.values())
    assert "groups" not in kinds["stem"]
