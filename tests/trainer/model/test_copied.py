"""Copied models: with masks, weight norms, spectral norms and parametrizations of torch's utilities."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from nested_sparse.errors import BudgetError
from nested_sparse.trainer import export, nest, nest_pretrained, train
from nested_sparse.trainer.config import TrainConfig
from nested_sparse.trainer.nestings import FreezeThenGrow
from nested_sparse.trainer.schedules import Gradual, RigL

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated")
DENSITIES = (0.1, 0.2)


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.ConvTranspose2d(8, 8, 2), nn.Flatten(), nn.Linear(200, 8)
    )


def inputs() -> Tensor:
    return torch.randn(3, 2, 6, 6, generator=torch.Generator().manual_seed(1))


def pruned(amount: float = 0.6) -> nn.Sequential:
    """A model with masks of prune after a pass with gradients, so that its weights are computed tensors."""
    net = model()
    for layer in (net[0], net[3], net[5]):
        prune.l1_unstructured(layer, "weight", amount=amount)  # type: ignore[no-untyped-call]
    prune.random_unstructured(net[0], "bias", amount=0.5)  # type: ignore[no-untyped-call]
    prune.random_unstructured(net[0], "weight", amount=0.2)  # type: ignore[no-untyped-call]
    net(inputs()).sum().backward()
    return net


def normed(norm: Callable[[nn.Module], nn.Module], *indices: int) -> nn.Sequential:
    net = model()
    for index in indices:
        norm(net[index])
    net(inputs()).sum().backward()
    return net


def as_in_torch(values: Tensor, name: str) -> Tensor:
    """Values with the rows first, of the layer `name`, as torch has them, or the other way round.

    torch's transposed convolution, layer 3, has its inputs first.
    """
    return values.transpose(0, 1) if name == "3" else values


LEFT_ON = {
    "prune": pruned,
    "weight_norm": lambda: normed(weight_norm, 0, 3, 5),
    "spectral_norm": lambda: normed(spectral_norm, 0, 3, 5),
    "parametrized weight_norm": lambda: normed(parametrizations.weight_norm, 0, 3, 5),
    "parametrized spectral_norm": lambda: normed(parametrizations.spectral_norm, 0, 5),
}


@pytest.mark.parametrize("kind", LEFT_ON)
def test_they_nest_and_the_original_is_untouched(kind: str, tmp_path: Path) -> None:
    """A whole level computes as the model does; the model keeps its hooks and tensors; export works."""
    original = LEFT_ON[kind]().eval()
    before = {key: value.clone() for key, value in original.state_dict().items()}
    computed = [original[index].weight for index in (0, 3, 5)]
    net = nest(original, densities=(0.1, 0.35) if kind == "prune" else (0.1, 1.0))
    assert list(net.nested_layers()) == ["0", "3", "5"]
    x = inputs()
    expected = original(x)
    if kind == "prune":  # the densest level keeps less: the same with the mask that is left
        for name, layer in net.nested_layers().items():
            original.get_submodule(name).weight = as_in_torch(layer.masked_weight(1).detach(), name)
            original.get_submodule(name)._forward_pre_hooks.clear()
        expected = original(x)
    assert torch.allclose(net(x), expected, atol=1e-5)
    if kind != "prune":
        assert [original[index].weight.shape for index in (0, 3, 5)] == [each.shape for each in computed]
        assert all(torch.equal(value, before[key]) for key, value in original.state_dict().items())
        assert original.state_dict().keys() == before.keys()
    export(net, (x,), tmp_path / "net.safetensors")  # verifies


def test_masks_are_left_on_the_original() -> None:
    """The original keeps the same tensor objects."""
    original = pruned()
    weight, keys = original[0].weight, list(original.state_dict())
    nest(original, densities=DENSITIES)
    assert original[0].weight is weight
    assert list(original.state_dict()) == keys
    assert prune.is_pruned(original)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("pattern", ["unstructured", "block4x1"])
@pytest.mark.parametrize("budget", ["uniform", "global", "erk"])
def test_what_is_pruned_stays_out(pattern: str, budget: str) -> None:
    """Pruned weights stay out of every level; a block, if all of it is pruned. A sparser mask limits its layer."""
    original = model()
    prune.l1_unstructured(original[0], "weight", amount=0.9)  # type: ignore[no-untyped-call]
    for index in (3, 5):
        prune.l1_unstructured(original[index], "weight", amount=0.5)  # type: ignore[no-untyped-call]
    net = nest(original, densities=(0.05, 0.3), pattern=pattern, budget=budget)
    for name, layer in net.nested_layers().items():
        mask = as_in_torch(original.get_submodule(name).weight_mask.bool(), name)
        rows = layer.block_rows
        blocks = mask.flatten(1).unflatten(0, (-1, rows)).any(1, keepdim=True).expand(-1, rows, -1)
        allowed = blocks.reshape(mask.shape)
        assert not (layer.mask(1) & ~allowed).any()
    if pattern == "unstructured" and budget == "uniform":
        first, *_ = net.nested_layers().values()
        assert torch.equal(first.mask(1), original[0].weight_mask.bool())


@pytest.mark.parametrize("schedule", [Gradual(), RigL()], ids=["gradual", "rigl"])
def test_training_does_not_bring_it_back(schedule: Gradual | RigL) -> None:
    """A schedule's search does not keep pruned weights either."""
    original = pruned()
    net = nest(original, densities=DENSITIES)
    batch = (inputs(), torch.randn(3, 8))
    config = TrainConfig(dense_epochs=1, search_epochs=2, recalibration_samples=0, distill_weight=0.0)
    train(net, lambda epoch: [batch], F.mse_loss, config, schedule=schedule, nesting=FreezeThenGrow(epochs_per_level=1))
    for name, layer in net.nested_layers().items():
        mask = as_in_torch(original.get_submodule(name).weight_mask.bool(), name)
        assert layer.mask(1).any()
        assert not (layer.mask(1) & ~mask).any()


def test_post_training_does_not_bring_it_back() -> None:
    """The second-order search chooses among the weights that the mask keeps."""
    original = pruned().eval()
    net = nest_pretrained(original, [inputs()], densities=DENSITIES, samples=3)
    for name, layer in net.nested_layers().items():
        mask = as_in_torch(original.get_submodule(name).weight_mask.bool(), name)
        assert not (layer.mask(1) & ~mask).any()


def test_levels_that_masks_make_alike_are_an_error() -> None:
    """The message has the share that the masks leave, and the next step."""
    with pytest.raises(BudgetError, match=r"levels 0 and 1 keep the same.*prune leave \d.*prune\.remove"):
        nest(pruned(0.8), densities=(0.5, 0.9))


def test_state_dicts_have_the_mask() -> None:
    """A resumed run knows the weights that it may keep."""
    net, other = nest(pruned(), densities=DENSITIES), nest(pruned(), densities=DENSITIES)
    other.load_state_dict(net.state_dict())
    assert "model.0.allowed" in net.state_dict()
    assert "model.0.allowed" not in nest(model(), densities=DENSITIES).state_dict()
