"""A pre-trained model, nested in one call."""

from __future__ import annotations

import pytest
import torch
from small_models import small_net, snapshot
from torch import Tensor, nn

from nested_sparse.budget import blocks_to_keep
from nested_sparse.errors import TrainingError
from nested_sparse.trainer import NestedModel, nest_pretrained, recalibrate
from nested_sparse.trainer.choose import magnitudes
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
    """What a level keeps when it is done, no later level moves: mask, values and bias, bit for bit."""
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
    """Blocks kept by each layer and level, for V × 1 blocks."""
    net = pretrained(pattern="block4x1")
    for layer in net.nested_layers().values():
        blocks = magnitudes(layer).size
        kept = [int((layer.first_level <= level).sum()) for level in range(net.level_count)]
        assert kept == [blocks_to_keep(density, blocks) for density in DENSITIES]


def test_a_sole_layer_is_the_optimum_on_its_support() -> None:
    """No gradient is left at what a level adds, its outputs' mean is right, and the dense values were no better."""
    torch.manual_seed(0)
    linear = nn.Linear(20, 8)
    x = torch.randn(200, 20) @ torch.randn(20, 20) + 1
    net = nest_pretrained(linear, [(x, None)], densities=(0.2, 0.5), damping=1e-6, samples=200)
    target, layer = linear(x).detach(), net.nested_layers()["model"]
    errors = []
    for level in range(2):
        net.set_level(level)
        difference = (net(x) - target).detach()
        torch.testing.assert_close(difference.mean(dim=0), torch.zeros(8), rtol=0, atol=1e-4)
        gradient = difference.T @ (x - x.mean(dim=0)) / len(x)
        scale = (target - target.mean(dim=0)).T @ (x - x.mean(dim=0)) / len(x)
        assert gradient[layer.ring(level)].abs().max() < 1e-3 * scale.abs().max()
        errors.append(float(difference.square().mean()))
    with torch.no_grad():
        kept = torch.where(layer.mask(0), linear.weight, 0)
        unfitted = (x - x.mean(dim=0)) @ (kept - linear.weight).T
    assert errors[0] <= float(unfitted.square().mean()) * (1 + 1e-6)


def test_statistics_are_those_of_each_level() -> None:
    """Recalibrating on the same samples changes them by no more than biased and unbiased variances differ."""
    net = pretrained()
    before = snapshot(net)
    recalibrate(net, [(inputs(), None)])
    for key, value in snapshot(net).items():
        torch.testing.assert_close(value, before[key], rtol=1e-2, atol=1e-3)


def test_the_model_is_untouched_and_modes_are_kept() -> None:
    """Parameters, buffers and train mode of the original; the copy has its mode, runs the densest level, no hooks."""
    model = small_net().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    net = nest_pretrained(model, [(inputs(30), None), (inputs(30), None)], densities=DENSITIES, samples=40)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert net.training == model.training is True
    assert net.level == net.level_count - 1
    assert all(layer.training and not layer._forward_pre_hooks for layer in net.nested_layers().values())


def test_the_same_call_gives_the_same_bits() -> None:
    """Nothing is drawn from torch's global generator."""
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
    ],
)
def test_errors_say_what_to_do(batches: list[Tensor], options: dict[str, float], message: str) -> None:
    """No samples, samples that are not finite, no damping."""
    with pytest.raises(TrainingError, match=message):
        nest_pretrained(small_net().eval(), batches, densities=DENSITIES, **options)  # type: ignore[arg-type]
