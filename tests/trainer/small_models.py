"""Small models: networks and data for training in a test."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nested_sparse.trainer import NestedModel, nest
from nested_sparse.trainer.data.images import Batches, LabelledImages
from nested_sparse.trainer.progress import EpochReport

DENSITIES = (0.1, 0.3, 0.8)


def small_net() -> nn.Sequential:
    """Convolutions (one with rows that no block of 4 divides), norms, a bias, a linear layer."""
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.LayerNorm(8 * 16),
        nn.Dropout(0.1),
        nn.Linear(8 * 16, 3),
    )


def nested_small_net(**options: object) -> NestedModel:
    """`small_net` with three levels."""
    arguments: dict[str, object] = {"densities": DENSITIES, "pattern": "block4x1", **options}
    return nest(small_net(), **arguments)  # type: ignore[arg-type]


def small_batches() -> Batches:
    """48 images of 8 × 8, where the class is the brightest third."""
    generator = torch.Generator().manual_seed(5)
    labels = torch.randint(0, 3, (48,), generator=generator)
    images = torch.rand(48, 1, 8, 8, generator=generator)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[0, :, 2 * label : 2 * label + 3] += 1
    return Batches(LabelledImages(images, labels), batch_size=16, seed=1)


class KilledError(Exception):
    """Stops a training as a signal would."""


def killed_after(epochs: int) -> Callable[[EpochReport], None]:
    """A listener that stops the training after so many epochs."""

    def stop(report: EpochReport) -> None:
        if report.done_epochs == epochs:
            raise KilledError

    return stop


def killed_in_epoch(batches: Callable[[int], Iterable[Any]], number: int) -> Callable[[int], list[Any]]:
    """The same batches, but the training stops after the first one of epoch `number`; no epoch's length changes."""

    class Killing(list[Any]):
        def __iter__(self) -> Iterator[Any]:
            yield self[0]
            raise KilledError

    return lambda epoch: Killing(batches(epoch)) if epoch == number else list(batches(epoch))


def assert_goes_on(
    fit: Callable[..., object], state: Path, stop_after: int, make: Callable[[], NestedModel] = nested_small_net
) -> None:
    """A training that is stopped after an epoch and taken up again ends in the bits of one that is not stopped.

    fit: trains the net that it is called with; it takes train's `state_path` and `on_progress`. make: makes the net.
    """
    whole, stopped, resumed = (make() for _ in range(3))
    torch.manual_seed(11)
    fit(whole)
    torch.manual_seed(11)
    with pytest.raises(KilledError):
        fit(stopped, state_path=state, on_progress=killed_after(stop_after))
    torch.manual_seed(99)  # the random numbers go on from the state's, too
    fit(resumed, state_path=state)
    got = snapshot(resumed)
    assert all(torch.equal(got[key], value) for key, value in snapshot(whole).items())


def snapshot(net: NestedModel) -> dict[str, Tensor]:
    """A copy of all parameters and buffers."""
    return {key: value.detach().clone() for key, value in net.state_dict().items()}
