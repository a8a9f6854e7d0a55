"""Row shuffle in torch: masks, training, states and files."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_models import nested_small_net, small_batches, small_net, snapshot
from torch import nn

from nested_sparse.errors import TrainingError
from nested_sparse.runtime import Session
from nested_sparse.shuffle import kept_magnitude
from nested_sparse.trainer import EpochReport, FreezeThenGrow, Joint, TrainConfig, export, nest, train
from nested_sparse.trainer.model.choose import keep_everything
from nested_sparse.trainer.model.layers import NestedLayer
from nested_sparse.trainer.model.nested_model import NestedModel
from nested_sparse.trainer.model.shuffle import shuffle_rows

QUICK = TrainConfig(dense_epochs=1, search_epochs=1, recalibration_samples=48)
NESTINGS = [FreezeThenGrow(epochs_per_level=1), FreezeThenGrow(epochs_per_level=1, search_each=True), Joint(epochs=1)]


def planted_conv(groups: int = 1) -> nn.Conv2d:
    """A convolution whose every fourth row keeps the same inputs, so that blocks of neighbours fit badly."""
    torch.manual_seed(0)
    conv = nn.Conv2d(8 * groups, 16 * groups, 3, padding=1, groups=groups)
    kinds = (torch.rand(4, 8, 3, 3) < 0.15).repeat(4 * groups, 1, 1, 1)
    conv.weight.data = torch.where(kinds, torch.sign(conv.weight), 0.01 * conv.weight)
    return conv


def permutations(net: NestedModel) -> dict[str, list[int]]:
    """The permutations of the layers that have one."""
    layers = net.nested_layers().items()
    return {name: layer.permutation.tolist() for name, layer in layers if layer.permutation is not None}


def kept(layer: NestedLayer, level: int) -> float:
    """Sum of the magnitudes that `level` keeps."""
    return float(layer.weight.detach().abs()[layer.mask(level)].sum())


def test_nest_shuffles_rows_that_keep_the_same_inputs() -> None:
    """Every fourth row comes together, and each level keeps more magnitude than without the shuffle."""
    model = nn.Sequential(planted_conv())
    plain = nest(model, densities=(0.1, 0.3), pattern="block4x1")
    net = nest(model, densities=(0.1, 0.3), pattern="block4x1", row_shuffle=True)
    layer, before = net.nested_layers()["0"], plain.nested_layers()["0"]
    assert before.permutation is None
    assert layer.permutation is not None
    assert all(len({row % 4 for row in block}) == 1 for block in layer.permutation.reshape(4, 4).tolist())
    for level in (0, 1):
        assert kept(layer, level) > kept(before, level)
        assert int(layer.mask(level).sum()) == int(before.mask(level).sum())
    values = layer.weight.detach().flatten(1).numpy()
    assert kept(layer, 0) == pytest.approx(kept_magnitude(values, 4, 0.1, layer.permutation.numpy()), rel=1e-5)


def test_rows_stay_in_their_group_and_others_have_no_permutation() -> None:
    """Convolutions in groups keep rows in their group; single weights and layers kept dense do not change."""
    model = nn.Sequential(planted_conv(groups=3), nn.ReLU(), nn.Conv2d(48, 8, 1))
    net = nest(model, densities=(0.1, 0.5), pattern="block4x1", keep_dense=("2",), row_shuffle=True)
    assert list(permutations(net)) == ["0"]
    order = np.array(permutations(net)["0"])
    assert not np.array_equal(order, np.arange(48))
    assert (order // 16 == np.arange(48) // 16).all()
    for pattern in ("unstructured", "gs8x2", "channel"):
        assert not permutations(nest(nn.Linear(16, 8), densities=(0.5,), pattern=pattern, row_shuffle=True))


def test_layers_of_one_weight_share_the_permutation() -> None:
    """The layers share the permutation and the masks."""
    first = planted_conv()
    second = nn.Conv2d(8, 16, 3, padding=1)
    second.weight = first.weight
    net = nest(nn.ModuleList([first, second]), densities=(0.1, 0.5), pattern="block4x1", row_shuffle=True)
    one, other = net.nested_layers().values()
    assert one.weight is other.weight
    assert permutations(net)["0"] == permutations(net)["1"] != list(range(16))
    assert all(torch.equal(one.mask(level), other.mask(level)) for level in (0, 1))


def test_refused_once_masks_are_chosen() -> None:
    """A new permutation would split the blocks of frozen levels; whole levels have none."""
    net = nest(nn.Sequential(planted_conv()), densities=(0.1, 0.5), pattern="block4x1", row_shuffle=True)
    before = permutations(net)
    with pytest.raises(TrainingError, match=r"masks of 0 are chosen"):
        shuffle_rows(net)
    assert permutations(net) == before
    keep_everything(net.nested_layers().values())
    with torch.no_grad():
        layer = net.nested_layers()["0"]
        layer.weight.copy_(layer.weight.roll(1, dims=0).reshape(4, 4, -1).transpose(0, 1).reshape(layer.weight.shape))
    shuffle_rows(net)
    assert permutations(net) != before


def test_masks_follow_the_permutation() -> None:
    """Masks follow a change of the permutation in place, with the same first levels."""
    net = nest(nn.Sequential(planted_conv()), densities=(0.1, 0.5), pattern="block4x1", row_shuffle=True)
    layer = net.nested_layers()["0"]
    assert layer.permutation is not None
    before = layer.mask(0).clone()
    layer.permutation.copy_(layer.permutation.roll(2))
    assert not torch.equal(layer.mask(0), before)
    blocks = layer.mask(0).flatten(1)[layer.permutation.long()].reshape(4, 4, -1)
    assert torch.equal(blocks, (layer.first_level == 0)[:, None].expand_as(blocks))


@pytest.mark.parametrize("nesting", NESTINGS, ids=["freeze", "search_each", "joint"])
def test_training_shuffles_once_after_the_dense_stage(nesting: FreezeThenGrow | Joint) -> None:
    """The permutation is that of the dense stage's weights, and then never changes; masks nest in whole blocks."""
    net, seen = nested_small_net(row_shuffle=True), list[tuple[str, dict[str, list[int]]]]()
    dense: dict[str, NestedModel] = {}

    def watch(report: EpochReport) -> None:
        if report.stage == "dense":
            dense["net"] = copy.deepcopy(net)
        seen.append((report.stage, permutations(net)))

    torch.manual_seed(1)
    train(net, small_batches(), F.cross_entropy, QUICK, nesting=nesting, on_progress=watch)
    shuffle_rows(dense["net"])
    assert all(order == permutations(dense["net"]) for stage, order in seen if stage != "dense")
    assert permutations(net) == permutations(dense["net"])
    for layer in net.nested_layers().values():
        assert layer.permutation is not None
        for level in range(3):
            rows = layer.mask(level).flatten(1)[layer.permutation.long()]
            whole = rows[: len(rows) // 4 * 4].reshape(-1, 4, rows.shape[1])
            assert torch.equal(whole, whole[:, :1].expand_as(whole))
            assert not level or not (layer.mask(level - 1) & ~layer.mask(level)).any()


def test_states_load_into_a_net_of_other_weights(tmp_path: Path) -> None:
    """A finished run's state, permutations and masks included, loads into a net with another shuffle."""
    net = nested_small_net(row_shuffle=True)
    state = tmp_path / "run.state"
    torch.manual_seed(1)
    train(net, small_batches(), F.cross_entropy, QUICK, nesting=NESTINGS[0], state_path=state)
    torch.manual_seed(7)
    other = small_net()
    for parameter in other.parameters():
        nn.init.normal_(parameter)
    again = nest(other, densities=net.densities, pattern="block4x1", row_shuffle=True)
    assert permutations(again) != permutations(net)
    train(again, small_batches(), F.cross_entropy, QUICK, nesting=NESTINGS[0], state_path=state)
    assert all(torch.equal(value, snapshot(again)[key]) for key, value in snapshot(net).items())
    unshuffled = nested_small_net()
    with pytest.raises(TrainingError, match="row_shuffle"):
        train(unshuffled, small_batches(), F.cross_entropy, QUICK, nesting=NESTINGS[0], state_path=state)


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    """The run stops in the epoch after the shuffle."""
    config = TrainConfig(dense_epochs=1, search_epochs=2, recalibration_samples=48)

    def stop(report: EpochReport) -> None:
        if report.done_epochs == 2:
            raise KeyboardInterrupt

    def run(net: NestedModel, on_progress: Callable[[EpochReport], None], state: Path | None) -> None:
        options: dict[str, Any] = {"nesting": NESTINGS[0], "on_progress": on_progress, "state_path": state}
        train(net, small_batches(), F.cross_entropy, config, **options)

    whole, stopped, resumed = (nested_small_net(row_shuffle=True) for _ in range(3))
    torch.manual_seed(1)
    run(whole, lambda _: None, None)
    torch.manual_seed(1)
    with pytest.raises(KeyboardInterrupt):
        run(stopped, stop, tmp_path / "run.state")
    run(resumed, lambda _: None, tmp_path / "run.state")
    assert all(torch.equal(value, snapshot(resumed)[key]) for key, value in snapshot(whole).items())


@pytest.mark.parametrize("groups", [1, 2])
def test_a_shuffled_net_is_exported_and_answers_like_torch(tmp_path: Path, groups: int) -> None:
    """The answers agree at every level, also when blocks stay within groups."""
    model = nn.Sequential(planted_conv(groups), nn.BatchNorm2d(16 * groups), nn.ReLU(), nn.Conv2d(16 * groups, 8, 1))
    net = nest(model, densities=(0.1, 0.4), pattern="block4x1", row_shuffle=True).eval()
    assert net.nested_weight("0").permutation is not None
    x = torch.randn(2, 8 * groups, 9, 9)
    path = export(net, (x,), tmp_path / "shuffled.safetensors")
    session = Session(path, threads=1)
    for level in (0, 1):
        net.set_level(level)
        with torch.no_grad():
            expected = net(x).numpy()
        got = session.run({"input": x.numpy()}, level=level)["output"]
        np.testing.assert_allclose(got, expected, atol=1e-4 * np.abs(expected).max())


def test_rows_in_order_need_no_table() -> None:
    """The identity permutation is not exported."""
    net = nest(nn.Linear(8, 4), densities=(0.5,), pattern="block4x1", row_shuffle=True)
    assert permutations(net)["model"] == [0, 1, 2, 3]
    assert net.nested_weight("model").permutation is None
