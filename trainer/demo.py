"""The demo's training: the recipe `digits`, on its own data or on IDX files, and the scores of its reroutes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
from numpy.typing import NDArray

from nested_sparse.amend import store_metrics, store_reroutes
from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import TrainingError
from nested_sparse.reroute import Reroute
from nested_sparse.value_type import INT8

from .data.datasets import Digits, Idx, in_order
from .data.images import LabelledImages, noisy
from .data.training_data import TrainingData
from .evaluate import file_metrics, metrics_per_level
from .export.write import export
from .model.nested_model import NestedModel
from .progress import progress_on
from .recipes.recipe import Recipe, load_recipe
from .recipes.run import start, train_by

RECIPE = "digits"
EPOCH_IMAGES = 6000
"""Images of an epoch at most: larger sets give each epoch a random part, so that the demo stays a matter of minutes."""
TEST_IMAGES = 2000
"""Test images at most, for the same reason."""
ROUTE_IMAGES, ROUTE_BATCH = 480, 16
"""Images that score lowered inferences: enough to tell a route that loses ten points from one that loses none."""


@dataclass(frozen=True, slots=True)
class DemoData:
    """A set to train on and to make load of.

    recipe: the training, on this set; its name is the set's and the checkpoint's. train, test: the set's two parts.
    noise: standard deviation of the Gaussian noise that training images get on top.
    """

    recipe: Recipe
    train: LabelledImages
    test: LabelledImages
    noise: float = 0.0

    @property
    def name(self) -> str:
        """The name of the set and of its checkpoint."""
        return self.recipe.name

    @property
    def test_images(self) -> NDArray[np.float32]:
        """float32 (n, 1, H, W)."""
        images: NDArray[np.float32] = self.test.images.numpy()
        return images

    @property
    def test_labels(self) -> NDArray[np.int64]:
        """int64 (n,), classes of test_images."""
        labels: NDArray[np.int64] = self.test.labels.numpy()
        return labels


def load_demo_data(directory: Path | None) -> DemoData:
    """The data of the recipe `digits`, or in their place the IDX files of `directory`. Raises TrainingError."""
    recipe = load_recipe(RECIPE)
    digits = Digits(**{key: value for key, value in recipe.tables["data"].items() if key != "name"})
    if directory is None:
        return DemoData(recipe, *digits.read(), digits.noise)
    images = Idx(
        directory=directory, batch_size=digits.batch_size, shift_px=digits.shift_px, epoch_samples=EPOCH_IMAGES
    )
    train, test = images.read()
    order = torch.from_numpy(np.random.default_rng(recipe.run.seed).permutation(len(test))[:TEST_IMAGES])
    return DemoData(replace(recipe, name=directory.resolve().name, load_data=images.load), train, _picked(test, order))


def train_demo(data: DemoData, out: Path, force: bool, stream: TextIO) -> Path:
    """Train, measure and export to `out`/{name}.safetensors; a finished one is used again unless `force`.

    Its int8 twin goes beside it (`int8_twin`). Progress is kept in `out`/{name}.state, from which a stopped
    run goes on. Raises TrainingError, ExportError.
    """
    say = partial(print, file=stream, flush=True)
    path, state = out / f"{data.name}.safetensors", out / f"{data.name}.state"
    if path.exists() and not force:
        Checkpoint.open(path).close()
        say(f"using {path}, which an earlier run trained (--force trains again)")
        return path
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"{out}: cannot be made ({error.strerror or error}); name another folder") from None
    if force:
        state.unlink(missing_ok=True)
    options = data.recipe.nest_options
    unit = "latency_ms" if options.get("budget_by") == "latency" else "densities"
    levels = ", ".join(map(str, options[unit]))
    unit = "ms" if unit == "latency_ms" else "density"
    say(f"training on {data.name}: {len(data.train)} images, levels of {levels} {unit}")
    inputs, net = start(data.recipe)
    with progress_on(stream) as on_progress:
        train_by(data.recipe, inputs, net, state, on_progress)
    metrics = metrics_per_level(net, in_order(data.test))
    _export_int8(net.cpu(), inputs, data, int8_twin(path))
    export(net, inputs.example, path, metrics=metrics, force=force)
    store_reroutes(path, _route_scores(path, data))
    state.unlink(missing_ok=True)
    say(f"wrote {path}, verified against torch at every level")
    return path


def _picked(data: LabelledImages, indices: torch.Tensor) -> LabelledImages:
    return LabelledImages(data.images[indices], data.labels[indices])


def int8_twin(path: Path) -> Path:
    """The int8 file of the same weights."""
    return path.with_name(f"{path.stem}-int8{path.suffix}")


def _export_int8(net: NestedModel, inputs: TrainingData, data: DemoData, path: Path) -> None:
    """Write the int8 file, with the metrics that each level of the file itself has."""
    export(net, inputs.example, path, values=INT8.name, calibration=inputs.batches(0), force=True)
    store_metrics(path, file_metrics(path, in_order(data.test)))


def _route_scores(path: Path, data: DemoData) -> tuple[Reroute, ...]:
    """Scores of the written file on training images whose level falls in mid-inference, at every second layer."""
    # like verify.py: what the runtime will do is measured on the runtime
    from nested_sparse.runtime import Session
    from nested_sparse.runtime.rerouting import RouteTable, route_scores

    rng = np.random.default_rng(data.recipe.run.seed)
    part = _picked(data.train, torch.from_numpy(rng.permutation(len(data.train))[:ROUTE_IMAGES]))
    images = (noisy(part.images, data.noise, rng) if data.noise else part.images).numpy()
    labels = part.labels.numpy()
    parts = [slice(begin, begin + ROUTE_BATCH) for begin in range(0, len(part), ROUTE_BATCH)]
    batches = [(images[each], labels[each]) for each in parts]
    with Session(path, threads=1) as session:
        cuts = RouteTable.measure(session, repeats=1).layers[1::2]
        return route_scores(session, batches, cuts)
