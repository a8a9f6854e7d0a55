"""Coupling: the layers that share channels, and levels that work without their dropped ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nested_sparse.coupled import ChannelGroup
from nested_sparse.layouts import parse_pattern
from nested_sparse.layouts.channels import channel_first_level
from nested_sparse.trainer import FreezeThenGrow, Joint, NestedModel, OneShot, TrainConfig, export, nest, train
from nested_sparse.trainer.model.choose import choose_masks
from nested_sparse.trainer.model.coupling import couple
from nested_sparse.trainer.model.layers import NestedLayer
from nested_sparse.trainer.model.replace import replace_layers
from nested_sparse.trainer.zoo import DigitNet, ResNet50

DENSITIES = (0.1, 0.3, 0.7)


class Jasper(nn.Module):
    """A net on lines of 5 features: a residual block with another width, a separable convolution, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv1d(5, 16, 5, padding=2), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1))
        self.second = nn.Sequential(nn.Conv1d(16, 24, 5, padding=2, bias=False), nn.BatchNorm1d(24))
        self.shortcut = nn.Sequential(nn.Conv1d(16, 24, 1, bias=False), nn.BatchNorm1d(24))
        self.depthwise = nn.Conv1d(24, 24, 3, padding=1, groups=24)
        self.pointwise = nn.Conv1d(24, 12, 1)
        self.head = nn.Linear(12 * 3, 4)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 5, 12) to (N, 4)."""
        x = self.first(x)
        x = F.relu(torch.add(self.second(x), self.shortcut(x)))
        x = F.avg_pool1d(F.hardtanh(self.pointwise(self.depthwise(x))), 4)
        logits: Tensor = self.head(torch.flatten(x, 1))
        return logits


def nested(model: nn.Module, **options: object) -> NestedModel:
    """The model nested by channels, in eval mode, with norms that have an effect."""
    arguments: dict[str, object] = {"densities": DENSITIES, "pattern": "channel", **options}
    net = nest(model, **arguments).eval()  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for norms in net.level_norms().values():
            for norm in norms.norms:
                for value in (norm.weight, norm.bias, norm.running_mean):  # type: ignore[union-attr]
                    value.copy_(torch.rand(value.shape, generator=generator) + 0.5)  # type: ignore[union-attr, operator, arg-type]
    return net


def digits(**options: object) -> NestedModel:
    """A DigitNet with 8, 16 and 32 channels."""
    torch.manual_seed(1)
    return nested(DigitNet(width=8), **options)


def sides(layer: NestedLayer, level: int) -> tuple[set[int], set[int]]:
    """Rows and input columns (channels or features) of which a level keeps a weight."""
    mask = layer.mask(level).flatten(2) if layer.weight.ndim > 2 else layer.mask(level)[:, :, None]
    assert torch.equal(mask, (mask.any(2).any(1)[:, None] & mask.any(2).any(0))[:, :, None].expand_as(mask))
    return set(mask.any(2).any(1).nonzero()[:, 0].tolist()), set(mask.any(2).any(0).nonzero()[:, 0].tolist())


STREAMS = [  # of DigitNet: who writes each sum, and who reads it
    (["stem", "stage1.0.conv2", "stage1.1.conv2"],
     ["stage1.0.conv1", "stage1.1.conv1", "stage2.0.conv1", "stage2.0.downsample.0"]),
    (["stage2.0.conv2", "stage2.0.downsample.0", "stage2.1.conv2"],
     ["stage2.1.conv1", "stage3.0.conv1", "stage3.0.downsample.0"]),
    (["stage3.0.conv2", "stage3.0.downsample.0", "stage3.1.conv2"], ["stage3.1.conv1", "fc"]),
]  # fmt: skip
INNER = [([f"stage{s}.{b}.conv1"], [f"stage{s}.{b}.conv2"]) for s in (1, 2, 3) for b in (0, 1)]


@pytest.mark.parametrize("budget", ["uniform", "global"])
def test_readers_keep_the_rows_of_their_writers(budget: str) -> None:
    """In a residual net: at every level all writers of a sum keep the same rows, and all readers just these inputs."""
    net = digits(budget=budget)
    layers = net.nested_layers()
    for level in range(3):
        for writers, readers in STREAMS + INNER:
            kept = {frozenset(sides(layers[name], level)[0]) for name in writers}
            kept |= {frozenset(sides(layers[name], level)[1]) for name in readers}
            assert len(kept) == 1
            assert len(kept.pop()) % 4 == 0
        assert sides(layers["stem"], level)[1] == {0}
        assert sides(layers["fc"], level)[0] == set(range(10))
    assert net.density(0) == pytest.approx(DENSITIES[0], abs=0.03)
    assert net.density(2) == pytest.approx(DENSITIES[2], abs=0.03)


def test_the_ranking_is_the_sum_over_all_layers_of_a_group() -> None:
    """The magnitudes of all weights of a channel count together: rows that write it and columns that read it."""
    net = digits()
    layers = net.nested_layers()
    for writers, readers in STREAMS + INNER:
        sums = sum(layers[name].weight.abs().flatten(1).sum(1) for name in writers)
        sums = sums + sum(layers[name].weight.abs().transpose(0, 1).flatten(1).sum(1) for name in readers)
        best = sums.argsort(descending=True).tolist()
        for level in range(3):
            rows, _ = sides(layers[writers[0]], level)
            assert rows == set(best[: len(rows)])


@torch.no_grad()
def spoil_dropped(net: NestedModel, level: int, norm_of: dict[str, str]) -> int:
    """Change norms, biases and weights of each row that `level` drops, in every layer; returns the number of rows."""
    norms, dropped = net.level_norms(), 0
    for name, layer in net.nested_layers().items():
        rows = torch.tensor(sorted(set(range(layer.weight.shape[0])) - sides(layer, level)[0]), dtype=torch.long)
        dropped += len(rows)
        layer.weight[rows] += 7
        if layer.bias is not None:
            layer.bias[level, rows] = 5.0
        if name in norm_of:
            norm = norms[norm_of[name]].norms[level]
            for value in (norm.weight, norm.bias, norm.running_mean):
                value[rows] = 3.0  # type: ignore[index, operator]
    return dropped


@pytest.mark.parametrize("level", range(3))
def test_dropped_channels_are_not_read(level: int) -> None:
    """With any norms, biases and weights of dropped channels, the level's output is the same, bit for bit."""
    torch.manual_seed(4)
    norm_of = {"stem": "bn", "stage2.0.downsample.0": "stage2.0.downsample.1"}
    norm_of |= {"stage3.0.downsample.0": "stage3.0.downsample.1"}
    norm_of |= {f"stage{s}.{b}.conv{i}": f"stage{s}.{b}.bn{i}" for s in (1, 2, 3) for b in (0, 1) for i in (1, 2)}
    lines = {"first.0": "first.1", "second.0": "second.1", "shortcut.0": "shortcut.1"}
    for net, names, shape in ((digits(), norm_of, (2, 1, 16, 16)), (nested(Jasper()), lines, (2, 5, 12))):
        net.set_level(level)
        x = torch.randn(shape)
        with torch.no_grad():
            before = net(x)
            assert spoil_dropped(net, level, names) > 0
            assert torch.equal(net(x), before)


def test_a_depthwise_convolution_and_a_flattened_line() -> None:
    """In a 1-D net depthwise channels pass the group on, and each channel is three features of the classifier."""
    torch.manual_seed(3)
    layers = nested(Jasper()).nested_layers()
    for level in range(3):
        rows = sides(layers["second.0"], level)[0]
        assert rows == sides(layers["shortcut.0"], level)[0] == sides(layers["pointwise"], level)[1]
        assert sides(layers["first.0"], level)[0] == sides(layers["second.0"], level)[1]
        features = {3 * row + part for row in sides(layers["pointwise"], level)[0] for part in range(3)}
        assert sides(layers["head"], level)[1] == features
        assert layers["depthwise"].mask(level).all()


def test_the_groups_of_resnet50() -> None:
    """There are two groups in each of 16 blocks, one for each stage's sums and the stem, whole ones at both ends."""
    with torch.device("meta"):  # structure only
        model, _ = replace_layers(ResNet50(), layout=parse_pattern("channel"), level_count=1, keep_dense=())
    coupling = couple(model)
    assert not coupling.alone
    assert {group.whole for group in coupling.groups} == {"", "an input of the model", "an output of the model"}
    free = [group for group in coupling.groups if not group.whole]
    assert len(free) == 2 * 16 + 4 + 1
    sums = next(group for group in free if "layer3.0.downsample.0" in group.producers)
    assert set(sums.producers) == {"layer3.0.downsample.0", *(f"layer3.{block}.conv3" for block in range(6))}
    readers = {f"layer3.{block}.conv1" for block in range(1, 6)} | {"layer4.0.conv1", "layer4.0.downsample.0"}
    assert set(sums.consumers) == readers
    assert set(sums.norms) == {"layer3.0.downsample.1", *(f"layer3.{block}.bn3" for block in range(6))}


class Forks(nn.Module):
    """Everything that ends a group: a concatenation, a norm over channels, groups, an attention, a reshaping."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1)
        self.joined = nn.Conv2d(16, 8, 1)
        self.grouped = nn.Conv2d(8, 8, 1, groups=2)
        self.after = nn.Conv2d(8, 32, 1)
        self.norm, self.hidden, self.out = nn.LayerNorm(32), nn.Linear(32, 64), nn.Linear(64, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, 2)."""
        x = self.joined(torch.cat([self.a(x), self.b(x)], 1))
        x = self.after(self.grouped(x)).mean((2, 3))
        y: Tensor = self.out(self.hidden(self.norm(x)).relu())
        return y


def test_what_is_not_known_ends_a_group_and_says_why() -> None:
    """Channels stay whole on both sides; layers between are still pruned."""
    net = nested(Forks())
    assert net.coupling is not None
    why = {name: group.whole for group in net.coupling.groups for name in group.producers}
    assert why["a"] == why["b"] == "cat is not known to pass channels on"
    assert why["joined"] == why["grouped"] == "grouped is a convolution in groups"
    assert why["after"] == "LayerNorm norm is not known to pass channels on"
    assert why["out"] == "an output of the model"
    assert why["hidden"] == ""
    assert "\nwhole: 8 channels of a: cat is not known to pass channels on" in net.summary()
    layers = net.nested_layers()
    assert layers["after"].mask(0).all()
    assert len(sides(layers["hidden"], 0)[0]) == 16
    assert sides(layers["hidden"], 0)[0] == sides(layers["out"], 0)[1]


class Undecided(nn.Sequential):
    """A module whose path depends on the data."""

    def forward(self, x: Tensor) -> Tensor:
        """As a sequence, twice for a positive sum."""
        y: Tensor = super().forward(x)
        return y if x.sum() < 0 else 2 * y


def test_a_model_that_cannot_be_traced_has_its_channels_chosen_layer_by_layer() -> None:
    """The result has the reason; the choice is that of nested_sparse.layouts.channels."""
    torch.manual_seed(1)
    net = nested(Undecided(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3)))
    assert "channels not coupled: 0: the model cannot be traced" in net.summary()
    for layer in net.nested_layers().values():
        scores = layer.weight.detach().abs().flatten(1).double().numpy()
        wanted = [round(density * scores.size) / scores.size for density in DENSITIES]
        expected = channel_first_level(scores, 9, wanted, layer.layout.row_step)
        np.testing.assert_array_equal(layer.first_level.numpy(), expected)


class Opaque(nn.Module):
    """A module of the user's whose code cannot be traced."""

    def forward(self, x: Tensor) -> Tensor:
        """x, or its negative."""
        return x if bool(x.sum() > 0) else -x


def test_an_opaque_module_ends_a_group_only() -> None:
    """Layers before and after the module are still coupled."""
    convs = [nn.Conv1d(4, 8, 1), nn.Conv1d(8, 8, 1), Opaque(), nn.Conv1d(8, 12, 1), nn.Conv1d(12, 4, 1)]
    net = nested(nn.Sequential(*convs))
    layers = net.nested_layers()
    for first, second in (("0", "1"), ("3", "4")):
        assert 0 < len(sides(layers[first], 0)[0]) < layers[first].weight.shape[0]
        assert sides(layers[first], 0)[0] == sides(layers[second], 0)[1]
    assert sides(layers["1"], 0)[0] == sides(layers["3"], 0)[1] == set(range(8))


def test_layers_kept_dense_stay_whole_among_pruned_ones() -> None:
    """The rest of their group drops its channels; a shared weight, used twice, joins what it reads and writes."""
    net = digits(keep_dense=["fc", "stem"])
    layers = net.nested_layers()
    assert layers["fc"].mask(0).all()
    assert layers["stem"].mask(0).all()
    for writers, readers in STREAMS:
        kept = [sides(layers[name], 0)[0] for name in writers if name != "stem"]
        kept += [sides(layers[name], 0)[1] for name in readers if name != "fc"]
        assert all(each == kept[0] for each in kept)
        assert len(kept[0]) < layers[writers[0]].weight.shape[0]
    torch.manual_seed(0)
    twice = nn.Conv1d(8, 8, 1)
    shared = nested(nn.Sequential(nn.Conv1d(2, 8, 1), twice, nn.ReLU(), twice, nn.Conv1d(8, 2, 1)), densities=(0.3,))
    layers = shared.nested_layers()
    rows = sides(layers["1"], 0)[0]
    assert rows == sides(layers["1"], 0)[1] == sides(layers["0"], 0)[0] == sides(layers["4"], 0)[1]
    assert len(rows) == 4


@pytest.mark.parametrize("budget", ["uniform", "global"])
def test_frozen_levels_stay(budget: str) -> None:
    """For any other scores the frozen level keeps its weights, and higher levels contain it."""
    net = digits(budget=budget)
    layers = net.nested_layers()
    before = {name: layer.mask(0).clone() for name, layer in layers.items()}
    above = {name: layer.mask(1).clone() for name, layer in layers.items()}
    torch.manual_seed(8)
    with torch.no_grad():
        for layer in layers.values():
            layer.weight.copy_(torch.randn_like(layer.weight) * torch.rand(()) * 3)
    choose_masks(layers.values(), budget, DENSITIES, frozen_levels=1)
    assert all(torch.equal(layer.mask(0), before[name]) for name, layer in layers.items())
    assert any(not torch.equal(layer.mask(1), above[name]) for name, layer in layers.items())
    assert all(
        bool((layer.mask(level) <= layer.mask(level + 1)).all()) for layer in layers.values() for level in (0, 1)
    )
    assert net.density(2) == pytest.approx(DENSITIES[2], abs=0.03)


@pytest.mark.parametrize(
    "nesting", [FreezeThenGrow(epochs_per_level=1, search_each=True), Joint(epochs=1, search_level=-1)]
)
@pytest.mark.parametrize("budget", ["uniform", "global"])
def test_every_nesting_trains_coupled_masks(budget: str, nesting: FreezeThenGrow | Joint) -> None:
    """Searches go through choose_masks: after a run all levels have their density, and readers their writers' rows."""
    net = nested(Jasper(), budget=budget)
    batches = [(torch.randn(8, 5, 12), torch.randint(0, 4, (8,))) for _ in range(2)]
    config = TrainConfig(dense_epochs=1, search_epochs=1, lr=0.01)
    train(net, lambda epoch: batches, F.cross_entropy, config, schedule=OneShot(), nesting=nesting)
    layers = net.nested_layers()
    sparse = [layer for layer in layers.values() if not layer.dense]
    for level, density in enumerate(DENSITIES):
        assert sides(layers["first.0"], level)[0] == sides(layers["shortcut.0"], level)[1]
        assert sides(layers["shortcut.0"], level)[0] == sides(layers["pointwise"], level)[1]
        kept = sum(int(layer.mask(level).sum()) for layer in sparse) / sum(layer.weight.numel() for layer in sparse)
        assert kept == pytest.approx(density, abs=0.08)


def test_the_runtime_answers_as_torch_does(tmp_path: Path) -> None:
    """export() compares every level's outputs, and refuses a file whose masks are not whole blocks."""
    export(nested(Jasper()), (torch.randn(2, 5, 12),), tmp_path / "model.safetensors")


def test_a_group_steps_by_what_all_its_writers_need() -> None:
    """16 rows for a linear layer, 4 for a convolution, 16 where both write the same sum."""

    class Sum(nn.Module):
        """A convolution's mean and a linear layer, added."""

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear, self.out = nn.Conv1d(2, 64, 1), nn.Linear(3, 64), nn.Linear(64, 2)

        def forward(self, x: Tensor, z: Tensor) -> Tensor:
            y: Tensor = self.out(self.conv(x).mean(2) + self.linear(z))
            return y

    net = nested(Sum())
    assert net.coupling is not None
    group: ChannelGroup = next(group for group in net.coupling.groups if not group.whole)
    assert (set(group.producers), group.consumers, group.step) == ({"conv", "linear"}, ("out",), 16)


def guarded_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The product of checked inputs."""
    return F.linear(checked(x), weight, bias)


def checked(x: Tensor) -> Tensor:
    """The tensor, which must hold numbers only."""
    if x.isnan().any():
        raise ValueError("not a number")
    return x


class Guarded(nn.Linear):
    """A linear layer of its own class, whose forward looks at values, so that it cannot be traced."""

    def forward(self, x: Tensor) -> Tensor:
        return guarded_linear(x, self.weight, self.bias)


class Mixed(nn.Module):
    """Two layers that share channels, behind attention and a forward that cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.guarded = nn.MultiheadAttention(8, 2, batch_first=True), Guarded(8, 8)
        self.first, self.second = nn.Linear(8, 32), nn.Linear(32, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.guarded(self.attention(x, x, x, need_weights=False)[0])
        return self.second(self.first(x).relu())


def test_attention_and_own_forwards_do_not_hide_the_others() -> None:
    """Layers inside them are alone; all others are coupled as without them."""
    net = nest(Mixed(), densities=(0.5,), pattern="channel")
    assert net.coupling is not None
    parts = [f"attention.{part}" for part in ("q_proj", "k_proj", "v_proj", "out_proj")]
    assert list(net.coupling.alone) == [*parts, "guarded.inner"]
    layers = net.nested_layers()
    assert layers["first"].writes == layers["second"].reads
    assert net(torch.randn(2, 3, 8)).shape == (2, 3, 8)
