"""Data sets that a recipe can name: what they are, how they are split, and how their batches are augmented."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..checked import is_number, require, require_count, require_one_of
from ..distributed import rank, world_size
from .images import Batches, Labelled, LabelledImages, hold_out, load_digits_images, load_idx, noisy
from .speech import LabelledSpectra, load_fsdd

SCORED_BATCH = 250


@dataclass(frozen=True, slots=True)
class TrainingData:
    """What a run trains on and is scored on; what a function of your own returns for `[data] name`."""

    batches: Callable[[int], Iterable[tuple[Any, Any]]]
    """The (inputs, targets) of an epoch, by its number; see `train`."""
    scored: Callable[[], Iterable[tuple[Any, Any]]]
    """Batches to score on, in order; inputs are not augmented, targets are class indices."""
    example: tuple[Tensor, ...]
    """One sample, as a batch, for each input of the model."""
    facts: dict[str, Any]
    """What to report: numbers of samples, the split that is scored. `classes` and `channels`, where they are there, are
    given to a model that takes them and whose recipe does not say."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Settings that all data sets share."""

    batch_size: int = 64
    noise: float = 0.0
    """Deviation of the Gaussian noise on training inputs, drawn anew for each epoch."""
    train_samples: int = 0
    """Use so many of the training set, drawn by `seed`; 0 is all."""
    epoch_samples: int = 0
    """An epoch has so many of them, drawn anew for each; 0 is all."""
    validation_samples: int = 0
    """Held out of the training set, drawn by `seed`."""
    evaluate_on: str = ""
    """"validation" or "test"; by default validation samples where some are held out, else the test set."""
    seed: int = 0
    """Of the splits only, so that runs with another [train] seed share them."""

    def __post_init__(self) -> None:
        """Check every field. Raises TrainingError."""
        require_count(self, "batch_size", 1)
        require(self, "noise", is_number(self.noise) and self.noise >= 0, ">= 0")
        for field in ("train_samples", "epoch_samples", "validation_samples", "seed"):
            require_count(self, field)
        require_one_of(self, "evaluate_on", ("", "validation", "test"))
        held_out = self.evaluate_on != "validation" or self.validation_samples > 0
        require(self, "evaluate_on", held_out, "'test', or validation_samples above 0")

    def load(self, seed: int) -> TrainingData:
        """Read the data; `seed` is that of the batches' order and augmentation. Raises TrainingError."""
        train, test = self.read()
        rest, validation = hold_out(train, self.validation_samples, self.seed)
        kept = picked(train, rest[: self.train_samples or None])
        on_validation = self.validation_samples > 0 and self.evaluate_on != "test"
        scored = picked(train, validation) if on_validation else test
        batches = Batches(
            kept,
            self.batch_size,
            seed,
            noise=self.noise,
            samples=self.epoch_samples,
            rank=rank(),
            world_size=world_size(),
        )
        return TrainingData(
            self.augment(batches),
            lambda: in_order(scored),
            (scored.inputs[:1],),
            {
                "train_samples": len(kept),
                "evaluated_on": "validation" if on_validation else "test",
                "evaluated_samples": len(scored),
                "classes": int(train.labels.max()) + 1,
                "channels": train.inputs.shape[1],
            },
        )

    def read(self) -> tuple[Labelled, Labelled]:
        """The training set and the test set."""
        raise NotImplementedError

    def augment(self, batches: Batches) -> Batches:
        """`batches` with what this kind of data allows."""
        return batches


@dataclass(frozen=True, kw_only=True)
class Images(Source):
    """Settings of images."""

    shift_px: int = 0
    """Training images move by up to so many pixels in each direction."""
    flip: bool = False
    """Whether every other training image, drawn at random, is mirrored."""

    def __post_init__(self) -> None:
        """Check every field. Raises TrainingError."""
        super().__post_init__()
        require_count(self, "shift_px")

    def augment(self, batches: Batches) -> Batches:
        """Moved and mirrored."""
        return replace(batches, shift_px=self.shift_px, flip=self.flip)


@dataclass(frozen=True, kw_only=True)
class Digits(Images):
    """scikit-learn's 1797 digits, scaled up; test images get the same noise as training images, drawn once."""

    size: int = 24
    """Pixels of a side."""

    def read(self) -> tuple[Labelled, Labelled]:
        """1438 and 359 images."""
        train, test = load_digits_images(size=self.size, seed=self.seed)
        if not self.noise:
            return train, test
        return train, LabelledImages(noisy(test.images, self.noise, np.random.default_rng(self.seed)), test.labels)


@dataclass(frozen=True, kw_only=True)
class Idx(Images):
    """The four IDX files of `directory` (MNIST, Fashion-MNIST), plain or gzipped."""

    directory: Path
    """Relative to the current directory."""

    def read(self) -> tuple[Labelled, Labelled]:
        """As the files split them."""
        return load_idx(self.directory)


@dataclass(frozen=True, kw_only=True)
class Fsdd(Source):
    """The Free Spoken Digit Dataset as log-mel spectrograms, see `load_fsdd`."""

    file: Path
    """The .npz file, relative to the current directory."""
    shift_frames: int = 0
    """Training clips move by up to so many frames of 10 ms."""

    def __post_init__(self) -> None:
        """Check every field. Raises TrainingError."""
        super().__post_init__()
        require_count(self, "shift_frames")

    def read(self) -> tuple[Labelled, Labelled]:
        """2700 and 300 clips."""
        return load_fsdd(self.file)

    def augment(self, batches: Batches) -> Batches:
        """Moved."""
        return replace(batches, shift_frames=self.shift_frames)


DATA: dict[str, type[Source]] = {"digits": Digits, "idx": Idx, "fsdd": Fsdd}


def picked(data: Labelled, indices: Tensor) -> Labelled:
    """The samples at `indices`."""
    kind = LabelledSpectra if isinstance(data, LabelledSpectra) else LabelledImages
    return kind(data.inputs[indices], data.labels[indices])


def in_order(data: Labelled, size: int = SCORED_BATCH) -> Iterator[tuple[Tensor, Tensor]]:
    """All of `data` once, in batches of `size`."""
    for begin in range(0, len(data), size):
        yield data.inputs[begin : begin + size], data.labels[begin : begin + size]
