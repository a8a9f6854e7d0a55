"""Workload: the inputs of the requests, their labels, and the model that answers them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np
from numpy.typing import NDArray

from nested_sparse.errors import BenchError, NestedSparseError
from nested_sparse.runtime.session import Session, fixed_batch, random_inputs

from .item import Item

if TYPE_CHECKING:
    from nested_sparse.trainer.demo import DemoData

STRIP = 16
"""Images in a request: a strip of digits, as the reader of a meter or a form sends it."""
RANDOM_ITEMS = 16


@dataclass(frozen=True, slots=True)
class Workload:
    """The load's content.

    items: of STRIP samples, or of the model's fixed batch. labels: classes of each item's
    samples, None where they are not known. checkpoint: None where the model of the server under test is not here.
    """

    name: str
    items: Sequence[Item]
    labels: Sequence[NDArray[np.int64]] | None
    checkpoint: Path | None


def demo_workload(directory: Path | None, out: Path, stream: TextIO) -> Workload:
    """The demo's data and its model, which is trained unless `out` has one already. Raises NestedSparseError.

    directory: folder of IDX files; None: scikit-learn's digits.
    """
    from nested_sparse.trainer.demo import train_demo

    data = _demo_data(directory)
    checkpoint = train_demo(data, out, False, stream)
    return Workload(data.name, *strips_of(data), checkpoint)


def labelled_workload(checkpoint: Path | None, directory: Path | None) -> Workload:
    """The images of the demo's data for a model of the user. Raises NestedSparseError; BenchError: they do not fit."""
    data = _demo_data(directory)
    items, labels = strips_of(data)
    if checkpoint is not None:
        with Session(checkpoint, threads=1) as session:
            spec = session.inputs[0]
            if len(session.inputs) != 1 or spec.dtype != "float32" or spec.shape[1:] != items[0].shape[1:]:
                raise BenchError(
                    f"{checkpoint.name}: takes {spec.dtype} {list(spec.shape)}, the images of {data.name} are float32 "
                    f"{[None, *items[0].shape[1:]]}; name the --data that it was trained on"
                )
    return Workload(data.name, items, labels, checkpoint)


def random_workload(checkpoint: Path, seed: int) -> Workload:
    """Random inputs of the example's shape, without labels. Raises CheckpointError."""
    with Session(checkpoint, threads=1) as session:
        batch = fixed_batch(session.inputs) or STRIP
        drawn = [random_inputs(session.inputs, batch, seed + item) for item in range(RANDOM_ITEMS)]
        return Workload("random inputs", drawn, None, checkpoint)


def strips_of(data: DemoData) -> tuple[list[NDArray[np.float32]], list[NDArray[np.int64]]]:
    """Test images and labels in requests of STRIP images."""
    count = len(data.test_labels) // STRIP
    images = data.test_images[: count * STRIP].reshape(count, STRIP, *data.test_images.shape[1:])
    return list(images), list(data.test_labels[: count * STRIP].reshape(count, STRIP))


def _demo_data(directory: Path | None) -> DemoData:
    try:
        from nested_sparse.trainer.demo import load_demo_data
    except ModuleNotFoundError as error:
        raise NestedSparseError(
            f"labelled images are read with {error.name}: pip install 'nested-sparse[train,bench]'"
        ) from None
    return load_demo_data(directory)
