"""nest_pretrained: levels of a pre-trained model in one call."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import small_net, snapshot
from torch import Tensor, nn

from nested_sparse.budget import blocks_to_keep
from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import TrainingError
from nested_sparse.trainer import NestedModel, export, nest_pretrained, recalibrate
from nested_sparse.trainer.model.choose import magnitudes
from nested_sparse.trainer.post_training import levels as levels_module

DENSITIES = (0.1, 0.3, 0.5)


def inputs(count: int = 48) -> Tensor:
    """Images for `small_net`."""
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(5))


def pretrained(**options: object) -> NestedModel:
    """`small_net` nested."""
    arguments: dict[str, object] = {"densities": DENSITIES, "samples": 48, **options}
    return nest_pretrained(small_net().eval(), [inputs()], **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("pattern", ["unstructured", "block4x1", "gs8x2", "channel"])
@pytest.mark.parametrize("budget", ["uniform", "global"])
def test_levels_nest_and_their_values_are_settled_once(
    pattern: str, budget: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later level changes nothing of a finished level: mask, values and bias, bit for bit."""
    done: list[dict[str, tuple[Tensor, Tensor, Tensor | None]]] = []
    settle = levels_module._settle

    def settle_and_note(net: NestedModel, *rest: object) -> None:
        settle(net, *rest)  # type: ignore[arg-type]
        noted = {}
        for name, layer in net.nested_layers().items():
            mask = layer.mask(net.level).clone()
            bias = None if layer.bias is None else layer.bias[net.level].detach().clone()
            noted[name] = (mask, torch.where(mask, layer.weight, 0).detach().clone(), bias)
        done.append(noted)

    monkeypatch.setattr(levels_module, "_settle", settle_and_note)
    net = pretrained(pattern=pattern, budget=budget, keep_dense=("0",))
    assert len(done) == len(DENSITIES)
    for level, layers in enumerate(done):
        for name, (mask, values, bias) in layers.items():
            layer = net.nested_layers()[name]
            assert torch.equal(layer.mask(level), mask)
            assert torch.equal(torch.where(mask, layer.weight, 0), values)
            assert bias is None or torch.equal(layer.bias[level], bias)
            assert level == 0 or bool((done[level - 1][name][0] <= mask).all())


def test_densities_follow_the_rounding_rule() -> None:
    """The number of kept V × 1 blocks follows the rule for each layer and level."""
    net = pretrained(pattern="block4x1")
    for layer in net.nested_layers().values():
        blocks = magnitudes(layer).size
        kept = [int((layer.first_level <= level).sum()) for level in range(net.level_count)]
        assert kept == [blocks_to_keep(density, blocks) for density in DENSITIES]


def test_a_sole_layer_is_the_optimum_on_its_support() -> None:
    """Row by row: numpy's least squares for the added weights, the level below held, then for a scale and a bias."""
    torch.manual_seed(0)
    linear = nn.Linear(20, 8)
    x = torch.randn(200, 20) @ torch.randn(20, 20) + 1
    net = nest_pretrained(linear, [(x, None)], densities=(0.2, 0.5), damping=1e-10, samples=200)
    inputs, target = x.double().numpy(), linear(x).detach().double().numpy()
    layer = net.nested_layers()["model"]
    assert layer.bias is not None
    weight, bias = layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()
    for level in range(2):
        held = np.where(layer.mask(0).numpy(), weight, 0) if level else np.zeros_like(weight)
        values = layer.masked_weight(level).detach().double().numpy()
        error = np.square(inputs @ values.T + bias[level] - target).mean(axis=0)
        for row, added in enumerate(layer.ring(level).numpy()):
            free = np.column_stack([inputs[:, added], np.ones(len(inputs))])
            rest = target[:, row] - inputs @ held[row]
            sums = inputs @ held[row] + free @ np.linalg.lstsq(free, rest, rcond=None)[0]
            scaled = np.column_stack([sums, np.ones(len(inputs))])
            best = np.square(scaled @ np.linalg.lstsq(scaled, target[:, row], rcond=None)[0] - target[:, row]).mean()
            np.testing.assert_allclose(error[row], best, rtol=1e-4, atol=1e-8)


def test_values_are_drawn_to_the_dense_model_s() -> None:
    """Row by row: numpy's optimum of the damped error on the ring. Those of the search, to begin with, differ."""
    torch.manual_seed(0)
    linear, damping = nn.Linear(20, 8), 0.3
    x = torch.randn(200, 20) @ torch.randn(20, 20) + 1
    net = nest_pretrained(linear, [(x, None)], densities=(0.2, 0.5), damping=damping, samples=200)
    layer, dense = net.nested_layers()["model"], linear.weight.detach().double().numpy()
    centred = x.double().numpy() - x.double().numpy().mean(axis=0)
    hessian = centred.T @ centred / len(centred)
    hessian += damping * np.diag(hessian).mean() * np.eye(20)
    values = layer.values.detach().double().numpy()
    for level in range(2):
        held = np.where(layer.mask(0).numpy(), values, 0) if level else np.zeros_like(values)
        for row, added in enumerate(layer.ring(level).numpy()):
            missing = (hessian @ (dense[row] - held[row]))[added]
            best = np.linalg.solve(hessian[np.ix_(added, added)], missing)
            np.testing.assert_allclose(values[row, added], best, rtol=1e-3, atol=1e-5)


def test_statistics_are_those_of_each_level() -> None:
    """The mean and unbiased variance of each norm's input when its level runs as deployed, in eval mode.

    `recalibrate` finds the same, but for a little: its norms divide by the batch's biased deviation as it measures,
    so that what follows the first norm is larger by the root of n / (n - 1), n = 48 * 8 * 8 values a channel. A
    mean is a sum of such parts of both signs, so its bound is a share of the largest deviation, not of itself.
    """
    net = pretrained().eval()
    for level in range(net.level_count):
        net.set_level(level)
        got: dict[nn.Module, Tensor] = {}
        norms = [norm.norms[level] for norm in net.level_norms().values()]
        for norm in norms:
            norm.register_forward_pre_hook(lambda module, args, got=got: got.update({module: args[0].detach()}))
        net(inputs())
        for norm in norms:
            torch.testing.assert_close(norm.running_mean, got[norm].mean(dim=(0, 2, 3)), rtol=1e-5, atol=1e-6)
            variance = got[norm].var(dim=(0, 2, 3))
            expected = torch.where(variance == 0, 1.0, variance)
            torch.testing.assert_close(norm.running_var, expected, rtol=1e-5, atol=1e-6)
    before = snapshot(net)
    recalibrate(net, [(inputs(), None)])
    largest = max(float(value.max()) ** 0.5 for key, value in before.items() if key.endswith("running_var"))
    for key, value in snapshot(net).items():
        share = 1.1 / (48 * 8 * 8 - 1)
        torch.testing.assert_close(value, before[key], rtol=share, atol=1e-6 + share * largest)


@pytest.mark.parametrize("pattern", ["unstructured", "block4x1", "gs8x2", "channel"])
def test_it_exports(pattern: str, tmp_path: Path) -> None:
    """Export verifies that every level of the file computes, in our operators, the same as torch."""
    net = pretrained(pattern=pattern, keep_dense=("0",))
    with Checkpoint.open(export(net, (inputs(2),), tmp_path / "net.safetensors")) as checkpoint:
        assert len(checkpoint.levels) == len(DENSITIES)


def test_the_model_is_untouched_and_modes_are_kept() -> None:
    """The original keeps parameters, buffers and mode; the copy has its mode, the densest level, and no hooks."""
    model = small_net().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    net = nest_pretrained(model, [(inputs(30), None), (inputs(30), None)], densities=DENSITIES, samples=40)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert net.training == model.training is True
    assert net.level == net.level_count - 1
    assert all(layer.training and not layer._forward_pre_hooks for layer in net.nested_layers().values())


def test_the_same_call_gives_the_same_bits() -> None:
    """The call draws nothing from torch's global generator."""
    first, second = snapshot(pretrained()), snapshot(pretrained())
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def test_layers_that_share_a_weight_and_layers_used_twice() -> None:
    """They share masks and values; each bias is its own."""
    torch.manual_seed(0)
    first, second = nn.Linear(6, 6), nn.Linear(6, 6)
    second.weight = first.weight
    model = nn.Sequential(first, nn.ReLU(), second, first)
    net = nest_pretrained(model, [torch.randn(40, 6)], densities=(0.3, 0.6))
    layers = list(net.nested_layers().values())
    assert layers[0].weight is layers[1].weight
    assert torch.equal(layers[0].first_level, layers[1].first_level)


@pytest.mark.parametrize(
    ("batches", "options", "message"),
    [
        ([], {}, "calibration samples"),
        ([inputs(4)], {"samples": 0}, "samples >= 1"),
        ([inputs(4) * float("nan")], {}, "0: .* not finite"),
        ([inputs(4)], {"damping": 0.0}, "damping"),
        ([inputs(4)], {"keep_values": 1}, "keep_values: expected True, False or None, got 1"),
    ],
)
def test_errors_say_what_to_do(batches: list[Tensor], options: dict[str, float], message: str) -> None:
    """The cases are no samples, samples that are not finite, and no damping."""
    with pytest.raises(TrainingError, match=message):
        nest_pretrained(small_net().eval(), batches, densities=DENSITIES, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("exponent", [64, -64, -110])
@pytest.mark.parametrize("columns", [48, 2049])  # in float64, and in float32 where that will do
def test_levels_are_the_same_for_samples_of_any_size(exponent: int, columns: int) -> None:
    """A network without biases on samples times a power of two: every bit, though squares leave float32."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(columns, 16, bias=False), nn.ReLU(), nn.Linear(16, 10, bias=False)).eval()
    x = torch.randn(32, columns)
    expected, found = (
        nest_pretrained(model, [each], densities=(0.1, 0.999)).state_dict() for each in (x, x * 2.0**exponent)
    )
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        if columns == 48:
            assert torch.equal(tensor, expected[name]), name
        elif tensor.is_floating_point():
            assert tensor.isfinite().all(), name


def test_half_precision_has_scales_of_large_outputs() -> None:
    """The outputs' squares leave float16 long before the outputs do."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(48, 16, bias=False)).eval()
    x = 200 * torch.randn(64, 48)
    whole = nest_pretrained(model, [x], densities=(0.2, 0.5)).nested_layers()["0"]
    half = nest_pretrained(model.half(), [x.half()], densities=(0.2, 0.5)).nested_layers()["0"]
    assert whole.scales is not None
    assert half.scales is not None
    torch.testing.assert_close(half.scales.float(), whole.scales, rtol=0.02, atol=0)


def test_samples_too_large_for_any_levels_are_refused() -> None:
    """The samples are to blame: a square that no float64 holds, and a variance that no float32 holds."""
    model = nn.Sequential(nn.Linear(8, 8, bias=False)).double().eval()
    x = torch.rand(16, 8, dtype=torch.float64)
    with pytest.raises(TrainingError, match=r"0: the calibration samples reach .*e\+199 there, .*; scale the inputs"):
        nest_pretrained(model, [x * 1e200], densities=(0.5,))
    normed = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)).eval()
    with pytest.raises(TrainingError, match=r"1: the calibration samples are so large there .* scale the inputs down"):
        nest_pretrained(normed, [x.float() * 1e25], densities=(0.5,))


def test_own_values_stay_at_any_density_and_are_said_to_be_nearer(caplog: pytest.LogCaptureFixture) -> None:
    """Of a dense level above a sparse one; alone it has nothing to be worse than."""
    torch.manual_seed(1)
    model, x = nn.Sequential(nn.Linear(96, 64)).eval(), torch.randn(300, 96)

    def error(net: NestedModel) -> float:
        with torch.no_grad():
            return float((net(x) - model(x)).norm() / model(x).norm())

    def said(**options: object) -> tuple[NestedModel, list[str]]:
        caplog.clear()
        with caplog.at_level(logging.WARNING, "nested_sparse"):
            net = nest_pretrained(model, [x], samples=300, **options)  # type: ignore[arg-type]
        return net, [each.getMessage() for each in caplog.records if "own values" in each.getMessage()]

    solved, (warning,) = said(densities=(0.1, 0.999))
    assert warning.startswith("level 1: ")
    assert "keep_values=True" in warning
    kept, warnings = said(densities=(0.1, 0.999), keep_values=True)
    assert not warnings
    assert error(kept) < 1e-3 < error(solved)
    layer = kept.nested_layers()["0"]
    for level in range(2):
        own = torch.where(layer.mask(level), model[0].weight, 0)
        assert torch.equal(torch.where(layer.mask(level), layer.values, 0), own)
    assert said(densities=(0.999,))[1] == said(densities=(0.05,))[1] == []
