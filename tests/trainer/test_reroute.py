"""Rerouting: a pass at two levels, compared with layers run by hand; accuracies, statistics, settings."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from reroute_nets import ORDER, PAIRS, chain, images, labelled, shortcut, weight_at
from small_models import snapshot
from torch import Tensor, nn

from nested_sparse.errors import LevelError, TrainingError
from nested_sparse.trainer import NestedModel, measure_reroutes, nest
from nested_sparse.trainer.call_order import CallOrder, trace_calls
from nested_sparse.trainer.export.fuse import fuse
from nested_sparse.trainer.export.records import norm_tables
from nested_sparse.trainer.export.trace import trace
from nested_sparse.trainer.model.forward_call import ForwardCall
from nested_sparse.trainer.model.layers import NestedLayer
from nested_sparse.trainer.model.layers.conv import NestedConv
from nested_sparse.trainer.model.modes import evaluating
from nested_sparse.trainer.model.norm import LevelBatchNorm
from nested_sparse.trainer.reroute import rerouted, route_statistics


def by_hand(net: NestedModel, x: Tensor, start: int, end: int, cut: int) -> Tensor:
    """The output of chain(): layers before number `cut` at `start`, the others at `end`, norms as their layers."""
    level, layers_seen = start, 0
    for module in net.model:
        if isinstance(module, NestedLayer):
            level, layers_seen = (start if layers_seen < cut else end), layers_seen + 1
            weight, bias = weight_at(module, level), None if module.bias is None else module.bias[level]
            if isinstance(module, NestedConv):
                x = F.conv2d(x, weight, bias, module.stride, module.padding[:2])
            else:
                x = F.linear(x, weight, bias)
        elif isinstance(module, LevelBatchNorm):
            norm = module.norms[level]
            x = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps)
        else:
            x = module(x)
    return x


@pytest.mark.parametrize(("start", "end"), PAIRS)
@pytest.mark.parametrize("cut", range(len(ORDER) + 1))
@torch.no_grad()
def test_a_route_is_the_layers_run_by_hand(start: int, end: int, cut: int) -> None:
    """Layers before the cut run at one level, the others at the lower one, each with its level's norm."""
    net, x = chain(), images()
    calls = trace_calls(net, x)
    assert calls.layers == ORDER
    with rerouted(net, calls, start, end, ORDER[cut:]):
        torch.testing.assert_close(net(x), by_hand(net, x, start, end, cut))


@pytest.mark.parametrize("make", [chain, shortcut])
@torch.no_grad()
def test_ends_of_the_range_are_the_levels_themselves(make: Any) -> None:
    """With all layers lowered the output is the lower level's, with none the higher's, bit for bit; else neither."""
    net, x = make(), images()
    calls = trace_calls(net, x)
    alone = []
    for level in range(3):
        net.set_level(level)
        alone.append(net(x))
    for start, end in PAIRS:
        with rerouted(net, calls, start, end, calls.layers):
            assert torch.equal(net(x), alone[end])
        with rerouted(net, calls, start, end, ()):
            assert torch.equal(net(x), alone[start])
        with rerouted(net, calls, start, end, calls.layers[1:]):
            assert not torch.allclose(net(x), alone[end])
            assert not torch.allclose(net(x), alone[start])


def test_norms_belong_to_the_layers_that_export_folds_them_into() -> None:
    """Trace and export assign norms to the same layers, also when other layers ran in between."""
    for net in (chain(), shortcut()):
        x = images(2)
        calls = trace_calls(net, x)
        with evaluating(net), torch.no_grad():
            call = ForwardCall(net.model, (x,))
            answer = call.answer(net.model, call.tensors)
            traced = trace(net.model, call, answer, input_names=None, output_names=None, fixed_batch=False)
            folded = fuse(traced.model, norm_tables(net), net.level_count).norm_of
        assert {norm: layer for layer, norm in folded.items() if norm} == calls.layer_of
        assert set(folded) == set(calls.layers)


def test_a_norm_that_follows_no_layer_is_lowered_with_what_ran_before_it() -> None:
    """A norm before every layer is lowered only with all layers; a norm of a sum, with the last layer before it."""

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.conv, self.sum = nn.BatchNorm2d(1), nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)
            self.last = nn.Conv2d(1, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return self.last(self.sum(x + self.conv(x)))

    net = nest(Odd(), densities=(0.5, 1.0)).eval()
    calls = trace_calls(net, images(2))
    assert calls == CallOrder(("conv", "last"), {"first": None, "sum": "conv"})
    norms = net.level_norms()
    for lowered, levels in ((("conv", "last"), (0, 0)), (("conv",), (1, 0)), (("last",), (1, 1))):
        with rerouted(net, calls, 1, 0, lowered):
            assert (norms["first"].level, norms["sum"].level) == levels


def state(net: NestedModel) -> tuple[Any, ...]:
    """All state that a route could change, except tensors."""
    parts = itertools.chain(net.nested_layers().values(), net.level_norms().values())
    modes = [(module.training, getattr(module, "track_running_stats", None)) for module in net.modules()]
    return (
        net.level,
        [part.level for part in parts],
        modes,
        [len(module._forward_pre_hooks) for module in net.modules()],
    )


@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_put_back(fails: bool) -> None:
    """Level, modes, statistics and hooks are restored, also after an error inside the context."""
    net, x = chain().train(), images()
    net.set_level(1)
    calls = trace_calls(net.eval(), x)
    net.train()
    tensors, rest = snapshot(net), state(net)
    for route in (
        rerouted(net, calls, 2, 0, ORDER[1:]),
        route_statistics(net, calls, 2, 0, ORDER[1:], [(x, None)]),
    ):
        try:
            with route:
                assert net.level_norms()["4"].level == 0
                if fails:
                    raise RuntimeError("an error of the caller's")
        except RuntimeError:
            assert fails
        assert state(net) == rest
        assert all(torch.equal(value, tensors[key]) for key, value in net.state_dict().items())
    with pytest.raises(RuntimeError), route_statistics(net, calls, 2, 0, ORDER[1:], [(images()[:, :, :1], None)]):
        pass
    assert state(net) == rest
    measure_reroutes(net, labelled(), calibration=[(x, None)])
    assert state(net) == rest
    assert all(torch.equal(value, tensors[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize(("start", "end"), PAIRS)
@torch.no_grad()
def test_route_statistics_are_those_of_a_plain_norm_under_the_route(start: int, end: int) -> None:
    """After the cut they are those of torch's BatchNorm(momentum=None); before it they do not change.

    Every channel has weights: of one that has none, a norm divides the rounding noise by almost nothing.
    """
    net, x = chain((0.5, 0.7, 0.9)), images()
    assert all(weight_at(net.model[0], level).flatten(1).any(dim=1).all() for level in range(3))
    calls = trace_calls(net, x)
    first, second = net.level_norms()["1"].norms, net.level_norms()["4"].norms
    for cut in (1, 0):
        plain = [nn.BatchNorm2d(size, momentum=None) for size in (6, 8)]
        for norm, own in zip(plain, (first[end], second[end]), strict=True):
            norm.load_state_dict(own.state_dict())
            norm.reset_running_stats()
        y = F.conv2d(x, weight_at(net.model[0], start if cut else end), net.model[0].bias[start if cut else end], 1, 1)
        y = F.relu(first[start](y) if cut else plain[0](y))
        plain[1](F.conv2d(y, weight_at(net.model[3], end), None, 2))
        before = first[end].running_mean.clone()
        with route_statistics(net, calls, start, end, ORDER[cut:], [(x, None)]):
            torch.testing.assert_close(second[end].running_mean, plain[1].running_mean)
            torch.testing.assert_close(second[end].running_var, plain[1].running_var)
            expected = before if cut else plain[0].running_mean
            torch.testing.assert_close(first[end].running_mean, expected)
        first_only, second_own = plain[0].running_mean, second[end].running_mean.clone()
    with route_statistics(net, calls, start, end, ORDER, [(x, None)], reach=1):
        torch.testing.assert_close(first[end].running_mean, first_only)
        assert torch.equal(second[end].running_mean, second_own)


@torch.no_grad()
def test_accuracies_are_those_of_the_routes() -> None:
    """All pairs and cuts over all batches, also uneven ones; calibrated ones use the route's own statistics."""
    net, samples = chain(), labelled()
    calls, x = trace_calls(net, samples[0][0]), images()
    answers = torch.cat([targets for _, targets in samples])
    reroutes = measure_reroutes(net, samples)
    assert [(reroute.start, reroute.end) for reroute in reroutes] == PAIRS
    for reroute in reroutes:
        expected = {
            name: float((by_hand(net, x, reroute.start, reroute.end, cut).argmax(dim=1) == answers).double().mean())
            for cut, name in enumerate(ORDER)
        }
        assert reroute.accuracy == expected
    calibrated = measure_reroutes(net, samples, calibration=[(x, None)], cuts=("3",))
    assert [list(reroute.accuracy) for reroute in calibrated] == [["0", "3"]] * len(PAIRS)
    assert [each.accuracy["0"] for each in calibrated] == [each.accuracy["0"] for each in reroutes]
    with route_statistics(net, calls, 2, 0, ORDER[1:], [(x, None)]):
        own = float((net(x).argmax(dim=1) == answers).double().mean())
    assert calibrated[1].accuracy["3"] == own != reroutes[1].accuracy["3"]
    assert measure_reroutes(net, samples, calibration=[(x, None)], reach=0) == reroutes


def test_a_bound_leaves_out_the_layers_that_lose_more() -> None:
    """Also one at the bound, because of the error; the others and the first layer have the accuracies that they had."""
    net, samples = chain(), labelled(96)
    every = measure_reroutes(net, samples)
    drop, worst = max(
        (each.accuracy["0"] - accuracy, (each.start, each.end, layer))
        for each in every
        for layer, accuracy in each.accuracy.items()
    )
    assert drop > 0
    kept = measure_reroutes(net, samples, max_drop=drop)
    for whole, some in zip(every, kept, strict=True):
        assert some.accuracy.items() <= whole.accuracy.items()
        assert "0" in some.accuracy
    assert worst not in {(each.start, each.end, layer) for each in kept for layer in each.accuracy}
    assert measure_reroutes(net, samples, max_drop=0.99) == every
    assert [list(each.accuracy) for each in measure_reroutes(net, samples, max_drop=0.0)] == [["0"]] * len(PAIRS)


def test_order_is_the_callers_where_it_is_given() -> None:
    """An operator may run before one that forward calls first; cuts follow the given order."""
    net = shortcut()
    samples = [(x, targets) for x, targets in labelled()]
    order = ("stem", "short", "branch", "head")
    calls = trace_calls(net, samples[0][0])
    assert calls.layers == ("stem", "branch", "short", "head")
    (_, reroute, _) = measure_reroutes(net, samples, order=order)
    assert tuple(reroute.accuracy) == order
    with torch.no_grad(), rerouted(net, calls, 2, 0, ("branch", "head")):
        hits = torch.cat([net(x).argmax(dim=1) == targets for x, targets in samples])
    assert reroute.accuracy["branch"] == float(hits.double().mean())


def test_what_does_not_fit_is_refused() -> None:
    """Missing data, orders and cuts of other layers, and levels that do not fall."""
    net, samples = chain(), labelled()
    calls = trace_calls(net, samples[0][0])
    with pytest.raises(TrainingError, match="at least one batch"):
        measure_reroutes(net, [])
    with pytest.raises(TrainingError, match="order: expected each of 0, 3, 7 once, got 0, 3"):
        measure_reroutes(net, samples, order=("0", "3"))
    for cuts in (("3", "4"), (), ("3", "3")):
        with pytest.raises(TrainingError, match="cuts: expected layers among 0, 3, 7"):
            measure_reroutes(net, samples, cuts=cuts)
    with pytest.raises(TrainingError, match="max_drop: expected a share below 1"):
        measure_reroutes(net, samples, max_drop=1)
    with pytest.raises(TrainingError, match="reach: expected"):
        measure_reroutes(net, samples, reach=-1)
    ways: list[tuple[Any, Any, str]] = [
        (0, 2, "goes down"),
        (1, 1, "goes down"),
        (3, 0, "out of"),
        (1, 0.5, "not a whole"),
    ]
    for start, end, error in ways:
        with pytest.raises(LevelError, match=error), rerouted(net, calls, start, end, ()):
            pass
    with pytest.raises(TrainingError, match="no nested layers \\['1'\\]"), rerouted(net, calls, 2, 0, ("1",)):
        pass
