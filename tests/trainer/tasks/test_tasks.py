"""Tasks: the metrics and losses against loops and scikit-learn, soft labels, and [task] of a recipe."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import ndcg_score
from tiny_recipe import tiny
from torch import Tensor, nn

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import TrainingError
from nested_sparse.trainer import (
    Classification,
    Interleaved,
    Language,
    Ranking,
    Task,
    TrainConfig,
    export,
    file_metrics,
    fine_tune_int8,
    metrics_per_level,
    nest,
    train,
)
from nested_sparse.trainer.recipes.recipe import load_recipe
from nested_sparse.trainer.recipes.run import run_recipe

SHORT = ("train.dense_epochs=0", "train.search_epochs=0", "nesting.epochs_per_level=0")


def lists(seed: int, documents: int = 14) -> tuple[Tensor, Tensor]:
    """Scores and relevances of seven lists of many lengths; the last one has no relevant document."""
    rng = np.random.default_rng(seed)
    relevances = rng.integers(0, 5, (7, documents))
    for row, length in zip(relevances, (14, 1, 2, 5, 9, 13, 8), strict=True):
        row[0] = max(1, row[0])
        row[length:] = -1
    relevances[-1] = np.minimum(relevances[-1], 0)
    return torch.from_numpy(rng.standard_normal(relevances.shape).astype(np.float32)), torch.from_numpy(relevances)


@pytest.mark.parametrize("top", [1, 3, 10, 20])
def test_ndcg_is_that_of_scikit_learn(top: int) -> None:
    """With gains of 2^relevance - 1; documents that are not there do not count, whatever their scores are."""
    scores, relevances = lists(top)
    absent = relevances < 0
    judged = Ranking(top).judged(scores.masked_fill(absent, 99.0), relevances, "test")
    expected = []
    for row, wanted in zip(scores[:-1].numpy(), relevances[:-1].numpy(), strict=True):
        there = wanted >= 0
        row, wanted = row[there], wanted[there]
        if len(row) == 1:
            expected.append(1.0)  # which scikit-learn refuses
        else:
            expected.append(ndcg_score([2.0**wanted - 1], [row], k=top, ignore_ties=True))
    np.testing.assert_allclose(judged.scores.numpy(), expected, rtol=1e-9)
    first = [int(row[wanted >= 0].argmax()) for row, wanted in zip(scores[:-1], relevances[:-1], strict=True)]
    assert judged.choices.tolist() == first


def test_the_loss_of_a_list_is_the_cross_entropy_of_its_gains() -> None:
    """Mean over the lists that have a relevant document; absent documents get no gradient, and none is NaN."""
    scores, relevances = lists(3)
    relevances[2] = -1
    scores.requires_grad_()
    loss = Ranking().loss(scores, relevances)
    loss.backward()
    expected = []
    for row, wanted in zip(scores.detach().double().numpy(), relevances.numpy(), strict=True):
        gains = 2.0 ** wanted[wanted >= 0] - 1
        if gains.sum() > 0:
            shares = np.exp(row[wanted >= 0]) / np.exp(row[wanted >= 0]).sum()
            expected.append(-(gains / gains.sum() * np.log(shares)).sum())
    assert len(expected) == 5
    assert loss.item() == pytest.approx(np.mean(expected), rel=1e-5)
    assert scores.grad is not None
    assert not scores.grad[relevances < 0].any()
    assert scores.grad.isfinite().all()


def test_bits_are_those_of_each_target() -> None:
    """-log2 of the target's share of the softmax at its position; positions of -100 do not count."""
    logits = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0))
    targets = torch.randint(7, (3, 5), generator=torch.Generator().manual_seed(1))
    targets[1, 2:] = -100
    judged = Language().judged(logits, targets, "test")
    shares = np.exp(logits.double().numpy())
    shares /= shares.sum(2, keepdims=True)
    there = [(n, t) for n in range(3) for t in range(5) if targets[n, t] >= 0]
    bits = [-math.log2(shares[n, t, targets[n, t]]) for n, t in there]
    np.testing.assert_allclose(judged.scores.numpy(), bits, rtol=1e-9)
    assert judged.choices.tolist() == [int(shares[n, t].argmax()) for n, t in there]
    assert Language().loss(logits, targets).item() == pytest.approx(np.mean(bits) * math.log(2), rel=1e-5)


@pytest.mark.parametrize(("recipe", "metric"), [("bytes", "bits_per_byte"), ("multi30k-gnmt", "bits_per_word")])
def test_bits_are_named_after_their_unit(recipe: str, metric: str) -> None:
    """Recipes of translations have words."""
    names = ("train_file", "test_file")
    if metric == "bits_per_word":
        names = ("train_source", "train_target", "test_source", "test_target")
    given = [f"data.{name}=FILE" for name in names]
    assert load_recipe(recipe, given).task.metrics == (metric, "disagreement")
    assert Language().quality == "bits_per_byte"
    with pytest.raises(TrainingError, match=r"\[task\] unit: expected one of 'byte', 'word', got 'letter'"):
        load_recipe(recipe, [*given, "task.unit=letter"])


def test_targets_of_minus_100_are_left_out_of_an_accuracy() -> None:
    """With the classes in either place; without such targets, all count."""
    logits = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(2))
    targets = torch.randint(3, (2, 6), generator=torch.Generator().manual_seed(3))
    targets[0, :4] = -100
    for task, outputs in ((Classification(), logits), (Classification(classes_last=True), logits.transpose(1, 2))):
        judged = task.judged(outputs, targets, "test")
        there = [(n, t) for n in range(2) for t in range(6) if targets[n, t] >= 0]
        assert judged.choices.tolist() == [int(logits[n, :, t].argmax()) for n, t in there]
        assert judged.scores.tolist() == [int(logits[n, :, t].argmax()) == targets[n, t] for n, t in there]
        assert torch.equal(task.logits(outputs), logits)
        assert task.loss(outputs, targets).item() == pytest.approx(
            nn.functional.cross_entropy(logits, targets).item(), rel=1e-6
        )


@pytest.mark.parametrize(
    ("task", "outputs", "targets", "said"),
    [
        (Ranking(), torch.zeros(2, 3), torch.zeros(2), r"scores \(N, documents\) .* got a tensor \(2, 3\)"),
        (Ranking(), (torch.zeros(2, 3),), torch.zeros(2, 3), "got a tuple"),
        (Language(), torch.zeros(2, 3), torch.zeros(2), r"logits \(N, T, classes\)"),
        (Classification(), torch.zeros(2), torch.zeros(2), "logits alone"),
    ],
)
def test_outputs_of_another_kind_are_refused(task: Task, outputs: Any, targets: Tensor, said: str) -> None:
    with pytest.raises(TrainingError, match=f"score needs .*{said}"):
        task.judged(outputs, targets, "score")


def test_soft_labels_need_the_logits_of_each_position() -> None:
    with pytest.raises(TrainingError, match=r"logits alone \(N, T, classes\), got \(2, 3\)"):
        Language().logits(torch.zeros(2, 3))


class Letters(nn.Module):
    """A language model of one layer; `sure`: a teacher that answers with this class everywhere."""

    def __init__(self, sure: int | None = None) -> None:
        super().__init__()
        self.words, self.head, self.sure = nn.Embedding(5, 8), nn.Linear(8, 5), sure

    def forward(self, words: Tensor) -> Tensor:
        logits: Tensor = self.head(self.words(words))
        return logits if self.sure is None else 0 * logits + 20.0 * torch.eye(5)[self.sure]


def test_levels_learn_soft_labels_of_each_position(tmp_path: Path) -> None:
    """All levels answer as the teacher does; they would not if its classes were taken from another dimension.

    The metrics of the net, of its file, and of the definition agree.
    """
    torch.manual_seed(0)
    words = torch.randint(5, (12, 6))
    batches = [(words[:6], words[:6]), (words[6:], words[6:])]
    net = nest(Letters(), densities=(0.5, 0.9), pattern="unstructured")
    config = TrainConfig(dense_epochs=1, search_epochs=1, distill_weight=1.0, lr=0.3)
    task, nesting = Language(), Interleaved(epochs=8, soft_weight=1.0)
    train(net, lambda _: batches, task.loss, config, nesting=nesting, teacher=Letters(3), task=task)
    net.eval()
    expected = []
    for level in range(2):
        net.set_level(level)
        logits = net(words).detach()
        assert bool((logits.argmax(2) == 3).all())
        shares = logits.double().softmax(2).gather(2, words[..., None])
        expected.append(float(-shares.log2().mean()))
    metrics = metrics_per_level(net, batches, task=task)
    assert metrics["bits_per_byte"] == pytest.approx(expected, rel=1e-5)
    assert metrics["disagreement"] == [0.0, 0.0]
    export(net, (words[:1],), tmp_path / "letters.safetensors", metrics=metrics)
    of_file = file_metrics(tmp_path / "letters.safetensors", batches, task=task)
    assert of_file["bits_per_byte"] == pytest.approx(expected, rel=1e-4)


class Counting(Language):
    """Language that counts the outputs of which it was asked for the logits."""

    asked = 0

    def logits(self, outputs: Any) -> Tensor:
        type(self).asked += 1
        return super().logits(outputs)


def test_a_fine_tuning_to_int8_takes_the_soft_labels_of_its_task() -> None:
    """The loss is another's, so every call is for soft labels."""
    words = torch.randint(5, (6, 4), generator=torch.Generator().manual_seed(0))
    net, task = nest(Letters(), densities=(0.5, 0.9), pattern="unstructured"), Counting()
    config = TrainConfig(int8_epochs=1, distill_weight=0.5)
    fine_tune_int8(net, lambda _: [(words, words)], Language().loss, config, task=task)
    assert Counting.asked > 0


def test_a_recipe_without_a_task_is_a_classification(tmp_path: Path) -> None:
    """The same bytes as with the task's name."""
    settings = ("train.dense_epochs=1", "train.search_epochs=1", "nesting.epochs_per_level=1")
    for folder, more in (("a", []), ("b", ["task.name=classification", "train.loss=cross_entropy"])):
        run_recipe(tiny(tmp_path, *settings, *more), tmp_path / folder)
    assert (tmp_path / "a" / "tiny.safetensors").read_bytes() == (tmp_path / "b" / "tiny.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["task.name=sorting"], r"\[task\] name: there is no 'sorting'; .*classification, ranking, language"),
        (["task.name=ranking", "task.top=0"], r"\[task\] top: expected a whole number >= 1, got 0"),
        (["task.name=ranking", "output.metrics=['accuracy']"], "there is no 'accuracy'; .*ndcg@10, disagreement"),
        (["task.name=language", "output.route_samples=5"], "route_samples = 5: expected 0 with the task language: low"),
        (
            ["task.classes_last=true", "output.route_samples=5"],
            "expected 0 with the task classification with classes_l",
        ),
        (["task.top=3"], r'\[task\] has no name, and so is classification; for its keys give name = "ranking"'),
    ],
)
def test_faults_of_a_task_are_found_before_the_data(tmp_path: Path, settings: list[str], said: str) -> None:
    with pytest.raises(TrainingError, match=said):
        tiny(tmp_path, *settings)


def test_figures_and_file_name_the_task_s_metrics(tmp_path: Path) -> None:
    """Without a dense stage the dense model's metric is unknown."""
    (tmp_path / "own_ranking.py").write_text(OWN)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        patch.syspath_prepend(tmp_path)
        settings = ("task.name=ranking", "data.name=own_ranking:data", "model.name=own_ranking:model", *SHORT)
        figures = run_recipe(tiny(tmp_path, *settings), tmp_path / "out")
    names = ["disagreement", "ndcg@10"]
    with Checkpoint.open(tmp_path / "out" / "tiny.safetensors") as checkpoint:
        assert [sorted(level.metrics) for level in checkpoint.levels] == [names, names]
    assert all(level["ndcg@10"] > 0 for level in figures["levels"])
    assert figures["dense"]["ndcg@10"] is None
    assert (tmp_path / "out" / "tiny.png").exists()
    json.dumps(figures)


OWN = """
import torch
from nested_sparse.trainer import TrainingData

def data():
    inputs = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    pairs = [(inputs, torch.arange(40).reshape(8, 5) % 4)]
    return TrainingData(lambda epoch: pairs, lambda: pairs, (inputs[:1],), {})

def model():
    return torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 5))
"""
