"""Networks for phones, of depthwise and 1 × 1 convolutions: MobileNetV2, MobileNetV3-small, EfficientNet-B0."""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from ..zoo import MobileNetV2
from .blocks import Maker, SqueezeExcite, conv_norm
from .network import CONVOLUTIONS, Network, Size, floats


class PaddedConv(nn.Module):
    """A convolution whose zeros `F.pad` puts in front of it, as ports of TensorFlow's networks have it."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        rows, columns = (int(padding) for padding in conv.padding)
        self.sides = (columns, columns, rows, rows)
        conv.padding = (0, 0)
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to what the convolution makes of the padded image."""
        y: Tensor = self.conv(F.pad(x, self.sides))
        return y


class MobileBlock(nn.Module):
    """1 × 1 convolution to `inner` channels, depthwise, perhaps squeeze and excitation, 1 × 1, perhaps a shortcut."""

    def __init__(
        self,
        inputs: int,
        inner: int,
        outputs: int,
        kernel: int,
        stride: int,
        act: Maker,
        excite: nn.Module | None,
    ) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(conv_norm(inputs, inner, 1, act=act) if inner != inputs else []),
            *conv_norm(inner, inner, kernel, stride, groups=inner, act=act),
            *([excite] if excite else []),
            *conv_norm(inner, outputs, 1, act=None),
        )
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H/stride, W/stride)."""
        y: Tensor = self.body(x)
        return x + y if self.shortcut else y


_V3_SMALL = (
    (3, 16, 16, True, nn.ReLU, 2),
    (3, 72, 24, False, nn.ReLU, 2),
    (3, 88, 24, False, nn.ReLU, 1),
    (5, 96, 40, True, nn.Hardswish, 2),
    (5, 240, 40, True, nn.Hardswish, 1),
    (5, 240, 40, True, nn.Hardswish, 1),
    (5, 120, 48, True, nn.Hardswish, 1),
    (5, 144, 48, True, nn.Hardswish, 1),
    (5, 288, 96, True, nn.Hardswish, 2),
    (5, 576, 96, True, nn.Hardswish, 1),
    (5, 576, 96, True, nn.Hardswish, 1),
)
"""Kernel, inner channels, outputs, squeeze and excitation, activation, stride (arXiv:1905.02244, table 2)."""

_B0 = ((1, 16, 1, 3, 1), (6, 24, 2, 3, 2), (6, 40, 2, 5, 2), (6, 80, 3, 3, 2), (6, 112, 3, 5, 1), (6, 192, 4, 5, 2))
_B0_LAST = (6, 320, 1, 3, 1)
"""Expansion, channels, blocks, kernel, stride of the first block (arXiv:1905.11946, table 1)."""


def padded_mobilenet_v2() -> nn.Module:
    """MobileNetV2 with F.pad in front of every convolution that has padding, as transformers has it."""
    model = MobileNetV2()
    _pad(model)
    return model


def mobilenet_v3_small(*, blocks: int = len(_V3_SMALL)) -> nn.Module:
    """MobileNetV3-small at width 1, or its first `blocks` blocks."""
    layers, channels = [*conv_norm(3, 16, 3, 2, act=nn.Hardswish)], 16
    for kernel, inner, outputs, excited, act, stride in _V3_SMALL[:blocks]:
        excite = SqueezeExcite(inner, max(8, inner // 4), gate=nn.Hardsigmoid) if excited else None
        layers.append(MobileBlock(channels, inner, outputs, kernel, stride, act, excite))
        channels = outputs
    layers += [*conv_norm(channels, 6 * channels, 1, act=nn.Hardswish), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(6 * channels, 1024), nn.Hardswish(), nn.Linear(1024, 1000))


def efficientnet_b0(*, shallow: bool = False) -> nn.Module:
    """EfficientNet-B0; with `shallow` one block in each stage."""
    layers, channels = [*conv_norm(3, 32, 3, 2, act=nn.SiLU)], 32
    for expansion, outputs, blocks, kernel, stride in (*_B0, _B0_LAST):
        for index in range(1 if shallow else blocks):
            inner = expansion * channels
            excite = SqueezeExcite(inner, channels // 4, nn.SiLU)
            layers.append(MobileBlock(channels, inner, outputs, kernel, 1 if index else stride, nn.SiLU, excite))
            channels = outputs
    layers += [*conv_norm(channels, 1280, 1, act=nn.SiLU), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(1280, 1000))


def _pad(model: nn.Module) -> None:
    for name, module in list(model.named_children()):
        if isinstance(module, nn.Conv2d) and any(module.padding):
            setattr(model, name, PaddedConv(module))
        else:
            _pad(module)


_IMAGES = floats(3, 224, 224)
_SMALL_IMAGES = floats(3, 96, 96)

NETWORKS = (
    Network(
        "mobilenet-v2",
        "arXiv:1801.04381",
        CONVOLUTIONS,
        Size(MobileNetV2, _IMAGES),
        Size(MobileNetV2, _SMALL_IMAGES),
    ),
    Network(
        "mobilenet-v2-padded",
        "arXiv:1801.04381, F.pad in front of convolutions",
        CONVOLUTIONS,
        Size(padded_mobilenet_v2, _IMAGES),
        Size(padded_mobilenet_v2, _SMALL_IMAGES),
    ),
    Network(
        "mobilenet-v3-small",
        "arXiv:1905.02244",
        CONVOLUTIONS,
        Size(mobilenet_v3_small, _IMAGES),
        Size(partial(mobilenet_v3_small, blocks=4), _IMAGES),
    ),
    Network(
        "efficientnet-b0",
        "arXiv:1905.11946",
        CONVOLUTIONS,
        Size(efficientnet_b0, _IMAGES),
        Size(partial(efficientnet_b0, shallow=True), _IMAGES),
    ),
)
