"""Networks: one of each kind, with the operators that an exported file must have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvNormRelu(nn.Module):
    """A chain as in most networks, with odd channel counts and a classifier."""

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
    """A bottleneck chain: the sum in both orders, a projection on the shortcut, relu after the sum."""

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
    """Norms before convolutions, which no layer can fold."""

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
    """A DenseNet: concatenations, then norm and activation."""

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
    """1-D layers: plain, dilated, separable and grouped convolutions, residual sums, a pool of ONNX Runtime."""

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
    """Two inputs, one of them indices, and a nested answer of two outputs, one of them of whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.left, self.right = nn.Embedding(11, 8), nn.Linear(8, 8), nn.Linear(6, 8)

    def forward(self, tokens: Tensor, features: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        total = self.left(self.embed(tokens)).sum(1) + self.right(features)
        return total, {"best": total.argmax(1)}


class BiasNoNorm(nn.Module):
    """Biases per level without norms; the inner value is an output, too, so no later step may be folded."""

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
    """One convolution under two norms, as in detection heads with shared weights."""

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
    """torch's own transformer layers, whose fast path must not read weights directly."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 2)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x)[:, 0])


class UNet(nn.Module):
    """A U-Net: transposed convolution, resize, concatenation with the input; one image without a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.norm = nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4)
        self.up, self.out = nn.ConvTranspose2d(4, 3, 2, 2), nn.Conv2d(6, 2, 1)
        self.first = nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.interpolate(self.up(F.relu(self.norm(self.down(x)))), size=x.shape[2:], mode="bilinear")
        return self.out(torch.cat([y, x], 1)).sigmoid() + self.first(x[0])


class Speech(nn.Module):
    """A bidirectional LSTM, and a GRU that goes on from a state that is given; the batch comes first."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 5, num_layers=2, bidirectional=True, batch_first=True)
        self.gru, self.head = nn.GRU(10, 7, bias=False, batch_first=True), nn.Linear(7, 3)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y, (_, cells) = self.lstm(x)
        y, last = self.gru(y, state.transpose(0, 1))
        return self.head(y), last.transpose(0, 1), cells.transpose(0, 1)


TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])
TRANSFORMER: Sequence[str] | None = (  # older releases spell some of them out
    ["Split", "Transpose", "MatMul", "Div", "Softmax", "MatMul"] if TORCH >= (2, 13) else None
)


def tokens_and_features() -> tuple[Tensor, ...]:
    return torch.randint(11, (3, 4)), torch.randn(3, 6)


def image(*shape: int) -> tuple[Tensor]:
    return (torch.randn(shape or (2, 3, 11, 9)),)


def line() -> tuple[Tensor]:
    return image(2, 6, 75)


@dataclass(frozen=True)
class Case:
    """A network, its inputs, its options of nest, and the operators that its file must have."""

    make: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Tensor, ...]] = image
    nested: int = (
        0  # nodes of our operators, among them a NestedNorm for each norm that cannot be folded, and attention
    )
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
    "pre_activation": Case(PreActivation, nested=4),
    "dense": Case(Dense, nested=4, others=["Concat", "Concat", "AveragePool"]),
    "depthwise": Case(Depthwise, nested=5, others=[], permuted=True),
    "depthwise_gathers": Case(Depthwise, nested=5, others=[], pattern="gs8x1", keep_dense=GATHERLESS),
    "depthwise_channels": Case(Depthwise, nested=5, others=[], pattern="channel"),
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
    "shared": Case(Shared, nested=3, others=["Add", "Relu"]),
    "shared_alike": Case(SharedAlike, nested=2),
    "two_norms": Case(TwoNorms, nested=4, others=["Mul"]),
    "linear_norm": Case(LinearNorm, lambda: image(1, 9), 3, ["Reshape"]),
    "encoder": Case(Encoder, lambda: image(2, 5, 16), 15, None),
    "unet": Case(UNet, nested=4, others=None),
    "speech": Case(Speech, lambda: (torch.randn(2, 9, 6), torch.rand(2, 1, 7)), 11, None, permuted=True),
    "speech_step": Case(Speech, lambda: (torch.randn(2, 1, 6), torch.rand(2, 1, 7)), 11, None, "unstructured"),
    "odd_sums": Case(OddSums, nested=4, others=["Add", "Relu", "Add", "Mul", "Add", "Relu", "Sigmoid", "Add"]),
}
