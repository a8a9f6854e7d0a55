"""Instance segmentation: the loss against its parts, mask mAP of cases made by hand, and bad outputs and targets."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nested_sparse.errors import TrainingError
from nested_sparse.trainer import Detection, InstanceSegmentation
from nested_sparse.trainer.tasks.instance_segmentation import mask_loss

CLASSES, SIZE = 3, 24
SQUARES = ((2, 2, 14, 14), (10, 8, 22, 20))
"""Two objects, of which the second covers a corner of the first."""


def targets() -> tuple[Tensor, Tensor]:
    """Two images, one with both objects and one with none: (objects, owners)."""
    objects = torch.full((2, 3, 5), -1)
    owners = torch.zeros(2, SIZE, SIZE, dtype=torch.uint8)
    for index, (box, number) in enumerate(zip(SQUARES, (0, 2), strict=True)):
        objects[0, index] = torch.tensor([*box, number])
        left, top, right, bottom = box
        owners[0, top:bottom, left:right] = index + 1
    return objects, owners


def outputs(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Random answers about four anchors and three proposals: near both objects, and far from any."""
    generator = torch.Generator().manual_seed(seed)
    far = (0, 18, 5, 23)
    defaults = torch.tensor([[*SQUARES, far, far], [far, far, *SQUARES]]).float()
    proposed = torch.tensor([[SQUARES[1], SQUARES[0], far], [far, *SQUARES]]).float()
    answers = []
    for boxes, logits in ((defaults, 2), (proposed, 1 + CLASSES)):
        near = boxes + 0.5 * torch.randn(boxes.shape, generator=generator)
        answers.append(torch.cat([near, boxes, torch.randn(*boxes.shape[:2], logits, generator=generator)], 2))
    return answers[0], answers[1], torch.randn(2, 3, 6, 6, generator=generator)


def test_the_loss_is_the_sum_of_its_parts() -> None:
    """Anchors against one class, proposals against the objects' classes, and the masks of both matched proposals."""
    anchors, objects, masks = outputs()
    table, owners = targets()
    whole = InstanceSegmentation().loss((anchors, objects, masks), (table, owners)).item()
    alike = table.clone()
    alike[..., 4] = torch.where(table[..., 4] >= 0, 0, -1)
    parts = [Detection().loss(anchors, alike).item(), Detection().loss(objects, table).item()]
    total, count = 0.0, 0
    for proposal, index in ((0, 1), (1, 0)):
        left, top, right, bottom = objects[0, proposal, :4].tolist()
        for row in range(6):
            for column in range(6):
                x = left + (right - left) * (column + 0.5) / 6
                y = top + (bottom - top) * (row + 0.5) / 6
                weights = 0.0
                for j, i in ((j, i) for j in (0, 1) for i in (0, 1)):
                    px = min(max(math.floor(x - 0.5) + i, 0), SIZE - 1)
                    py = min(max(math.floor(y - 0.5) + j, 0), SIZE - 1)
                    share = (1 - abs(x - 0.5 - math.floor(x - 0.5) - i)) * (1 - abs(y - 0.5 - math.floor(y - 0.5) - j))
                    weights += share * (int(owners[0, py, px]) == index + 1)
                logit = masks[0, proposal, row, column].item()
                total += math.log1p(math.exp(-logit)) + (0 if weights >= 0.5 else logit)
                count += 1
    assert whole == pytest.approx(sum(parts) + total / count, rel=1e-4)


def test_a_proposal_that_overlaps_no_object_learns_no_box() -> None:
    """Unlike a default box: the loss of a batch without matched proposals has gradients of 0 there, and is finite."""
    anchors, objects, masks = (each.requires_grad_() for each in outputs())
    table = targets()[0].clone()
    table[0, :2, :4] = torch.tensor([[20, 0, 24, 3], [17, 0, 20, 3]])
    loss = InstanceSegmentation().loss((anchors, objects, masks), (table, targets()[1]))
    loss.backward()
    assert loss.isfinite()
    assert anchors.grad is not None
    assert anchors.grad[..., :4].any()
    assert objects.grad is not None
    assert not objects.grad[..., :8].any()
    assert masks.grad is not None
    assert not masks.grad.any()


def answering(pixels: list[Tensor], classes: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs of two images that find the squares of the first with these masks, (SIZE, SIZE) each."""
    anchors, objects, _ = outputs()
    objects = objects.clone()
    objects[..., 8:] = torch.tensor([9.0, 0, 0, 0])
    masks = torch.zeros(2, 3, 12, 12)
    for index, (box, own, number) in enumerate(zip(SQUARES, pixels, classes, strict=True)):
        left, top, right, bottom = box
        objects[0, index, :4] = torch.tensor(box)
        objects[0, index, 8:] = 0
        objects[0, index, 9 + number] = 9 - index
        masks[0, index] = torch.where(own[top:bottom, left:right], 9.0, -9.0)
    return anchors, objects, masks


def mask_map(pixels: list[Tensor], classes: list[int]) -> float:
    """The metric of these masks."""
    task = InstanceSegmentation()
    tally = task.tally()
    tally.add(task.judged(answering(pixels, classes), targets(), "score").scores)
    return tally.result()


def test_mask_map_of_cases_made_by_hand(capfd: pytest.CaptureFixture[str]) -> None:
    """A mask of the visible pixels, the whole square instead, a half of it, and the masks in the wrong classes."""
    _, owners = targets()
    first, second = owners[0] == 1, owners[0] == 2
    assert mask_map([first, second], [0, 2]) == pytest.approx(1)
    square = first.clone()
    square[2:14, 2:14] = True  # 144 pixels, of which 120 are visible: 0.83, right at seven of ten thresholds
    assert mask_map([square, second], [0, 2]) == pytest.approx((0.7 + 1) / 2)
    half = first.clone()
    half[:8] = False
    assert mask_map([half, second], [0, 2]) == pytest.approx(0.5)
    assert mask_map([first, second], [2, 0]) == 0
    assert capfd.readouterr() == ("", "")


def test_choices_are_those_of_the_boxes() -> None:
    _, owners = targets()
    judged = InstanceSegmentation().judged(answering([owners[0] == 1, owners[0] == 2], [1, 2]), targets(), "score")
    assert judged.choices.tolist() == [1, 2]
    truth, found = judged.scores[0]
    assert truth.masks.shape == found.masks.shape == (2, SIZE, SIZE)
    np.testing.assert_array_equal(truth.masks[1], (owners[0] == 2).numpy())
    assert len(judged.scores[1][0].classes) == 0


def test_soft_labels_are_those_of_the_anchors() -> None:
    answers = outputs()
    task = InstanceSegmentation()
    assert torch.equal(task.logits(answers), answers[0][..., 8:].movedim(2, 1))
    shares = task.soft_shares(task.logits(answers))
    assert shares.shape == (2, 4)
    torch.testing.assert_close(shares.sum(), torch.tensor(1.0))


def test_masks_without_a_match_have_no_loss() -> None:
    """And 0 as their gradient."""
    masks = torch.randn(1, 2, 4, 4, requires_grad=True)
    loss = mask_loss(masks, torch.zeros(1, 2, 4), torch.zeros(1, 8, 8), torch.full((1, 2), -1))
    loss.backward()
    assert loss.item() == 0
    assert masks.grad is not None
    assert not masks.grad.any()


ANSWERS, TARGETS = outputs(), targets()


@pytest.mark.parametrize(
    ("answers", "wanted", "said"),
    [
        (ANSWERS[0], TARGETS, r"three outputs, .* got a tensor \(2, 4, 10\)"),
        (ANSWERS[:2], TARGETS, "three outputs"),
        (
            (*ANSWERS[:2], ANSWERS[2][:, :2]),
            TARGETS,
            r"masks \(N, proposals, h, h\) of the 3 proposals of each",
        ),
        ((*ANSWERS[:2], ANSWERS[2][..., :3]), TARGETS, r"got a tensor \(2, 3, 6, 3\)"),
        ((ANSWERS[1], *ANSWERS[1:]), TARGETS, "anchors with 10 columns, .* got 12 columns"),
        ((ANSWERS[0][0], *ANSWERS[1:]), TARGETS, r"an output \(N, boxes, 4"),
        (ANSWERS, TARGETS[0], r"two targets, .* got a tensor \(2, 3, 5\); of the data scenes .* masks = true"),
        (ANSWERS, (TARGETS[0] + 9, TARGETS[1]), "classes from 0 to 2, .* got 9"),
        (ANSWERS, (TARGETS[0], TARGETS[1].float()), r"owners, whole numbers \(N, H, H\)"),
        (ANSWERS, (TARGETS[0], TARGETS[1][:, :9]), r"got a tensor \(2, 9, 24\)"),
    ],
)
def test_bad_outputs_and_targets_are_told_in_words(answers: Any, wanted: Any, said: str) -> None:
    """By the loss and by the metric."""
    with pytest.raises(
        TrainingError, match=f"the loss of instance segmentation needs .*{said}|the loss of instance segm.*{said}"
    ):
        InstanceSegmentation().loss(answers, wanted)
    with pytest.raises(TrainingError, match=f"score.*{said}"):
        InstanceSegmentation().judged(answers, wanted, "score")
