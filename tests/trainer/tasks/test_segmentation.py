"""Segmentation: the mean IoU against loops over sets of positions, and targets that are refused."""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import torch
from tiny_recipe import tiny
from torch import Tensor, nn

from nested_sparse.errors import TrainingError
from nested_sparse.trainer import Segmentation, metrics_per_level, nest

KINDS = (2, 3, 1)
IGNORED = -100


def iou(target: list[int], answer: list[int], part: int) -> float | None:
    """The share of the positions that both have, of those that either has; None where neither has one."""
    counted = [place for place, each in enumerate(target) if each != IGNORED]
    true = {place for place in counted if target[place] == part}
    found = {place for place in counted if answer[place] == part}
    return len(true & found) / len(true | found) if true | found else None


def expected(targets: Tensor, answers: Tensor, kinds: tuple[int, ...]) -> list[float]:
    """The mean IoU of each sample that has a target."""
    first = [sum(kinds[:index]) for index in range(len(kinds))]
    scores = []
    for target, answer in zip(targets.flatten(1).tolist(), answers.flatten(1).tolist(), strict=True):
        own = [range(begin, begin + size) for begin, size in zip(first, kinds, strict=True)]
        parts = {part for parts in own if set(parts) & set(target) for part in parts} if kinds else set(range(6))
        each = [iou(target, answer, part) for part in parts]
        if any(value != IGNORED for value in target):
            scores.append(mean((1.0 if one is None else one) for one in each if kinds or one is not None))
    return scores


def random_case(shape: tuple[int, ...], seed: int) -> tuple[Tensor, Tensor]:
    """Logits (N, 6, ...) and targets; half of the samples are of one kind, some targets do not count."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape[0], 6, *shape[1:], generator=generator)
    targets = torch.randint(6, shape, generator=generator)
    targets[::2] = targets[::2] % 2
    targets[torch.rand(shape, generator=generator) < 0.2] = IGNORED
    targets[1] = IGNORED
    logits += 2 * nn.functional.one_hot(targets.clamp_min(0), 6).movedim(-1, 1)
    return logits, targets


@pytest.mark.parametrize("kinds", [(), KINDS])
@pytest.mark.parametrize("shape", [(6, 4), (5, 3, 4), (40, 7)])
def test_the_metric_is_the_mean_iou_of_each_sample(kinds: tuple[int, ...], shape: tuple[int, ...]) -> None:
    """Of clouds and of images; parts that are absent from both count as 1 with kinds, and not at all without."""
    logits, targets = random_case(shape, len(shape))
    judged = Segmentation(kinds=kinds).judged(logits, targets, "test")
    assert judged.scores.tolist() == pytest.approx(expected(targets, logits.argmax(1), kinds))
    assert len(judged.scores) == shape[0] - 1


def test_a_cloud_by_hand() -> None:
    """Kind 0 has classes 0 and 1: 0 is found at 2 of 3 places, 1 is in neither. A point given to kind 1 is missing."""
    answers = torch.tensor([[0, 0, 2], [0, 0, 0], [1, 1, 0]])
    logits = nn.functional.one_hot(answers, 3).float().movedim(-1, 1)
    targets = torch.zeros(3, 3, dtype=torch.int64)
    assert Segmentation(kinds=(2, 1)).judged(logits, targets, "test").scores.tolist() == pytest.approx(
        [(2 / 3 + 1) / 2, 1, (1 / 3 + 0) / 2]
    )
    assert Segmentation().judged(logits, targets, "test").scores.tolist() == pytest.approx(
        [(2 / 3 + 0) / 2, 1, (1 / 3 + 0) / 2]
    )


def test_bytes_are_targets_too() -> None:
    """As of an image's map of classes."""
    logits, targets = random_case((4, 9), 0)
    whole = targets.clamp_min(0)
    task = Segmentation(kinds=KINDS)
    assert torch.equal(task.judged(logits, whole, "").scores, task.judged(logits, whole.byte(), "").scores)


def test_the_loss_is_the_cross_entropy_of_all_positions() -> None:
    """But of those that do not count."""
    logits, targets = random_case((4, 3, 3), 1)
    shares = logits.double().softmax(1).movedim(1, -1)[targets != IGNORED]
    wanted = -shares[range(len(shares)), targets[targets != IGNORED]].log().mean()
    assert Segmentation().loss(logits, targets).item() == pytest.approx(wanted.item(), rel=1e-5)


def test_levels_disagree_by_their_share_of_positions() -> None:
    """Of all samples together; the metric is still the mean over the samples, of unequal numbers of targets."""
    torch.manual_seed(0)
    net = nest(nn.Sequential(nn.Conv1d(3, 16, 1), nn.ReLU(), nn.Conv1d(16, 6, 1)), densities=(0.2, 0.9)).eval()
    inputs, targets = torch.randn(6, 3, 20), torch.randint(6, (6, 20))
    targets[0, :15] = IGNORED
    targets[1] = IGNORED
    answers = []
    for level in range(2):
        net.set_level(level)
        answers.append(net(inputs).argmax(1))
    task, batches = Segmentation(), [(inputs[:4], targets[:4]), (inputs[4:], targets[4:])]
    metrics = metrics_per_level(net, batches, task=task)
    share = (answers[0] != answers[1])[targets != IGNORED].double().mean().item()
    assert metrics["disagreement"] == [pytest.approx(share), 0.0]
    assert share > 0
    assert metrics["mean_iou"] == [pytest.approx(mean(expected(targets, each, ()))) for each in answers]


LOGITS = torch.zeros(2, 6, 4)


@pytest.mark.parametrize(
    ("outputs", "targets", "said"),
    [
        (torch.zeros(2, 6), torch.zeros(2, dtype=torch.int64), r"logits \(N, classes, points\).*got a tensor \(2, 6\)"),
        (LOGITS, torch.zeros(2, 5, dtype=torch.int64), r"class indices \(2, 4\), one for each.*\(2, 5\)"),
        (LOGITS, torch.zeros(2, 4), "class indices, int64, got float32"),
        (LOGITS, torch.full((2, 4), 6), "expected classes from 0 to 5.*got 6"),
        (LOGITS[:, :5], torch.zeros(2, 4, dtype=torch.int64), r"kinds: expected numbers whose sum is 5.*\[2, 3, 1\]"),
        ((LOGITS,), torch.zeros(2, 4, dtype=torch.int64), "got a tuple"),
    ],
)
def test_outputs_and_targets_that_do_not_fit_are_refused(outputs: Any, targets: Tensor, said: str) -> None:
    """Before training, and when levels are scored."""
    task = Segmentation(kinds=KINDS)
    with pytest.raises(TrainingError, match=f"score.*{said}"):
        task.judged(outputs, targets, "score")
    with pytest.raises(TrainingError, match=f"the loss of segmentation.*{said}"):
        task.check(outputs, targets)


def test_a_kind_has_a_class(tmp_path: Path) -> None:
    """The recipe says so before the data is loaded."""
    with pytest.raises(TrainingError, match=r"\[task\] kinds: expected whole numbers >= 1, got \(2, 0\)"):
        tiny(tmp_path, "task.name=segmentation", "task.kinds=[2, 0]")
