"""Data sets: the settings of those that a recipe can name, with their splits and the augmentation of batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from ..checked import is_number, require, require_count, require_one_of, require_share
from ..distributed import rank, world_size
from .graph import load_graph
from .images import Batches, LabelledImages, hold_out, load_digits_images, load_idx, noisy
from .lists import load_lists
from .points import load_radhar
from .samples import Inputs, Labelled, picked, taken
from .scene_settings import Scenes
from .shapes import PARTS, make_shapes
from .speech import load_fsdd
from .text import load_bytes
from .training_data import Loading, TrainingData
from .translations import MARKS, Vocabulary, read_pairs, translations

SCORED_BATCH = 250


@dataclass(frozen=True, kw_only=True)
class Source(ABC):
    """Settings that all data sets of many samples share."""

    batch_size: int = 64
    noise: float = 0.0
    """Standard deviation of the Gaussian noise on training inputs, with a new draw for each epoch."""
    train_samples: int = 0
    """Number of training samples to use, drawn by `seed`; 0 is all."""
    epoch_samples: int = 0
    """Number of samples in an epoch, with a new draw for each epoch; 0 is all."""
    validation_samples: int = 0
    """Number of samples held out of the training set, drawn by `seed`."""
    evaluate_on: str = ""
    """"validation" or "test"; by default the validation samples if there are any, else the test set."""
    seed: int = 0
    """Seed of the splits only, so that runs with different [train] seeds share the splits."""

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
        """Read the data. seed: seed of the batches' order and augmentation. Raises TrainingError."""
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
            _first(scored.inputs),
            {
                "train_samples": len(kept),
                "evaluated_on": "validation" if on_validation else "test",
                "evaluated_samples": len(scored),
                **self.facts(train),
            },
        )

    def facts(self, train: Labelled) -> dict[str, int]:
        """The sizes that a model is told: the classes of the labels, the channels of the inputs."""
        inputs = train.inputs[0] if isinstance(train.inputs, tuple) else train.inputs
        return {"classes": int(train.labels.max()) + 1, "channels": inputs.shape[1]}

    @abstractmethod
    def read(self) -> tuple[Labelled, Labelled]:
        """The training set and the test set."""

    def augment(self, batches: Batches) -> Batches:
        """`batches` with the augmentation of this kind of data."""
        return batches


@dataclass(frozen=True, kw_only=True)
class Images(Source):
    """Settings of images."""

    shift_px: int = 0
    """Maximum shift of a training image in each direction, in pixels."""
    flip: bool = False
    """Whether half of the training images, drawn at random, are mirrored."""

    def __post_init__(self) -> None:
        """Check every field. Raises TrainingError."""
        super().__post_init__()
        require_count(self, "shift_px")

    def augment(self, batches: Batches) -> Batches:
        """`batches` with random shifts and mirroring."""
        return replace(batches, shift_px=self.shift_px, flip=self.flip)


@dataclass(frozen=True, kw_only=True)
class Digits(Images):
    """scikit-learn's 1797 digits, scaled up. Test images get noise of the same deviation, drawn once."""

    size: int = 24
    """Height and width of an image, in pixels."""

    def read(self) -> tuple[LabelledImages, LabelledImages]:
        """The training set and the test set: 1438 and 359 images."""
        train, test = load_digits_images(size=self.size, seed=self.seed)
        if not self.noise:
            return train, test
        return train, LabelledImages(noisy(test.images, self.noise, np.random.default_rng(self.seed)), test.labels)


@dataclass(frozen=True, kw_only=True)
class Idx(Images):
    """The four IDX files of `directory` (MNIST, Fashion-MNIST), plain or gzipped."""

    directory: Path
    """Folder of the files, relative to the current directory."""

    def read(self) -> tuple[LabelledImages, LabelledImages]:
        """The training set and the test set, as the files split them."""
        return load_idx(self.directory)


@dataclass(frozen=True, kw_only=True)
class Fsdd(Source):
    """The Free Spoken Digit Dataset as log-mel spectrograms, see `load_fsdd`."""

    file: Path
    """The .npz file, relative to the current directory."""
    shift_frames: int = 0
    """Maximum shift of a training clip, in frames of 10 ms."""
    test_speakers: tuple[str, ...] = ()
    """Speakers whose clips are the test set, and who are in no other; () is the data set's own split by recording."""

    def __post_init__(self) -> None:
        """Check every field. Raises TrainingError."""
        super().__post_init__()
        require_count(self, "shift_frames")

    def read(self) -> tuple[Labelled, Labelled]:
        """The training set and the test set: 2700 and 300 clips, or 500 of each speaker."""
        return load_fsdd(self.file, test_speakers=self.test_speakers)

    def augment(self, batches: Batches) -> Batches:
        """`batches` with random shifts in time."""
        return replace(batches, shift_frames=self.shift_frames)


@dataclass(frozen=True, kw_only=True)
class Radhar(Source):
    """Clouds of radar points with activities, see `load_radhar`."""

    file: Path
    """The .npz file, relative to the current directory."""

    def read(self) -> tuple[Labelled, Labelled]:
        """The training set and the test set, as the file splits them."""
        return load_radhar(self.file)


@dataclass(frozen=True, kw_only=True)
class Rank(Source):
    """Lists of documents with relevances, see `load_lists`; for the task ranking."""

    file: Path
    """The .npz file, relative to the current directory."""

    def read(self) -> tuple[Labelled, Labelled]:
        """The training set and the test set, as the file splits them."""
        return load_lists(self.file)

    def facts(self, train: Labelled) -> dict[str, int]:
        """The features of a document."""
        return {"features": train.inputs[0].shape[-1]}


@dataclass(frozen=True, kw_only=True)
class Bytes(Source):
    """The bytes of text files, see `load_bytes`; for the task language."""

    train_file: Path
    """A file, plain or gzipped, relative to the current directory."""
    test_file: Path
    length: int = 128
    """Bytes of a window."""

    def __post_init__(self) -> None:
        """Check every field. Raises TrainingError."""
        super().__post_init__()
        require_count(self, "length", 1)
        require(self, "noise", self.noise == 0, "0: bytes are no numbers")

    def read(self) -> tuple[Labelled, Labelled]:
        """The windows of both files."""
        return load_bytes(self.train_file, self.length), load_bytes(self.test_file, self.length)

    def facts(self, train: Labelled) -> dict[str, int]:
        """The number of bytes that there are."""
        return {"classes": 256}


@dataclass(frozen=True, kw_only=True)
class Translations(Source):
    """Sentences and their translations, see `trainer/data/translations.py`; for the task language."""

    train_source: Path
    """A file with a sentence on each line, plain or gzipped, relative to the current directory."""
    train_target: Path
    test_source: Path
    test_target: Path
    vocabulary: int = 4000
    """Words of either language that the model knows, with four marks: the most frequent ones of the training files."""
    length: int = 24
    """Words of a sentence at most, with the mark of its end; a longer one is cut."""

    def __post_init__(self) -> None:
        """Check every field. Raises TrainingError."""
        super().__post_init__()
        require_count(self, "length", 2)
        require_count(self, "vocabulary", MARKS + 1)
        require(self, "noise", self.noise == 0, "0: words are no numbers")

    def read(self) -> tuple[Labelled, Labelled]:
        """The pairs of both files, with the vocabularies of the first."""
        train = read_pairs(self.train_source, self.train_target)
        known = self.vocabularies(train)
        test = read_pairs(self.test_source, self.test_target)
        return translations(train, known, self.length), translations(test, known, self.length)

    def vocabularies(self, train: tuple[Sequence[str], Sequence[str]]) -> tuple[Vocabulary, Vocabulary]:
        """Those of the source and of the target."""
        source, target = (Vocabulary.of(sentences, self.vocabulary) for sentences in train)
        return source, target

    def facts(self, train: Labelled) -> dict[str, int]:
        """The number of words of either language that a model is to have room for."""
        return {"classes": self.vocabulary}


@dataclass(frozen=True, kw_only=True)
class Planetoid:
    """A graph of nodes with classes, see `load_graph`; every batch is the whole graph."""

    file: Path
    """The .npz file, relative to the current directory."""
    steps: int = 20
    """Steps in an epoch."""
    evaluate_on: str = "test"
    """"validation" or "test"."""

    def __post_init__(self) -> None:
        """Check every field. Raises TrainingError."""
        require_count(self, "steps", 1)
        require_one_of(self, "evaluate_on", ("validation", "test"))

    def load(self, seed: int) -> TrainingData:
        """Read the graph. seed: not used. Raises TrainingError."""
        graph = load_graph(self.file)
        scored = graph.targets["val" if self.evaluate_on == "validation" else "test"]
        epoch = [(graph.inputs, graph.targets["train"])] * self.steps
        facts = {
            "train_samples": int((graph.targets["train"] >= 0).sum()),
            "evaluated_on": self.evaluate_on,
            "evaluated_samples": int((scored >= 0).sum()),
            "classes": graph.classes,
            "features": graph.features.shape[-1],
        }
        return TrainingData(lambda _: epoch, lambda: [(graph.inputs, scored)], graph.inputs, facts)


@dataclass(frozen=True, kw_only=True)
class Shapes(Source):
    """Clouds of points of made-up objects with their parts, see `make_shapes`; for the task segmentation."""

    train_clouds: int = 1500
    test_clouds: int = 500
    points: int = 512
    """Points of a cloud."""
    jitter: float = 0.02
    """Standard deviation of a point's place, as a share of the object's radius."""
    outliers: float = 0.03
    """Share of the points that are off by 8 times as much."""
    one_sided: float = 0.5
    """Share of the clouds that have points only where the surface looks to one side."""

    def __post_init__(self) -> None:
        """Check every field. Raises TrainingError."""
        super().__post_init__()
        for field in ("train_clouds", "test_clouds", "points"):
            require_count(self, field, 1)
        require(self, "jitter", is_number(self.jitter) and self.jitter >= 0, ">= 0")
        require_share(self, "outliers")
        require_share(self, "one_sided")

    def read(self) -> tuple[Labelled, Labelled]:
        """Clouds made from two generators of this seed."""
        train, test = (
            make_shapes(
                count,
                points=self.points,
                jitter=self.jitter,
                outliers=self.outliers,
                one_sided=self.one_sided,
                seed=(self.seed, part),
            )
            for part, count in enumerate((self.train_clouds, self.test_clouds))
        )
        return train, test

    def facts(self, train: Labelled) -> dict[str, int]:
        """The parts of all kinds, and the coordinates of a point."""
        return {"classes": PARTS, "channels": 3}


DATA: dict[str, type[Loading]] = {
    "digits": Digits,
    "idx": Idx,
    "fsdd": Fsdd,
    "radhar": Radhar,
    "scenes": Scenes,
    "rank": Rank,
    "bytes": Bytes,
    "planetoid": Planetoid,
    "translations": Translations,
    "shapes": Shapes,
}


def in_order(data: Labelled, size: int = SCORED_BATCH) -> Iterator[tuple[Inputs, Tensor]]:
    """All of `data` once, in batches of `size`."""
    for begin in range(0, len(data), size):
        batch = picked(data, slice(begin, begin + size))
        yield batch.inputs, batch.labels


def _first(inputs: Inputs) -> tuple[Tensor, ...]:
    """The first sample of each input, as a batch of one."""
    first = taken(inputs, slice(0, 1))
    return first if isinstance(first, tuple) else (first,)
