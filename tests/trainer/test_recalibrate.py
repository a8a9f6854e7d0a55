"""Recalibration: statistics of the data, and no other change."""

from __future__ import annotations

import pytest
import torch
from small_models import nested_small_net, small_batches, snapshot
from torch import nn

from nested_sparse.errors import TrainingError
from nested_sparse.trainer import nest
from nested_sparse.trainer.recalibrate import recalibrate


def test_statistics_are_those_of_the_data() -> None:
    """A first norm has the mean and unbiased variance of its level's inputs over all data, uneven batches included."""
    torch.manual_seed(0)
    net = nest(nn.Sequential(nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5)), densities=(0.2, 0.9)).eval()
    data = torch.randn(50, 2, 6, 6) * 3 + 100
    recalibrate(net, [(data[:7], None), (data[7:40], None), (data[40:], None)], samples=50)
    for level in range(2):
        net.set_level(level)
        inputs = net.model[0](data).transpose(0, 1).flatten(1).double()
        norm = net.level_norms()["1"].norms[level]
        torch.testing.assert_close(norm.running_mean.double(), inputs.mean(dim=1), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(norm.running_var.double(), inputs.var(dim=1), rtol=1e-4, atol=1e-5)


def test_statistics_of_lines_are_those_of_the_data() -> None:
    """A norm after a convolution of one spatial dimension."""
    torch.manual_seed(0)
    net = nest(nn.Sequential(nn.Conv1d(2, 5, 3), nn.BatchNorm1d(5)), densities=(0.2, 0.9)).eval()
    data = torch.randn(20, 2, 9) * 2 - 7
    recalibrate(net, [(data[:7], None), (data[7:], None)], samples=20)
    for level in range(2):
        net.set_level(level)
        inputs = net.model[0](data).transpose(0, 1).flatten(1).double()
        norm = net.level_norms()["1"].norms[level]
        torch.testing.assert_close(norm.running_mean.double(), inputs.mean(dim=1), rtol=1e-5, atol=1e-5)


def test_nothing_else_changes() -> None:
    """Weights, level, mode and tracking stay; dropout is off, so measuring twice gives the same bits."""
    net = nested_small_net().train()
    net.set_level(1)
    before, modes = snapshot(net), [module.training for module in net.modules()]
    recalibrate(net, small_batches()(0))
    once = snapshot(net)
    recalibrate(net, small_batches()(0))
    assert net.level == 1
    assert modes == [module.training for module in net.modules()]
    for key, value in net.state_dict().items():
        assert torch.equal(value, once[key])
        assert torch.equal(value, before[key]) or ".running_" in key or "num_batches" in key
    assert net.level_norms()["1"].norms[0].track_running_stats


def test_stops_after_enough_samples() -> None:
    """Batches beyond `samples` are not read, and an iterator is read once for all levels."""
    net = nested_small_net()
    left = iter(list(small_batches()(0)))
    recalibrate(net, left, samples=20)
    assert len(list(left)) == 1


def test_no_batch_is_an_error() -> None:
    """Without data there is an error, and the model is unchanged."""
    net = nested_small_net()
    before = snapshot(net)
    with pytest.raises(TrainingError, match="at least one batch"):
        recalibrate(net, [])
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_norms_without_statistics_are_left_alone() -> None:
    """A norm that always uses its batch has nothing to measure."""
    net = nest(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, track_running_stats=False)), densities=(0.5,))
    recalibrate(net, [(torch.randn(8, 4), None)])
    assert net.level_norms()["1"].norms[0].running_mean is None


def test_a_constant_channel_magnifies_nothing() -> None:
    """At level 0 the first four channels are dropped, and the first two of the next layer see these alone.

    On the data the net answers as batch norms do. A rounding of the constant is not divided by the root of epsilon.
    """
    torch.manual_seed(0)
    net = nest(_with_lost_channels(), densities=(0.5, 1.0), pattern="unstructured", budget="uniform").eval()
    data = torch.randn(400, 4)
    recalibrate(net, [(data, None)], samples=400)
    first, second = (norm.norms for norm in net.level_norms().values())
    assert [int((each.running_var == 1).sum()) for each in (*first, *second)] == [4, 0, 2, 0]
    net.set_level(0)
    answer = net(data).detach()
    hidden = torch.relu(first[0](net.model[0](data)))
    mixed = net.model[3](hidden)
    by_hand = (mixed - mixed.mean(0)) / (mixed.var(0) + second[0].eps).sqrt() + second[0].bias
    torch.testing.assert_close(answer, by_hand, rtol=0.02, atol=0.02)
    with torch.no_grad():
        first[0].bias[:4] += 1e-3
        assert float((net(data) - answer).abs().max()) < 1e-3


def _with_lost_channels() -> nn.Sequential:
    """Two linear layers of eight and four channels, with norms; half of their weights are large."""
    model = nn.Sequential(
        nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4, bias=False), nn.BatchNorm1d(4)
    )
    with torch.no_grad():
        model[0].weight[:4] *= 1e-3
        model[3].weight[:2, 4:] *= 1e-3
        model[3].weight[2:, :4] *= 1e-3
        for norm in (model[1], model[4]):
            nn.init.uniform_(norm.bias, 0.5, 1.0)
    return model
