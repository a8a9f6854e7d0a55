"""Reroute nets: small nets whose levels differ, with data, for runs that are lowered."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nested_sparse.trainer import NestedModel, nest
from nested_sparse.trainer.model.layers import NestedLayer

DENSITIES = (0.15, 0.4, 0.9)
PAIRS = [(1, 0), (2, 0), (2, 1)]
ORDER = ("0", "3", "7")
"""Of chain(): the nested layers."""


def scattered(net: NestedModel) -> NestedModel:
    """`net` in eval mode, with other random biases, affines and statistics at every level."""
    torch.manual_seed(11)
    for norm in net.level_norms().values():
        for each in norm.norms:
            nn.init.uniform_(each.weight, 0.5, 1.5)
            nn.init.normal_(each.bias)
            each.running_mean.normal_()
            each.running_var.uniform_(0.5, 2.0)
    for layer in net.nested_layers().values():
        if layer.bias is not None:
            nn.init.normal_(layer.bias, std=0.1)  # larger ones would decide every answer
    return net.eval()


def chain(densities: tuple[float, ...] = DENSITIES) -> NestedModel:
    """Conv, norm, relu, conv, norm, relu, flatten, linear: modules 0, 1, 3, 4, 7 depend on the level."""
    torch.manual_seed(2)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, stride=2, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 9, 3),
    )
    return scattered(nest(model, densities=densities, pattern="block4x1"))


class Shortcut(nn.Module):
    """A residual block whose norms all come after both convolutions, and a norm of the sum, which follows no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.branch, self.branch_norm = nn.Conv2d(4, 8, 3, 2, 1), nn.BatchNorm2d(8)
        self.short, self.short_norm = nn.Conv2d(4, 8, 1, 2), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem_norm(self.stem(x)))
        branch, short = self.branch(x), self.short(x)
        return self.head(F.relu(self.branch_norm(branch) + self.short_norm(short)).mean((2, 3)))


def shortcut() -> NestedModel:
    torch.manual_seed(4)
    return scattered(nest(Shortcut(), densities=DENSITIES, pattern="block4x1"))


def images(count: int = 24) -> Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def labelled(count: int = 24) -> list[tuple[Tensor, Tensor]]:
    """Two batches with level 2's answers as classes, so that other levels are wrong on some samples."""
    net = chain()
    net.set_level(2)
    with torch.no_grad():
        return [(part, net(part).argmax(dim=1)) for part in images(count).split(count // 2 + 1)]


def weight_at(layer: NestedLayer, level: int) -> Tensor:
    """The weight by its definition: blocks with a first level above `level` are zero."""
    kept = (layer.first_level <= level).repeat_interleave(layer.block_rows, dim=0)[: layer.weight.shape[0]]
    return layer.weight * kept.reshape(layer.weight.shape)
