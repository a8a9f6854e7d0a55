"""Int8 rounding: the file's values forward, straight-through gradients backward, and ranges per level."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from integer_reference import Image, Range, dequantise, quantise, quantised_rows
from integer_reference import row_scales as reference_scales
from torch import Tensor, nn

from nested_sparse.trainer import NestedModel, nest
from nested_sparse.trainer.model.int8 import round_to_int8
from nested_sparse.trainer.model.layers.int8_rounding import (
    rounded_activation,
    rounded_weight,
    row_scales,
    scale_and_zero,
    with_batch,
)

SHAPES = ((7, 5, 3, 3), (6, 4, 3), (9, 30))


def held_range(ranges: Tensor) -> Range:
    scale, zero = scale_and_zero(ranges)
    return Range(np.float32(scale.item()), int(zero))


def plain_activation(x: Tensor, held: Range) -> tuple[Tensor, Tensor]:
    """The rounded values as the integer reference has them, and which values are inside the range."""
    values = torch.from_numpy(dequantise(Image(quantise(x.detach().numpy(), held), held)))
    steps = np.rint(x.detach().numpy() / held.scale) + held.zero
    return values, torch.from_numpy((steps >= 0) & (steps <= 255))


def plain_weight(weight: Tensor, densest: Tensor) -> Tensor:
    scales = reference_scales(densest.detach().numpy())
    rows = quantised_rows(weight.detach().numpy(), scales) * scales[:, None]
    return torch.from_numpy(rows.astype(np.float32)).reshape(weight.shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_weights_are_the_files_and_all_gradients_pass(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    weight = torch.randn(shape, requires_grad=True)
    with torch.no_grad():
        weight[1] = 0
        weight[2] *= 1e-30
    rounded = rounded_weight(weight, row_scales(weight))
    assert torch.equal(rounded, plain_weight(weight, weight))
    upstream = torch.randn(shape)
    rounded.backward(upstream)
    assert weight.grad is not None
    assert torch.equal(weight.grad, upstream)


@pytest.mark.parametrize("bounds", [(-1.0, 2.0), (0.0, 1.5), (0.3, 1.5), (-2.0, -0.1), (-0.7, 0.7)])
def test_activations_are_the_files_and_gradients_stop_outside(bounds: tuple[float, float]) -> None:
    torch.manual_seed(1)
    x = torch.randn(2000, requires_grad=True)
    ranges = torch.tensor(bounds)
    values, inside = plain_activation(x, held_range(ranges))
    rounded = rounded_activation(x, *scale_and_zero(ranges))
    assert torch.equal(rounded, values)
    upstream = torch.randn(2000)
    rounded.backward(upstream)
    assert x.grad is not None
    assert torch.equal(x.grad, torch.where(inside, upstream, 0.0))
    assert 0 < int(inside.sum()) < 2000, "both kinds are in the sample"


def test_ranges_hold_zero_and_odd_ones_have_scale_1() -> None:
    """Zero has a byte of its own in every range, so that padding is exact."""
    for bounds in ((0.5, 2.0), (-3.0, -1.0), (-1.0, 1.0)):
        scale, zero = scale_and_zero(torch.tensor(bounds))
        assert rounded_activation(torch.zeros(1), scale, zero).item() == 0
        assert 0 <= zero.item() <= 255
        for bound in bounds:
            assert abs(rounded_activation(torch.tensor([bound]), scale, zero).item() - bound) <= scale.item() * 0.5001
    for odd in ((0.0, 0.0), (0.0, 1e-40), (-math.inf, math.inf), (math.nan, math.nan)):
        assert scale_and_zero(torch.tensor(odd))[0].item() == 1


def test_a_running_range_starts_with_the_first_batch() -> None:
    unknown = torch.full((2,), torch.nan)
    first = with_batch(unknown, torch.tensor([-1.0, 4.0]))
    assert first.tolist() == [-1.0, 4.0]
    torch.testing.assert_close(with_batch(first, torch.tensor([0.0, 9.0])), torch.tensor([-0.9, 4.5]))


def rounding_net(module: nn.Module) -> NestedModel:
    net = nest(nn.Sequential(module), densities=(0.3, 0.7), pattern="unstructured")
    round_to_int8(net)
    return net


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Conv2d(4, 6, 3, padding=1, stride=2), (2, 4, 9, 9)),
        (nn.Conv2d(4, 8, 3, padding="same", groups=4, bias=False), (2, 4, 6, 6)),
        (nn.Conv1d(4, 6, 5, padding=2), (2, 4, 11)),
        (nn.Linear(12, 5), (3, 2, 12)),
    ],
)
def test_a_layer_computes_with_rounded_operands(module: nn.Module, shape: tuple[int, ...]) -> None:
    """Against plain torch, at each level: output, gradient of the input and of the weight."""
    torch.manual_seed(2)
    net, x = rounding_net(module), torch.randn(shape)
    (layer,) = net.nested_layers().values()
    for level in range(2):
        net.set_level(level)
        net.train()(x * (level + 1))
        net.eval()
    assert layer.int8_ranges is not None
    assert not torch.equal(layer.int8_ranges[0], layer.int8_ranges[1])
    for level in range(2):
        net.set_level(level)
        values, inside = plain_activation(x, held_range(layer.int8_ranges[level]))
        weight = plain_weight(layer.masked_weight(level), layer.masked_weight(1)).requires_grad_()
        given, plain_given = x.clone().requires_grad_(), values.requires_grad_()
        bias = layer.level_bias()
        if isinstance(module, nn.Linear):
            expected = F.linear(plain_given, weight, bias)
        else:
            convolve = F.conv2d if isinstance(module, nn.Conv2d) else F.conv1d
            options = {"stride": module.stride, "padding": module.padding, "groups": module.groups}
            expected = convolve(plain_given, weight, bias, **options)
        got = net(given)
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)
        net.zero_grad()
        got.square().sum().backward()
        expected.square().sum().backward()
        assert given.grad is not None
        assert plain_given.grad is not None
        assert weight.grad is not None
        torch.testing.assert_close(given.grad, torch.where(inside, plain_given.grad, 0.0), rtol=1e-5, atol=1e-5)
        kept = torch.where(layer.mask(level), weight.grad, 0.0)
        torch.testing.assert_close(layer.values.grad, kept, rtol=1e-5, atol=1e-5)


def test_levels_share_rounded_weights() -> None:
    """The row scale is the densest level's, so a weight is the same at every level that keeps it."""
    torch.manual_seed(3)
    net = rounding_net(nn.Linear(30, 8))
    (layer,) = net.nested_layers().values()
    with torch.no_grad():
        layer.values[layer.ring(1)] *= 3
    x = torch.randn(4, 30)
    weights = []
    for level in range(2):
        net.set_level(level)
        weights.append(layer.operands(x)[1])
    assert torch.equal(weights[0], torch.where(layer.mask(0), weights[1], 0.0))
    assert not torch.equal(weights[0], plain_weight(layer.masked_weight(0), layer.masked_weight(0)))


def test_eval_changes_no_range_and_an_unseen_level_has_its_batchs_range() -> None:
    torch.manual_seed(4)
    net, x = rounding_net(nn.Linear(12, 5)), torch.randn(3, 12)
    (layer,) = net.nested_layers().values()
    net.eval().set_level(0)
    assert net(x).isfinite().all()
    assert layer.int8_ranges is not None
    assert layer.int8_ranges.isnan().all()
    net.train()(x)
    assert layer.int8_ranges[0].tolist() == [x.min().item(), x.max().item()]
    assert layer.int8_ranges[1].isnan().all()
    net.eval()(x * 2)
    assert layer.int8_ranges[0].tolist() == [x.min().item(), x.max().item()]
