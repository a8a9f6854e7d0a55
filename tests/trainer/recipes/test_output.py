"""[output] of a recipe: its faults are found before training, and it may be corrected after it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_recipe import tiny

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import TrainingError
from nested_sparse.trainer.recipes import run as run_module
from nested_sparse.trainer.recipes.run import run_recipe


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            ["output.values=int8", "output.keep_float=['zzz']"],
            r"\[output\] keep_float: no layer matches 'zzz'; the layers",
        ),
        (
            ["output.values=int8", "train.int8_epochs=1", "train.int8_keep_float=['zzz']"],
            r"\[train\] int8_keep_float: no layer matches 'zzz'",
        ),
    ],
)
def test_a_layer_that_is_not_there_is_found_before_training(tmp_path: Path, change: list[str], said: str) -> None:
    epochs: list[object] = []
    with pytest.raises(TrainingError, match=said):
        run_recipe(tiny(tmp_path, *change), tmp_path / "a", on_progress=[epochs.append])
    assert not epochs
    assert not (tmp_path / "a" / "tiny.json").exists()


@pytest.mark.parametrize("values", ["float32", "int8"])
@pytest.mark.parametrize("metrics", [["accuracy"], ["disagreement"], []])
def test_only_the_metrics_that_are_asked_for_are_stored(tmp_path: Path, values: str, metrics: list[str]) -> None:
    """The file and the figures have the same ones; without accuracy there is no picture."""
    short = ["train.dense_epochs=0", "train.search_epochs=0", "nesting.epochs_per_level=0"]
    recipe = tiny(tmp_path, *short, f"output.values={values}", f"output.metrics={metrics}")
    figures = run_recipe(recipe, tmp_path / "a")
    assert (figures["picture"] is not None) == (tmp_path / "a" / "tiny.png").exists() == ("accuracy" in metrics)
    with Checkpoint.open(tmp_path / "a" / "tiny.safetensors") as checkpoint:
        for level, said in zip(checkpoint.levels, figures["levels"], strict=True):
            assert sorted(level.metrics) == metrics
            assert all(said[name] == value for name, value in level.metrics.items())


def test_what_is_written_may_be_corrected_without_training_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that could not write its file goes on with another [output]; a finished one is of its own."""
    epochs: list[object] = []

    def refuse(*_: object, **__: object) -> None:
        raise TrainingError("no room")

    with monkeypatch.context() as broken:
        broken.setattr(run_module, "export", refuse)
        with pytest.raises(TrainingError, match="no room"):
            run_recipe(tiny(tmp_path), tmp_path / "a", on_progress=[epochs.append])
    trained = len(epochs)
    figures = run_recipe(tiny(tmp_path, "output.values=float16"), tmp_path / "a", on_progress=[epochs.append])
    assert len(epochs) == trained == figures["epochs"]
    assert figures["settings"]["output"]["values"] == "float16"
    with Checkpoint.open(tmp_path / "a" / "tiny.safetensors") as checkpoint:
        assert checkpoint.metadata.format_version == 3
    with pytest.raises(TrainingError, match=r"another recipe: output\.values is None here, 'float16' there"):
        run_recipe(tiny(tmp_path), tmp_path / "a")
