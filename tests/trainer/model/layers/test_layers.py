"""Nested layers: masks, gradients, and outputs compared with torch."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nested_sparse.layouts import Blocks
from nested_sparse.trainer.model.layers.conv import NestedConv1d, NestedConv2d
from nested_sparse.trainer.model.layers.linear import NestedLinear


def definition_mask(layer: NestedConv2d | NestedLinear, level: int) -> torch.Tensor:
    """The mask by the format's definition, one weight at a time."""
    rows = layer.weight.shape[0]
    order = list(range(rows)) if layer.permutation is None else layer.permutation.tolist()
    mask = torch.zeros(layer.weight.flatten(1).shape, dtype=torch.bool)
    for packed_row, channel in enumerate(order):
        for column in range(mask.shape[1]):
            first = int(layer.first_level[packed_row // layer.block_rows, column])
            mask[channel, column] = first != 255 and first <= level
    return mask.reshape(layer.weight.shape)


def random_conv(block_rows: int = 4, *, permuted: bool = False) -> NestedConv2d:
    torch.manual_seed(0)
    layer = NestedConv2d(nn.Conv2d(3, 10, (3, 2), padding=1), layout=Blocks(block_rows), level_count=3)
    layer.first_level.copy_(
        torch.tensor([0, 1, 2, 255], dtype=torch.uint8)[torch.randint(0, 4, layer.first_level.shape)]
    )
    if permuted:
        layer.permutation = torch.randperm(10).int()
    return layer


@pytest.mark.parametrize("permuted", [False, True])
@pytest.mark.parametrize("block_rows", [1, 4, 8])
def test_mask_is_the_definition(block_rows: int, permuted: bool) -> None:
    """Masks, rings and masked weights follow first_level, row groups and permutation."""
    layer = random_conv(block_rows, permuted=permuted)
    below = torch.zeros_like(layer.weight, dtype=torch.bool)
    for level in range(3):
        expected = definition_mask(layer, level)
        assert torch.equal(layer.mask(level), expected)
        assert torch.equal(layer.masked_weight(level), layer.weight * expected)
        assert torch.equal(layer.ring(level), expected & ~below)
        below = expected


def test_mask_follows_first_level() -> None:
    """A change in place, a load and a move change the mask; copies are independent."""
    layer = random_conv()
    before = layer.mask(1).clone()
    clone = copy.deepcopy(layer)
    layer.first_level.zero_()
    assert layer.mask(1).all()
    assert torch.equal(clone.mask(1), before)
    layer.load_state_dict(clone.state_dict())
    assert torch.equal(layer.mask(1), before)
    assert torch.equal(layer.double().masked_weight(1), layer.weight * before)
    assert torch.equal(pickle.loads(pickle.dumps(layer)).mask(1), before)


def test_mask_made_in_inference_mode_can_train() -> None:
    """Training works after an evaluation in inference_mode."""
    layer = random_conv()
    with torch.inference_mode():
        layer(torch.ones(1, 3, 4, 4))
    layer(torch.ones(1, 3, 4, 4)).sum().backward()
    assert layer.weight.grad is not None


def test_gradient_reaches_kept_weights_only() -> None:
    """The gradient is the dense convolution's for kept weights and exactly 0 for others."""
    layer = random_conv()
    layer.level = 1
    x = torch.randn(2, 3, 6, 6)
    dense = layer.masked_weight(1).detach().requires_grad_()
    F.conv2d(x, dense, layer.bias[1].detach(), padding=1).square().sum().backward()  # type: ignore[index]
    layer(x).square().sum().backward()
    mask = definition_mask(layer, 1)
    assert torch.allclose(layer.weight.grad[mask], dense.grad[mask], rtol=1e-5, atol=1e-5)  # type: ignore[index]
    assert not layer.weight.grad[~mask].any()  # type: ignore[index]
    assert not layer.bias.grad[[0, 2]].any()  # type: ignore[union-attr, index]


def test_unused_values_do_not_leak() -> None:
    """Dropped weights may even be NaN."""
    layer = random_conv()
    with torch.no_grad():
        layer.weight[~definition_mask(layer, 0)] = float("nan")
    layer.level = 0
    assert torch.isfinite(layer(torch.randn(1, 3, 5, 5))).all()


@pytest.mark.parametrize(
    "options",
    [
        {"padding": "same", "kernel_size": (4, 3)},
        {"padding": "same", "kernel_size": (2, 5), "dilation": (3, 2)},
        {"padding": "valid", "kernel_size": 3, "stride": 2},
        {"padding": (2, 1), "kernel_size": (5, 3), "stride": (1, 2), "dilation": (1, 2)},
        {"padding": 1, "kernel_size": 3, "groups": 3, "stride": 2},
        {"padding": "same", "kernel_size": (3, 4), "groups": 6},
    ],
)
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_convolution_equals_torch(options: dict[str, object]) -> None:
    """With every weight kept, any padding, stride and dilation equals torch's own layer, batched or not."""
    torch.manual_seed(1)
    conv = nn.Conv2d(6, 12, **options)  # type: ignore[arg-type]
    layer = NestedConv2d(conv, layout=Blocks(2), level_count=2)
    x = torch.randn(2, 6, 17, 15)
    assert torch.allclose(layer(x), conv(x), atol=1e-5)
    assert torch.allclose(layer(x[0]), conv(x)[0], atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"padding": "same", "kernel_size": 4, "groups": 2},
        {"padding": "valid", "kernel_size": 3, "stride": 2, "groups": 6},
        {"padding": 5, "kernel_size": 11, "stride": 3, "dilation": 2},
    ],
)
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_convolution_of_lines_equals_torch(options: dict[str, object]) -> None:
    """The same with one spatial dimension."""
    torch.manual_seed(1)
    conv = nn.Conv1d(6, 12, **options)  # type: ignore[arg-type]
    layer = NestedConv1d(conv, layout=Blocks(2), level_count=2)
    x = torch.randn(2, 6, 35)
    assert torch.allclose(layer(x), conv(x), atol=1e-5)
    assert torch.allclose(layer(x[0]), conv(x)[0], atol=1e-5)


def test_linear_equals_torch_on_any_rank() -> None:
    """A linear layer takes inputs of any rank and has a bias per level."""
    linear = nn.Linear(7, 5)
    layer = NestedLinear(linear, layout=Blocks(2), level_count=2)
    for shape in [(7,), (3, 7), (2, 3, 7)]:
        x = torch.randn(shape)
        assert torch.allclose(layer(x), linear(x), atol=1e-5)
    with torch.no_grad():
        layer.bias[0] += 1  # type: ignore[index]
    x, layer.level = torch.randn(3, 7), 0
    np.testing.assert_allclose(layer(x).detach(), (linear(x) + 1).detach(), rtol=1e-5, atol=1e-5)
