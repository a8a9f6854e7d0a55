"""Targets: those that do not fit a task are told in words, before the training where that is possible."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_recipe import tiny
from torch import Tensor, nn

from nested_sparse.errors import TrainingError
from nested_sparse.trainer import (
    Classification,
    Interleaved,
    Language,
    NestedModel,
    Ranking,
    Task,
    TrainConfig,
    metrics_per_level,
    nest,
    train,
)
from nested_sparse.trainer.recipes.run import run_recipe

WHOLE = torch.zeros(2, 3, dtype=torch.long)
WORDS = torch.randint(5, (4, 3), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("task", "outputs", "targets", "said"),
    [
        (Ranking(), torch.zeros(2, 3), WHOLE - 5, "ranking: relevances: expected 0 to 30, or -1 .* got -5"),
        (Ranking(), torch.zeros(2, 3), WHOLE - 100, "got -100; give places without a document -1"),
        (Ranking(), torch.zeros(2, 3), WHOLE + 128, "expected 0 to 30, .* got 128"),
        (Ranking(), torch.zeros(2, 3), WHOLE / 0, "expected 0 to 30, .* got nan"),
        (Ranking(), torch.zeros(2, 3), WHOLE[0], r"ranking needs scores .* got a tensor \(2, 3\) and a tensor \(3,\)"),
        (Classification(), torch.zeros(2, 4), WHOLE, r"classification needs .* class indices \(2,\), .* \(2, 3\)"),
        (Classification(), torch.zeros(2, 3), WHOLE, r'\(2,\), .* for \[task\] name = "ranking"'),
        (Classification(), torch.zeros(2, 3, 4), WHOLE, r"set \[task\] classes_last = true"),
        (Classification(classes_last=True), torch.zeros(2, 4, 3), WHOLE, r"leave \[task\] classes_last out"),
        (Classification(), torch.zeros(2, 3), [0, 1], "got a list"),
        (Classification(), torch.zeros(2, 3), torch.zeros(2), r"int64, got float32 \(2,\); .* targets.long\(\)"),
        (Classification(), torch.zeros(2, 4), torch.tensor([0, 9]), "classes from 0 to 3, .* got 9; .* more classes"),
        (Classification(), torch.zeros(2, 4), torch.tensor([-1, 0]), "or -100 where none counts, got -1"),
        (Language(), torch.zeros(2, 3, 4), WHOLE + 4, "language: targets: expected classes from 0 to 3, .* got 4"),
        (Language(), torch.zeros(2, 3, 4), WHOLE.float(), r"language needs .* int64, got float32 \(2, 3\)"),
        (Language(), torch.zeros(2, 3), WHOLE, r"language needs logits \(N, T, classes\) .* got a tensor \(2, 3\)"),
    ],
)
def test_targets_that_do_not_fit(task: Task, outputs: Tensor, targets: Any, said: str) -> None:
    """By the loss, in any batch."""
    with pytest.raises(TrainingError, match=f"the loss of .*{said}"):
        task.loss(outputs, targets)


@pytest.mark.parametrize(
    ("task", "outputs", "targets", "said"),
    [
        (Ranking(), torch.zeros(2, 3), WHOLE - 5, "expected 0 to 30, .* got -5"),
        (Language(), torch.zeros(2, 3, 4), WHOLE - 5, "expected classes from 0 to 3, .* got -5"),
        (Language(), torch.zeros(2, 3, 4), WHOLE.int(), "int64, got int32"),
    ],
)
def test_metrics_of_targets_that_do_not_fit(task: Task, outputs: Tensor, targets: Tensor, said: str) -> None:
    """They would be a wrong number, or an exception of torch."""
    with pytest.raises(TrainingError, match=f"score.* {said}"):
        task.judged(outputs, targets, "score")


def test_probabilities_of_classes_are_trained() -> None:
    """As torch's cross-entropy does; they have no accuracy."""
    outputs, shares = torch.randn(2, 4), torch.rand(2, 4).softmax(1)
    Classification().check(outputs, shares)
    assert Classification().loss(outputs, shares).item() == pytest.approx(
        -(shares * outputs.log_softmax(1)).sum(1).mean().item(), rel=1e-5
    )


class Letters(nn.Module):
    """A language model of one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(5, 8), nn.Linear(8, 5)

    def forward(self, words: Tensor) -> Tensor:
        logits: Tensor = self.head(self.words(words))
        return logits


def letters() -> NestedModel:
    torch.manual_seed(0)
    return nest(Letters(), densities=(0.5, 0.9), pattern="unstructured")


SHORT = TrainConfig(dense_epochs=2, search_epochs=1)
ONCE = Interleaved(epochs=1)


class Checking(Language):
    """Language that counts the batches that it checked."""

    batches = 0

    def check(self, outputs: Any, targets: Any) -> None:
        type(self).batches += 1
        super().check(outputs, targets)


def test_only_the_first_batch_is_checked_before_its_loss() -> None:
    """A class out of range ends a process's use of a GPU. Another loss than the task's may take other targets."""
    task = Checking()
    train(letters(), lambda _: [(WORDS, WORDS)] * 2, task.loss, SHORT, nesting=ONCE, task=task)
    assert Checking.batches == 1
    train(letters(), lambda _: [(WORDS, WORDS)], Language().loss, SHORT, nesting=ONCE, task=Checking())
    assert Checking.batches == 1


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3)])
def test_a_batch_without_a_target_counts_as_nothing(shape: tuple[int, ...]) -> None:
    """Loss and gradient are 0, as of lists without a relevant document; a loss that is NaN for another cause stays."""
    outputs = torch.randn(shape, requires_grad=True)
    nothing = torch.full((4, *shape[2:]), -100)
    loss = Classification().loss(outputs, nothing)
    loss.backward()
    assert loss.item() == 0
    assert outputs.grad is not None
    assert not outputs.grad.any()
    assert Classification().loss(outputs * torch.nan, torch.zeros_like(nothing)).isnan()
    if len(shape) == 3:
        assert Language().loss(outputs, torch.full(shape[:2], -100)).item() == 0


def test_a_training_goes_on_behind_a_batch_without_a_target() -> None:
    """With soft labels, too."""
    net, task = letters(), Language()
    batches = [(WORDS, WORDS), (WORDS, torch.full_like(WORDS, -100))]
    reports = train(net, lambda _: batches, task.loss, SHORT, nesting=ONCE, task=task)
    assert all(math.isfinite(loss) for report in reports for loss in report.losses.values())
    assert all(parameter.isfinite().all() for parameter in net.parameters())


def test_a_loss_that_is_not_finite_while_the_weights_are_is_the_data_s() -> None:
    """Torch's own cross-entropy of a batch without a target is NaN, and changes no weight."""
    nothing = torch.full_like(WORDS, -100)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs.movedim(-1, 1), targets)

    with pytest.raises(TrainingError, match=r"became nan; lower .*as the weights are finite, .* no target in a batch"):
        train(letters(), lambda _: [(WORDS, nothing)], loss, SHORT, nesting=ONCE, task=Language())


def test_metrics_without_a_target_say_so() -> None:
    nothing = torch.full_like(WORDS, -100)
    with pytest.raises(TrainingError, match="needs a target other than -100, got none in 2 batches"):
        metrics_per_level(letters(), [(WORDS, nothing)] * 2, task=Language())


OWN = """
import torch
from nested_sparse.trainer import TrainingData

def data(relevances):
    inputs = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    pairs = [(inputs, torch.tensor(relevances).repeat(8, 1))]
    return TrainingData(lambda epoch: pairs, lambda: pairs, (inputs[:1],), {})

def model():
    return torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 5))
"""


@pytest.mark.parametrize(
    ("relevances", "more", "said"),
    [
        (
            [0, 0, 0, -1, -1],
            [],
            r"tiny.toml: \[data\] own_targets:data: .* needs a list with a relevance above 0, got none in 1",
        ),
        ([0, 1, 2, -1, -5], [], r"tiny.toml: \[data\] own_targets:data: .*: relevances: expected 0 to 30, .* got -5"),
        ([0, 1, 2, -1, -5], ["output.metrics=[]"], "the loss of ranking: relevances: expected 0 to 30, .* got -5"),
        (
            [0, 1, 2],
            ["task.name=classification"],
            r"own_targets:data: .* class indices \(8,\), .* got a tensor \(8, 3\)",
        ),
    ],
)
def test_a_recipe_that_could_not_be_scored_does_not_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, relevances: list[int], more: list[str], said: str
) -> None:
    """Without metrics, the first batch of the training tells."""
    (tmp_path / "own_targets.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    names = ("task.name=ranking", "data.name=own_targets:data", "model.name=own_targets:model")
    recipe = tiny(tmp_path, *names, f"data.relevances={relevances}", *more)
    epochs: list[object] = []
    with pytest.raises(TrainingError, match=said):
        run_recipe(recipe, tmp_path / "out", on_progress=[epochs.append])
    assert not epochs


@pytest.mark.parametrize("table", ["task", "data", "model", "schedule", "nesting"])
def test_a_name_that_is_no_text_is_one_fault(tmp_path: Path, table: str) -> None:
    with pytest.raises(TrainingError, match=rf"\[{table}\] name = 3: expected a string") as raised:
        tiny(tmp_path, f"{table}.name=3")
    assert "there is no" not in str(raised.value)


def test_texts_longer_than_a_model_takes_name_its_option(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_bytes(bytes(range(200)))
    data = ("data.name=bytes", f"data.train_file={text}", f"data.test_file={text}", "data.length=20")
    model = ("model.name=gpt", "model.width=8", "model.heads=2", "model.depth=1", "model.longest=16")
    recipe = tiny(tmp_path, "task.name=language", *data, *model)
    with pytest.raises(TrainingError, match=r"\[model\] .* its longest is 16: set \[model\] longest to 20 or more"):
        run_recipe(recipe, tmp_path / "out")
