"""Models: the networks that a recipe can name, with random weights: residual ones for images, Jasper for speech."""

from .jasper import Jasper
from .residual import DigitNet, ResidualBlock, ResNet20, ResNet50

__all__ = ["MODELS", "DigitNet", "Jasper", "ResNet20", "ResNet50", "ResidualBlock"]

MODELS: dict[str, type] = {"digit_net": DigitNet, "resnet20": ResNet20, "resnet50": ResNet50, "jasper": Jasper}
