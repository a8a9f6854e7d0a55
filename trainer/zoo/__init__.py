"""Zoo: the networks that a recipe can name, with random weights."""

from .gat import GAT
from .gnmt import GNMT
from .gpt import GPT
from .jasper import Jasper
from .mask_rcnn import MaskRCNN
from .mobile import MobileNetV2
from .pointnet2 import PointNet2
from .pointnet2_parts import PointNet2Parts
from .re_ranker import ReRanker
from .residual import DigitNet, ResidualBlock, ResNet20, ResNet50
from .ssd import SSD
from .translator import Translator

__all__ = [
    "GAT",
    "GNMT",
    "GPT",
    "MODELS",
    "SSD",
    "DigitNet",
    "Jasper",
    "MaskRCNN",
    "MobileNetV2",
    "PointNet2",
    "PointNet2Parts",
    "ReRanker",
    "ResNet20",
    "ResNet50",
    "ResidualBlock",
    "Translator",
]

MODELS: dict[str, type] = {
    "digit_net": DigitNet,
    "resnet20": ResNet20,
    "resnet50": ResNet50,
    "mobilenet_v2": MobileNetV2,
    "jasper": Jasper,
    "re_ranker": ReRanker,
    "gat": GAT,
    "gpt": GPT,
    "pointnet2": PointNet2,
    "pointnet2_parts": PointNet2Parts,
    "ssd": SSD,
    "mask_rcnn": MaskRCNN,
    "gnmt": GNMT,
    "translator": Translator,
}
