"""Scenes: images of several items on a background, with the box, class and mask of each item."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..tasks.objects import ABSENT
from .images import LabelledImages

SMALLEST, LARGEST = 0.6, 1.3
"""Sizes of items, against those of their own images."""
VISIBLE = 0.7
"""Least share of an item that later ones leave uncovered."""
TRIES = 10
"""Places that are tried for an item before it is left out."""
GREYS = (0.05, 0.6)
"""Range of the background's grey at its two ends."""
GRAIN = 0.04
"""Standard deviation of the background's noise."""
DARKEST = 8
"""Least value of an item's pixel. Around the items of Fashion-MNIST there are stray pixels of 1 or 2."""
MOST_OBJECTS = 100
"""Objects of a scene, at most: a pixel's owner is a byte, and COCO scores so many detections of an image."""


@dataclass(frozen=True, slots=True)
class Items:
    """Small images to compose. pixels: uint8 (n, H, W), 0 around the item. classes: int64 (n,)."""

    pixels: Tensor
    classes: Tensor

    @classmethod
    def of(cls, images: LabelledImages) -> Items:
        """Those of images with one channel, at a byte a pixel."""
        return cls((images.images[:, 0] * 255).round().to(torch.uint8), images.labels)

    def __len__(self) -> int:
        return len(self.classes)

    def at(self, indices: Tensor) -> Items:
        """The items at `indices`."""
        return Items(self.pixels[indices], self.classes[indices])

    @property
    def side(self) -> int:
        """Pixels of the longer side of the largest item that a scene may have."""
        return math.ceil(LARGEST * max(self.pixels.shape[1:]))


@dataclass(frozen=True, slots=True)
class Scene:
    """One image. image: float32 (size, size), 0 to 1. owners: uint8 (size, size), k + 1 at the visible pixels of object
    k, 0 at the background. classes: the class of each object.
    """

    image: NDArray[np.float32]
    owners: NDArray[np.uint8]
    classes: list[int]

    def objects(self, rows: int) -> NDArray[np.int64]:
        """(rows, 5): left, top, right, bottom around the visible pixels, right and bottom excluded, and the class."""
        table = np.full((rows, 5), ABSENT, np.int64)
        for index, each in enumerate(self.classes):
            table[index] = (*_box(self.owners == index + 1), each)
        return table


def composed(items: Items, size: int, most: int, rng: np.random.Generator) -> Scene:
    """A scene of size × size pixels with one to `most` items, as `rng` draws them.

    Each item is scaled, mirrored or not, and put where it hides less than 30 % of any other; one that finds no place is
    left out.
    """
    image, owners, classes = _background(size, rng), np.zeros((size, size), np.uint8), list[int]()
    whole, visible = np.zeros(0, np.int64), np.zeros(0, np.int64)  # pixels of each object, in all and now
    for _ in range(int(rng.integers(1, most + 1))):
        index = int(rng.integers(len(items)))
        pixels, cover = _scaled(items.pixels[index], rng.uniform(SMALLEST, LARGEST), mirrored=rng.random() < 0.5)
        solid = cover >= 0.5
        if not solid.any():  # a blank image
            continue
        left, top, right, bottom = _box(solid)
        window = (slice(top, bottom), slice(left, right))
        pixels, cover, solid = pixels[window], cover[window], solid[window]
        for _ in range(TRIES):
            y, x = (int(rng.integers(size - side + 1)) for side in solid.shape)
            there = (slice(y, y + solid.shape[0]), slice(x, x + solid.shape[1]))
            after = visible - np.bincount(owners[there][solid], minlength=len(whole) + 1)[1:]
            if (after >= VISIBLE * whole).all():
                owners[there][solid] = len(classes) + 1
                image[there] = pixels + (1 - cover) * image[there]
                classes.append(int(items.classes[index]))
                whole, visible = np.append(whole, solid.sum()), np.append(after, solid.sum())
                break
    return Scene(image, owners, classes)


def _background(size: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """A gradient in some direction between two greys, with noise."""
    begin, end = rng.uniform(*GREYS, 2)
    angle = rng.uniform(0, 2 * math.pi)
    places = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    ramp = 0.5 + (math.cos(angle) * places + math.sin(angle) * places[:, None]) / math.sqrt(2)
    grain = GRAIN * rng.standard_normal((size, size), np.float32)
    result: NDArray[np.float32] = np.clip(begin + (end - begin) * ramp + grain, 0, 1).astype(np.float32)
    return result


def _scaled(pixels: Tensor, scale: float, *, mirrored: bool) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The item's grey and its cover, both (h, w), 0 to 1."""
    values = pixels.numpy()
    layers = np.stack([values / np.float32(255), values >= DARKEST]).astype(np.float32)
    rows, columns = (_resizing(side, max(1, round(scale * side))) for side in values.shape)
    grey, cover = np.clip(rows @ layers @ columns.T, 0, 1)
    return (grey[:, ::-1], cover[:, ::-1]) if mirrored else (grey, cover)


@lru_cache(256)
def _resizing(side: int, wanted: int) -> NDArray[np.float32]:
    """(wanted, side): the linear map by which torch scales a line of pixels, bilinear and antialiased."""
    lines = torch.eye(side)[None, None]
    scaled = F.interpolate(lines, size=(wanted, side), mode="bilinear", antialias=True, align_corners=False)
    result: NDArray[np.float32] = scaled[0, 0].numpy()
    return result


def _box(solid: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Left, top, right, bottom around the true pixels; right and bottom are excluded."""
    columns, rows = np.flatnonzero(solid.any(0)), np.flatnonzero(solid.any(1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


@dataclass(frozen=True, slots=True)
class SceneBatches:
    """Batches of scenes, composed when they are read, equal in each reading.

    Yields (images, objects): float32 (n, 1, size, size), 0 to 1, and int64 (n, most, 5) as of `Scene.objects`, with -1
    in the rows without an object. With `masks` the targets are (objects, owners), owners uint8 (n, size, size).
    key: scene i is drawn by the seeds (*key, i). rank, world_size: this process gets its part of every batch. An
    incomplete last batch is left out if `even`.
    """

    items: Items
    size: int
    most: int
    count: int
    batch_size: int
    key: tuple[int, ...]
    masks: bool = False
    even: bool = True
    rank: int = 0
    world_size: int = 1

    def __len__(self) -> int:
        whole = self.count // self.batch_size if self.even else -(-self.count // self.batch_size)
        return max(1, whole)

    def __iter__(self) -> Iterator[tuple[Tensor, Any]]:
        for begin in range(0, len(self) * self.batch_size, self.batch_size):
            part = min(self.batch_size, self.count - begin) // self.world_size
            first = begin + self.rank * part
            yield self._batch(range(first, first + part))

    def _batch(self, scenes: range) -> tuple[Tensor, Any]:
        made = [composed(self.items, self.size, self.most, np.random.default_rng((*self.key, each))) for each in scenes]
        images, objects, owners = (
            torch.from_numpy(np.stack(each))
            for each in zip(
                *((scene.image[None], scene.objects(self.most), scene.owners) for scene in made), strict=True
            )
        )
        return images, (objects, owners) if self.masks else objects
