"""PointNet2Parts: PointNet++ of one scale, which tells the part that each point belongs to (arXiv:1706.02413)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .pointnet2 import SetAbstraction, nearest, picked, shared_mlp

MEAN_OF = 3
"""Centres whose values a point gets a mean of (section 3.4)."""


class FeaturePropagation(nn.Module):
    """A layer of PointNet++ (section 3.4): values of centres are brought to the points, and go through an MLP there.

    A point gets the mean of its three nearest centres, weighted by the inverse of the squared distance, beside its own
    values. inputs: values of a centre and of a point together. widths: of the MLP's layers.
    """

    def __init__(self, inputs: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.mlp = shared_mlp(inputs, widths)

    def forward(self, places: Tensor, values: Tensor, centres: Tensor, of_centres: Tensor) -> Tensor:
        """places (N, 3, P), values (N, A, P), centres (N, 3, C), of_centres (N, B, C) to (N, widths[-1], P)."""
        both = torch.cat([values, interpolated(places, centres, of_centres)], 1)
        found: Tensor = self.mlp(both[:, :, :, None]).squeeze(3)
        return found


class PointNet2Parts(nn.Module):
    """Two layers of sets, an MLP of all that is left, and the way back to each point; logits of the parts.

    channels: of the input; the first three are x, y, z, and all of them are values of a point. classes: the parts of
    all kinds together; the net is not told the kind. width, centres, neighbours: as of PointNet2; there are at least 12
    centres, so that a point has three of the second layer. At width 32 and 512 points: 0.17 million weights and 59
    MFLOP a cloud (a multiply-add counts as 2).
    """

    def __init__(
        self,
        *,
        channels: int = 3,
        classes: int = 15,
        width: int = 32,
        centres: int = 128,
        neighbours: int = 16,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        if centres // 4 < MEAN_OF:
            raise ValueError(f"PointNet2Parts: centres: expected at least {4 * MEAN_OF}, got {centres}")
        self.local = SetAbstraction(centres, neighbours, channels, (width, width, 2 * width))
        self.wider = SetAbstraction(centres // 4, neighbours, 2 * width, (2 * width, 2 * width, 4 * width))
        self.whole = shared_mlp(3 + 4 * width, (4 * width, 8 * width))
        self.of_whole = shared_mlp(12 * width, (4 * width,))
        self.of_wider = FeaturePropagation(6 * width, (4 * width, 2 * width))
        self.of_local = FeaturePropagation(2 * width + channels, (2 * width, 2 * width))
        self.head = nn.Sequential(*shared_mlp(2 * width, (2 * width,)), nn.Dropout(dropout))
        self.fc = nn.Conv2d(2 * width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, points) to logits (N, classes, points)."""
        places = x[:, :3]
        centres, local = self.local(places, x)
        few, wider = self.wider(centres, local)
        whole = self.whole(torch.cat([few, wider], 1)[:, :, :, None]).amax(2, keepdim=True)
        everywhere = whole.expand(-1, -1, wider.shape[2], -1)
        wider = self.of_whole(torch.cat([wider[:, :, :, None], everywhere], 1)).squeeze(3)
        local = self.of_wider(centres, local, few, wider)
        points = self.of_local(places, x, centres, local)
        logits: Tensor = self.fc(self.head(points[:, :, :, None])).squeeze(3)
        return logits


def interpolated(places: Tensor, centres: Tensor, values: Tensor) -> Tensor:
    """The values (N, C, centres) of the three nearest centres of each place, (N, C, P): their weighted mean.

    places (N, 3, P), centres (N, 3, centres). Weights are inverse squared distances; a place at a centre gets nearly
    its values.
    """
    distances, near = nearest(places, centres, MEAN_OF)
    weights = 1 / distances
    weights = weights / weights.sum(2, keepdim=True)
    return (picked(values, near) * weights[:, None]).sum(3)
