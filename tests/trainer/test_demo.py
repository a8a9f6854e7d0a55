"""Demo: its training equals the recipe's, tested in seconds on small data."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from small_images import write_idx

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.runtime import Session
from nested_sparse.trainer import demo
from nested_sparse.trainer.recipes.recipe import load_recipe
from nested_sparse.trainer.recipes.run import run_recipe

SMALL = (
    "data.size=8",
    "data.train_samples=96",
    "model.width=4",
    "nest.densities=[0.2, 0.6]",
    "nesting.epochs=1",
    "train.dense_epochs=1",
    "train.search_epochs=1",
    "train.threads=1",
    "train.recalibration_samples=32",
)
QUIET = io.StringIO()


@pytest.fixture(autouse=True)
def small_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe that the demo reads, with settings that make it run in seconds."""
    monkeypatch.setattr(demo, "load_recipe", lambda name: load_recipe(name, SMALL))


def test_the_demo_trains_as_the_recipe_does(tmp_path: Path) -> None:
    """Every level answers bit for bit as that of `run_recipe`, and states the same accuracy.

    A second call trains nothing.
    """
    data = demo.load_demo_data(None)
    path = demo.train_demo(data, tmp_path / "demo", False, QUIET)
    run_recipe(load_recipe("digits", SMALL), tmp_path / "recipe")
    images = {"input": data.test_images}
    with Session(path, threads=1) as trained, Session(tmp_path / "recipe/digits.safetensors", threads=1) as expected:
        assert trained.levels == expected.levels
        for level in range(len(trained.levels)):
            np.testing.assert_array_equal(*(each.run(images, level)["output"] for each in (trained, expected)))
    with Checkpoint.open(path) as checkpoint:
        assert checkpoint.reroutes
    with Session(demo.int8_twin(path), threads=1) as int8:
        for level in int8.levels:
            right = int8.run(images, level.index)["output"].argmax(axis=1) == data.test_labels
            assert level.accuracy == pytest.approx(right.mean())
            assert level.nbytes < trained.levels[level.index].nbytes
    written_ns = path.stat().st_mtime_ns
    assert demo.train_demo(data, tmp_path / "demo", False, QUIET) == path
    assert path.stat().st_mtime_ns == written_ns


def test_each_epoch_is_said_where_the_output_is_piped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A pipe shows no bar, so each epoch is a line of the log, as of `train`."""
    with caplog.at_level("INFO", logger="nested_sparse.trainer.progress"):
        demo.train_demo(demo.load_demo_data(None), tmp_path, False, io.StringIO())
    epochs = [record.message for record in caplog.records if record.name == "nested_sparse.trainer.progress"]
    assert [line.partition(":")[0] for line in epochs] == [f"interleaved epoch {number}/3" for number in (1, 2, 3)]


def test_a_folder_of_images_takes_the_place_of_the_digits(tmp_path: Path) -> None:
    """The checkpoint has the folder's name; batches have the recipe's size; training images get no noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (100, 8, 8), dtype=np.uint8)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for prefix, count in (("train", 100), ("t10k", 30)):
        write_idx(folder / f"{prefix}-images-idx3-ubyte", pixels[:count])
        write_idx(folder / f"{prefix}-labels-idx1-ubyte", np.arange(count, dtype=np.uint8) % 10)
    data = demo.load_demo_data(folder)
    assert data.name == "pictures"
    assert sorted(data.test_labels) == sorted(index % 10 for index in range(30))
    (inputs, targets), *rest = data.recipe.load_data(0).batches(0)
    assert (inputs.shape, targets.shape, rest) == ((64, 1, 8, 8), (64,), [])
    levels = torch.unique((inputs * 255).round())
    assert torch.equal(levels / 255, torch.unique(inputs))
