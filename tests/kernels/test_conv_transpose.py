"""NestedConvTranspose: the operator in ONNX Runtime, compared with numpy in float64."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from sparse_node import SparseModel, SparseNode, conv_node, transposed_node
from sparse_node import check_levels as check
from tiled_graph import Step, TiledGraph, compare

from nested_sparse.layouts import GatherScatter
from nested_sparse.value_type import FLOAT16

pytestmark = pytest.mark.every_isa


@pytest.mark.parametrize("kernel", [(1, 1), (2, 2), (3, 3), (4, 4), (1, 5), (4, 2)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (3, 1), (2, 5)])
def test_every_window(kernel: tuple[int, int], stride: tuple[int, int]) -> None:
    """Kernel shape by stride by dilation by padding, symmetric and not, with and without more at the end."""
    rng = np.random.default_rng(0)
    paddings = [(0, 0, 0, 0), (1, 1, 1, 1), (0, 2, 1, 0)]
    for dilation, pads in itertools.product([(1, 1), (2, 3)], paddings):
        more = (0, 0) if pads[0] else (1, 2)
        node = transposed_node(rng, 3, 10, 4, kernel=kernel, stride=stride, dilation=dilation, pads=pads, more=more)
        check(node, (1, 3, 7, 12))


@pytest.mark.parametrize("block_rows", [1, 2, 4, 8, 16, 32])
@pytest.mark.parametrize("threads", [1, 2])
def test_every_block_height(block_rows: int, threads: int) -> None:
    """Rows that are no multiple of V, a permutation, a clip, several images, float16."""
    rng = np.random.default_rng(block_rows)
    options: dict[str, Any] = {"permuted": True, "clip": (0.0, 6.0), "stride": (2, 2)}
    check(transposed_node(rng, 8, 37, block_rows, kernel=(2, 2), **options), (3, 8, 19, 30), threads)
    check(transposed_node(rng, 8, 37, block_rows, kernel=(4, 4), pads=(1,) * 4, **options), (2, 8, 9, 11), threads)
    check(transposed_node(rng, 8, 37, block_rows, value_type=FLOAT16, **options), (1, 8, 5, 31), threads)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (7, 7), (33, 34)])
def test_every_image_size(size: tuple[int, int]) -> None:
    """Images from one pixel to several tiles, and outputs that no stride divides."""
    rng = np.random.default_rng(5)
    for stride, pads in itertools.product([(2, 2), (4, 3)], [(0, 0, 0, 0), (1, 0, 0, 1)]):
        check(transposed_node(rng, 5, 9, 4, kernel=(4, 3), stride=stride, pads=pads), (1, 5, *size), levels=range(1, 2))


@pytest.mark.parametrize("block_rows", [1, 4])
def test_one_and_three_spatial_dimensions(block_rows: int) -> None:
    """Lines and volumes."""
    rng = np.random.default_rng(block_rows)
    for kernel, stride, pad in ((4, 2, 1), (16, 8, 4), (3, 2, 0), (2, 3, 0)):
        options: dict[str, Any] = {"kernel": (1, kernel), "stride": (1, stride), "pads": (0, pad) * 2, "spatial": 1}
        check(transposed_node(rng, 6, 10, block_rows, clip=(0.0, np.inf), **options), (2, 6, 75))
    volumes = {"kernel": (3, 2, 4), "stride": (2, 1, 2), "pads": (1, 0, 1, 0, 0, 1), "more": (1, 0, 0)}
    check(transposed_node(rng, 6, 10, block_rows, permuted=True, **volumes), (2, 6, 3, 5, 7), 2)
    check(transposed_node(rng, 6, 10, block_rows, kernel=(2, 2, 2), stride=(2, 2, 2)), (1, 6, 4, 5, 7))


def test_many_columns_and_many_phases() -> None:
    """A phase whose matrix is cut into ranges of channels; a stride beyond the kernel, whose gaps hold the shift."""
    rng = np.random.default_rng(1)
    wide = transposed_node(rng, 800, 12, 4, kernel=(4, 4), stride=(2, 2), pads=(1,) * 4, permuted=True)
    check(wide, (1, 800, 3, 4), 2, range(1, 2))
    check(transposed_node(rng, 5, 6, 4, kernel=(2, 2), stride=(16, 16)), (1, 5, 3, 4), levels=range(1, 2))


@pytest.mark.parametrize("kernel", [1, 2, 4])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_tiled_image_is_read(kernel: int, threads: int) -> None:
    """Where it lies, and gathered from tiles."""
    rng = np.random.default_rng(kernel)
    first = conv_node(rng, 3, 8, 4, permuted=True)
    up = transposed_node(rng, 8, 6, 2, kernel=(kernel, kernel), stride=(2, 2), clip=(0.0, 3.0))
    for size in ((1, 1), (7, 9), (33, 34)):
        compare(TiledGraph([Step(first, "x"), Step(up, "0")], "0", threads), (2, 3, *size))


def test_size_of_the_image_may_change() -> None:
    """One session serves images of several sizes and batches in any order, none among them."""
    rng = np.random.default_rng(8)
    node = transposed_node(rng, 4, 6, 4, stride=(2, 2))
    model = SparseModel([node])
    for shape in ((1, 4, 9, 9), (2, 4, 16, 5), (0, 4, 3, 3), (1, 4, 9, 9), (5, 4, 3, 40)):
        x = rng.standard_normal(shape).astype(np.float32)
        y, expected = model.run(x, 2), node.dense(x, 2)
        assert y.shape == expected.shape
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-4)


def test_a_nan_reaches_what_its_taps_reach() -> None:
    """Other outputs are finite, of the other phases too."""
    node = transposed_node(np.random.default_rng(10), 2, 8, kernel=(2, 2), stride=(2, 2), densities=(1.0,))
    x = np.ones((1, 2, 5, 5), np.float32)
    x[0, 0, 2, 3] = np.nan
    bad = np.isnan(SparseModel([node]).run(x, 0))
    expected = np.zeros_like(bad)
    expected[:, :, 4:6, 6:8] = True
    assert np.array_equal(bad, expected)


def test_what_the_operator_does_not_take_is_refused() -> None:
    """Groups of channels, gather groups, a residual, more phases than there may be, an output of no pixels."""
    rng = np.random.default_rng(4)
    refused: dict[str, SparseNode] = {
        "take blocks, and one group": transposed_node(rng, 4, 8, groups=2),
        "take blocks, and one": transposed_node(rng, 4, 8, 1, layout=GatherScatter(8, 1)),
        "expected a product of at most 4096": transposed_node(rng, 4, 8, stride=(64, 65)),
    }
    for message, node in refused.items():
        with pytest.raises(Exception, match=message):
            SparseModel([node])
    added = SparseModel([transposed_node(rng, 4, 8, residual=True)])
    with pytest.raises(Exception, match="'layer0': a transposed convolution adds no residual"):
        added.run(np.zeros((1, 4, 3, 3), np.float32), 0, [np.zeros((1, 8, 5, 5), np.float32)])
    empty = SparseModel([transposed_node(rng, 4, 8, pads=(2, 2, 2, 2))])
    with pytest.raises(Exception, match="'layer0': for 2 rows of X there would be 0 of Y"):
        empty.run(np.zeros((1, 4, 2, 3), np.float32), 0)
