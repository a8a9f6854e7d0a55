"""Networks that find objects in images or label their pixels: SSD300, YOLOv5s and U-Net."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import conv_norm
from .network import CONVOLUTIONS, Network, Size, floats

_VGG = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
_EXTRA = ((256, 512, 2, 1), (128, 256, 2, 1), (128, 256, 1, 0), (128, 256, 1, 0))
"""Channels of the 1 × 1 convolution, then channels, stride and padding of the 3 × 3 one."""
_ANCHORS = (4, 6, 6, 6, 4, 4)


class SSD300(nn.Module):
    """SSD over VGG-16: boxes and classes from six maps of falling size.

    width: channels of the first stage, 64 in the paper. convs: most convolutions of a stage of VGG.
    """

    def __init__(self, *, width: int = 64, convs: int = 3, classes: int = 81) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        channels = 3
        for outputs, count in _VGG:
            layers: list[nn.Module] = []
            for _ in range(min(count, convs)):
                layers += [nn.Conv2d(channels, outputs * width // 64, 3, padding=1), nn.ReLU()]
                channels = outputs * width // 64
            self.stages.append(nn.Sequential(*layers))
        last = 1024 * width // 64
        self.pool5 = nn.MaxPool2d(3, 1, 1)
        self.fc = nn.Sequential(
            nn.Conv2d(channels, last, 3, padding=6, dilation=6), nn.ReLU(), nn.Conv2d(last, last, 1), nn.ReLU()
        )
        self.extra, sources, channels = nn.ModuleList(), [channels, last], last
        for inner, outputs, stride, padding in _EXTRA:
            narrow, wide = inner * width // 64, outputs * width // 64
            self.extra.append(
                nn.Sequential(
                    nn.Conv2d(channels, narrow, 1), nn.ReLU(), nn.Conv2d(narrow, wide, 3, stride, padding), nn.ReLU()
                )
            )
            channels = wide
            sources.append(wide)
        sizes = list(zip(sources, _ANCHORS, strict=True))
        self.boxes = nn.ModuleList(nn.Conv2d(source, 4 * anchors, 3, padding=1) for source, anchors in sizes)
        self.scores = nn.ModuleList(nn.Conv2d(source, classes * anchors, 3, padding=1) for source, anchors in sizes)
        self.classes = classes

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, 300, 300) to boxes (N, 8732, 4) and scores (N, 8732, classes)."""
        maps = []
        for index, stage in enumerate(self.stages):
            if index:  # conv4_3's pool rounds up, as 75 pixels become 38
                x = F.max_pool2d(x, 2, ceil_mode=True)
            x = stage(x)
            if index == 3:
                maps.append(F.normalize(x) * 20.0)
        x = self.fc(self.pool5(x))
        maps.append(x)
        for layer in self.extra:
            x = layer(x)
            maps.append(x)
        boxes = [_by_anchor(head(each), 4) for head, each in zip(self.boxes, maps, strict=True)]
        scores = [_by_anchor(head(each), self.classes) for head, each in zip(self.scores, maps, strict=True)]
        return torch.cat(boxes, 1), torch.cat(scores, 1)


class Bottleneck(nn.Module):
    """1 × 1 and 3 × 3 convolution with SiLU, with a shortcut if `adds`."""

    def __init__(self, channels: int, adds: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(*_silu(channels, channels, 1), *_silu(channels, channels, 3))
        self.adds = adds

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        y: Tensor = self.body(x)
        return x + y if self.adds else y


class CrossStage(nn.Module):
    """YOLOv5's C3: bottlenecks on one half of the channels, the other half beside them."""

    def __init__(self, inputs: int, outputs: int, count: int, *, adds: bool = True) -> None:
        super().__init__()
        half = outputs // 2
        self.left = nn.Sequential(*_silu(inputs, half, 1), *(Bottleneck(half, adds) for _ in range(count)))
        self.right = nn.Sequential(*_silu(inputs, half, 1))
        self.join = nn.Sequential(*_silu(outputs, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H, W)."""
        y: Tensor = self.join(torch.cat([self.left(x), self.right(x)], 1))
        return y


class PyramidPool(nn.Module):
    """YOLOv5's SPPF: three pools, one after the other, all of which are joined."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Sequential(*_silu(channels, channels // 2, 1))
        self.pool = nn.MaxPool2d(5, 1, 2)
        self.last = nn.Sequential(*_silu(2 * channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        pooled = [self.first(x)]
        for _ in range(3):
            pooled.append(self.pool(pooled[-1]))
        y: Tensor = self.last(torch.cat(pooled, 1))
        return y


class YOLOv5(nn.Module):
    """YOLOv5s by default: a backbone, paths up and down between three sizes, a 1 × 1 convolution on each.

    depths: bottlenecks in the four stages of the backbone; the neck's blocks have one.
    """

    def __init__(self, *, depths: Sequence[int] = (1, 2, 3, 1), width: int = 32, classes: int = 80) -> None:
        super().__init__()
        c1, c2, c3, c4 = (width << power for power in range(1, 5))
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 6, 2, 2, bias=False), nn.BatchNorm2d(width), nn.SiLU(), *_silu(width, c1, 3, 2)
        )
        self.to8 = nn.Sequential(CrossStage(c1, c1, depths[0]), *_silu(c1, c2, 3, 2), CrossStage(c2, c2, depths[1]))
        self.to16 = nn.Sequential(*_silu(c2, c3, 3, 2), CrossStage(c3, c3, depths[2]))
        self.to32 = nn.Sequential(*_silu(c3, c4, 3, 2), CrossStage(c4, c4, depths[3]), PyramidPool(c4))
        self.narrow32, self.up16 = nn.Sequential(*_silu(c4, c3, 1)), CrossStage(c4, c3, 1, adds=False)
        self.narrow16, self.up8 = nn.Sequential(*_silu(c3, c2, 1)), CrossStage(c3, c2, 1, adds=False)
        self.half8, self.down16 = nn.Sequential(*_silu(c2, c2, 3, 2)), CrossStage(c3, c3, 1, adds=False)
        self.half16, self.down32 = nn.Sequential(*_silu(c3, c3, 3, 2)), CrossStage(c4, c4, 1, adds=False)
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.heads = nn.ModuleList(nn.Conv2d(channels, 3 * (classes + 5), 1) for channels in (c2, c3, c4))
        self.values = classes + 5

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W), sides a multiple of 32, to (N, anchors, 85), before the sigmoid."""
        p8 = self.to8(self.stem(x))
        p16 = self.to16(p8)
        n32 = self.narrow32(self.to32(p16))
        n16 = self.narrow16(self.up16(torch.cat([self.upsample(n32), p16], 1)))
        out8 = self.up8(torch.cat([self.upsample(n16), p8], 1))
        out16 = self.down16(torch.cat([self.half8(out8), n16], 1))
        out32 = self.down32(torch.cat([self.half16(out16), n32], 1))
        outs = [head(out) for head, out in zip(self.heads, (out8, out16, out32), strict=True)]
        return torch.cat([_by_anchor(out, self.values) for out in outs], 1)


class UNet(nn.Module):
    """U-Net with padded convolutions and norms; a transposed convolution of stride 2 doubles the image on the way up.

    width: channels at full resolution; depth: number of halvings.
    """

    def __init__(self, *, width: int = 32, depth: int = 4, classes: int = 2) -> None:
        super().__init__()
        widths = [width << power for power in range(depth + 1)]
        self.down = nn.ModuleList(
            _twice(inputs, outputs) for inputs, outputs in zip([3, *widths], widths, strict=False)
        )
        pairs = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(inputs, outputs, 2, 2) for inputs, outputs in pairs)
        self.joined = nn.ModuleList(_twice(inputs, outputs) for inputs, outputs in pairs)
        self.pool, self.head = nn.MaxPool2d(2), nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, classes, H, W)."""
        kept = []
        for index, block in enumerate(self.down):
            x = block(self.pool(x) if index else x)
            kept.append(x)
        for up, block, beside in zip(self.up, self.joined, reversed(kept[:-1]), strict=True):
            x = block(torch.cat([beside, up(x)], 1))
        y: Tensor = self.head(x)
        return y


def _silu(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    return conv_norm(inputs, outputs, kernel, stride, act=nn.SiLU)


def _twice(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(*conv_norm(inputs, outputs, 3), *conv_norm(outputs, outputs, 3))


def _by_anchor(x: Tensor, values: int) -> Tensor:
    """(N, anchors × values, H, W) to (N, H × W × anchors, values)."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, values)


NETWORKS = (
    Network(
        "ssd300",
        "arXiv:1512.02325, VGG-16",
        CONVOLUTIONS,
        Size(SSD300, floats(3, 300, 300)),
        Size(partial(SSD300, width=32, convs=1), floats(3, 300, 300)),
    ),
    Network(
        "yolov5s",
        "ultralytics/yolov5 v6, heads before the sigmoid",
        CONVOLUTIONS,
        Size(YOLOv5, floats(3, 416, 416)),
        Size(partial(YOLOv5, depths=(1, 1, 1, 1)), floats(3, 224, 224)),
    ),
    Network(
        "unet",
        "arXiv:1505.04597, width 32",
        CONVOLUTIONS,
        Size(UNet, floats(3, 256, 256)),
        Size(partial(UNet, depth=2), floats(3, 128, 128)),
    ),
)
