"""PointNet2: PointNet++ of one scale, a classifier of clouds of points (arXiv:1706.02413)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

TIE = 1e-6
"""Share by which each further point counts as more distant. Points of a sensor lie on a grid, or twice in a place: of
equally distant ones torch and ONNX Runtime would choose others."""
SAME_PLACE = 1e-6
"""Added to squared distances, so that this holds for points in the same place, too."""


class SetAbstraction(nn.Module):
    """A layer of PointNet++ (section 3.2): an MLP of the neighbours of each centre, and their largest values.

    The centres are every k-th point. The paper takes the farthest points, one after another; that is a chain of as many
    steps as there are centres, and an exported graph would hold a few nodes for each. Points of a sensor come in no
    order of space, so every k-th one is a random choice. The neighbours are the nearest points, without a radius;
    of equally distant ones the first.
    centres, neighbours: their numbers. inputs: values at each point beside its place. widths: of the MLP's layers.
    """

    def __init__(self, centres: int, neighbours: int, inputs: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.centres, self.neighbours = centres, neighbours
        self.mlp = shared_mlp(3 + inputs, widths)

    def forward(self, places: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """places (N, 3, points), values (N, inputs, points) to those of the centres: (N, 3, C), (N, widths[-1], C)."""
        points = places.shape[2]
        if points < max(self.centres, self.neighbours):
            raise ValueError(
                f"PointNet2: a cloud of {points} points has no {self.centres} centres of {self.neighbours} neighbours; "
                "set centres and neighbours to less, or give more points"
            )
        step = points // self.centres
        chosen = places[:, :, : step * self.centres : step]
        _, near = nearest(chosen, places, self.neighbours)
        around = picked(places, near) - chosen[:, :, :, None]
        grouped = torch.cat([around, picked(values, near)], 1)
        found: Tensor = self.mlp(grouped).amax(3)
        return chosen, found


class PointNet2(nn.Module):
    """Two layers of sets, an MLP of all that is left, its maximum, and a classifier.

    channels: of the input; the first three are x, y, z. width: of the first MLP; the later ones are up to 8 times as
    wide. centres, neighbours: of the first layer; the second has a quarter of the centres. The input has as many points
    as centres, or more. At width 32: 0.10 million weights and 33 MFLOP a cloud (a multiply-add counts as 2).
    """

    def __init__(
        self,
        *,
        channels: int = 5,
        classes: int = 5,
        width: int = 32,
        centres: int = 128,
        neighbours: int = 16,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        self.local = SetAbstraction(centres, neighbours, channels - 3, (width, width, 2 * width))
        self.wider = SetAbstraction(centres // 4, neighbours, 2 * width, (2 * width, 2 * width, 4 * width))
        self.whole = shared_mlp(3 + 4 * width, (4 * width, 8 * width))
        self.head = nn.Sequential(nn.Linear(8 * width, 4 * width), nn.ReLU(), nn.Dropout(dropout))
        self.fc = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, points) to logits (N, classes)."""
        places, values = self.wider(*self.local(x[:, :3], x[:, 3:]))
        whole = self.whole(torch.cat([places, values], 1)[:, :, :, None]).amax((2, 3))
        logits: Tensor = self.fc(self.head(whole))
        return logits


def nearest(places: Tensor, points: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` nearest points of each place, the nearest first; of equally distant ones the first.

    places (N, 3, P), points (N, 3, points). Squared distances, of which none is 0, and int64 indices, (N, P, count).
    """
    distances = (places[:, :, :, None] - points[:, :, None, :]).square().sum(1)
    order = torch.arange(points.shape[2], dtype=points.dtype, device=points.device)
    found = ((distances + SAME_PLACE) * (1 + TIE * order)).topk(count, dim=2, largest=False)
    return found.values, found.indices


def picked(values: Tensor, indices: Tensor) -> Tensor:
    """(N, C, points) values at indices (N, P, count), as (N, C, P, count)."""
    samples, channels = values.shape[:2]
    everywhere = indices.flatten(1)[:, None].expand(-1, channels, -1)
    return values.gather(2, everywhere).reshape(samples, channels, *indices.shape[1:])


def shared_mlp(inputs: int, widths: tuple[int, ...]) -> nn.Sequential:
    """An MLP of the channels, the same at each place: 1 × 1 convolutions, norms, ReLU."""
    layers: list[nn.Module] = []
    for outputs in widths:
        layers += [nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        inputs = outputs
    return nn.Sequential(*layers)
