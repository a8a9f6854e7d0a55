"""Columns: compared with torch's own unfold and convolution."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nested_sparse.trainer import nest
from nested_sparse.trainer.post_training.least_squares import second_moment

CONVOLUTIONS = [
    nn.Conv2d(4, 6, 3, bias=False),
    nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(2, 3), bias=False),
    nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2, bias=False),
    nn.Conv2d(4, 6, (2, 4), padding="same", bias=False),
]


@pytest.mark.parametrize("conv", CONVOLUTIONS)
def test_second_moment_is_that_of_the_unfolded_input(conv: nn.Conv2d) -> None:
    """The moment equals X·Xᵀ / n of unfold's columns, for stride, padding, dilation and groups."""
    torch.manual_seed(0)
    x = torch.randn(3, 4, 11, 12, dtype=torch.float64)
    layer = nest(conv, densities=(1.0,)).nested_layers()["model"]
    positions = layer.positions(x, 10**6, torch.Generator())
    top, left, bottom, right = layer.padding
    padded = F.pad(x, (left, right, top, bottom))
    unfolded = F.unfold(padded, conv.kernel_size, dilation=conv.dilation, stride=conv.stride)
    by_group = unfolded.unflatten(1, (conv.groups, -1)).permute(1, 2, 0, 3).flatten(2)  # (groups, K, N·P)
    expected = by_group @ by_group.mT / by_group.shape[2]
    torch.testing.assert_close(second_moment(layer.columns(x, positions)), expected)


def test_columns_times_the_weight_are_the_output_of_a_line() -> None:
    """The product holds in 1-D with stride, padding, dilation and groups, at a part of the positions."""
    torch.manual_seed(0)
    conv = nn.Conv1d(4, 6, 3, stride=2, padding=3, dilation=2, groups=2, bias=False)
    layer = nest(conv, densities=(1.0,)).nested_layers()["model"]
    x = torch.randn(5, 4, 21)
    positions = layer.positions(x, 20, torch.Generator().manual_seed(1))
    assert positions.shape == (5, 4)
    made = layer.columns(x, positions) @ conv.weight.flatten(1).unflatten(0, (2, -1)).mT  # (groups, n, O / groups)
    output = conv(x).gather(2, positions[:, None].expand(-1, 6, -1))  # (N, O, P)
    torch.testing.assert_close(made, output.transpose(0, 1).flatten(1).unflatten(0, (2, -1)).mT)


def test_columns_times_the_weight_are_the_output_of_a_volume() -> None:
    """The same in 3-D, with sizes, strides, paddings and dilations that differ by axis."""
    torch.manual_seed(0)
    conv = nn.Conv3d(4, 6, (3, 2, 4), (2, 1, 3), (1, 0, 3), (1, 3, 2), groups=2, bias=False)
    layer = nest(conv, densities=(1.0,)).nested_layers()["model"]
    x = torch.randn(5, 4, 6, 7, 9)
    positions = layer.positions(x, 20, torch.Generator().manual_seed(1))
    assert positions.shape == (5, 4)
    made = layer.columns(x, positions) @ conv.weight.flatten(1).unflatten(0, (2, -1)).mT
    output = conv(x).flatten(2).gather(2, positions[:, None].expand(-1, 6, -1))
    torch.testing.assert_close(made, output.transpose(0, 1).flatten(1).unflatten(0, (2, -1)).mT)


@pytest.mark.parametrize(
    "up",
    [
        nn.ConvTranspose1d(4, 6, 5, 3, 2, 1, bias=False),
        nn.ConvTranspose2d(4, 6, (4, 3), (2, 1), (1, 0), dilation=(1, 2), bias=False),
        nn.ConvTranspose3d(4, 6, 2, (2, 1, 3), bias=False),
    ],
)
def test_columns_times_the_weight_are_the_output_of_a_transposed_convolution(up: nn.Module) -> None:
    """The product holds in every phase, with padding on both sides, more at the end, and dilation."""
    torch.manual_seed(0)
    layer = nest(up, densities=(1.0,)).nested_layers()["model"]
    x = torch.randn(5, 4, *(6, 5, 7)[: layer.spatial])
    positions = layer.positions(x, 60, torch.Generator().manual_seed(1))
    made = layer.columns(x, positions) @ layer.values.flatten(1).mT
    output = up(x).flatten(2).gather(2, positions[:, None].expand(-1, 6, -1))
    torch.testing.assert_close(made[0], output.movedim(1, 2).flatten(0, 1))


def test_columns_of_a_linear_layer_are_rows_of_its_input() -> None:
    """The rows are those of the last dimension, for any dimensions before it."""
    torch.manual_seed(0)
    layer = nest(nn.Linear(5, 3), densities=(1.0,)).nested_layers()["model"]
    x = torch.randn(4, 6, 5)
    positions = layer.positions(x, 7, torch.Generator().manual_seed(1))
    torch.testing.assert_close(layer.columns(x, positions)[0], x.flatten(0, 1)[positions])
    assert len(set(positions.tolist())) == 7
