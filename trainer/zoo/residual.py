"""Residual networks for images, with random weights: DigitNet, ResNet20 and ResNet50."""

from __future__ import annotations

from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Two 3 × 3 convolutions and a shortcut (ResNet, arXiv:1512.03385); halves the image when `stride` is 2."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.downsample = _projection(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H/stride, W/stride)."""
        y = self.relu(self.bn1(self.conv1(x)))
        return _relu_sum(self.relu, self.bn2(self.conv2(y)), self.downsample(x))


class _ThreeStages(nn.Module):
    """A stem, three stages of residual blocks, a mean, and a linear layer `fc`.

    Stages 2 and 3 halve the image and double the channels.
    """

    def __init__(self, *, blocks: int, width: int, channels: int, classes: int, stem_stride: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, stem_stride, 1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.stage1 = _residual_stage(blocks, width, width, 1)
        self.stage2 = _residual_stage(blocks, width, 2 * width, 2)
        self.stage3 = _residual_stage(blocks, 2 * width, 4 * width, 2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(4 * width, classes)
        initialised(self)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to logits (N, classes)."""
        x = self.relu(self.bn(self.stem(x)))
        x = self.stage3(self.stage2(self.stage1(x)))
        logits: Tensor = self.fc(self.flatten(self.pool(x)))
        return logits


class DigitNet(_ThreeStages):
    """A residual network for images of about 32 × 32: three stages of two blocks.

    At width 32 and 1 × 32 × 32: 0.7 million weights and 0.21 GFLOP a forward pass (a multiply-add counts as 2).
    """

    def __init__(self, *, width: int = 32, channels: int = 1, classes: int = 10) -> None:
        super().__init__(blocks=2, width=width, channels=channels, classes=classes, stem_stride=1)


class ResNet20(_ThreeStages):
    """A ResNet-20 for images of about 28 × 28: three stages of three blocks (arXiv:1512.03385, section 4.2).

    Unlike in the paper, a shortcut that changes the shape is a 1 × 1 convolution with a norm. stem_stride: 2 halves the
    image in the first layer, for a quarter of the work. At width 16 and one channel: 0.27 million weights; on 28 × 28
    62 MFLOP with stride 1 and 17 with stride 2 (a multiply-add counts as 2).
    """

    def __init__(self, *, width: int = 16, channels: int = 1, classes: int = 10, stem_stride: int = 1) -> None:
        super().__init__(blocks=3, width=width, channels=channels, classes=classes, stem_stride=stem_stride)


class Bottleneck(nn.Module):
    """1 × 1, 3 × 3, 1 × 1 convolutions and a shortcut; the 3 × 3 one strides (ResNet v1.5)."""

    def __init__(self, inputs: int, width: int, stride: int = 1) -> None:
        super().__init__()
        outputs = 4 * width
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.downsample = _projection(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, 4·width, H/stride, W/stride)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return _relu_sum(self.relu, self.bn3(self.conv3(y)), self.downsample(x))


class ResNet50(nn.Module):
    """ResNet-50 v1.5 (arXiv:1512.03385, stride in the 3 × 3 convolution): 25.6 million weights at 1000 classes.

    blocks: number of blocks in each stage. Parameters have the usual names (conv1, bn1, layer1.0.conv1, ..., fc), so
    common state dicts load.
    """

    def __init__(self, *, classes: int = 1000, blocks: tuple[int, int, int, int] = (3, 4, 6, 3)) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = _stage(64, 64, blocks[0], 1)
        self.layer2 = _stage(256, 128, blocks[1], 2)
        self.layer3 = _stage(512, 256, blocks[2], 2)
        self.layer4 = _stage(1024, 512, blocks[3], 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(2048, classes)
        initialised(self)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to logits (N, classes)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(self.flatten(self.avgpool(x)))
        return logits


def _residual_stage(blocks: int, inputs: int, outputs: int, stride: int) -> nn.Sequential:
    rest = (ResidualBlock(outputs, outputs) for _ in range(blocks - 1))
    return nn.Sequential(ResidualBlock(inputs, outputs, stride), *rest)


def _stage(inputs: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    rest = (Bottleneck(4 * width, width) for _ in range(blocks - 1))
    return nn.Sequential(Bottleneck(inputs, width, stride), *rest)


def _projection(inputs: int, outputs: int, stride: int) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


def _relu_sum(relu: nn.Module, branch: Tensor, shortcut: Tensor) -> Tensor:
    summed: Tensor = relu(branch + shortcut)
    return summed


def initialised(model: nn.Module) -> None:
    """Set convolution weights at random, normal with variance by fan-out (He, arXiv:1502.01852)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
