"""NestedModel: masks, levels, norms, shared weights, and layers left dense."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_models import DENSITIES, nested_small_net, small_net, snapshot
from torch import nn

from nested_sparse.errors import BudgetError, InputError, LevelError, PatternError
from nested_sparse.trainer import nest
from nested_sparse.trainer.model.layers.conv import NestedConv2d
from nested_sparse.trainer.model.layers.linear import NestedLinear
from nested_sparse.trainer.zoo import DigitNet, ResNet50


@pytest.mark.parametrize(("pattern", "block_rows"), [("unstructured", 1), ("block4x1", 4), ("block8x1", 8)])
def test_masks_nest_and_hit_the_rounding_rule(pattern: str, block_rows: int) -> None:
    """Each level keeps round-half-up(density × blocks) blocks, the largest by magnitude, and all of the level below."""
    net = nested_small_net(pattern=pattern)
    for name, layer in net.nested_layers().items():
        weight = net.nested_weight(name)
        groups = [weight.values[row : row + block_rows] for row in range(0, weight.rows, block_rows)]
        scores = np.stack([np.abs(group).sum(axis=0, dtype=np.float64) for group in groups])
        below = np.zeros(scores.shape, bool)
        for level, density in enumerate(DENSITIES):
            kept = layer.first_level.numpy() <= level
            assert kept.sum() == max(1, math.floor(density * kept.size + 0.5))
            assert (kept | ~below).all()
            assert kept.all() or scores[kept].min() >= scores[~kept].max()
            np.testing.assert_array_equal(weight.mask(level), layer.mask(level).flatten(1).numpy())
            below = kept


def test_full_density_equals_the_original() -> None:
    """At density 1 the nested model computes what the original does, in train and in eval mode."""
    model = small_net()
    net = nest(model, densities=(0.2, 1.0))
    x = torch.randn(4, 1, 8, 8)
    assert torch.allclose(net.eval()(x), model.eval()(x), atol=1e-5)
    torch.manual_seed(0)
    expected = model.train()(x)
    torch.manual_seed(0)
    assert torch.allclose(net.train()(x), expected, atol=1e-5)


def test_original_is_untouched() -> None:
    """Nesting and training the copy leave the model's modules and values alone."""
    model = small_net()
    before, kinds = copy.deepcopy(model.state_dict()), [type(module) for module in model.modules()]
    net = nest(model, densities=(0.5,))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(1)
    net(torch.randn(2, 1, 8, 8))
    assert kinds == [type(module) for module in model.modules()]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_levels_are_checked() -> None:
    """-1 is the densest level; any other level outside 0 to L - 1 gives an error, and the level stays."""
    net = nested_small_net()
    assert net.level == 2
    net.set_level(0)
    for wrong in (3, -2):
        with pytest.raises(LevelError, match="this model has levels 0 to 2"):
            net.set_level(wrong)
    assert net.level == 0
    net.set_level(-1)
    assert net.level == net.level_count - 1


def test_norm_of_the_level_is_used() -> None:
    """Each level has its own norm: training at a level changes only its statistics, and outputs use them."""
    net = nested_small_net().train()
    before = snapshot(net)
    net.set_level(1)
    net(torch.randn(8, 1, 8, 8) + 3)
    changed = {key for key, value in net.state_dict().items() if not torch.equal(value, before[key])}
    assert changed
    assert all(".norms.1." in key for key in changed)
    net.eval()
    x = torch.randn(2, 1, 8, 8)
    at_one = net(x)
    with torch.no_grad():
        net.level_norms()["1"].norms[1].weight.mul_(2)
    assert not torch.equal(net(x), at_one)


def test_round_trips() -> None:
    """Pickle and state_dict give a model with the same outputs at every level."""
    net = nested_small_net().eval()
    other = nest(nn.Sequential(*copy.deepcopy(list(small_net()))), densities=DENSITIES, pattern="block4x1").eval()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.5)
    other.load_state_dict(net.state_dict())
    pickled = pickle.loads(pickle.dumps(net))
    x = torch.randn(2, 1, 8, 8)
    for level in range(3):
        for candidate in (net, other, pickled):
            candidate.set_level(level)
        assert torch.equal(net(x), other(x))
        assert torch.equal(net(x), pickled(x))


def test_dtype_and_mode_are_kept() -> None:
    """Double and eval mode are kept; nested weights are given as float32."""
    net = nest(small_net().double().eval(), densities=(0.5, 1.0))
    assert not net.training
    assert net(torch.randn(1, 1, 8, 8, dtype=torch.float64)).dtype == torch.float64
    assert net.nested_weight("0").values.dtype == np.float32


def test_keep_dense_by_name_and_pattern() -> None:
    """Matched layers are whole at level 0, with block rows for a dense layer; unknown names list the known ones."""
    net = nested_small_net(keep_dense=("9", "0"))
    layers = net.nested_layers()
    assert [(layer.dense, layer.block_rows) for layer in layers.values()] == [(True, 4), (False, 4), (True, 16)]
    assert layers["0"].mask(0).all()
    assert (
        nest(DigitNet(width=4), densities=(0.5,), keep_dense=("stage*.conv1",)).nested_layers()["stage1.1.conv1"].dense
    )
    with pytest.raises(BudgetError, match=r"'head'.*0, 3, 9"):
        nested_small_net(keep_dense=("head",))


def test_global_budget_ranks_all_layers_together() -> None:
    """A layer with larger weights keeps more; a layer kept dense takes no part."""
    model = small_net()
    with torch.no_grad():
        model[3].weight.mul_(100)
    net = nest(model, densities=(0.3,), budget="global", keep_dense=("9",))
    kept = {name: float(layer.mask(0).float().mean()) for name, layer in net.nested_layers().items()}
    assert kept["3"] > 0.3 > kept["0"]
    assert kept["9"] == 1


class Shared(nn.Module):
    """One module under two names, and two modules with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.again = self.first
        self.tied = nn.Linear(6, 6)
        self.tied.weight = self.first.weight
        self.embedding = nn.Embedding(9, 6)
        self.head = nn.Linear(6, 9, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.tied(self.again(self.first(x))))


def test_shared_modules_and_weights_stay_shared() -> None:
    """A module under two names is one layer, tied layers share weight and mask; a table's is shared only where kept."""
    net = nest(Shared(), densities=(0.3, 0.6), keep_dense=("head",))
    assert list(net.nested_layers()) == ["first", "tied"]
    first, tied = net.nested_layers().values()
    assert net.model.again is first
    assert tied.weight is first.weight
    assert torch.equal(tied.mask(0), first.mask(0))
    assert "shares its weight with 'embedding'" in net.dense_layers()["head"]
    assert net.model.head.weight is net.model.embedding.weight
    assert net.density(0) == pytest.approx((0.3 * 36 + 54) / (36 + 54), abs=0.01)  # the table counts once, and whole


class Odd(nn.Module):
    """Layers that cannot be nested, beside some that can."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped = nn.Conv2d(4, 4, 3, groups=2)
        self.transposed = nn.ConvTranspose2d(4, 4, 3)
        self.upsampling = nn.ConvTranspose2d(4, 4, 3, groups=4)
        self.conv1d = nn.Conv1d(4, 4, 3)
        self.conv3d = nn.Conv3d(4, 4, 3)
        self.table = nn.EmbeddingBag(4, 4)
        self.normed = nn.utils.parametrizations.weight_norm(nn.ConvTranspose2d(4, 4, 3))
        self.fine = nn.Linear(4, 4)


def test_layers_left_dense_have_reasons() -> None:
    """Everything with weights is either nested or listed with the reason why not; the summary shows both."""
    net = nest(Odd(), densities=(0.5,))
    assert list(net.nested_layers()) == ["grouped", "transposed", "conv1d", "conv3d", "normed", "fine"]
    reasons = net.dense_layers()
    for name, word in {
        "upsampling": "in 4 groups is not nested",
        "table": "EmbeddingBag",
    }.items():
        assert word in reasons[name]
        assert name in net.summary()
    assert "fine" in net.summary()


@pytest.mark.parametrize(("pattern", "block_rows"), [("unstructured", 1), ("block4x1", 2), ("block16x1", 2)])
def test_blocks_stay_within_a_group(pattern: str, block_rows: int) -> None:
    """V falls to what divides a group's 6 rows (2 at most); one group takes the pattern as it is."""
    net = nest(
        nn.Sequential(nn.Conv1d(16, 48, 3, groups=8), nn.Conv2d(16, 48, 3)), densities=(0.3, 0.6), pattern=pattern
    )
    grouped, plain = net.nested_layers().values()
    assert grouped.block_rows == block_rows
    assert plain.layout.name == pattern
    assert net.density(0) == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize("pattern", ["unstructured", "block4x1", "gs8x1", "channel"])
def test_depthwise_layers_are_whole(pattern: str) -> None:
    """They are whole at every level; under channel, so are layers in groups and those between them and the outputs."""
    layers = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.Conv1d(8, 16, 3, groups=8), nn.Conv2d(8, 16, 3, groups=2))
    net = nest(nn.Sequential(*layers, nn.Linear(32, 32)), densities=(0.2, 0.5), pattern=pattern)
    whole = [bool(layer.mask(0).all()) for layer in net.nested_layers().values()]
    assert whole == [True, True, pattern == "channel", pattern == "channel"]
    assert not net.dense_layers()


def test_shared_weights_of_other_groups_stay_dense() -> None:
    """One mask cannot fit both layers."""
    first, second = nn.Conv2d(4, 8, 3, groups=2), nn.Conv2d(2, 8, 3)
    second.weight = first.weight
    net = nest(nn.Sequential(first, second, nn.Linear(4, 4)), densities=(0.5,))
    assert "shares its weight" in net.dense_layers()["0"]
    assert list(net.nested_layers()) == ["2"]


def test_what_cannot_be_nested_is_an_error() -> None:
    """Nothing to nest, nested twice, weights not yet made, wrong densities and patterns."""
    with pytest.raises(InputError, match=r"no Conv1d, .* or GRU that can be nested"):
        nest(nn.Sequential(nn.ReLU()), densities=(0.5,))
    with pytest.raises(InputError, match="nested already"):
        nest(nested_small_net(), densities=(0.5,))
    with pytest.raises(InputError, match="run one batch"):
        nest(nn.Sequential(nn.LazyLinear(3)), densities=(0.5,))
    with pytest.raises(BudgetError, match="rise"):
        nested_small_net(densities=(0.5, 0.2))
    with pytest.raises(PatternError, match="block4x1"):
        nested_small_net(pattern="diagonal")
    with pytest.raises(BudgetError, match="uniform"):
        nested_small_net(budget="fair")


def test_single_layers_and_inference_mode() -> None:
    """A model that is one layer works, also when nested under inference_mode, and can train afterwards."""
    with torch.inference_mode():
        net = nest(nn.Linear(4, 3), densities=(0.5, 1.0))
    assert isinstance(net.model, NestedLinear)
    assert list(net.nested_layers()) == ["model"]
    F.mse_loss(net(torch.ones(2, 4)), torch.zeros(2, 3)).backward()
    assert isinstance(nest(nn.Conv2d(1, 3, 3), densities=(0.5,)).model, NestedConv2d)


def test_resnet50_nests_completely() -> None:
    """All 53 convolutions and the classifier are nested; it has ResNet-50's weights."""
    model = ResNet50()
    assert sum(parameter.numel() for parameter in model.parameters()) == 25_557_032
    net = nest(model, densities=(0.1,), pattern="block4x1", keep_dense=("fc",))
    assert len(net.nested_layers()) == 54
    assert len(net.level_norms()) == 53
    assert not net.dense_layers()


@pytest.mark.parametrize("level", [1.5, 1.0, "a", None, True, -2, 2, 10**30])
def test_a_level_that_is_none_is_refused(level: Any) -> None:
    """Values that resemble a number are refused, too; the model keeps its level and runs."""
    net = nest(nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 4)), densities=(0.5, 1.0))
    for ask in (net.set_level, net.density):
        with pytest.raises(LevelError, match=r"(is not a whole number|is out of range): this model has levels"):
            ask(level)
    assert net.level == 1
    assert net(torch.zeros(1, 6)).shape == (1, 4)
    net.set_level(np.int64(0))  # type: ignore[arg-type]
    assert net.level == 0
