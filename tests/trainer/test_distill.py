"""Distillation: the loss, and the frozen teacher."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from small_models import nested_small_net

from nested_sparse.trainer.distill import Teacher, distillation_loss


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
