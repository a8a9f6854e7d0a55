"""Detection: the loss against a loop, mAP of cases made by hand, the objects that levels answer, and bad targets."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nested_sparse.errors import TrainingError
from nested_sparse.trainer import Detection, Interleaved, TrainConfig, metrics_per_level, nest, train
from nested_sparse.trainer.evaluate import check_scored
from nested_sparse.trainer.stage import Work
from nested_sparse.trainer.tasks.average_precision import AveragePrecision, Marked
from nested_sparse.trainer.tasks.multibox import matches

CLASSES = 3


def overlap(first: list[float], second: list[float]) -> float:
    """Intersection over union of two boxes."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return width * height / (sum(areas) - width * height)


def case(seed: int) -> tuple[Tensor, Tensor]:
    """Outputs of three images with 12 boxes; the first image has three objects, the second one, the third none."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 20, (3, 12, 2))
    defaults = np.concatenate([corner, corner + rng.uniform(6, 14, (3, 12, 2))], 2)
    boxes = defaults + np.array([-1, -1, 1, 1]) * rng.uniform(0.1, 2, (3, 12, 4))
    output = np.concatenate([boxes, defaults, rng.standard_normal((3, 12, 1 + CLASSES))], 2)
    objects = np.full((3, 4, 5), -1, np.int64)
    for image, count in ((0, 3), (1, 1)):
        begin = rng.integers(0, 20, (count, 2))
        objects[image, :count] = np.column_stack([begin, begin + rng.integers(6, 14, (count, 2)), np.arange(count)])
    return torch.from_numpy(output.astype(np.float32)), torch.from_numpy(objects)


def looped_matches(defaults: list[list[float]], objects: list[list[float]]) -> list[int]:
    """For each default box the object that it is to find, or -1, as the docstring of `matches` says."""
    found = []
    for box in defaults:
        shared = [overlap(box, each) for each in objects]
        best = max(range(len(shared)), key=shared.__getitem__, default=-1)
        found.append(best if objects and shared[best] >= 0.5 else -1)
    for index, each in enumerate(objects):
        shared = [overlap(box, each) for box in defaults]
        found[max(range(len(shared)), key=shared.__getitem__)] = index
    return found


def looped_loss(output: Tensor, objects: Tensor) -> float:
    """The loss, image by image and box by box, in Python's own arithmetic."""
    total, matched = 0.0, 0
    for rows, table in zip(output.double().tolist(), objects.tolist(), strict=True):
        there = [each for each in table if each[4] >= 0]
        found = looped_matches([row[4:8] for row in rows], [each[:4] for each in there])
        negatives = []
        for row, index in zip(rows, found, strict=True):
            logits = row[8:]
            target = there[index][4] + 1 if index >= 0 else 0
            entropy = math.log(sum(map(math.exp, logits))) - logits[target]
            if index < 0:
                negatives.append(entropy)
                continue
            matched += 1
            total += entropy
            wanted, default, box = there[index][:4], row[4:8], row[:4]
            for axis in (0, 1):
                size = default[axis + 2] - default[axis]
                middles = [(each[axis] + each[axis + 2]) / 2 for each in (wanted, box)]
                sizes = [each[axis + 2] - each[axis] for each in (wanted, box)]
                for apart in (
                    (middles[0] - middles[1]) / size / 0.1,
                    (math.log(sizes[0] / size) - math.log(sizes[1] / size)) / 0.2,
                ):
                    total += 0.5 * apart**2 if abs(apart) < 1 else abs(apart) - 0.5
        here = sum(index >= 0 for index in found)
        total += sum(sorted(negatives, reverse=True)[: 3 * max(1, here)])
    return total / max(1, matched)


def test_the_loss_is_that_of_a_loop() -> None:
    """Of images with several objects, one, and none; its gradient is finite, and none goes to the default boxes."""
    for seed in range(6):
        output, objects = case(seed)
        output.requires_grad_()
        loss = Detection().loss(output, objects)
        assert loss.item() == pytest.approx(looped_loss(output.detach(), objects), rel=1e-4)
        loss.backward()
        assert output.grad is not None
        assert output.grad.isfinite().all()
        assert not output.grad[..., 4:8].any()
        assert output.grad[..., :4].any()
        assert Detection().loss(output.detach(), objects.double()).item() == pytest.approx(loss.item(), rel=1e-6)


def test_every_object_has_a_box() -> None:
    """Of two objects with the same nearest box the later gets it; the earlier keeps others that overlap it by half."""
    defaults = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 9], [30, 30, 40, 40]]])
    objects = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 9, 11], [50, 50, 60, 60]]])
    present = torch.tensor([[True, True, False]])
    assert matches(defaults, objects, present).tolist() == [[1, 0, -1]]
    assert matches(defaults, objects, present, best=False).tolist() == [[0, 0, -1]]
    far = torch.tensor([[[35.0, 35, 60, 60]]])
    assert matches(defaults, far, torch.tensor([[True]])).tolist() == [[-1, -1, 0]]
    assert matches(defaults, far, torch.tensor([[True]]), best=False).tolist() == [[-1, -1, -1]]


def marked(*objects: tuple[tuple[int, int, int, int], int, float]) -> Marked:
    """Objects of (box, class, score)."""
    boxes, classes, scores = zip(*objects, strict=True) if objects else ((), (), ())
    return Marked(np.array(boxes, float).reshape(-1, 4), np.array(classes, int), np.array(scores, float))


def average_precision(*images: tuple[Marked, Marked]) -> float:
    """mAP of images, of which each comes in a batch of its own."""
    tally = AveragePrecision()
    for image in images:
        tally.add([image])
    return tally.result()


SQUARE, MOVED, FAR = (0, 0, 10, 10), (0, 0, 10, 7), (50, 50, 60, 60)


def test_map_of_cases_made_by_hand(capfd: pytest.CaptureFixture[str]) -> None:
    """Overlap 0.7 counts at five of ten thresholds; a class that nothing has does not count; nothing is printed."""
    truth = marked((SQUARE, 0, 1), (FAR, 2, 1))
    both = marked((SQUARE, 0, 0.9), (FAR, 2, 0.8))
    assert average_precision((truth, both)) == pytest.approx(1)
    assert average_precision((truth, marked())) == 0
    assert average_precision((truth, marked((SQUARE, 0, 0.9)))) == pytest.approx(0.5)
    assert average_precision((truth, marked((SQUARE, 0, 0.9), (FAR, 0, 0.8)))) == pytest.approx(0.5)
    assert average_precision((truth, marked((SQUARE, 1, 0.9), (FAR, 1, 0.8)))) == 0
    one = marked((SQUARE, 0, 1))
    assert average_precision((one, marked((MOVED, 0, 0.9)))) == pytest.approx(0.5)
    assert average_precision((one, marked((SQUARE, 0, 0.9), (SQUARE, 0, 0.8)))) == pytest.approx(1)
    # a surer detection of nothing, in an image without objects: precision is half at every recall
    empty = (marked(), marked((FAR, 0, 0.95)))
    assert average_precision((one, marked((SQUARE, 0, 0.9))), empty) == pytest.approx(0.5)
    # the same detections of the wrong image find nothing
    assert average_precision((one, marked()), (marked(), marked((SQUARE, 0, 0.9)))) == 0
    assert capfd.readouterr() == ("", "")


class Fixed(nn.Module):
    """A detector of constant boxes, whose logits come from a layer; of any image."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3 * (1 + CLASSES))
        self.boxes: Tensor
        self.register_buffer("boxes", torch.tensor([[*map(float, each)] * 2 for each in (SQUARE, MOVED, FAR)])[None])

    def forward(self, x: Tensor) -> Tensor:
        logits = self.head(x).reshape(len(x), 3, 1 + CLASSES)
        return torch.cat([self.boxes.expand(len(x), -1, -1), logits], 2)


def answering(classes: list[int]) -> Tensor:
    """Outputs of `Fixed`, of one image, whose boxes have these classes; -1 is the background."""
    logits = torch.full((1, 3, 1 + CLASSES), -4.0)
    for box, each in enumerate(classes):
        logits[0, box, each + 1] = 4.0 - box
    boxes = torch.tensor([[*map(float, each)] * 2 for each in (SQUARE, MOVED, FAR)])[None]
    return torch.cat([boxes, logits], 2)


def test_an_object_s_choice_is_the_surest_class_that_is_found_there() -> None:
    """Rows without an object have no choice; -1 where nothing is found."""
    objects = torch.tensor([[[*SQUARE, 0], [*FAR, 2], [-1, -1, -1, -1, -1]]])
    for classes, expected in (
        ([0, -1, 2], [0, 2]),
        ([1, 0, -1], [1, -1]),
        ([-1, 2, 0], [2, 0]),
        ([-1, -1, -1], [-1, -1]),
    ):
        judged = Detection().judged(answering(classes), objects, "score")
        assert judged.choices.tolist() == expected
    nothing = Detection().judged(answering([0, 0, 0]), objects[:, 2:], "score")
    assert len(nothing.choices) == 0


def test_metrics_of_levels_are_those_of_their_answers() -> None:
    """mAP over all batches together, which is not the mean of theirs; and the share of objects answered otherwise."""
    torch.manual_seed(0)
    net = nest(Fixed(), densities=(0.4, 1.0), pattern="unstructured")
    with torch.no_grad():
        net.nested_layers()["head"].values.mul_(12)
    generator, batches = torch.Generator().manual_seed(1), []
    for _ in range(4):
        numbers = torch.randint(CLASSES, (5, 2), generator=generator)
        boxes = torch.tensor([SQUARE, FAR]).expand(5, 2, 4)
        batches.append((torch.randn(5, 4, generator=generator), torch.cat([boxes, numbers[..., None]], 2)))
    metrics = metrics_per_level(net, batches, task=Detection())
    maps, of_batches, choices = [], [], []
    for level in range(2):
        net.set_level(level)
        judged = [Detection().judged(net(inputs), targets, "score") for inputs, targets in batches]
        maps.append(average_precision(*(pair for each in judged for pair in each.scores)))
        of_batches.append(np.mean([average_precision(*each.scores) for each in judged]))
        choices.append(torch.cat([each.choices for each in judged]))
    assert metrics["map"] == pytest.approx(maps)
    assert metrics["map"] != pytest.approx(of_batches)
    differing = (choices[0] != choices[1]).double().mean().item()
    assert differing > 0, "the test's levels answer alike"
    assert metrics["disagreement"] == pytest.approx([differing, 0])


def test_soft_labels_are_over_the_classes_of_each_box() -> None:
    output, _ = case(0)
    logits = Detection().logits(output)
    assert logits.shape == (3, 1 + CLASSES, 12)
    assert torch.equal(logits[1, :, 5], output[1, 5, 8:])


def test_soft_labels_count_by_the_chance_of_an_object() -> None:
    """The loss of a level with a teacher, against the sum over all boxes of both terms."""
    task, (output, objects), (other, _) = Detection(), case(0), case(1)
    work = Work(nest(Fixed(), densities=(1.0,)), TrainConfig(distill_temperature=2.0), task.loss, task=task)
    soft_labels = task.logits(other)
    got = work.mixed_loss(output, objects, soft_labels, 0.25).item()
    mine, teachers = output[..., 8:].double().numpy(), other[..., 8:].double().numpy()
    divergence, weights = 0.0, 0.0
    for row, wanted in zip(mine.reshape(-1, 1 + CLASSES), teachers.reshape(-1, 1 + CLASSES), strict=True):
        weight = 1 - np.exp(wanted[0]) / np.exp(wanted).sum()
        p, q = (np.exp(each / 2) / np.exp(each / 2).sum() for each in (wanted, row))
        divergence += weight * (p * np.log(p / q)).sum() * 4
        weights += weight
    assert got == pytest.approx(0.75 * looped_loss(output, objects) + 0.25 * divergence / weights, rel=1e-4)


def test_boxes_are_not_taken_for_a_regression(caplog: pytest.LogCaptureFixture) -> None:
    """Targets of a detector are numbers above 1, and its soft labels are of classes all the same."""
    objects = torch.tensor([[[*SQUARE, 0], [*FAR, 2]]]).double()
    net, config = nest(Fixed(), densities=(0.4, 1.0), pattern="unstructured"), TrainConfig(search_epochs=1)
    task = Detection()
    train(net, lambda _: [(torch.ones(1, 4), objects)], task.loss, config, nesting=Interleaved(epochs=1), task=task)
    assert "soft labels" not in caplog.text


OUTPUT, OBJECTS = case(0)


def changed(value: int, column: int) -> Tensor:
    """The objects with another value in the first row."""
    objects = OBJECTS.clone()
    objects[0, 0, column] = value
    return objects


@pytest.mark.parametrize(
    ("output", "objects", "said"),
    [
        (OUTPUT[0], OBJECTS, r"output \(N, boxes, 4 \+ 4 \+ 1 \+ classes\): .* got a tensor \(12, 12\)"),
        (OUTPUT[..., :9], OBJECTS, r"got a tensor \(3, 12, 9\); nest a module"),
        ([OUTPUT], OBJECTS, "got a list"),
        (OUTPUT, OBJECTS[:2], r"targets \(N, objects, 5\): .* for each of 3 images, got a tensor \(2, 4, 5\)"),
        (OUTPUT, OBJECTS[..., :4], r"got a tensor \(3, 4, 4\)"),
        (OUTPUT, [OBJECTS], "got a list"),
        (OUTPUT, changed(3, 4), "classes from 0 to 2, as the model has 3 .* or -1 .* got 3; correct"),
        (OUTPUT, changed(-2, 4), "got -2"),
        (OUTPUT, OBJECTS + 0.5, r"got 0\.5|got -0\.5"),
        (
            OUTPUT,
            changed(-50, 2),
            r"left, top, right, bottom with left < right .* got \[\d+, \d+, -50, \d+\]; boxes of a",
        ),
        (OUTPUT, OBJECTS / torch.tensor([1, 1, 0.0, 1, 1]), r"boxes as left, .* inf"),
    ],
)
def test_bad_outputs_and_targets_are_told_in_words(output: Any, objects: Any, said: str) -> None:
    """By the loss and by the metric."""
    with pytest.raises(TrainingError, match=f"the loss of detection.*{said}"):
        Detection().loss(output, objects)
    with pytest.raises(TrainingError, match=f"score.*{said}"):
        Detection().judged(output, objects, "score")


def test_without_pycocotools_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the training, not after it."""
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    net = nest(Fixed(), densities=(0.4, 1.0), pattern="unstructured")
    with pytest.raises(TrainingError, match=r"pycocotools, .* pip install 'nested-sparse\[train\]', or set \[output\]"):
        check_scored(net, [(torch.zeros(1, 4), OBJECTS[:1])], Detection(), "the metric")
