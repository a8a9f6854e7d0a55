"""Images: IDX files, the digits and their split, and batches."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from small_images import idx_bytes

from nested_sparse.errors import TrainingError
from nested_sparse.trainer.data.images import Batches, LabelledImages, load_digits_images, load_idx, shifted
from support import DATA

FASHION = DATA / "fashion_mnist"


def write_set(directory: Path, *, suffix: str = "") -> np.ndarray:
    """Write four IDX files of 3 training and 2 test images; returns the training pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 6), dtype=np.uint8)
    labels = np.arange(5, dtype=np.uint8)
    for prefix, part in (("train", slice(0, 3)), ("t10k", slice(3, 5))):
        for name, array in (("images-idx3", pixels[part]), ("labels-idx1", labels[part])):
            content = idx_bytes(array)
            path = directory / f"{prefix}-{name}-ubyte{suffix}"
            path.write_bytes(gzip.compress(content) if suffix else content)
    return pixels[:3]


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files_are_read(tmp_path: Path, suffix: str) -> None:
    """Pixels are 0 to 1 with a channel, labels are int64, from plain and gzipped files."""
    pixels = write_set(tmp_path, suffix=suffix)
    train, test = load_idx(tmp_path)
    assert train.images.shape == (3, 1, 4, 6)
    assert train.images.dtype == torch.float32
    assert train.labels.dtype == torch.int64
    np.testing.assert_array_equal((train.images[:, 0] * 255).round().numpy(), pixels)
    assert test.labels.tolist() == [3, 4]


def test_malformed_idx_files_are_errors(tmp_path: Path) -> None:
    """Missing, empty, foreign, truncated, overlong, oversized and mismatched files each have their error."""
    with pytest.raises(TrainingError, match="found neither"):
        load_idx(tmp_path)
    write_set(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte"
    good = path.read_bytes()
    cases = {
        b"": "empty file",
        b"\x89PNG\r\n\x1a\n": "expected an IDX file of 3 dimensions",
        idx_bytes(np.zeros(3, np.uint8)): "expected an IDX file of 3 dimensions",
        good[:9]: "header of 16 bytes",
        good[:-1]: "cut off or damaged",
        good + b"x": "cut off or damaged",
        struct.pack(">4B3I", 0, 0, 8, 3, *[2**32 - 1] * 3): "cut off or damaged",
        idx_bytes(np.zeros((2, 4, 6), np.uint8)): "do not belong together",
    }
    for content, message in cases.items():
        path.write_bytes(content)
        with pytest.raises(TrainingError, match=message):
            load_idx(tmp_path)
    path.unlink()
    for content in (gzip.compress(good)[:-9], b"not gzip"):
        (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(content)
        with pytest.raises(TrainingError, match="cannot be read"):
            load_idx(tmp_path)


@pytest.mark.skipif(not FASHION.is_dir(), reason="Fashion-MNIST lies outside the repository, in ../shared/data")
def test_fashion_mnist_has_its_known_statistics() -> None:
    """It has 60000 and 10000 images, 6000 and 1000 per class, mean 0.2860 and deviation 0.3530."""
    train, test = load_idx(FASHION)
    assert train.images.shape == (60000, 1, 28, 28)
    assert torch.bincount(train.labels).tolist() == [6000] * 10
    assert torch.bincount(test.labels).tolist() == [1000] * 10
    assert float(train.images.mean()) == pytest.approx(0.2860, abs=1e-4)
    assert float(train.images.std()) == pytest.approx(0.3530, abs=1e-4)


def test_digits_are_split_once_and_for_all() -> None:
    """Every digit is in one part, the same one for the same seed, scaled up within 0 to 1."""
    train, test = load_digits_images()
    again, _ = load_digits_images()
    other, _ = load_digits_images(seed=1)
    assert (len(train), len(test)) == (1438, 359)
    assert train.images.shape == (1438, 1, 32, 32)
    assert torch.equal(train.images, again.images)
    assert not torch.equal(train.labels, other.labels)
    assert train.images.min() >= 0
    assert train.images.max() <= 1
    assert torch.bincount(torch.cat([train.labels, test.labels])).tolist() == [
        178,
        182,
        177,
        183,
        181,
        182,
        181,
        179,
        174,
        180,
    ]


def test_batches_depend_on_the_epoch_only() -> None:
    """An epoch can be read again, covers the data once, differs from the next, and keeps images with their labels."""
    data = LabelledImages(torch.arange(20.0).reshape(20, 1, 1, 1), torch.arange(20))
    batches = Batches(data, batch_size=5)
    first, again, second = (list(batches(epoch)) for epoch in (0, 0, 1))
    assert len(batches(0)) == len(first) == 4
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, again, strict=True))
    order = torch.cat([labels for _, labels in first])
    assert sorted(order.tolist()) == list(range(20))
    assert not torch.equal(order, torch.cat([labels for _, labels in second]))
    assert all(torch.equal(images.flatten().long(), labels) for images, labels in first)
    assert len(Batches(data, batch_size=6)(0)) == 3
    assert [len(labels) for _, labels in Batches(data, batch_size=64)(0)] == [20]


def test_shift_moves_images_by_pixels() -> None:
    """Down and right are positive; zeros fill the gap."""
    image = torch.arange(1.0, 10).reshape(1, 1, 3, 3)
    moved = shifted(image.expand(2, 1, 3, 3), np.array([[1, 0], [0, -2]]))
    assert moved[0, 0].tolist() == [[0, 0, 0], [1, 2, 3], [4, 5, 6]]
    assert moved[1, 0].tolist() == [[3, 0, 0], [6, 0, 0], [9, 0, 0]]
    data = LabelledImages(torch.ones(8, 1, 5, 5), torch.zeros(8).long())
    images, _ = next(iter(Batches(data, 8, shift_px=2)(0)))
    assert images.shape == (8, 1, 5, 5)
    assert 0 < images.mean() < 1
