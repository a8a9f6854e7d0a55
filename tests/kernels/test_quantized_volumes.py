"""QuantizedConv over volumes: images with slices, (N, C, D, H, W), give the bytes of the integer reference."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from byte_images import Layout, read, written
from image_node import planar
from integer_reference import Image, table
from quantized_node import LEVELS, QuantizedGraph, QuantizedNode, Step, quantized_node, random_image, random_range

from nested_sparse.kernels import library
from nested_sparse.value_type import INT8

NONE = (0, 0, 0, 0, 0, 0)
TILES, PLANES = Layout(0, 0), Layout(1, 1)


def volume_node(
    rng: np.random.Generator, channels: int, rows: int, block_rows: int = 4, **options: Any
) -> QuantizedNode:
    """A random convolution of volumes, of a 3 x 3 x 3 window unless the options say otherwise."""
    given = {"kernel": (3, 3, 3), "pads": (1,) * 6, "stride": (1, 1, 1), "dilation": (1, 1, 1), "spatial": 3}
    return quantized_node(rng, channels, rows, block_rows, **{**given, **options})


def check(node: QuantizedNode, x: Image, reads: Layout, residual: Image | None = None, threads: int = 1) -> None:
    """Every level of the node, compared with the reference. residual: in the layout of the node's output."""
    graph = QuantizedGraph([Step(node, adds="r" if residual else "")], threads=threads)
    more = {"r": written(residual, node.layout)} if residual else {}
    for level in range(LEVELS):
        answer, layout = read(graph.run(level, x=written(x, reads), **more))
        np.testing.assert_array_equal(answer.data, planar(node.reference(level)(x, residual).data))
        assert (answer.range, layout) == (node.ranges[level], node.layout)


@pytest.mark.parametrize("kernel", [(1, 1, 1), (3, 3, 3), (3, 1, 1), (1, 3, 3), (2, 5, 3)])
@pytest.mark.parametrize("stride", [(1, 1, 1), (2, 2, 2), (3, 1, 5)])
def test_every_window(kernel: tuple[int, ...], stride: tuple[int, ...]) -> None:
    """Kernel by stride by dilation by padding; volumes of one slice and of several, in tiles and in planes."""
    rng = np.random.default_rng(1)
    layouts = itertools.cycle(itertools.product((TILES, PLANES), (TILES, PLANES, Layout(0, 2))))
    for dilation, pads in itertools.product(
        [(1, 1, 1), (3, 1, 2)], [NONE, (1,) * 6, (0, 2, 3, 4, 1, 0), (2, 0, 0) * 2]
    ):
        reads, writes = next(layouts)
        node = volume_node(rng, 3, 10, kernel=kernel, stride=stride, dilation=dilation, pads=pads, layout=writes)
        check(node, random_image(rng, 1, 3, 7, 9, 11), reads)
        if (kernel[0] - 1) * dilation[0] < 1 + pads[0] + pads[3]:
            check(node, random_image(rng, 1, 3, 1, 9, 11), reads)


@pytest.mark.parametrize("block_rows", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("layout", [TILES, PLANES], ids=str)
def test_every_block_height(block_rows: int, layout: Layout) -> None:
    """Rows that are no multiple of V, a permutation, a residual, several volumes, groups, two threads."""
    rng = np.random.default_rng(block_rows)
    x, residual = random_image(rng, 2, 6, 4, 5, 9), random_image(rng, 2, 37, 4, 5, 9)
    check(volume_node(rng, 6, 37, block_rows, permuted=True, adds=True, layout=layout), x, layout, residual, 2)
    check(volume_node(rng, 6, 3 * block_rows, block_rows, groups=3, layout=layout), x, PLANES)


def test_depthwise_layers_and_tables() -> None:
    """One channel for each row, gathered and of one tap; an activation function behind a sum."""
    rng = np.random.default_rng(2)
    x = random_image(rng, 1, 5, 3, 6, 7)
    for window in ({}, {"kernel": (1, 1, 1), "pads": NONE}, {"stride": (1, 2, 2)}):
        check(volume_node(rng, 5, 5, 1, groups=5, **window), x, PLANES)
    ranges = [random_range(rng) for _ in range(LEVELS)]
    tables = [table(lambda v: v / (1 + np.exp(-v)), random_range(rng, 0.08), held) for held in ranges]
    check(volume_node(rng, 5, 10, ranges=ranges, tables=tables), x, TILES)


def test_depths_may_change_between_runs() -> None:
    """Volumes of equal rows in all, but other slices, do not share a plan."""
    rng = np.random.default_rng(3)
    node = volume_node(rng, 2, 6)
    graph = QuantizedGraph([Step(node)])
    for depth, height in ((2, 6), (3, 4), (6, 2), (1, 12), (2, 6)):
        x = random_image(rng, 1, 2, depth, height, 5)
        answer, _ = read(graph.run(1, x=written(x, TILES)))
        np.testing.assert_array_equal(answer.data, planar(node.reference(1)(x).data))


def test_volumes_are_for_windows_with_slices() -> None:
    """A volume in a layer of images, a window that is too deep, a residual of another depth."""
    rng = np.random.default_rng(4)
    x = written(random_image(rng, 1, 4, 3, 5, 5), TILES)
    with pytest.raises(Exception, match=r"without three spatial dimensions Y has one slice, got \[1, 8, 3, 5, 5\]"):
        QuantizedGraph([Step(quantized_node(rng, 4, 8))]).run(0, x=x)
    with pytest.raises(Exception, match="the window spans 4 pixels, the padded image has 3 slices"):
        QuantizedGraph([Step(volume_node(rng, 4, 8, kernel=(4, 1, 1), pads=NONE))]).run(0, x=x)
    residual = written(random_image(rng, 1, 8, 5, 3, 5), TILES)
    with pytest.raises(
        Exception, match=r"residual must have the output's shape \[1, 8, 3, 5, 5\], got \[1, 8, 5, 3, 5\]"
    ):
        QuantizedGraph([Step(volume_node(rng, 4, 8, adds=True), adds="r")]).run(0, x=x, r=residual)


OTHERS = sorted({kernel.isa for kernel in library.kernels() if kernel.supported and kernel.value_type is INT8} -
                {library.isa(INT8)})  # fmt: skip


@pytest.mark.skipif("NESTED_SPARSE_FORCE_ISA" in os.environ, reason="the process that forces no ISA runs the others")
@pytest.mark.parametrize("isa", OTHERS)
def test_every_instruction_set(isa: str) -> None:
    """The tests that reach all parts of the kernels, by each of the machine's other instruction sets."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(Path(__file__))]
    environment = {**os.environ, "NESTED_SPARSE_FORCE_ISA": isa}
    done = subprocess.run(
        [*command, "-k", "height or depthwise"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
