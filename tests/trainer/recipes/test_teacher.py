"""[teacher] of a recipe: the model that a checkpoint or a state dict holds teaches the levels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_recipe import tiny
from torch import Tensor, nn

from nested_sparse.errors import TrainingError
from nested_sparse.runtime import Session
from nested_sparse.trainer.recipes import run as run_module
from nested_sparse.trainer.recipes.run import run_recipe, start, train_by
from nested_sparse.trainer.zoo import DigitNet

UNTRAINED = ["train.dense_epochs=0", "train.search_epochs=0", "nesting.epochs_per_level=0"]
SHORT = ["train.dense_epochs=0", "train.search_epochs=0", "nesting.epochs_per_level=[1, 0]"]


def checkpoint(folder: Path) -> Path:
    """A file of the recipe's net, wider and untrained."""
    run_recipe(tiny(folder, "model.width=8", *UNTRAINED), folder / "teacher")
    return folder / "teacher" / "tiny.safetensors"


def weights(folder: Path) -> Path:
    """A state dict of the recipe's model."""
    torch.save(DigitNet(width=4).state_dict(), folder / "teacher.pt")
    return folder / "teacher.pt"


@pytest.mark.parametrize("kind", ["checkpoint", "weights"])
def test_the_named_model_is_the_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Its answers are those of the file, run alone; the recipe's random numbers are as without a teacher."""
    path = {"checkpoint": checkpoint, "weights": weights}[kind](tmp_path)
    taught: list[Tensor] = []
    seen: list[Any] = []
    true_train = run_module.train

    def noting(*arguments: Any, teacher: nn.Module, **options: Any) -> Any:
        seen.extend([teacher, torch.get_rng_state()])
        return true_train(*arguments, teacher=teacher, **options)

    monkeypatch.setattr(run_module, "train", noting)
    recipe = tiny(tmp_path, *SHORT, f"teacher.{kind}={path}")
    data, net = start(recipe)
    expected_state = torch.get_rng_state()
    reports = train_by(recipe, data, net, tmp_path / "run.state", lambda report: None)
    teacher, state = seen
    images = next(iter(data.batches(0)))[0]
    taught.append(teacher.eval()(images))
    if kind == "checkpoint":
        with Session(path, threads=1) as session:
            expected = torch.from_numpy(session.run({"input": images.numpy()})["output"])
    else:
        model = DigitNet(width=4).eval()
        model.load_state_dict(torch.load(path, weights_only=True))
        expected = model(images)
    assert torch.equal(taught[0], expected)
    assert torch.equal(state, expected_state)
    assert reports


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["teacher.checkpoint=a", "teacher.weights=b"], r"\[teacher\] weights: expected none beside checkpoint"),
        (["teacher.file=a"], r"\[teacher\].*'file'"),
        (["teacher.weights=3"], r"\[teacher\] weights = 3: expected a path"),
        (["teacher.weights=none.pt"], r"\[teacher\] weights = 'none\.pt': no such file"),
        (["teacher.checkpoint=none.safetensors"], r"\[teacher\] checkpoint = 'none\.safetensors': no such"),
        (["teacher.checkpoint=."], r"\[teacher\] checkpoint = '\.': is not a file"),
    ],
)
def test_a_teacher_that_cannot_be_used_is_said_before_an_epoch(tmp_path: Path, settings: list[str], said: str) -> None:
    """The message has the table and the file; nothing is written that stops the corrected recipe."""
    epochs: list[object] = []
    with pytest.raises(TrainingError, match=said):
        run_recipe(tiny(tmp_path, *settings), tmp_path / "a", on_progress=[epochs.append])
    assert not epochs
    assert not (tmp_path / "a" / "tiny.json").exists()


def test_a_file_of_other_inputs_is_refused(tmp_path: Path) -> None:
    """The check comes with the first batch, and names what the file takes."""
    path = checkpoint(tmp_path)
    with pytest.raises(TrainingError, match=r"teacher: input 'input': expected shape"):
        run_recipe(tiny(tmp_path, "data.size=16", *SHORT, f"teacher.checkpoint={path}"), tmp_path / "a")
