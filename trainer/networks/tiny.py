"""Tiny networks, of microcontrollers: the autoencoder and the DS-CNN of MLPerf Tiny, and two small linear layers."""

from __future__ import annotations

from functools import partial

from torch import nn

from .network import CONVOLUTIONS, PRODUCTS, Network, Size, floats

MEL_FRAMES = 640
"""Inputs of the autoencoder: 5 frames of 128 mel bands."""


def autoencoder(*, width: int = 128, depth: int = 4) -> nn.Module:
    """(N, 640) to (N, 640) through 8 values: `depth` linear layers with norms on each side."""
    layers: list[nn.Module] = []
    inputs = MEL_FRAMES
    for outputs in (*[width] * depth, 8, *[width] * depth):
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU()]
        inputs = outputs
    return nn.Sequential(*layers, nn.Linear(width, MEL_FRAMES))


def ds_cnn(*, width: int = 64, blocks: int = 4, classes: int = 12) -> nn.Module:
    """(N, 1, 49, 10) MFCC frames to (N, classes): a strided convolution, then depthwise and 1 × 1 ones."""
    layers = [*_normed(nn.Conv2d(1, width, (10, 4), 2, (5, 1), bias=False))]
    for _ in range(blocks):
        layers += _normed(nn.Conv2d(width, width, 3, 1, 1, groups=width, bias=False))
        layers += _normed(nn.Conv2d(width, width, 1, bias=False))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


def two_linears(*, width: int = 64) -> nn.Module:
    """(N, width) to (N, width): the smallest network of two layers that is of use, such as a controller's."""
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))


def _normed(conv: nn.Conv2d) -> list[nn.Module]:
    return [conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU()]


NETWORKS = (
    Network(
        "autoencoder",
        "MLPerf Tiny, anomaly detection",
        PRODUCTS,
        Size(autoencoder, floats(MEL_FRAMES)),
        Size(partial(autoencoder, depth=1), floats(MEL_FRAMES)),
    ),
    Network(
        "ds-cnn",
        "arXiv:1711.07128, MLPerf Tiny, keyword spotting",
        CONVOLUTIONS,
        Size(ds_cnn, floats(1, 49, 10)),
        Size(partial(ds_cnn, blocks=1), floats(1, 49, 10)),
    ),
    Network(
        "two-linears",
        "two layers of 64 × 64",
        PRODUCTS,
        Size(two_linears, floats(64)),
        Size(two_linears, floats(64)),
    ),
)
