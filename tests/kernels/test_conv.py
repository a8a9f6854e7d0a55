"""NestedConv: the operator in ONNX Runtime, compared with numpy in float64."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from layer_reference import correlate
from sparse_node import SparseModel, conv_node, tolerance
from sparse_node import check_levels as check

from nested_sparse.layouts import GatherScatter
from nested_sparse.value_type import FLOAT16

pytestmark = pytest.mark.every_isa


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (1, 5), (4, 2), (7, 7)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (3, 1), (2, 5)])
def test_every_window(kernel: tuple[int, int], stride: tuple[int, int]) -> None:
    """Kernel shape by stride by dilation by padding, symmetric and not."""
    rng = np.random.default_rng(0)
    dilations = [(1, 1), (2, 3)]
    paddings = [(0, 0, 0, 0), (1, 1, 1, 1), (0, 2, 3, 1), (3, 0, 0, 4)]
    for dilation, pads in itertools.product(dilations, paddings):
        node = conv_node(rng, 3, 10, 4, kernel=kernel, stride=stride, dilation=dilation, pads=pads)
        check(node, (1, 3, 21, 23))


@pytest.mark.parametrize("block_rows", [1, 2, 4, 8, 16, 128])
@pytest.mark.parametrize("threads", [1, 2])
def test_every_block_height(block_rows: int, threads: int) -> None:
    """Rows that are no multiple of V, a permutation, a residual, a clip, several images, one and two threads."""
    rng = np.random.default_rng(block_rows)
    options: dict[str, Any] = {"permuted": True, "residual": True, "clip": (0.0, 6.0)}
    check(conv_node(rng, 8, 37, block_rows, **options), (3, 8, 19, 30), threads)
    check(conv_node(rng, 8, 37, block_rows, kernel=(1, 1), pads=(0, 0, 0, 0), **options), (2, 8, 9, 11), threads)
    check(conv_node(rng, 8, 16, block_rows, clip=(0.0, np.inf)), (1, 8, 14, 14), threads)


@pytest.mark.parametrize(
    "layout",
    [GatherScatter(16, 1), GatherScatter(8, 1), GatherScatter(16, 4), GatherScatter(8, 8)],
    ids=lambda layout: layout.name,
)
@pytest.mark.parametrize("threads", [1, 2])
def test_gathers(layout: GatherScatter, threads: int) -> None:
    """Rows that no bundle divides, a permutation, a residual, a clip, windows and sizes with and without a copy."""
    rng = np.random.default_rng(layout.banks)
    options: dict[str, Any] = {"permuted": True, "residual": True, "clip": (0.0, 6.0), "layout": layout}
    check(conv_node(rng, 8, 37, 1, **options), (3, 8, 19, 30), threads)
    check(conv_node(rng, 8, 21, 1, stride=(2, 2), **options), (1, 8, 15, 15), threads)
    one = {"kernel": (1, 1), "pads": (0, 0, 0, 0)}
    for size in ((1, 1), (7, 7), (9, 31)):
        check(conv_node(rng, 20, 37, 1, **one, **options), (2, 20, *size), threads)
    check(conv_node(rng, 64, 70, 1, layout=layout), (1, 64, 28, 28), threads, range(1, 2))


@pytest.mark.parametrize("block_rows", [1, 2, 4, 8, 16, 32])
@pytest.mark.parametrize("threads", [1, 2])
def test_float16_values(block_rows: int, threads: int) -> None:
    """Odd rows, a permutation, a residual, windows and sizes with and without a copy, groups with many values."""
    rng = np.random.default_rng(block_rows)
    options: dict[str, Any] = {"permuted": True, "residual": True, "clip": (0.0, 6.0), "value_type": FLOAT16}
    check(conv_node(rng, 8, 37, block_rows, **options), (3, 8, 19, 30), threads)
    check(conv_node(rng, 8, 37, block_rows, kernel=(1, 1), pads=(0, 0, 0, 0), **options), (2, 8, 9, 11), threads)
    check(conv_node(rng, 512, 37, block_rows, value_type=FLOAT16), (1, 512, 7, 7), threads, range(1, 2))


@pytest.mark.parametrize("layout", [GatherScatter(16, 4), GatherScatter(8, 1)], ids=lambda layout: layout.name)
def test_float16_gathers(layout: GatherScatter) -> None:
    """The same of gather groups; ranges of rows that cut a bundle."""
    rng = np.random.default_rng(layout.banks)
    check(conv_node(rng, 8, 37, 1, permuted=True, residual=True, layout=layout, value_type=FLOAT16), (3, 8, 19, 30), 2)
    check(conv_node(rng, 64, 70, 1, layout=layout, value_type=FLOAT16), (1, 64, 28, 28), 2, range(1, 2))


WINDOWS: list[dict[str, Any]] = [
    {},
    {"stride": (2, 2), "kernel": (5, 5), "pads": (2, 2, 2, 2)},
    {"stride": (1, 3), "dilation": (2, 1), "pads": (0, 2, 3, 1)},
    {"kernel": (1, 1), "pads": (0, 0, 0, 0)},
]


@pytest.mark.parametrize("block_rows", [1, 2, 4, 8, 16, 32])
@pytest.mark.parametrize("groups", [2, 3, 12])
@pytest.mark.parametrize("threads", [1, 2])
def test_groups_of_channels(block_rows: int, groups: int, threads: int) -> None:
    """Few groups and one for each channel; one block of rows in a group and several; all that a convolution can add."""
    rng = np.random.default_rng(groups)
    options: dict[str, Any] = {"groups": groups, "permuted": True, "residual": True, "clip": (-3.0, 6.0)}
    for window, blocks in zip(WINDOWS, (1, 2, 3, 1), strict=True):
        check(
            conv_node(rng, 12, groups * blocks * block_rows, block_rows, **window, **options), (2, 12, 13, 18), threads
        )


WHOLE = (1.0, 1.0, 1.0)  # all of it at level 0


@pytest.mark.parametrize("channels", [1, 3, 4, 21])
@pytest.mark.parametrize("threads", [1, 2])
def test_whole_depthwise_layers(channels: int, threads: int) -> None:
    """Every tap at every level, channels four at a time and one by one; a single channel in a block of four rows."""
    rng = np.random.default_rng(channels)
    options: dict[str, Any] = {"groups": channels, "densities": WHOLE, "permuted": True, "residual": True}
    for window in WINDOWS[:3]:
        node = conv_node(rng, channels, channels, 1 if channels > 1 else 4, clip=(-3.0, 6.0), **window, **options)
        for size in ((5, 4), (13, 18), (40, 41)):
            check(node, (2, channels, *size), threads)


DEPTHWISE: dict[str, dict[str, Any]] = {
    "uneven strides": {"kernel": (3, 4), "stride": (3, 2), "pads": (2, 0, 1, 3)},
    "strides beyond the window": {"kernel": (2, 2), "stride": (5, 3), "pads": (0, 1, 0, 0)},
    "dilated": {"kernel": (3, 3), "dilation": (2, 3), "stride": (1, 2), "pads": (2, 3, 2, 3)},
    "dilated by the stride": {"kernel": (3, 2), "dilation": (2, 2), "stride": (2, 2), "pads": (1, 1, 1, 1)},
    "one tap": {"kernel": (1, 1), "pads": (0, 0, 0, 0)},
    "padding on one side": {"kernel": (3, 3), "pads": (9, 0, 0, 7)},
    "mostly padding": {"kernel": (2, 2), "dilation": (90, 200), "pads": (60, 150, 60, 150)},
    "no padding": {"kernel": (5, 5), "pads": (0, 0, 0, 0)},
}


@pytest.mark.parametrize("window", DEPTHWISE)
def test_windows_of_depthwise_layers(window: str) -> None:
    """Images of one band and of several, from one to several threads."""
    rng = np.random.default_rng(1)
    node = conv_node(rng, 6, 6, 1, groups=6, densities=WHOLE, **DEPTHWISE[window])
    for size in ((7, 7), (61, 90)):
        check(node, (2, 6, *size), threads=2, levels=range(1, 2))


SHORT: dict[str, dict[str, Any]] = {
    "even": {"kernel": (3, 3), "pads": (1, 1, 1, 1)},
    "all padding before": {"kernel": (3, 3), "pads": (2, 2, 0, 0)},
    "dilated": {"kernel": (2, 3), "dilation": (2, 2), "pads": (3, 1, 0, 3)},
    "columns beyond the image": {"kernel": (1, 5), "dilation": (1, 6), "pads": (0, 12, 0, 12)},
    "a column": {"kernel": (5, 1), "pads": (2, 0, 2, 0)},
}


@pytest.mark.parametrize("window", SHORT)
def test_short_rows_of_depthwise_layers(window: str) -> None:
    """Rows shorter than a vector of any instruction set and hardly longer, of one band and of several."""
    rng = np.random.default_rng(3)
    node = conv_node(rng, 5, 5, 1, groups=5, densities=WHOLE, permuted=True, residual=True, **SHORT[window])
    for size in ((25, 5), (1, 3), (9, 1), (13, 17), (1201, 2)):
        check(node, (2, 5, *size), threads=2, levels=range(1, 2))


def test_long_lines_of_depthwise_layers() -> None:
    """A band is a part of one row; the longest leave no band."""
    rng = np.random.default_rng(2)
    options: dict[str, Any] = {"groups": 5, "densities": WHOLE, "spatial": 1, "kernel": (1, 7)}
    check(conv_node(rng, 5, 5, 1, pads=(0, 3, 0, 3), stride=(1, 2), **options), (1, 5, 20011), levels=range(1))
    check(conv_node(rng, 5, 5, 1, pads=(0, 0, 0, 0), dilation=(1, 50000), **options), (1, 5, 300100), levels=range(1))


@pytest.mark.parametrize("layout", [GatherScatter(16, 1), GatherScatter(8, 2)], ids=lambda layout: layout.name)
@pytest.mark.parametrize("groups", [2, 3])
def test_groups_of_channels_in_gathers(layout: GatherScatter, groups: int) -> None:
    """A bundle holds rows of two groups, and the last one rows of none."""
    node = conv_node(
        np.random.default_rng(layout.banks), 12, 7 * groups, 1, groups=groups, permuted=True, layout=layout
    )
    check(node, (2, 12, 9, 10))


def test_a_block_may_not_span_two_groups() -> None:
    """Its rows would have to read different channels."""
    node = conv_node(np.random.default_rng(0), 12, 12, 4, groups=2)
    with pytest.raises(
        Exception, match="the rows of each of the 2 groups must be whole blocks of 4, got 12 rows in all"
    ):
        SparseModel([node])


LINES: list[dict[str, Any]] = [
    {"kernel": (1, 1), "pads": (0, 0, 0, 0)},
    {"kernel": (1, 11), "stride": (1, 2), "pads": (0, 5, 0, 5)},
    {"kernel": (1, 3), "dilation": (1, 4), "pads": (0, 0, 0, 8)},
    {"kernel": (1, 4), "stride": (1, 3), "pads": (0, 1, 0, 2)},
]


@pytest.mark.parametrize("block_rows", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("groups", [1, 3, 6])
@pytest.mark.parametrize("threads", [1, 2])
def test_one_spatial_dimension(block_rows: int, groups: int, threads: int) -> None:
    """Lines from a few pixels to several tiles, in groups and not; X, residual and Y have three dimensions."""
    rng = np.random.default_rng(block_rows)
    for window, width in zip(LINES, (1, 40, 113, 1000), strict=True):
        options: dict[str, Any] = {"spatial": 1, "groups": groups, "residual": True, "clip": (0.0, np.inf), **window}
        check(conv_node(rng, 6, groups * block_rows, block_rows, permuted=True, **options), (2, 6, width), threads)


def test_one_spatial_dimension_takes_lines_only() -> None:
    """An image with rows is refused: Y has no dimension for them."""
    model = SparseModel([conv_node(np.random.default_rng(0), 6, 8, kernel=(1, 3), pads=(0, 1, 0, 1), spatial=1)])
    tall = SparseModel([conv_node(np.random.default_rng(0), 6, 8, kernel=(1, 3), pads=(1, 1, 1, 1), spatial=1)])
    with pytest.raises(
        Exception, match=r"'layer0': with one spatial dimension Y must have one row, got \[1, 8, 3, 9\]"
    ):
        tall.run(np.zeros((1, 6, 9), np.float32), 0)
    assert model.run(np.zeros((1, 6, 9), np.float32), 0).shape == (1, 8, 9)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (3, 2), (7, 7), (14, 14), (56, 57)])
def test_every_image_size(size: tuple[int, int]) -> None:
    """Images from one pixel to several tiles, with and without a copy of the image."""
    rng = np.random.default_rng(5)
    check(conv_node(rng, 5, 9, 4), (1, 5, *size), levels=range(1, 2))
    check(conv_node(rng, 5, 9, 4, stride=(2, 2)), (1, 5, *size), levels=range(1, 2))
    check(conv_node(rng, 5, 9, 4, kernel=(1, 1), pads=(0, 0, 0, 0)), (1, 5, *size), levels=range(1, 2))


@pytest.mark.parametrize("threads", [1, 2])
def test_large_layers_are_cut_into_tasks(threads: int) -> None:
    """Enough work that pixels (early layers) and rows (late layers) are cut into tasks and sweeps."""
    rng = np.random.default_rng(6)
    check(conv_node(rng, 64, 96, 4, permuted=True, residual=True), (1, 64, 56, 56), threads, range(1, 2))
    check(conv_node(rng, 256, 256, 4, permuted=True), (1, 256, 7, 7), threads, range(1, 2))
    wide = conv_node(rng, 512, 40, 4, kernel=(1, 1), pads=(0, 0, 0, 0))
    check(wide, (1, 512, 28, 28), threads, range(1, 2))


def test_columns_beyond_uint16() -> None:
    """More than 65536 columns: four-byte column indices."""
    rng = np.random.default_rng(7)
    node = conv_node(rng, 7300, 3, 2, densities=(0.002, 0.01))
    assert node.weight.columns > 65536
    check(node, (1, 7300, 3, 4), levels=range(2))


def test_size_of_the_image_may_change() -> None:
    """One session serves images of several sizes and batches in any order."""
    rng = np.random.default_rng(8)
    node = conv_node(rng, 4, 6, 4, stride=(2, 2))
    model = SparseModel([node])
    for shape in ((1, 4, 9, 9), (2, 4, 16, 5), (1, 4, 9, 9), (5, 4, 3, 40)):
        x = rng.standard_normal(shape).astype(np.float32)
        assert np.abs(model.run(x, 2) - node.dense(x, 2)).max() <= tolerance(node, 2, x)


def test_more_sizes_of_images_take_turns_than_plans_are_kept() -> None:
    """A plan that was kept, and one that was made again, read the image as the first one did."""
    rng = np.random.default_rng(9)
    for window in ({}, {"stride": (2, 2), "kernel": (5, 4), "pads": (2, 0, 1, 3)}, {"stride": (1, 3)}):
        node = conv_node(rng, 3, 5, 4, **window)
        model = SparseModel([node])
        for turn in range(2):
            for size in range(20):
                x = rng.standard_normal((1, 3, 5 + size, 37 - size)).astype(np.float32)
                assert np.abs(model.run(x, turn) - node.dense(x, turn)).max() <= tolerance(node, turn, x)


def test_empty_batch() -> None:
    """No images in, no images out."""
    node = conv_node(np.random.default_rng(9), 4, 6)
    assert SparseModel([node]).run(np.zeros((0, 4, 8, 8), np.float32), 1).shape == (0, 6, 8, 8)


def test_infinity_and_nan_stay_where_the_window_reaches() -> None:
    """Zeros of the padding and dropped pixels never meet a NaN beside them."""
    node = conv_node(np.random.default_rng(10), 3, 8)
    x = np.random.default_rng(11).standard_normal((1, 3, 12, 12)).astype(np.float32)
    x[0, 1, 5, 11], x[0, 2, 0, 0] = np.nan, np.inf
    y = SparseModel([node]).run(x, 2)
    finite = np.isfinite(x)
    reached = correlate((~finite).astype(np.float64), node.weight.mask(2).astype(np.float64), node.window) > 0
    assert np.array_equal(np.isfinite(y), ~reached)
    bounded = np.where(finite, x, np.float32(0))
    assert np.abs(y - node.dense(bounded, 2))[~reached].max() <= tolerance(node, 2, bounded)
