"""Images: the digits that ship with scikit-learn, IDX files (MNIST, Fashion-MNIST), and batches of any data set."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from nested_sparse.errors import TrainingError

from ..checked import is_count, require, require_count
from .files import contents
from .samples import Inputs, Labelled, taken

IDX_UINT8 = 8


@dataclass(frozen=True, slots=True)
class LabelledImages:
    """Images with classes. images: float32 (n, 1, H, W), 0 (background) to 1. labels: int64 (n,)."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def inputs(self) -> Tensor:
        """The images."""
        return self.images


def load_digits_images(
    *, size: int = 32, test_fraction: float = 0.2, seed: int = 0
) -> tuple[LabelledImages, LabelledImages]:
    """Training and test images of scikit-learn's 1797 handwritten digits, 8 × 8 scaled up to `size` × `size`.

    The split depends on `seed` only: 1438 and 359 images by default.
    """
    from sklearn.datasets import load_digits  # imported here because only this function needs scikit-learn

    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels.reshape(-1, 1, 8, 8).astype(np.float32) / 16)
    images = F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)
    order = np.random.default_rng(seed).permutation(len(labels))
    test_count = round(test_fraction * len(labels))
    every_label = torch.from_numpy(labels.astype(np.int64))
    test, train = (torch.from_numpy(part) for part in np.split(order, [test_count]))
    return LabelledImages(images[train], every_label[train]), LabelledImages(images[test], every_label[test])


def load_idx(directory: str | Path) -> tuple[LabelledImages, LabelledImages]:
    """Training and test images from the four IDX files of `directory`, plain or gzipped, under their usual names.

    Names: {train,t10k}-{images-idx3,labels-idx1}-ubyte[.gz]. Raises TrainingError for missing or malformed files.
    """
    train, test = (_load_idx_pair(Path(directory), prefix) for prefix in ("train", "t10k"))
    return train, test


def _load_idx_pair(directory: Path, prefix: str) -> LabelledImages:
    images = read_idx(_find(directory, f"{prefix}-images-idx3-ubyte"), dimensions=3)
    label_path = _find(directory, f"{prefix}-labels-idx1-ubyte")
    labels = read_idx(label_path, dimensions=1)
    if len(labels) != len(images):
        raise TrainingError(
            f"{label_path}: {len(labels)} labels for {len(images)} images; the files do not belong together"
        )
    scaled = torch.from_numpy(images.astype(np.float32) / 255).unsqueeze(1)
    return LabelledImages(scaled, torch.from_numpy(labels.astype(np.int64)))


def _find(directory: Path, name: str) -> Path:
    for path in (directory / name, directory / f"{name}.gz"):
        if path.is_file():
            return path
    raise TrainingError(f"{directory}: expected a file {name} or {name}.gz; found neither")


def read_idx(path: Path, *, dimensions: int) -> NDArray[np.uint8]:
    """The uint8 array of an IDX file. Raises TrainingError.

    The file has the bytes 0, 0, 8 and `dimensions`, then big-endian uint32 sizes, then the data.
    """
    content = contents(path)
    header_nbytes = 4 + 4 * dimensions
    magic = bytes((0, 0, IDX_UINT8, dimensions))
    if content[:4] != magic:
        raise TrainingError(
            f"{path}: expected an IDX file of {dimensions} dimensions (it starts with bytes "
            f"{magic.hex()}), got {content[:4].hex() or 'an empty file'}"
        )
    if len(content) < header_nbytes:
        raise TrainingError(
            f"{path}: expected a header of {header_nbytes} bytes, got {len(content)}; the file is cut off"
        )
    shape = np.frombuffer(content, ">u4", dimensions, offset=4).astype(np.int64)
    expected = header_nbytes + int(np.prod(shape, dtype=object))
    if len(content) != expected:
        raise TrainingError(
            f"{path}: expected {expected} bytes for shape {tuple(map(int, shape))}, got {len(content)}; "
            "the file is cut off or damaged, fetch it again"
        )
    return np.frombuffer(content, np.uint8, offset=header_nbytes).reshape(shape)


@dataclass(frozen=True, slots=True)
class Batches:
    """The shuffled batches of an epoch: `Batches(train, 64)(epoch)`. Each epoch has its own order, equal in every call.

    shift_px: maximum shift of an image in each direction, in pixels (a cheap augmentation); 0 for none.
    noise: standard deviation of the Gaussian noise added to every value, with a new draw for each epoch; 0 for none.
    flip: whether half of the images, drawn at random, are mirrored left to right.
    shift_frames: maximum shift of a spectrogram (C, T) in time, earlier or later, in frames.
    samples: number of samples in an epoch, with a new draw for each epoch; 0 is all.
    An incomplete last batch is left out, unless it is the only one.
    rank, world_size: number of this process, and number of processes that train together. Each process gets its part of
    every batch; all parts, in the order of the ranks, are the batch that a single process would get.
    Raises TrainingError if the parts would have unequal sizes: then the mean over the processes would not be the mean
    over the batch.
    """

    data: Labelled
    batch_size: int = 64
    seed: int = 0
    shift_px: int = 0
    noise: float = 0.0
    flip: bool = False
    shift_frames: int = 0
    samples: int = 0
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        """Check rank, world size and batch size."""
        require_count(self, "world_size", 1)
        require(self, "rank", is_count(self.rank) and self.rank < self.world_size, f"0 to {self.world_size - 1}")
        if self.world_size > 1:
            multiple = f"a multiple of the {self.world_size} processes, no larger than the data ({len(self.data)})"
            fits = self.batch_size % self.world_size == 0 and self.batch_size <= len(self.data)
            require(self, "batch_size", fits, multiple)

    def __call__(self, epoch: int) -> EpochBatches:
        """The batches of `epoch`."""
        return EpochBatches(self, epoch)

    @property
    def count(self) -> int:
        """Number of batches in an epoch."""
        return max(1, min(self.samples or len(self.data), len(self.data)) // self.batch_size)

    def augmented(self, inputs: Inputs, rng: np.random.Generator) -> Inputs:
        """(n, ...) inputs of one batch; the first has shifts, mirroring and noise drawn from `rng`."""
        if isinstance(inputs, tuple):
            return (self._augmented(inputs[0], rng), *inputs[1:])
        return self._augmented(inputs, rng)

    def _augmented(self, inputs: Tensor, rng: np.random.Generator) -> Tensor:
        if self.shift_px:
            inputs = shifted(inputs, rng.integers(-self.shift_px, self.shift_px + 1, (len(inputs), 2)))
        if self.flip:
            inputs = torch.where(_drawn(rng.random(len(inputs)) < 0.5, inputs), inputs.flip(-1), inputs)
        if self.shift_frames:
            inputs = delayed(inputs, rng.integers(-self.shift_frames, self.shift_frames + 1, len(inputs)))
        return noisy(inputs, self.noise, rng) if self.noise else inputs

    def own_part(self, size: int) -> slice:
        """The samples of this process in a batch of `size` samples."""
        part = size // self.world_size
        return slice(self.rank * part, (self.rank + 1) * part)


@dataclass(frozen=True, slots=True)
class EpochBatches:
    """One epoch of `source`: an iterable with a length that can be read repeatedly."""

    source: Batches
    epoch: int

    def __len__(self) -> int:
        return self.source.count

    def __iter__(self) -> Iterator[tuple[Inputs, Tensor]]:
        source = self.source
        rng = np.random.default_rng((source.seed, self.epoch))
        order = torch.from_numpy(rng.permutation(len(source.data)))
        for start in range(0, source.count * source.batch_size, source.batch_size):
            picked = order[start : start + source.batch_size]
            mine = source.own_part(len(picked))
            whole = taken(source.data.inputs, picked)  # of all processes, so that they draw alike
            inputs = source.augmented(whole, rng)
            yield taken(inputs, mine), source.data.labels[picked[mine]]


def _drawn(chosen: NDArray[np.bool_], inputs: Tensor) -> Tensor:
    """`chosen` as a tensor (n, 1, ...) with as many dimensions as `inputs`."""
    return torch.from_numpy(chosen).reshape(-1, *(1,) * (inputs.dim() - 1))


def noisy(images: Tensor, noise: float, rng: np.random.Generator) -> Tensor:
    """(n, ...) inputs with Gaussian noise of standard deviation `noise` on every value."""
    return images + torch.from_numpy(noise * rng.standard_normal(tuple(images.shape), np.float32))


def shifted(images: Tensor, offsets: NDArray[np.int64]) -> Tensor:
    """(n, C, H, W) images, each shifted by its (down, right) offset in pixels; zeros fill the gap."""
    margin = int(np.abs(offsets).max(initial=0))
    height, width = images.shape[-2:]
    padded = F.pad(images, (margin,) * 4)
    crops = [
        image[:, margin - y : margin - y + height, margin - x : margin - x + width]
        for image, (y, x) in zip(padded, offsets.tolist(), strict=True)
    ]
    return torch.stack(crops)


def delayed(spectra: Tensor, frames: NDArray[np.int64]) -> Tensor:
    """(n, C, T) spectrograms, each shifted by a number of frames, later if positive; the edge frame fills the gap."""
    count = spectra.shape[-1]
    source = (torch.arange(count) - torch.from_numpy(frames)[:, None]).clamp(0, count - 1)
    return spectra.gather(-1, source[:, None].expand_as(spectra))


def hold_out(data: Sized, samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of the remaining samples and of `samples` held-out ones, drawn by `seed`. Raises TrainingError."""
    if not 0 <= samples < len(data):
        raise TrainingError(f"{samples} samples cannot be held out of {len(data)}: expected 0 to {len(data) - 1}")
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(data)))
    return order[samples:], order[:samples]
