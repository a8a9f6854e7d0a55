"""Joint training: the sandwich rule, gradients, reports and settings."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from small_models import nested_small_net, small_batches, snapshot
from torch import Tensor, nn

from nested_sparse.errors import TrainingError
from nested_sparse.trainer import Joint, JointThenGrow, NestedModel, TrainConfig, accuracy_per_level, nest, train
from nested_sparse.trainer.nestings.joint import JointStage, set_gradient
from nested_sparse.trainer.stage import Work

CONFIG = TrainConfig(dense_epochs=1, search_epochs=1, recalibration_samples=48)


def batch() -> tuple[Tensor, Tensor]:
    return next(iter(small_batches()(0)))


def stage(net: NestedModel, **settings: object) -> JointStage:
    """A joint stage with readable gradients per level; dropout, which is random, is off."""
    net.eval()
    work = Work(net, TrainConfig(distill_temperature=2.0), F.cross_entropy)
    return JointStage(work, Joint(**settings))  # type: ignore[arg-type]


def gradients(net: NestedModel) -> dict[str, Tensor]:
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in net.named_parameters()}


@pytest.mark.parametrize("random_levels", [0, 1, 2, 9])
def test_sandwich_rule(random_levels: int) -> None:
    """Each step trains the densest level first, the sparsest, and the given number of others, all in turn."""
    net = nest(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), densities=(0.1, 0.2, 0.3, 0.4, 0.5))
    joint, drawn = stage(net, random_levels=random_levels), set()
    torch.manual_seed(0)
    for _ in range(40):
        trained = [int(name) for name in joint.losses(*batch(), lambda loss: None)]
        assert trained[:2] == [4, 0]
        assert len(trained) == len(set(trained)) == 2 + min(3, random_levels)
        drawn |= set(trained[2:])
    assert drawn == (set() if random_levels == 0 else {1, 2, 3})


@pytest.mark.parametrize("soft_weight", [0.0, 0.3, 1.0])
def test_step_follows_the_mean_of_the_levels_losses(soft_weight: float) -> None:
    """Losses and gradients equal plain torch: labels at the top, its softened, detached labels below."""
    net = nested_small_net()
    twin = copy.deepcopy(net).eval()
    (x, labels), temperature = batch(), 2.0
    losses = stage(net, random_levels=1, soft_weight=soft_weight).losses(x, labels, lambda loss: loss.backward())
    expected: dict[str, Tensor] = {}
    for level in (2, 0, 1):
        twin.set_level(level)
        logits = twin(x)
        loss = F.cross_entropy(logits, labels)
        if level == 2:
            teacher = torch.softmax(logits.detach() / temperature, 1)
        else:
            soft = -(teacher * torch.log_softmax(logits / temperature, 1)).sum(1).mean()
            entropy = -(teacher * teacher.log()).sum(1).mean()
            loss = (1 - soft_weight) * loss + soft_weight * temperature**2 * (soft - entropy)
        (loss / 3).backward()
        expected[str(level)] = loss.detach()
    assert losses.keys() == expected.keys()
    for level, loss in expected.items():
        torch.testing.assert_close(losses[level], loss, rtol=1e-4, atol=1e-5)
    for name, wanted in gradients(twin).items():
        torch.testing.assert_close(gradients(net)[name], wanted, rtol=1e-3, atol=1e-5)


def test_gradient_of_a_ring() -> None:
    """With "ring" a level's loss reaches exactly those sparse weights that it adds to the level below."""
    net = nested_small_net(keep_dense=("9",)).eval()
    x, labels = batch()
    for level in range(net.level_count):
        net.set_level(level)
        F.cross_entropy(net(x), labels).backward()
        whole = gradients(net)
        net.zero_grad()
        set_gradient(net, "ring")
        F.cross_entropy(net(x), labels).backward()
        routed = gradients(net)
        net.zero_grad()
        set_gradient(net, "kept")
        for name, layer in net.nested_layers().items():
            key = f"model.{name}.weight"
            ring = torch.ones_like(layer.weight, dtype=torch.bool) if layer.dense else layer.ring(level)
            torch.testing.assert_close(routed[key], whole[key] * ring)
            assert routed[key].abs().sum() > 0


@pytest.mark.parametrize("gradient", ["kept", "ring"])
def test_every_level_learns_and_dropped_weights_stay(gradient: str) -> None:
    """All levels of a joint run learn an easy task; weights that no level keeps stay as after the search."""
    net = nested_small_net()
    config = TrainConfig(dense_epochs=6, search_epochs=3, recalibration_samples=48)
    seen: dict[str, dict[str, Tensor]] = {}
    torch.manual_seed(11)
    nesting = Joint(epochs=8, gradient=gradient, soft_weight=0.5)
    train(
        net,
        small_batches(),
        F.cross_entropy,
        config,
        nesting=nesting,
        on_progress=lambda report: seen.update({report.stage: snapshot(net)}),
    )
    assert min(accuracy_per_level(net, small_batches()(0))) > 0.8
    for name, layer in net.nested_layers().items():
        key = f"model.{name}.weight"
        dropped = ~layer.mask(2)
        assert dropped.any()
        assert torch.equal(seen["search 0"][key][dropped], layer.weight[dropped])
        assert not torch.equal(seen["search 0"][key][layer.mask(0)], layer.weight[layer.mask(0)])
    norms = next(iter(net.level_norms().values())).norms
    assert not torch.equal(norms[0].running_mean, norms[2].running_mean)  # type: ignore[arg-type]


def test_reports_have_a_loss_per_level() -> None:
    """A joint epoch reports every level it trained, by number."""
    reports = train(nested_small_net(), small_batches(), F.cross_entropy, CONFIG, nesting=Joint(epochs=1))
    assert [set(report.losses) for report in reports] == [{"dense"}, {"0"}, {"0", "1", "2"}]
    assert str(reports[-1]).startswith("joint epoch 1/1: loss 0: ")


def test_search_level_decides_the_masks() -> None:
    """With search_level the search keeps that level's density, and all levels are chosen from its weights."""
    net, densities = nested_small_net(), []
    config = TrainConfig(dense_epochs=1, search_epochs=2, recalibration_samples=0)

    def watch(report: object) -> None:
        densities.append(net.density(0))

    train(net, small_batches(), F.cross_entropy, config, nesting=Joint(epochs=0, search_level=-1), on_progress=watch)
    assert densities[-1] > 0.75  # its last masks, nearly the densest level's 0.8
    assert net.density(0) == pytest.approx(0.1, abs=0.02)


def test_joint_then_grow_settles_each_level() -> None:
    """After the joint stage each level trains its ring, norms and bias alone, and lower levels stay bit-equal."""
    net, seen = nested_small_net(), {}
    config = TrainConfig(dense_epochs=1, search_epochs=1, recalibration_samples=0)
    nesting = JointThenGrow(joint_epochs=2, epochs_per_level=1)
    train(
        net,
        small_batches(),
        F.cross_entropy,
        config,
        nesting=nesting,
        on_progress=lambda report: seen.update({report.stage: snapshot(net)}),
    )
    assert list(seen) == ["dense", "search 0", "joint", "level 0", "level 1", "level 2"]
    stages = ["joint", "level 0", "level 1", "level 2"]
    for level in range(3):
        before, after, final = seen[stages[level]], seen[stages[level + 1]], seen["level 2"]
        for name, layer in net.nested_layers().items():
            key = f"model.{name}.weight"
            moved = before[key] != after[key]
            assert moved.any()
            assert not (moved & ~layer.ring(level)).any()
            assert torch.equal(after[key][layer.mask(level)], final[key][layer.mask(level)])
        untouched = [key for key in before if ".norms." in key and f".norms.{level}." not in key]
        assert all(torch.equal(before[key], after[key]) for key in untouched)


def test_outputs_that_are_no_logits_are_an_error() -> None:
    """Soft labels need classes in dimension 1; the message names the settings."""
    net = nest(nn.Sequential(nn.Flatten(), nn.Linear(64, 1), nn.Flatten(0)), densities=(0.2, 0.5))
    config = TrainConfig(dense_epochs=0, search_epochs=0, distill_weight=0)
    with pytest.raises(TrainingError, match=r"set distill_weight=0.*soft_weight"):
        train(
            net,
            small_batches(),
            lambda y, t: F.mse_loss(y, t.float()),
            config,
            nesting=Joint(epochs=1, soft_weight=0.5),
        )


@pytest.mark.parametrize(
    ("field", "value"),
    [("epochs", -1), ("random_levels", 0.5), ("gradient", "all"), ("soft_weight", 1.5), ("search_level", -2)],
)
def test_settings_are_checked(field: str, value: object) -> None:
    """Every field out of range gives an error with its name, in both nestings with joint training."""
    with pytest.raises(TrainingError, match=f"Joint.{field}: expected"):
        Joint(**{field: value})  # type: ignore[arg-type]
    if field not in ("epochs", "search_level"):
        with pytest.raises(TrainingError, match=f"{field}: expected"):
            JointThenGrow(**{field: value})  # type: ignore[arg-type]
