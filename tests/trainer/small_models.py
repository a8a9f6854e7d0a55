"""Small models: networks and data for training in a test."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nested_sparse.trainer import NestedModel, nest
from nested_sparse.trainer.data.images import Batches, LabelledImages

DENSITIES = (0.1, 0.3, 0.8)


def small_net() -> nn.Sequential:
    """Convolutions (one with rows that no block of 4 divides), norms, a bias, a linear layer."""
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.LayerNorm(8 * 16),
        nn.Dropout(0.1),
        nn.Linear(8 * 16, 3),
    )


def nested_small_net(**options: object) -> NestedModel:
    """`small_net` with three levels."""
    arguments: dict[str, object] = {"densities": DENSITIES, "pattern": "block4x1", **options}
    return nest(small_net(), **arguments)  # type: ignore[arg-type]


def small_batches() -> Batches:
    """48 images of 8 × 8, where the class is the brightest third."""
    generator = torch.Generator().manual_seed(5)
    labels = torch.randint(0, 3, (48,), generator=generator)
    images = torch.rand(48, 1, 8, 8, generator=generator)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[0, :, 2 * label : 2 * label + 3] += 1
    return Batches(LabelledImages(images, labels), batch_size=16, seed=1)


def snapshot(net: NestedModel) -> dict[str, Tensor]:
    """A copy of all parameters and buffers."""
    return {key: value.detach().clone() for key, value in net.state_dict().items()}
