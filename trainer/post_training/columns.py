"""Columns: the inputs that a layer's weights are multiplied with, at some of its output positions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..model.layers import NestedConv, NestedLinear


def group_total(layer: NestedConv | NestedLinear) -> int:
    """Number of groups, whose rows read different channels; 1 for a linear layer."""
    return layer.groups if isinstance(layer, NestedConv) else 1


def output_size(layer: NestedConv, x: Tensor) -> tuple[int, int]:
    """(Ho, Wo) of the convolution's output for `x` (N, C, H, W)."""
    top, left, bottom, right = layer.padding
    extents = (x.shape[2] + top + bottom, x.shape[3] + left + right)
    spans = [d * (k - 1) + 1 for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    height, width = ((e - s) // t + 1 for e, s, t in zip(extents, spans, layer.stride, strict=True))
    return height, width


def chosen_positions(layer: NestedConv | NestedLinear, x: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """int64, about `most` random output positions for the layer's input `x`; all positions if there are no more.

    For a convolution: (N, P), P positions y·Wo + x per sample. For a linear layer: (M,), rows of `x` as (rows, K).
    """
    if isinstance(layer, NestedLinear):
        rows = x.numel() // x.shape[-1]
        return torch.randperm(rows, generator=generator)[:most].sort().values
    images = as_images(layer, x)
    height, width = output_size(layer, images)
    each = min(height * width, -(-most // len(images)))
    if each == height * width:
        return torch.arange(each).expand(len(images), -1)
    return torch.rand(len(images), height * width, generator=generator).topk(each).indices


def columns(layer: NestedConv | NestedLinear, x: Tensor, positions: Tensor) -> Tensor:
    """(groups, n, K) inputs of the layer at `positions` of `chosen_positions`, in the order of its weight's columns.

    Their product with the weight (O, K), group by group, is the layer's output there, without the bias.
    """
    positions = positions.to(x.device)
    if isinstance(layer, NestedLinear):
        return x.reshape(-1, x.shape[-1])[positions][None]
    images = as_images(layer, x)
    width = output_size(layer, images)[1]
    top, left, bottom, right = layer.padding
    padded = F.pad(images, (left, right, top, bottom))
    tap_y, tap_x = (
        torch.arange(k, device=x.device) * d for k, d in zip(layer.kernel_size, layer.dilation, strict=True)
    )
    y = (positions // width * layer.stride[0])[..., None, None] + tap_y[:, None]
    at = (positions % width * layer.stride[1])[..., None, None] + tap_x
    sample = torch.arange(len(images), device=x.device)[:, None, None, None]
    taken = padded[sample, :, y, at]  # (N, P, KH, KW, C)
    taken = taken.permute(4, 0, 1, 2, 3).reshape(layer.groups, -1, positions.numel(), *layer.kernel_size)
    return taken.transpose(1, 2).flatten(2)


def as_images(layer: NestedConv, x: Tensor) -> Tensor:
    """`x` as (N, C, H, W): a 1-D input becomes an image of one row, a single sample a batch of one."""
    if x.ndim == layer.spatial + 1:
        x = x[None]
    return x if layer.spatial == 2 else x[:, :, None]
