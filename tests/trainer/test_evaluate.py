"""Evaluation: accuracy per level, and its errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_models import nested_small_net, small_batches, small_net
from torch import Tensor, nn

from nested_sparse.errors import TrainingError
from nested_sparse.trainer import measure_reroutes, nest
from nested_sparse.trainer.evaluate import accuracy_per_level


def test_accuracy_is_counted_per_level() -> None:
    """The result equals counting each level's hits in eval mode; level and mode are kept."""
    net = nested_small_net().train()
    net.set_level(1)
    batches = list(small_batches()(0))
    got = accuracy_per_level(net, iter(batches))
    assert (net.level, net.training) == (1, True)
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    net.eval()
    for level, accuracy in enumerate(got):
        net.set_level(level)
        assert accuracy == pytest.approx(float((net(images).argmax(1) == labels).double().mean()))


def test_no_sample_is_an_error() -> None:
    """An empty test set has no accuracy."""
    with pytest.raises(TrainingError, match="at least one sample"):
        accuracy_per_level(nested_small_net(), [])


class Answering(nn.Module):
    """A classifier that returns something else than logits."""

    def __init__(self, answer: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.net, self.answer = small_net(), answer

    def forward(self, x: Tensor) -> Any:
        return self.answer(self.net(x))


@pytest.mark.parametrize("measure", [accuracy_per_level, measure_reroutes])
@pytest.mark.parametrize(
    ("answer", "got"),
    [
        (lambda y: {"logits": y}, "a dict"),
        (lambda y: (y, y), "a tuple"),
        (lambda y: y[:, 0], r"a tensor \(16,\)"),
    ],
)
def test_outputs_that_are_no_logits_are_refused(
    measure: Callable[..., Any], answer: Callable[[Tensor], Any], got: str
) -> None:
    """The message has the expected output and the next step."""
    net = nest(Answering(answer), densities=(0.2, 0.6))
    with pytest.raises(TrainingError, match=rf"{measure.__name__} needs .* logits alone .*, got {got}; nest a module"):
        measure(net, list(small_batches()(0)))


@pytest.mark.parametrize("change", [lambda t: t[:, None], lambda t: t.tolist()])
def test_targets_that_are_no_class_indices_are_refused(change: Callable[[Tensor], Any]) -> None:
    """A column of targets would be compared with every sample and give too many hits."""
    batches = [(x, change(t)) for x, t in small_batches()(0)]
    with pytest.raises(TrainingError, match=r"class indices \(16,\).*got a (tensor \(16, 1\)|list)"):
        accuracy_per_level(nested_small_net(), batches)
