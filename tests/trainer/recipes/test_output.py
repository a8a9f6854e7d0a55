"""[output] of a recipe: its faults are found before training, and it may be corrected after it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_recipe import tiny

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import TrainingError
from nested_sparse.runtime import Session
from nested_sparse.runtime.rerouting import route_scores
from nested_sparse.trainer import export
from nested_sparse.trainer.recipes import run as run_module
from nested_sparse.trainer.recipes import written as written_module
from nested_sparse.trainer.recipes.run import run_recipe
from nested_sparse.trainer.reroute import file_reroutes


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            ["output.values=int8", "output.keep_float=['zzz']"],
            r"\[output\] keep_float: no layer matches 'zzz'; the layers",
        ),
        (["output.route_samples=-1"], r"\[output\] route_samples = -1: expected a whole number of at least 0"),
        (["output.tolerance=2.0"], r"\[output\] tolerance = 2.0: expected a share of the output's largest value"),
        (["output.values=int8", "output.int8_beside=true"], r"\[output\] int8_beside = true: expected false, or other"),
        (
            ["output.calibration_samples=9"],
            r"calibration_samples = 9: expected int8_beside = true or values = \"int8\"",
        ),
        (["output.max_drop=1.0"], r"\[output\] max_drop = 1.0: expected a share below 1"),
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


def test_a_run_writes_its_levels_in_int8_beside(tmp_path: Path) -> None:
    """The second file is that of a run with values = "int8", to the byte of its levels; a stranger's file stays."""
    short = ["train.dense_epochs=1", "train.search_epochs=0", "nesting.epochs_per_level=0"]
    both = run_recipe(tiny(tmp_path, *short, "output.int8_beside=true"), tmp_path / "both")
    alone = run_recipe(tiny(tmp_path, *short, "output.values=int8"), tmp_path / "alone")
    plain = run_recipe(tiny(tmp_path, *short), tmp_path / "plain")
    assert both["levels"] == plain["levels"]
    assert both["int8"]["levels"] == alone["levels"]
    beside = Path(both["int8"]["checkpoint"])
    assert beside.name == "tiny-int8.safetensors"
    sample = np.random.default_rng(0).random((1, 1, 8, 8), np.float32)
    with Session(beside) as ours, Session(alone["checkpoint"]) as theirs:
        for level in ours.levels:
            ours_out, theirs_out = (
                next(iter(s.run({s.inputs[0].name: sample}, level.index).values())) for s in (ours, theirs)
            )
            np.testing.assert_array_equal(ours_out, theirs_out)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "tiny-int8.safetensors").write_bytes(b"kept")
    with pytest.raises(TrainingError, match=r"tiny-int8\.safetensors: exists, but not from a run"):
        run_recipe(tiny(tmp_path, *short, "output.int8_beside=true"), tmp_path / "other")


def test_a_run_without_its_int8_file_keeps_what_it_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The figures have the reason; a further call trains nothing. An int8 file of an earlier run goes."""

    def refuse(*_: object) -> None:
        raise TrainingError("too noisy")

    monkeypatch.setattr(run_module, "write_int8", refuse)
    recipe = tiny(tmp_path, "train.dense_epochs=1", "nesting.epochs_per_level=0", "output.int8_beside=true")
    (tmp_path / "a").mkdir()
    old = tmp_path / "a" / "tiny-int8.safetensors"
    old.write_bytes(b"of an earlier run")
    figures = run_recipe(recipe, tmp_path / "a", fresh=True)
    assert not old.exists()
    assert figures["int8"] == {"refused": "too noisy"}
    assert figures["levels"]
    assert run_recipe(recipe, tmp_path / "a") == figures


def test_what_is_written_may_be_corrected_without_training_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that could not write its file goes on with another [output]; a finished one is of its own."""
    epochs: list[object] = []

    def refuse(*_: object, **__: object) -> None:
        raise TrainingError("no room")

    with monkeypatch.context() as broken:
        broken.setattr(written_module, "export", refuse)
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


def test_lowered_inferences_are_scored_on_training_samples(tmp_path: Path) -> None:
    """Those of the written file, on the first samples of epoch 0, under the bound."""
    recipe = tiny(tmp_path, "output.route_samples=40", "output.max_drop=0.0")
    run_recipe(recipe, tmp_path / "a")
    inputs, classes = (torch.cat(each)[:40].numpy() for each in zip(*recipe.load_data(0).batches(0), strict=True))
    with Session(tmp_path / "a" / "tiny.safetensors", threads=1) as session:
        assert session.reroutes == route_scores(session, [(inputs, classes)], max_drop=0.0)
        (every,) = route_scores(session, [(inputs, classes)])
    assert session.reroutes[0].accuracy.items() <= every.accuracy.items()


def test_lowered_inferences_are_scored_on_one_input_and_classes(tmp_path: Path) -> None:
    """Data of another kind is refused with its shapes, before the file is opened."""
    x = torch.zeros(4, 3)
    for batch in (((x, x), torch.zeros(4)), (x, torch.zeros(4, 2)), (x, [0, 1, 2, 3])):
        with pytest.raises(TrainingError, match="one input with one class index for each sample"):
            file_reroutes(tmp_path / "none.safetensors", [batch], 4)


def test_a_file_of_one_sample_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `export` makes it, which is also told the tolerance."""
    told: list[float] = []

    def noted(*arguments: Any, **options: Any) -> None:
        told.append(options["tolerance"])
        export(*arguments, **options)

    monkeypatch.setattr(written_module, "export", noted)
    run_recipe(tiny(tmp_path, "output.fixed_batch=true", "output.tolerance=0.25"), tmp_path / "a")
    assert told == [0.25]
    with Session(tmp_path / "a" / "tiny.safetensors", threads=1) as session:
        assert session.inputs[0].shape[0] == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            ["output.stepwise=true"],
            r"\[output\] stepwise: .* takes no text piece by piece; expected a model with a method",
        ),
        (["output.stepwise=true", "output.values=int8"], r"\[output\] values = .int8.: expected float32 or float16"),
        (["output.stepwise=true", "output.fixed_batch=true"], r"\[output\] fixed_batch = true: expected false"),
        (["output.stepwise=true", "output.route_samples=5"], r"\[output\] route_samples = 5: expected 0"),
    ],
)
def test_a_file_that_takes_pieces_has_its_limits(tmp_path: Path, change: list[str], said: str) -> None:
    """Each is found before training."""
    with pytest.raises(TrainingError, match=said):
        run_recipe(tiny(tmp_path, *change), tmp_path / "a")
    assert not (tmp_path / "a" / "tiny.json").exists()
