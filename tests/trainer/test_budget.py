"""Budgets of whole models: FLOPs, the minimum of a layer, frozen levels."""

from __future__ import annotations

import pytest
import torch
from small_models import small_net
from torch import Tensor, nn

from nested_sparse.errors import BudgetError
from nested_sparse.trainer import NestedModel, nest
from nested_sparse.trainer.model.choose import choose_masks
from nested_sparse.trainer.model.positions import positions_per_sample

DENSITIES = (0.1, 0.3, 0.6)


class SharedTwice(nn.Module):
    """A linear layer used three times on each sample's five rows, and a convolution used once."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv1d(4, 16, 3)
        self.one, self.other = nn.Linear(16, 16), nn.Linear(16, 16)
        self.other.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        rows = self.conv(x).transpose(1, 2)
        return self.other(self.one(self.one(rows)))


def kept_share(net: NestedModel, level: int, positions: dict[str, int]) -> float:
    """Share of the multiply-adds of all layers; each weight counts once per use."""
    layers = net.nested_layers().items()
    kept = sum(int(layer.mask(level).sum()) * positions[name] for name, layer in layers)
    return kept / sum(layer.weight.numel() * positions[name] for name, layer in layers)


@pytest.mark.parametrize("batch", [1, 3])
def test_positions_are_counted_per_sample_and_summed_over_uses(batch: int) -> None:
    """A pixel or row of output is one multiply-add of each weight; a shared weight counts for all its layers."""
    model = SharedTwice().train()
    net = nest(model, densities=DENSITIES)
    assert positions_per_sample(net, (torch.zeros(batch, 4, 7),)) == {"conv": 5, "one": 15, "other": 15}
    assert net.training


@pytest.mark.parametrize("pattern", ["unstructured", "block4x1"])
@pytest.mark.parametrize("budget", ["global", "erk"])
def test_a_level_has_its_density_of_the_flops(budget: str, pattern: str) -> None:
    """The density holds for multiply-adds; by weights the same budget keeps another share of them."""
    options = {"densities": DENSITIES, "pattern": pattern, "budget": budget}
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8 * 4 * 4, 8))
    positions = {"0": 36, "2": 16, "4": 1}
    by_flops = nest(model, budget_by="flops", example_inputs=(torch.zeros(2, 1, 8, 8),), **options)
    assert by_flops.budget.positions == positions
    by_weights = nest(model, **options)
    for level, density in enumerate(DENSITIES):
        assert abs(kept_share(by_flops, level, positions) - density) < 0.02
    assert abs(kept_share(by_weights, 1, positions) - 0.3) > 0.02


@pytest.mark.parametrize("by", ["weights", "flops"])
@pytest.mark.parametrize("budget", ["uniform", "global", "erk"])
@pytest.mark.parametrize("pattern", ["unstructured", "block4x1", "gs8x2"])
def test_frozen_levels_stay_when_masks_are_chosen_anew(pattern: str, budget: str, by: str) -> None:
    """With new weights, frozen levels keep the same blocks, and each layer keeps its minimum at every level."""
    net = nest(
        small_net(),
        densities=DENSITIES,
        pattern=pattern,
        budget=budget,
        budget_by=by,
        min_layer_density=0.05,
        example_inputs=(torch.zeros(1, 1, 8, 8),),
        keep_dense=("0",),
    )
    layers = net.nested_layers()
    before = {name: (layer.mask(0).clone(), layer.mask(1).clone()) for name, layer in layers.items()}
    torch.manual_seed(5)
    for name, layer in layers.items():
        nn.init.normal_(layer.weight, std=10.0 if name == "3" else 0.01)
    choose_masks(layers.values(), net.budget, net.densities, frozen_levels=2)
    for name, layer in layers.items():
        for level in (0, 1):
            assert torch.equal(layer.mask(level), before[name][level])
        assert float(layer.mask(0).float().mean()) >= 0.03  # 5 %, but for the rounding to blocks and gather groups
        assert not (layer.mask(1) & ~layer.mask(2)).any()


def test_one_ranking_counts_weights_whatever_the_height_of_blocks() -> None:
    """For equal weights in layers of blocks and of single rows, "global" prefers neither."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(12, 64, 3), nn.Conv2d(64, 64, 3, groups=2), nn.Conv2d(64, 10, 3, groups=2))
    for conv in model:
        nn.init.uniform_(conv.weight, 0.9, 1.1)
    net = nest(model, densities=(0.5,), pattern="block8x1", budget="global")
    shares = {name: float(layer.mask(0).float().mean()) for name, layer in net.nested_layers().items()}
    assert net.nested_layers()["2"].block_rows == 1
    assert all(0.3 < share < 0.7 for share in shares.values())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"budget": "erk2"}, r"'erk2'.*uniform, global, erk"),
        ({"budget_by": "macs"}, r"'macs'.*weights, flops"),
        ({"min_layer_density": 0.2}, r"min_layer_density 0.2 is more than .* 0.1"),
        ({"budget": "erk", "budget_by": "flops"}, r"needs example_inputs"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, object], said: str) -> None:
    """The error comes before any layer is nested."""
    with pytest.raises(BudgetError, match=said):
        nest(small_net(), densities=DENSITIES, **arguments)  # type: ignore[arg-type]


def test_layers_that_the_examples_do_not_reach_are_named() -> None:
    """Their FLOPs would be 0, so a density of FLOPs would have no meaning."""
    model = SharedTwice()
    model.unused = nn.Linear(3, 3)
    with pytest.raises(BudgetError, match="do not reach unused"):
        nest(model, densities=DENSITIES, budget="erk", budget_by="flops", example_inputs=(torch.zeros(1, 4, 7),))
