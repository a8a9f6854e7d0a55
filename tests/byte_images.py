"""Byte images: the tensors that int8 operators hand on (kernels/quantized/image.h), written and read in numpy."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

import numpy as np
from integer_reference import Image, Range
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
MAGIC = b"ns8image"
HEADER = struct.Struct("<8s7ifB23x")


@dataclass(frozen=True)
class Layout:
    """Rows of border around each image, 0 for tiles; columns of gap after each row."""

    border: int = 0
    gap: int = 0


def up64(count: int) -> int:
    """The next multiple of 64."""
    return -(-count // 64) * 64


@dataclass(frozen=True)
class Places:
    """Index of every pixel in an image of so many channels, and its bytes."""

    pixels: NDArray[np.int64]  # (C, H, W)
    nbytes: int


def places(channels: int, height: int, width: int, layout: Layout) -> Places:
    """Where the pixels of one image of a batch lie."""
    pitch = width + layout.gap
    positions = height * pitch
    tiles = -(-positions // 64)
    channel = np.arange(channels)[:, None, None]
    position = np.arange(height)[:, None] * pitch + np.arange(width)
    if layout.border == 0:
        return Places((position // 64 * channels + channel) * 64 + position % 64, tiles * channels * 64)
    step = max(up64(positions + layout.border * pitch), 64 * tiles)
    lead = up64(layout.border * pitch + layout.gap)
    return Places(lead + channel * step + position, channels * step + 2 * lead)


def header(shape: tuple[int, ...], layout: Layout, held: Range, magic: bytes = MAGIC) -> Bytes:
    """The 64 bytes before the pixels of images (N, C, H, W), or of volumes (N, C, D, H, W)."""
    batch, channels, *slices, height, width = shape
    sizes = (batch, channels, height, width, layout.border, layout.gap, *(slices or [1]))
    raw = HEADER.pack(magic, *sizes, float(held.scale), held.zero)
    return np.frombuffer(raw, np.uint8)


def written(image: Image, layout: Layout) -> Bytes:
    """The tensor of images (N, C, H, W) or (N, C, W), or of volumes; bytes that may be anything are random."""
    data = image.data[:, :, None, :] if image.data.ndim == 3 else image.data
    channels, *slices, height, width = data.shape[1:]
    where = places(channels, math.prod(slices) * height, width, layout)
    fill = np.random.default_rng(0).integers(0, 256, (len(data), where.nbytes), np.uint8)
    if layout.border > 0:
        fill[...] = image.range.zero
    for index, pixels in enumerate(data):
        fill[index, where.pixels] = pixels.reshape(where.pixels.shape)
    return np.concatenate([header(data.shape, layout, image.range), fill.reshape(-1)])


def read(tensor: Bytes) -> tuple[Image, Layout]:
    """The images (N, C, H, W) in a tensor, or volumes (N, C, D, H, W) where they have several slices, and their layout.

    Asserts that all that is no pixel of a plane is the zero point.
    """
    magic, batch, channels, height, width, border, gap, depth, scale, zero = HEADER.unpack(tensor[:64].tobytes())
    layout, held = Layout(border, gap), Range(np.float32(scale), zero)
    assert magic == MAGIC
    assert not tensor[41:64].any(), "the rest of the header is 0"
    where = places(channels, depth * height, width, layout)
    assert tensor.size == 64 + batch * where.nbytes
    images = tensor[64:].reshape(batch, where.nbytes)
    if border > 0:
        other = np.ones(where.nbytes, bool)
        other[where.pixels] = False
        assert (images[:, other] == zero).all(), "a byte of the border is not the zero point"
    pixels = images[:, where.pixels]
    return Image(pixels if depth == 1 else pixels.reshape(batch, channels, depth, height, width), held), layout
