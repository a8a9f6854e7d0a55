"""Rerouting: a pass at two levels, compared with layers run by hand and with the runtime; stored measurements."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from small_models import snapshot
from torch import Tensor, nn

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import InputError, LevelError, TrainingError
from nested_sparse.kernels import library
from nested_sparse.reroute import Reroute
from nested_sparse.slice import slice_checkpoint
from nested_sparse.trainer import NestedModel, export, measure_reroutes, nest
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

DENSITIES = (0.15, 0.4, 0.9)
PAIRS = [(1, 0), (2, 0), (2, 1)]
ORDER = ("0", "3", "7")
"""Of chain(): the nested layers."""


def scattered(net: NestedModel) -> NestedModel:
    """`net` in eval mode, with other random biases, affines and statistics at every level."""
    torch.manual_seed(11)
    for norm in net.level_norms().values():
        for each in norm.norms:
            nn.init.uniform_(each.weight, 0.5, 1.5)
            nn.init.normal_(each.bias)
            each.running_mean.normal_()
            each.running_var.uniform_(0.5, 2.0)
    for layer in net.nested_layers().values():
        if layer.bias is not None:
            nn.init.normal_(layer.bias, std=0.1)  # larger ones would decide every answer
    return net.eval()


def chain(densities: tuple[float, ...] = DENSITIES) -> NestedModel:
    """Conv, norm, relu, conv, norm, relu, flatten, linear: modules 0, 1, 3, 4, 7 depend on the level."""
    torch.manual_seed(2)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, stride=2, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 9, 3),
    )
    return scattered(nest(model, densities=densities, pattern="block4x1"))


class Shortcut(nn.Module):
    """A residual block whose norms all come after both convolutions, and a norm of the sum, which follows no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.branch, self.branch_norm = nn.Conv2d(4, 8, 3, 2, 1), nn.BatchNorm2d(8)
        self.short, self.short_norm = nn.Conv2d(4, 8, 1, 2), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem_norm(self.stem(x)))
        branch, short = self.branch(x), self.short(x)
        return self.head(F.relu(self.branch_norm(branch) + self.short_norm(short)).mean((2, 3)))


def shortcut() -> NestedModel:
    torch.manual_seed(4)
    return scattered(nest(Shortcut(), densities=DENSITIES, pattern="block4x1"))


def images(count: int = 24) -> Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def labelled(count: int = 24) -> list[tuple[Tensor, Tensor]]:
    """Two batches with level 2's answers as classes, so that other levels are wrong on some samples."""
    net = chain()
    net.set_level(2)
    with torch.no_grad():
        return [(part, net(part).argmax(dim=1)) for part in images(count).split(count // 2 + 1)]


def weight_at(layer: NestedLayer, level: int) -> Tensor:
    """The weight by its definition: blocks with a first level above `level` are zero."""
    kept = (layer.first_level <= level).repeat_interleave(layer.block_rows, dim=0)[: layer.weight.shape[0]]
    return layer.weight * kept.reshape(layer.weight.shape)


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


def run_lowered(path: Path, x: Tensor, start: int, end: int, lowered: set[str]) -> np.ndarray:
    """The output of the file's graph when the operators `lowered` read the level from a second input.

    An operator reads the level once, when it starts: so this is what a run computes whose level falls just before them,
    without a race.
    """
    with Checkpoint.open(path) as checkpoint:
        model = onnx.load_from_string(checkpoint.graph())
        (level,) = (value for value in model.graph.input if value.name == "__level__")
        low = model.graph.input.add()
        low.CopyFrom(level)
        low.name = "low"
        for node in model.graph.node:
            if node.name in lowered:
                node.input[list(node.input).index("__level__")] = "low"
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        library.register(options)
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        feeds: Mapping[str, Any] = {
            "input": x.numpy(),
            "__level__": np.array(start),
            "low": np.array(end),
            **{f"__segment_{each}__": checkpoint.segment(each).copy() for each in range(len(checkpoint.levels))},
        }
        (output,) = session.run(None, feeds)
    return output


@pytest.mark.parametrize("make", [chain, shortcut])
@torch.no_grad()
def test_a_route_is_what_the_runtimes_operators_compute(make: Any, tmp_path: Path) -> None:
    """For every pair of levels and every set of lowered operators, the file answers as the route does."""
    net, x = make(), images(3)
    path = export(net, (x,), tmp_path / "net.safetensors", verify=False)
    calls = trace_calls(net, x)
    for start, end in PAIRS:
        for cut in range(len(calls.layers) + 1):
            lowered = calls.layers[cut:]
            with rerouted(net, calls, start, end, lowered):
                expected = net(x).numpy()
            np.testing.assert_allclose(run_lowered(path, x, start, end, set(lowered)), expected, rtol=1e-4, atol=1e-4)


def test_reroutes_travel_with_the_file(tmp_path: Path) -> None:
    """After export, reading and slicing, a slice keeps the reroutes that start at one of its levels."""
    net, samples = chain(), labelled()
    reroutes = measure_reroutes(net, samples)
    path = export(net, (samples[0][0],), tmp_path / "net.safetensors", reroutes=reroutes, verify=False)
    with Checkpoint.open(path) as checkpoint:
        assert checkpoint.reroutes == reroutes
        assert tuple(checkpoint.reroutes[0].accuracy) == ORDER
    slice_checkpoint(path, 2, tmp_path / "two.safetensors")
    slice_checkpoint(path, 1, tmp_path / "one.safetensors")
    with Checkpoint.open(tmp_path / "two.safetensors") as two, Checkpoint.open(tmp_path / "one.safetensors") as one:
        assert two.reroutes == reroutes[:1]
        assert one.reroutes == ()


def test_reroutes_of_another_model_are_not_exported(tmp_path: Path) -> None:
    """Unknown levels and layers give an error, and no file is written."""
    for reroute, error in (
        (Reroute(3, 0, {"3": 0.5}), LevelError),
        (Reroute(1, 0, {"conv": 0.5}), InputError),
    ):
        with pytest.raises(error, match="measure this model's own"):
            export(chain(), (images(2),), tmp_path / "net.safetensors", reroutes=[reroute])
    assert not list(tmp_path.iterdir())
