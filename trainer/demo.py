"""The demo's training: a small residual network, four levels, minutes on two cores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from nested_sparse.amend import store_reroutes
from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import TrainingError
from nested_sparse.reroute import Reroute

from .config import TrainConfig
from .data.images import Batches, LabelledImages, load_digits_images, load_idx, noisy
from .evaluate import accuracy_per_level
from .export.write import export
from .model.nested_model import NestedModel, nest
from .models import DigitNet
from .nestings import FreezeThenGrow
from .progress import ProgressBar
from .train import train

DENSITIES = (0.03, 0.14, 0.35, 0.9)
PATTERN = "block4x1"
KEEP_DENSE = ("stem", "fc")
EPOCH_IMAGES = 6000
"""Images of an epoch at most: larger sets give each epoch a random part, so that the demo stays a matter of minutes."""
TEST_IMAGES = 2000
"""Test images at most, for the same reason."""
DIGITS_SIZE = 24
DIGITS_NOISE = 0.5
"""Sensor noise on the embedded digits, in training and test: without it 2 % of the weights already read 99 % of them,
and no denser level would be worth its time."""
CONFIG = TrainConfig(dense_epochs=4, search_epochs=2)
NESTING = FreezeThenGrow(epochs_per_level=2)
SEED = 0
ROUTE_IMAGES, ROUTE_BATCH = 480, 16
"""What lowered inferences are scored on: enough to tell a route that loses ten points from one that loses none."""


@dataclass(frozen=True, slots=True)
class DemoData:
    """A set to train on and to make load of. name: also its checkpoint's; noise: what training images get on top."""

    name: str
    train: LabelledImages
    test: LabelledImages
    noise: float = 0.0

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
    """scikit-learn's digits, scaled up and noisy, or the IDX files of `directory` as they are. Raises TrainingError."""
    if directory is None:
        train, test = load_digits_images(size=DIGITS_SIZE, seed=SEED)
        seen = noisy(test.images, DIGITS_NOISE, np.random.default_rng(SEED))
        return DemoData("digits", train, LabelledImages(seen, test.labels), DIGITS_NOISE)
    train, test = load_idx(directory)
    order = torch.from_numpy(np.random.default_rng(SEED).permutation(len(test))[:TEST_IMAGES])
    return DemoData(directory.resolve().name, train, LabelledImages(test.images[order], test.labels[order]))


def train_demo(data: DemoData, out: Path, force: bool, console: Console) -> Path:
    """Train, measure and export to `out`/{name}.safetensors; a finished one is used again unless `force`.

    Progress is kept in `out`/{name}.state, from which a stopped run goes on. Raises TrainingError, ExportError.
    """
    path, state = out / f"{data.name}.safetensors", out / f"{data.name}.state"
    if path.exists() and not force:
        Checkpoint.open(path).close()
        console.print(f"using {path}, which an earlier run trained (--force trains again)")
        return path
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"{out}: cannot be made ({error.strerror or error}); name another folder") from None
    if force:
        state.unlink(missing_ok=True)
    console.print(
        f"training on {data.name}: {len(data.train)} images, levels of {', '.join(map(str, DENSITIES))} density"
    )
    net = grow_demo_net(data, state)
    example = data.test.images[:1]
    export(net, (example,), path, metrics={"accuracy": accuracy_per_level(net, _test_batches(data))}, force=force)
    store_reroutes(path, _route_scores(path, data))
    state.unlink(missing_ok=True)
    console.print(f"wrote {path}, verified against torch at every level")
    return path


def _route_scores(path: Path, data: DemoData) -> tuple[Reroute, ...]:
    """What the written file scores on training images where the level falls while it runs, at every second layer."""
    # like verify.py: what the runtime will do is measured on the runtime
    from nested_sparse.runtime import Session
    from nested_sparse.runtime.rerouting import RouteTable, route_scores

    rng = np.random.default_rng(SEED)
    picked = torch.from_numpy(rng.permutation(len(data.train))[:ROUTE_IMAGES])
    images = noisy(data.train.images[picked], data.noise, rng) if data.noise else data.train.images[picked]
    inputs, labels = images.numpy(), data.train.labels[picked].numpy()
    parts = [slice(begin, begin + ROUTE_BATCH) for begin in range(0, len(inputs), ROUTE_BATCH)]
    with Session(path, threads=1) as session:
        cuts = RouteTable.measure(session, repeats=1).layers[1::2]
        return route_scores(session, [(inputs[part], labels[part]) for part in parts], cuts)


def grow_demo_net(data: DemoData, state: Path | None, config: TrainConfig = CONFIG) -> NestedModel:
    """A trained net of four levels; progress is shown."""
    torch.manual_seed(SEED)
    classes = int(data.train.labels.max()) + 1
    model = DigitNet(channels=data.train.images.shape[1], classes=classes)
    net = nest(model, densities=DENSITIES, pattern=PATTERN, keep_dense=KEEP_DENSE)
    with ProgressBar() as bar:
        train(
            net,
            lambda epoch: _epoch(data, epoch),
            F.cross_entropy,
            config,
            nesting=NESTING,
            state_path=state,
            on_progress=bar,
        )
    return net


def _epoch(data: DemoData, epoch: int) -> Iterable[tuple[Tensor, Tensor]]:
    """One epoch's batches, shifted a little; a part of a large set, another one each time."""
    picked = torch.from_numpy(np.random.default_rng((SEED, epoch)).permutation(len(data.train))[:EPOCH_IMAGES])
    part = LabelledImages(data.train.images[picked], data.train.labels[picked])
    return Batches(part, batch_size=64, seed=SEED, shift_px=2, noise=data.noise)(epoch)


def _test_batches(data: DemoData, size: int = 200) -> Iterator[tuple[Tensor, Tensor]]:
    for begin in range(0, len(data.test), size):
        part = slice(begin, begin + size)
        yield data.test.images[part], data.test.labels[part]
