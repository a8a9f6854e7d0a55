"""Distillation: the loss, the frozen teacher, and a teacher of the caller's own."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_models import assert_goes_on, nested_small_net, small_batches
from torch import Tensor, nn

from nested_sparse.errors import TrainingError
from nested_sparse.trainer import FreezeThenGrow, Interleaved, Joint, RigL, TrainConfig, nest, train
from nested_sparse.trainer.distill import Teacher, distillation_loss
from nested_sparse.trainer.nestings import Nesting


def test_loss_is_the_divergence_of_softened_labels() -> None:
    """The loss is T² · mean over samples of sum p·log(p/q), which is 0 for equal logits."""
    student, teacher = torch.randn(6, 4), torch.randn(6, 4)
    p, q = F.softmax(teacher / 3, dim=1), F.softmax(student / 3, dim=1)
    expected = 9 * (p * (p / q).log()).sum(dim=1).mean()
    assert float(distillation_loss(student, teacher, 3.0)) == pytest.approx(float(expected), rel=1e-5)
    assert float(distillation_loss(student, student, 3.0)) == pytest.approx(0, abs=1e-6)


def test_teacher_is_a_frozen_copy() -> None:
    """The teacher stays the same when the student changes, is in eval mode, and has no gradient."""
    net = nested_small_net().train()
    teacher = Teacher(net)
    x = torch.randn(2, 1, 8, 8)
    before = teacher.soft_labels(x)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(1)
    assert torch.equal(teacher.soft_labels(x), before)
    assert not before.requires_grad
    assert net.training
    assert next(net.parameters()).requires_grad


class Sure(nn.Module):
    """A teacher that answers class 2 with a logit of `strength`."""

    def __init__(self, strength: float = 20.0, classes: int = 3) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.eye(classes)[-1] * strength)

    def forward(self, images: Tensor) -> Tensor:
        assert not self.training
        assert not torch.is_grad_enabled()
        return self.logits.expand(len(images), -1)


NESTINGS = {
    "freeze_then_grow": FreezeThenGrow(epochs_per_level=2),
    "joint": Joint(epochs=3, soft_weight=1.0),
    "interleaved": Interleaved(epochs=3, soft_weight=1.0),
}


@pytest.mark.parametrize("nesting", NESTINGS.values(), ids=NESTINGS)
def test_every_level_learns_the_given_teachers_soft_labels(nesting: Nesting) -> None:
    """With soft labels alone, each level answers as the teacher does, whatever the labels are; the teacher stays."""
    teacher = Sure().train()
    before = teacher.logits.detach().clone()
    net = nested_small_net()
    config = TrainConfig(dense_epochs=1, search_epochs=1, distill_weight=1.0, lr=0.1)
    train(net, small_batches(), F.cross_entropy, config, nesting=nesting, teacher=teacher)
    assert teacher.training
    assert teacher.logits.requires_grad
    assert torch.equal(teacher.logits, before)
    net.eval()
    images = torch.cat([images for images, _ in small_batches()(0)])
    for level in range(net.level_count):
        net.set_level(level)
        assert bool((net(images).argmax(1) == 2).all()), level


def test_a_teacher_teaches_a_net_that_is_untrained_too() -> None:
    """RigL without a dense stage has no dense model of its own to learn from."""
    net = nested_small_net()
    config = TrainConfig(dense_epochs=0, search_epochs=3, distill_weight=1.0, lr=0.1)
    train(net, small_batches(), F.cross_entropy, config, schedule=RigL(), teacher=Sure())
    net.eval().set_level(0)
    assert bool((net(torch.cat([images for images, _ in small_batches()(0)])).argmax(1) == 2).all())


def test_a_run_goes_on_with_the_teacher_that_it_began_with(tmp_path: Path) -> None:
    """The state does not hold the teacher, so it is given again; another one, or none, is refused."""
    config, state = TrainConfig(dense_epochs=1, search_epochs=1), tmp_path / "run.state"
    fit = partial(train, batches=small_batches(), loss_fn=F.cross_entropy, config=config)
    assert_goes_on(partial(fit, teacher=Sure(3.0)), state, 2)
    for other in (Sure(4.0), None):
        with pytest.raises(TrainingError, match=r"another run; 'teacher' differ"):
            fit(nested_small_net(), state_path=state, teacher=other)


@pytest.mark.parametrize(
    ("teacher", "said"),
    [
        (
            Sure(classes=4),
            r"teacher: it answers with logits \(16, 4\), the net with \(16, 3\); give a teacher of the same",
        ),
        (nn.Identity(), r"logits \(16, 1, 8, 8\), the net with \(16, 3\)"),
        (Sure(float("nan")), "teacher: its logits of the first batch are not finite"),
        (lambda images: images, r"teacher: expected a torch\.nn\.Module, got"),
    ],
)
def test_a_teacher_that_does_not_fit_is_found_at_the_first_batch(teacher: Any, said: str) -> None:
    """The stage that needs it may begin hours later."""
    reports: list[object] = []
    with pytest.raises(TrainingError, match=said):
        train(
            nested_small_net(),
            small_batches(),
            F.cross_entropy,
            TrainConfig(dense_epochs=1),
            teacher=teacher,
            on_progress=reports.append,
        )
    assert not reports


def test_a_teacher_without_a_share_is_an_error() -> None:
    """It would be ignored. A nesting's own share is enough."""
    config = TrainConfig(dense_epochs=0, search_epochs=0, distill_weight=0.0, recalibration_samples=0)
    fit = partial(train, batches=small_batches(), loss_fn=F.cross_entropy, config=config, teacher=Sure())
    with pytest.raises(TrainingError, match=r"no share in the loss: TrainConfig\.distill_weight is 0"):
        fit(nested_small_net())
    assert fit(nested_small_net(), nesting=Interleaved(epochs=1, soft_weight=0.5))


@pytest.mark.parametrize(
    ("classes", "targets", "said"),
    [
        (1, torch.rand(6, 1), "one output"),
        (3, torch.randn(6, 3), "numbers outside [0, 1]"),
        (3, torch.randn(6, 3).softmax(dim=1), ""),
        (3, torch.tensor([0, 1, 2, 0, 1, 2]), ""),
    ],
)
def test_soft_labels_of_a_regression_are_warned_of(
    classes: int, targets: Tensor, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Outputs that are no logits of classes, as far as the targets tell; none with distill_weight=0."""
    loss = nn.functional.cross_entropy if targets.ndim == 1 else nn.functional.mse_loss
    for weight in (0.5, 0.0):
        net = nest(nn.Linear(4, classes), densities=(0.5, 1.0))
        config = TrainConfig(dense_epochs=0, search_epochs=1, distill_weight=weight)
        with caplog.at_level("WARNING", "nested_sparse.trainer.distill"):
            train(net, lambda epoch: [(torch.randn(6, 4), targets)], loss, config, nesting=Interleaved(epochs=1))
        assert caplog.text.count("soft labels are for classes") == int(bool(said and weight))
        assert said in caplog.text or not weight
        caplog.clear()
