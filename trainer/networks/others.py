"""Networks for videos, points, graphs, and recommendation: C3D, PointNet++, GAT, DLRM, and a re-ranker."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from ..zoo import GAT, ReRanker
from ..zoo.pointnet2 import shared_mlp
from .network import CONVOLUTIONS, PRODUCTS, Network, Size, floats


def c3d(*, widths: tuple[int, ...] = (64, 128, 256, 512, 512), frames: int = 8, side: int = 56) -> nn.Module:
    """C3D: 3 × 3 × 3 convolutions; the first pool is over space alone, and the last one, where there are five.

    It takes (N, 3, frames, side, side) to (N, 101); frames is a multiple of 8, side of 32, of 16 with four widths.
    """
    layers: list[nn.Module] = []
    inputs = 3
    for stage, outputs in enumerate(widths):
        for _ in range(1 if stage < 2 else 2):
            layers += [nn.Conv3d(inputs, outputs, 3, padding=1), nn.ReLU()]
            inputs = outputs
        layers.append(nn.MaxPool3d((2 if 1 <= stage <= 3 else 1, 2, 2)))
        side //= 2
    head = [nn.Flatten(), nn.Linear(inputs * frames // 8 * side * side, 1024), nn.ReLU(), nn.Linear(1024, 101)]
    return nn.Sequential(*layers, *head)


class PointNet2(nn.Module):
    """PointNet++'s layers on groups that are found already: shared MLPs, the largest value of each group, twice."""

    def __init__(self, *, width: int = 64) -> None:
        super().__init__()
        self.local = shared_mlp(3, (width, width, 2 * width))
        self.wider = shared_mlp(2 * width, (2 * width, 2 * width, 4 * width))
        self.whole = nn.Sequential(*_linear(4 * width, 8 * width), *_linear(8 * width, 16 * width))
        self.head = nn.Sequential(*_linear(16 * width, 8 * width), *_linear(8 * width, 4 * width))
        self.last = nn.Linear(4 * width, 40)

    def forward(self, groups: Tensor) -> Tensor:
        """(N, 3, centres, neighbours) to logits (N, 40); 4 neighbouring centres make a group of the next layer."""
        x = self.local(groups).amax(3)
        x = self.wider(x.unflatten(2, (-1, 4))).amax(3)
        y: Tensor = self.last(self.head(self.whole(x.transpose(1, 2)).amax(1)))
        return y


class DLRM(nn.Module):
    """DLRM: an MLP of the numbers, bags of embeddings, the products of each pair, and an MLP of them all."""

    def __init__(self, *, numbers: int = 13, tables: int = 8, rows: int = 5000, width: int = 64) -> None:
        super().__init__()
        self.bottom = nn.Sequential(*_linear(numbers, 512), *_linear(512, 256), *_linear(256, width))
        self.bags = nn.ModuleList(nn.EmbeddingBag(rows, width, mode="sum") for _ in range(tables))
        pairs = torch.tril_indices(tables + 1, tables + 1, -1)
        self.register_buffer("pairs", pairs[0] * (tables + 1) + pairs[1])
        self.pairs: Tensor
        top = width + len(self.pairs)
        self.top = nn.Sequential(*_linear(top, 512), *_linear(512, 256), nn.Linear(256, 1))

    def forward(self, numbers: Tensor, items: Tensor) -> Tensor:
        """(N, numbers) and (N, tables, items of a bag) to the logit of a chance (N, 1)."""
        dense = self.bottom(numbers)
        bags = [bag(items[:, index]) for index, bag in enumerate(self.bags)]
        vectors = torch.stack([dense, *bags], 1)
        products = (vectors @ vectors.transpose(1, 2)).flatten(1)[:, self.pairs]
        y: Tensor = self.top(torch.cat([dense, products], 1))
        return y


def _linear(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Linear(inputs, outputs), nn.ReLU()]


def _graphs(nodes: int, features: int) -> Size:
    def inputs(batch: int) -> tuple[Tensor, ...]:
        adjacency = (torch.rand(batch, nodes, nodes) < 4.0 / nodes).float()
        return torch.randn(batch, nodes, features), torch.maximum(adjacency, torch.eye(nodes))

    return Size(partial(GAT, features=features), inputs)


def _clicks(tables: int) -> Size:
    def inputs(batch: int) -> tuple[Tensor, ...]:
        return torch.randn(batch, 13), torch.randint(5000, (batch, tables, 4))

    return Size(partial(DLRM, tables=tables), inputs)


NETWORKS = (
    Network(
        "c3d",
        "arXiv:1412.0767, 8 frames of 56 × 56",
        CONVOLUTIONS,
        Size(c3d, floats(3, 8, 56, 56)),
        Size(partial(c3d, widths=(16, 32, 64, 64), side=32), floats(3, 8, 32, 32)),
    ),
    Network(
        "pointnet2",
        "arXiv:1706.02413, shared MLPs on 512 groups of 32 points",
        CONVOLUTIONS,
        Size(PointNet2, floats(3, 512, 32)),
        Size(partial(PointNet2, width=32), floats(3, 64, 16)),
    ),
    Network(
        "gat",
        "arXiv:1710.10903, 256 nodes, dense adjacency",
        PRODUCTS,
        _graphs(256, 1433),
        _graphs(32, 256),
    ),
    Network(
        "dlrm",
        "arXiv:1906.00091, 8 tables, bags of 4",
        PRODUCTS,
        _clicks(8),
        _clicks(2),
    ),
    Network(
        "re-ranker",
        "arXiv:1912.05891, 4 layers of 256, lists of 50",
        PRODUCTS,
        Size(ReRanker, floats(50, 136)),
        Size(partial(ReRanker, depth=1), floats(50, 136)),
    ),
)
