"""Models: the networks that a recipe can name, with random weights: for images, and Jasper for speech."""

from .jasper import Jasper
from .mobile import MobileNetV2
from .residual import DigitNet, ResidualBlock, ResNet20, ResNet50

__all__ = ["MODELS", "DigitNet", "Jasper", "MobileNetV2", "ResNet20", "ResNet50", "ResidualBlock"]

MODELS: dict[str, type] = {
    "digit_net": DigitNet,
    "resnet20": ResNet20,
    "resnet50": ResNet50,
    "mobilenet_v2": MobileNetV2,
    "jasper": Jasper,
}
