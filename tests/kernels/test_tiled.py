"""Tiled images: graphs whose convolutions pass images on tiled (kernels/tiling.h), compared with numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sparse_node import Array, conv_node
from tiled_graph import Step, TiledGraph, compare, pool

pytestmark = pytest.mark.every_isa


def check(steps: Sequence[Step], tiled: str, shape: tuple[int, ...], threads: int = 1) -> None:
    """Each level gives what numpy gives."""
    compare(TiledGraph(steps, tiled, threads), shape)


SIZES = [(1, 1), (1, 40), (3, 2), (7, 7), (14, 15), (33, 34)]
ONE: dict[str, Any] = {"kernel": (1, 1), "pads": (0, 0, 0, 0)}
STRIDED: list[dict[str, Any]] = [
    {"stride": (1, 1)},
    {"stride": (2, 2)},
    {"stride": (3, 3)},
    {"stride": (2, 1), "dilation": (1, 2), "pads": (1, 2, 1, 2)},
    ONE,
    {**ONE, "stride": (2, 2)},
    {**ONE, "pads": (1, 0, 0, 2)},
]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("window", range(len(STRIDED)))
def test_convolution_reads_what_another_wrote(size: tuple[int, int], window: int) -> None:
    """Images from one pixel to several tiles, two to a batch, gathered and read where they lie."""
    rng = np.random.default_rng(window)
    first = conv_node(rng, 5, 9, 4, permuted=True)
    second = conv_node(rng, 9, 6, 2, permuted=True, clip=(-4.0, 4.0), **STRIDED[window])
    check([Step(first, "x"), Step(second, "0")], "0", (2, 5, *size))


@pytest.mark.parametrize("block_rows", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("threads", [1, 2])
def test_depthwise_between_two(block_rows: int, threads: int) -> None:
    """Every block height before and after a layer with a group for each channel, then one with groups of several."""
    rng = np.random.default_rng(block_rows)
    relu6 = (0.0, 6.0)
    first = conv_node(rng, 3, 16, block_rows, stride=(2, 2), clip=relu6)
    last = conv_node(rng, 16, 10, block_rows, **ONE)
    for window in STRIDED[:4]:
        depthwise = conv_node(rng, 16, 16, 1, groups=16, clip=relu6, densities=(1.0, 1.0, 1.0), **window)
        wider = conv_node(rng, 16, 32, min(block_rows, 2), groups=16, residual=False, **window)
        grouped = conv_node(rng, 32, 16, min(block_rows, 4), groups=4)
        check([Step(first, "x"), Step(depthwise, "0"), Step(last, "1")], "0 1", (2, 3, 37, 38), threads)
        check([Step(first, "x"), Step(depthwise, "0"), Step(last, "1")], "0 1", (2, 3, 49, 10), threads)
        check(
            [Step(first, "x"), Step(wider, "0"), Step(grouped, "1"), Step(last, "2")], "0 1 2", (1, 3, 37, 38), threads
        )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("threads", [1, 2])
def test_pool_between_two(size: tuple[int, int], threads: int) -> None:
    """Pools with overlap, with stride and with gaps; what they read has no negative values."""
    rng = np.random.default_rng(7)
    relu = conv_node(rng, 5, 9, 4, clip=(0.0, np.inf))
    last = conv_node(rng, 9, 6, 4)
    for between in (pool(3, 2, (1, 1, 1, 1)), pool(2, 1, (1, 1, 0, 0)), pool(3, 3, (1, 1, 1, 1)),
                    pool(3, 1, (2, 2, 2, 2), 2)):  # fmt: skip
        check([Step(relu, "x"), Step(between, "0"), Step(last, "1")], "0 1", (2, 5, *size), threads)


@pytest.mark.parametrize("tiled", ["", "0", "1", "2", "0 1", "1 2", "0 2", "0 1 2"])
@pytest.mark.parametrize("groups", [1, 8])
def test_residual_is_tiled_or_planar(tiled: str, groups: int) -> None:
    """Every mixture of tiled and planar for what a layer reads, adds and writes."""
    rng = np.random.default_rng(8)
    shortcut, inner = conv_node(rng, 3, 8, 4), conv_node(rng, 3, 8, 4, clip=(-1.0, 1.0))
    block_rows = 4 if groups == 1 else 1
    sums = conv_node(rng, 8, 8, block_rows, groups=groups, permuted=True, residual=True, clip=(0.0, np.inf))
    steps = [Step(shortcut, "x"), Step(inner, "x"), Step(sums, "1", "0"), Step(conv_node(rng, 8, 5, 1), "2")]
    for shape in ((1, 3, 4, 5), (2, 3, 23, 21)):
        check(steps, tiled, shape)


@pytest.mark.parametrize("groups", [1, 6])
def test_lines(groups: int) -> None:
    """One spatial dimension: X and Y planar, between them tiled."""
    rng = np.random.default_rng(9)
    line: dict[str, Any] = {"spatial": 1, "kernel": (1, 5), "pads": (0, 2, 0, 2), "groups": groups}
    first = conv_node(rng, 6, 12, 2, **line)
    second = conv_node(rng, 12, 12, 2, **line)
    sums = conv_node(rng, 12, 12, 2, residual=True, **{**line, "stride": (1, 1)})
    down = conv_node(rng, 12, 6, 1, **{**line, "stride": (1, 3)})
    steps = [Step(first, "x"), Step(second, "0"), Step(sums, "1", "0"), Step(down, "2")]
    for width in (1, 50, 500):
        check(steps, "0 1 2", (2, 6, width))


def test_size_may_change_between_runs() -> None:
    """A plan for one size is not used for another."""
    rng = np.random.default_rng(10)
    steps = [Step(conv_node(rng, 5, 9, 4, clip=(0.0, np.inf)), "x"), Step(pool(3, 2, (1, 1, 1, 1)), "0"),
             Step(conv_node(rng, 9, 9, 1, groups=9), "1")]  # fmt: skip
    graph = TiledGraph(steps, "0 1")
    for shape in ((1, 5, 20, 30), (3, 5, 30, 20), (1, 5, 2, 2), (1, 5, 20, 30)):
        compare(graph, shape)


def header(**values: int) -> Array:
    """A tiled image of 1 × 5 × 2 × 2 as this process lays it out, with what `values` say in its header."""
    first = conv_node(np.random.default_rng(0), 5, 5, 1)
    image = TiledGraph([Step(first, "x")], "0").run(np.ones((1, 5, 2, 2), np.float32), 0)
    numbers = image[:16].view(np.int64)
    for name, value in values.items():
        numbers[["magic", "batch", "channels", "height", "width", "depth", "shape"].index(name)] = value
    return image


FORGED: dict[str, tuple[Array, str]] = {
    "planar": (np.zeros((1, 5, 4, 4), np.float32), r"got a tensor of shape \[1, 5, 4, 4\]; export the model again"),
    "flat": (np.zeros(80, np.float32), r"must be a tiled image .* got a tensor of shape \[80\]"),
    "short": (np.zeros(3, np.float32), r"must be a tiled image .* got a tensor of shape \[3\]"),
    "magic": (header(magic=1), "must be a tiled image"),
    "lanes": (header(shape=3), "must be a tiled image"),
    "batch": (header(batch=2), r"its header says an image of \[2, 5, 2, 2\]"),
    "negative": (header(batch=-1, channels=-5), r"its header says an image of \[-1, -5, 2, 2\]"),
    "overflow": (header(height=2**32, width=2**32)[:16], "its header says an image of"),
    "endless": (header(channels=2**62, batch=4)[:16], "its header says an image of"),
    "no pixels": (header(height=0), "its header says an image of"),
    "no slices": (header(depth=0), "its header says an image of"),
    "many slices": (header(depth=2**62), r"its header says an image of \[1, 5, 4611686018427387904, 2, 2\]"),
}


@pytest.mark.parametrize("case", FORGED)
@pytest.mark.parametrize("op", ["conv", "pool"])
def test_a_tensor_that_is_no_tiled_image_is_refused(case: str, op: str) -> None:
    """A planar tensor, and headers that do not say what the tensor holds."""
    image, message = FORGED[case]
    node = replace(conv_node(np.random.default_rng(0), 5, 4), tiled=["x"])
    reader = Step(node if op == "conv" else pool(2, 2, (0, 0, 0, 0)), "x")
    steps = [reader] if op == "conv" else [reader, Step(node, "0")]
    with pytest.raises(Exception, match=f"X .*{message}"):
        TiledGraph(steps, "x 0" if op == "pool" else "x").run(image, 0)


def test_header_as_written_is_read() -> None:
    """The header that the forged ones are made from is valid, so the tests above fail only because of their changes."""
    node = conv_node(np.random.default_rng(0), 5, 4)
    assert TiledGraph([Step(node, "x")], "x").run(header(), 0).shape == (1, 4, 2, 2)
