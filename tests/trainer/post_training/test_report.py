"""LevelReport: the costs of levels and layers, against numpy and hand-made copies of the model."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from small_models import small_net, snapshot
from torch import Tensor, nn
from torch.nn.utils import prune

from nested_sparse.errors import LevelError, TrainingError
from nested_sparse.trainer import NestedModel, level_report, nest, nest_pretrained
from nested_sparse.trainer.post_training.report import LayerCost, LevelCost, LevelReport


def two_layers() -> nn.Sequential:
    """A linear layer with a bias, and one without."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 6, bias=False)).eval()


def samples(count: int = 40) -> Tensor:
    """Inputs of `two_layers` whose mean is not zero."""
    return torch.randn(count, 12, generator=torch.Generator().manual_seed(3)) + 0.7


def relative(got: Tensor, wanted: Tensor) -> float:
    """Root mean square of the difference over that of `wanted`, by numpy."""
    got, wanted = got.detach().double().numpy(), wanted.detach().double().numpy()  # type: ignore[assignment]
    return float(np.sqrt(np.mean((got - wanted) ** 2)) / np.sqrt(np.mean(wanted**2)))  # type: ignore[operator]


def test_levels_are_compared_with_the_dense_model() -> None:
    """Errors, classes and right answers of each level, counted by numpy from the levels' outputs."""
    model, x = two_layers(), samples()
    targets = torch.arange(40) % 6
    net = nest_pretrained(model, [x], densities=(0.2, 0.6), pattern="block4x1")
    report = level_report(net, model, [(x[:25], targets[:25]), (x[25:], targets[25:])], samples=30)
    wanted = model(x[:30])
    assert report.dense_accuracy == float((wanted.argmax(1) == targets[:30]).float().mean())
    for level, cost in enumerate(report.levels):
        net.set_level(level)
        got = net(x[:30])
        assert cost.density == net.density(level)
        assert cost.relative_error == pytest.approx(relative(got, wanted), rel=1e-5)
        assert cost.accuracy == float((got.argmax(1) == targets[:30]).float().mean())
        assert cost.agreement == float((got.argmax(1) == wanted.argmax(1)).float().mean())


@pytest.mark.parametrize("level", [0, 1])
def test_a_layer_is_compared_alone(level: int) -> None:
    """A copy of the model with one sparse weight, and the means that a bias can set right."""
    model, x = two_layers(), samples()
    net = nest(model, densities=(0.2, 0.6))
    report = level_report(net, model, [x], samples=40, level=level)
    wanted = model(x)
    expected = {}
    for name in ("0", "2"):
        changed = copy.deepcopy(model)
        layer = net.nested_layers()[name]
        changed[int(name)].weight.data = torch.where(layer.mask(level), layer.values, 0).detach()
        if name == "0":  # it has a bias
            changed[0].bias.data += (model[0](x) - changed[0](x)).mean(dim=0)
        expected[name] = relative(changed(x), wanted)
    found = {layer.name: layer.relative_error for layer in report.layers}
    assert found == pytest.approx(expected, rel=1e-4)
    assert [layer.relative_error for layer in report.layers] == sorted(found.values(), reverse=True)
    squares = sum(error**2 for error in expected.values())
    for cost in report.layers:
        layer = net.nested_layers()[cost.name]
        assert cost.share == pytest.approx(expected[cost.name] ** 2 / squares, rel=1e-4)
        dropped = int((~layer.mask(level)).sum())
        assert cost.density == pytest.approx(1 - dropped / layer.values.numel())
        kept = sum(int(each.mask(level).sum()) for each in net.nested_layers().values())
        assert cost.added == pytest.approx(dropped / kept)


def test_a_norm_behind_sets_means_right() -> None:
    """A convolution without a bias in front of a batch normalisation: its means do not count as error."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Flatten()).eval()
    x = torch.rand(10, 3, 6, 6) + 2
    net = nest(model, densities=(0.3,))
    (cost,) = level_report(net, model, [x], samples=10).layers
    weight = net.nested_layers()["0"].masked_weight(0)
    dense, sparse = (torch.conv2d(x, each) for each in (model[0].weight, weight))
    shifted = sparse + (dense - sparse).mean(dim=(0, 2, 3), keepdim=True)
    assert cost.relative_error == pytest.approx(relative(model[1](shifted), model[1](dense)), rel=1e-4)


def test_net_and_model_are_unchanged() -> None:
    """Values, norms, mode and level are as before."""
    model = small_net().train()
    x = torch.rand(12, 1, 8, 8)
    net = nest(model, densities=(0.2, 0.5))
    net.set_level(0)
    before = snapshot(net), snapshot(model)
    level_report(net, model, [x])
    after = snapshot(net), snapshot(model)
    for one, other in zip(before, after, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert net.level == 0
    assert net.training
    assert model.training


def recurrent() -> tuple[nn.Module, Tensor]:
    """An LSTM whose outputs are a tuple."""
    return nn.LSTM(6, 8, num_layers=2), torch.randn(5, 3, 6)


def shared() -> tuple[nn.Module, Tensor]:
    """Two layers with one weight."""
    first, second = nn.Linear(8, 8), nn.Linear(8, 8)
    second.weight = first.weight
    return nn.Sequential(first, nn.ReLU(), second), torch.randn(9, 8)


def pruned() -> tuple[nn.Module, Tensor]:
    """A model with masks of torch.nn.utils.prune."""
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    prune.l1_unstructured(model[0], "weight", amount=0.5)
    return model, torch.randn(9, 8)


@pytest.mark.parametrize("make", [recurrent, shared, pruned])
def test_models_of_other_kinds(make: object) -> None:
    """Layers that share a weight are one; a sparse layer of nothing but kept weights has no error."""
    torch.manual_seed(2)
    model, x = make()  # type: ignore[operator]
    net = nest(model, densities=(0.2, 0.4))
    report = level_report(net, model, [x], samples=9)
    assert [cost.accuracy for cost in report.levels] == [None, None]
    assert 0 < report.levels[1].relative_error < report.levels[0].relative_error
    assert all(cost.relative_error > 0 for cost in report.layers)
    assert len(report.layers) == len({id(layer.values) for layer in net.nested_layers().values()})
    assert sum(cost.share for cost in report.layers) == pytest.approx(1)


def cost(name: str, share: float, added: float) -> LayerCost:
    """A layer's entry."""
    return LayerCost(name, density=0.1, added=added, relative_error=share**0.5, share=share)


def test_layers_worth_keeping_dense() -> None:
    """Most error for each added weight first; none of little error, and no more weights than a tenth."""
    layers = (
        cost("large", 0.4, 0.5),
        cost("first", 0.3, 0.03),
        cost("second", 0.16, 0.06),
        cost("third", 0.1, 0.05),
        cost("little", 0.04, 0.001),
    )
    report = LevelReport(0, (LevelCost(0.1, 0.5),), layers)
    assert report.keep_dense == ("first", "second")
    assert "worth keeping dense: 'first', 'second'" in str(report)
    assert "no layer is worth" in str(LevelReport(0, (LevelCost(0.1, 0.5),), layers[:1]))


def test_the_advice_lowers_the_error() -> None:
    """A first layer that reads three inputs at once: a few weights with half of the error."""
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(3, 32), nn.ReLU(), nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64)).eval()
    x = torch.randn(64, 3)

    def report(keep_dense: tuple[str, ...]) -> LevelReport:
        net = nest_pretrained(model, [x], densities=(0.2, 0.5), keep_dense=keep_dense)
        return level_report(net, model, [x], samples=64)

    first = report(())
    assert first.keep_dense == ("0",)
    assert report(first.keep_dense).levels[0].relative_error < 0.9 * first.levels[0].relative_error


def other_model(net: NestedModel) -> None:
    level_report(net, nn.Linear(12, 16), [samples()])


def no_samples(net: NestedModel) -> None:
    level_report(net, two_layers(), [])


def not_finite(net: NestedModel) -> None:
    level_report(net, two_layers(), [samples() * float("nan")])


def no_batches(net: NestedModel) -> None:
    level_report(net, two_layers(), 3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (other_model, "no layer '0' with a weight of \\[16, 12\\]; give the model that was nested"),
        (no_samples, "calibration samples: expected at least one batch"),
        (not_finite, "expected outputs of finite numbers from the dense model, got values that are not finite"),
        (no_batches, "expected batches"),
    ],
)
def test_errors_say_what_is_wrong(call: object, words: str) -> None:
    """Each is a TrainingError with the next step."""
    net = nest(two_layers(), densities=(0.2, 0.5))
    with pytest.raises(TrainingError, match=words):
        call(net)  # type: ignore[operator]


def test_an_unknown_level_is_refused() -> None:
    """A LevelError."""
    net = nest(two_layers(), densities=(0.2, 0.5))
    with pytest.raises(LevelError):
        level_report(net, two_layers(), [samples()], level=2)
