"""Evaluation: accuracy per level, and its errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import nested_small_net, small_batches, small_net
from torch import Tensor, nn

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import TrainingError
from nested_sparse.slice import slice_checkpoint
from nested_sparse.trainer import export, measure_reroutes, nest
from nested_sparse.trainer.evaluate import accuracy_per_level, file_accuracy, file_metrics, metrics_per_level


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


def test_disagreement_is_counted_against_the_densest_level(tmp_path: Path) -> None:
    """A share of answers, right or wrong; of the net, of its file, and kept by a slice. Accuracy stays as it was."""
    net = nested_small_net()
    batches = list(small_batches()(0))
    got = metrics_per_level(net, iter(batches))
    assert got["accuracy"] == accuracy_per_level(net, batches)
    net.eval()
    answers = []
    for level in range(net.level_count):
        net.set_level(level)
        answers.append([answer for images, _ in batches for answer in net(images).argmax(1).tolist()])
    samples = len(answers[-1])
    expected = [sum(a != b for a, b in zip(each, answers[-1], strict=True)) / samples for each in answers]
    assert got["disagreement"] == expected
    assert expected[0] > 0, "the test's levels all answer alike"

    path, cut = tmp_path / "net.safetensors", tmp_path / "cut.safetensors"
    export(net, (batches[0][0][:1],), path, metrics=got)
    of_file = file_metrics(path, batches)
    for name, values in got.items():  # the runtime rounds otherwise, so the answer to one sample may differ
        assert of_file[name] == pytest.approx(values, abs=1 / samples + 1e-9), name
    assert file_accuracy(path, batches) == of_file["accuracy"]
    slice_checkpoint(path, 2, cut)
    with Checkpoint.open(cut) as checkpoint:
        assert [level.metrics["disagreement"] for level in checkpoint.levels] == expected[:2]


@pytest.mark.parametrize("measure", [accuracy_per_level, metrics_per_level])
def test_no_sample_is_an_error(measure: Callable[..., Any]) -> None:
    """An empty test set has no accuracy."""
    with pytest.raises(TrainingError, match=rf"{measure.__name__} needs at least one sample"):
        measure(nested_small_net(), [])


class Answering(nn.Module):
    """A classifier that returns something else than logits."""

    def __init__(self, answer: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.net, self.answer = small_net(), answer

    def forward(self, x: Tensor) -> Any:
        return self.answer(self.net(x))


@pytest.mark.parametrize("measure", [accuracy_per_level, metrics_per_level, measure_reroutes])
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
