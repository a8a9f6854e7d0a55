"""Volumes: images with slices, (N, C, D, H, W), in convolutions and pools, against numpy."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from sparse_node import SparseModel, conv_node
from sparse_node import check_levels as check
from tiled_graph import Step, TiledGraph, compare, pool

from nested_sparse.layouts import GatherScatter
from nested_sparse.value_type import FLOAT16

pytestmark = pytest.mark.every_isa

NONE = (0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize("kernel", [(1, 1, 1), (3, 3, 3), (3, 1, 1), (1, 3, 3), (2, 5, 3)])
@pytest.mark.parametrize("stride", [(1, 1, 1), (2, 2, 2), (1, 2, 2), (3, 1, 5)])
def test_every_window(kernel: tuple[int, ...], stride: tuple[int, ...]) -> None:
    """Kernel by stride by dilation by padding, symmetric and not."""
    rng = np.random.default_rng(0)
    for dilation, pads in itertools.product([(1, 1, 1), (3, 1, 2)], [NONE, (1, 1, 1, 1, 1, 1), (0, 2, 3, 4, 1, 0)]):
        node = conv_node(rng, 3, 10, 4, kernel=kernel, stride=stride, dilation=dilation, pads=pads)
        check(node, (1, 3, 8, 12, 13))


@pytest.mark.parametrize("block_rows", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("threads", [1, 2])
def test_every_block_height(block_rows: int, threads: int) -> None:
    """Rows that are no multiple of V, a permutation, a residual, a clip, several images, groups, float16."""
    rng = np.random.default_rng(block_rows)
    options: dict[str, Any] = {"permuted": True, "residual": True, "clip": (0.0, 6.0), "kernel": (3, 3, 3)}
    check(conv_node(rng, 8, 37, block_rows, **options), (3, 8, 4, 9, 10), threads)
    check(conv_node(rng, 8, 37, block_rows, value_type=FLOAT16, **options), (1, 8, 3, 5, 7), threads)
    check(conv_node(rng, 6, 3 * block_rows, block_rows, groups=3, **options), (2, 6, 5, 7, 9), threads)


@pytest.mark.parametrize("layout", [GatherScatter(16, 1), GatherScatter(8, 2)], ids=lambda layout: layout.name)
def test_gathers(layout: GatherScatter) -> None:
    """Patterns of gather groups."""
    check(conv_node(np.random.default_rng(0), 8, 37, 1, kernel=(3, 3, 3), layout=layout), (1, 8, 4, 9, 10), 2)


def test_many_columns() -> None:
    """A matrix that is cut into ranges of channels, within a block of taps."""
    rng = np.random.default_rng(1)
    check(conv_node(rng, 130, 20, 4, kernel=(3, 3, 3), permuted=True), (1, 130, 2, 7, 7), 2, range(1, 2))


def test_whole_depthwise_layers() -> None:
    """One row and one channel for each group, all taps at every level."""
    options: dict[str, Any] = {"groups": 5, "densities": (1.0, 1.0, 1.0), "permuted": True, "residual": True}
    rng = np.random.default_rng(2)
    check(conv_node(rng, 5, 5, 1, kernel=(3, 3, 3), **options), (2, 5, 4, 9, 10))
    window = {"kernel": (3, 2, 3), "stride": (2, 3, 2), "dilation": (1, 2, 3), "pads": (2, 0, 1, 0, 3, 2)}
    check(conv_node(rng, 5, 5, 1, **window, **options), (1, 5, 7, 20, 31))


@pytest.mark.parametrize("size", [(1, 1, 1), (1, 7, 7), (9, 1, 1), (3, 14, 15)])
@pytest.mark.parametrize("threads", [1, 2])
def test_tiled_volumes(size: tuple[int, int, int], threads: int) -> None:
    """Read where they lie and gathered, with a residual, a depthwise layer, and pools of two forms between."""
    rng = np.random.default_rng(sum(size))
    relu = (0.0, np.inf)
    first = conv_node(rng, 3, 8, 4, kernel=(3, 3, 3), clip=relu)
    one = conv_node(rng, 8, 8, 2, kernel=(1, 1, 1), pads=NONE, residual=True, clip=relu, permuted=True)
    depthwise = conv_node(rng, 8, 8, 1, kernel=(3, 3, 3), groups=8, clip=relu, densities=(1.0, 1.0, 1.0))
    last = conv_node(rng, 8, 5, 4, kernel=(3, 3, 3), stride=(1, 2, 2))
    steps = [Step(first, "x"), Step(one, "0", "0"), Step(depthwise, "1"), Step(pool(3, 2, (1,) * 6), "2"),
             Step(last, "3")]  # fmt: skip
    compare(TiledGraph(steps, "0 1 2 3", threads), (2, 3, *size))


def test_size_may_change_between_runs() -> None:
    """Volumes of equal height and width but other depths do not share a plan."""
    rng = np.random.default_rng(3)
    steps = [Step(conv_node(rng, 5, 9, 4, kernel=(3, 3, 3), clip=(0.0, np.inf)), "x"), Step(pool(2, 2, NONE), "0"),
             Step(conv_node(rng, 9, 9, 1, kernel=(3, 3, 3)), "1")]  # fmt: skip
    graph = TiledGraph(steps, "0 1")
    for shape in ((1, 5, 4, 8, 6), (1, 5, 6, 8, 6), (2, 5, 3, 2, 2), (1, 5, 4, 8, 6)):
        compare(graph, shape)


def test_dimensions_of_the_window_and_of_the_image_must_fit() -> None:
    """A volume in a layer of images, a window that is too deep, and one with sizes that lack."""
    rng = np.random.default_rng(4)
    flat = TiledGraph([Step(conv_node(rng, 6, 8, kernel=(3, 3)), "x")], "")
    with pytest.raises(Exception, match=r"without three spatial dimensions Y has one slice, got \[1, 8, 2, 5, 5\]"):
        flat.run(np.zeros((1, 6, 2, 5, 5), np.float32), 0)
    deep = SparseModel([conv_node(rng, 6, 8, kernel=(4, 1, 1), pads=NONE)])
    with pytest.raises(Exception, match="the window spans 4 pixels, the padded image has 3 slices"):
        deep.run(np.zeros((1, 6, 3, 5, 5), np.float32), 0)
    node = conv_node(rng, 6, 8, kernel=(3, 3, 3))
    node.window["pads"].pop()
    with pytest.raises(Exception, match="pads"):
        SparseModel([node])
