"""QuantizedConv: every window, layout and level gives the bytes of the integer reference, with whole borders."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from byte_images import Layout, places, read, written
from integer_reference import OPEN, Image, Range, table
from quantized_node import LEVELS, QuantizedGraph, QuantizedNode, Step, quantized_node, random_image, random_range

from nested_sparse.kernels import library

POINT: dict[str, Any] = {"kernel": (1, 1), "pads": (0, 0, 0, 0)}
TILES, PLANES = Layout(0, 1), Layout(1, 1)


def check(
    node: QuantizedNode, x: Image, reads: Layout, residual: Image | None = None, adds: Layout = TILES, threads: int = 1
) -> None:
    """Every level of the node, compared with the reference."""
    graph = QuantizedGraph([Step(node, adds="r" if residual else "")], threads=threads)
    more = {"r": written(residual, adds)} if residual else {}
    for level in range(LEVELS):
        answer, layout = read(graph.run(level, x=written(x, reads), **more))
        expected = node.reference(level)(x, residual)
        np.testing.assert_array_equal(answer.data, expected.data)
        assert (answer.range, layout) == (node.ranges[level], node.layout)


WINDOWS: dict[str, dict[str, Any]] = {
    "1x1": POINT,
    "1x1 stride 2": {**POINT, "stride": (2, 2)},
    "1x1 padded": {"kernel": (1, 1), "pads": (1, 0, 0, 1)},
    "3x3": {},
    "3x3 unpadded": {"pads": (0, 0, 0, 0)},
    "3x3 stride 2": {"stride": (2, 2)},
    "3x3 strides 1, 3": {"stride": (1, 3)},
    "3x3 dilated": {"dilation": (2, 2), "pads": (2, 2, 2, 2)},
    "3x3 dilated, stride 2": {"dilation": (3, 1), "pads": (3, 1, 3, 1), "stride": (2, 2)},
    "3x3 asymmetric": {"pads": (2, 0, 0, 2)},
    "3x3 far outside": {"pads": (4, 5, 6, 3)},
    "5x5": {"kernel": (5, 5), "pads": (2, 2, 2, 2)},
    "5x1": {"kernel": (5, 1), "pads": (2, 0, 2, 0)},
    "7x7 stride 2": {"kernel": (7, 7), "pads": (3, 3, 3, 3), "stride": (2, 2)},
    "2x4": {"kernel": (2, 4), "pads": (0, 1, 1, 2)},
}
LAYOUTS = [
    (TILES, TILES),
    (PLANES, TILES),
    (PLANES, PLANES),
    (TILES, PLANES),
    (Layout(3, 2), Layout(2, 2)),
    (Layout(2, 0), Layout(1, 4)),
    (Layout(0, 0), Layout(0, 0)),
]


@pytest.mark.parametrize("layouts", LAYOUTS, ids=str)
@pytest.mark.parametrize("window", WINDOWS)
def test_windows_read_and_write_every_layout(window: str, layouts: tuple[Layout, Layout]) -> None:
    """Reading in place and gathering, into tiles and into planes with borders."""
    rng = np.random.default_rng(1)
    node = quantized_node(rng, 5, 9, 4, layout=layouts[1], **WINDOWS[window])
    check(node, random_image(rng, 1, 5, 11, 13), layouts[0])


@pytest.mark.every_isa
@pytest.mark.parametrize("permuted", [False, True])
@pytest.mark.parametrize("block_rows", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("rows", [1, 16, 37])
def test_blocks_of_every_size(block_rows: int, rows: int, permuted: bool) -> None:
    """Whole and padded row groups, rows in their own and in another order."""
    rng = np.random.default_rng(2)
    x = random_image(rng, 2, 6, 9, 10)
    for window in ({}, POINT):
        check(quantized_node(rng, 6, rows, block_rows, permuted=permuted, layout=PLANES, **window), x, PLANES)


@pytest.mark.parametrize("block_rows", [2, 4, 8, 16])
@pytest.mark.parametrize("layout", [TILES, PLANES], ids=str)
def test_layers_that_keep_all_columns(block_rows: int, layout: Layout) -> None:
    """Their quads are joined once for all row groups: one group and many, columns that fill no quad, groups, tables."""
    rng = np.random.default_rng(21)
    for rows, groups in ((3, 1), (40, 1), (64, 2)):
        node = quantized_node(rng, 6, rows, block_rows, layout=layout, densities=(1.0, 1.0, 1.0), groups=groups)
        check(node, random_image(rng, 1, 6, 9, 10), layout)


SIZES = [(1, 1), (1, 40), (40, 1), (2, 2), (7, 8), (1, 63), (1, 64), (1, 65), (8, 8), (9, 7), (5, 13), (17, 31)]


@pytest.mark.every_isa
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("layout", [Layout(0, 0), TILES, PLANES], ids=str)
def test_sizes_around_those_of_tiles(size: tuple[int, int], layout: Layout) -> None:
    """Images of a pixel, a column, a row; 63 to 65 pixels; batches of one to three."""
    rng = np.random.default_rng(3)
    for batch, window in ((1, {}), (2, POINT), (3, {"stride": (2, 2)})):
        node = quantized_node(rng, 3, 10, 4, layout=layout, **window)
        check(node, random_image(rng, batch, 3, *size), layout)


def test_no_images() -> None:
    """A batch of none."""
    rng = np.random.default_rng(3)
    for reads, writes in ((TILES, PLANES), (PLANES, TILES)):
        graph = QuantizedGraph([Step(quantized_node(rng, 3, 10, 4, layout=writes))])
        answer, layout = read(graph.run(0, x=written(random_image(rng, 0, 3, 5, 6), reads)))
        assert (answer.data.shape, layout) == ((0, 10, 5, 6), writes)


@pytest.mark.every_isa
@pytest.mark.parametrize("layout", [TILES, PLANES, Layout(2, 2)], ids=str)
@pytest.mark.parametrize("groups", [2, 3, 6, 12])
def test_groups_of_channels(groups: int, layout: Layout) -> None:
    """A few groups, one for each channel (with a multiplier), and depthwise."""
    rng = np.random.default_rng(4)
    x = random_image(rng, 2, 12, 9, 10)
    for window in ({}, {"stride": (2, 2)}, {"kernel": (5, 5), "pads": (2, 2, 2, 2)}, POINT):
        for rows, block_rows in ((12, 1), (24, 4 if groups < 12 else 2)):
            node = quantized_node(rng, 12, rows, block_rows, groups=groups, layout=layout, permuted=True, **window)
            check(node, x, layout)


@pytest.mark.every_isa
@pytest.mark.parametrize("block_rows", [1, 2, 4, 8, 16])
def test_row_groups_of_equal_columns(block_rows: int) -> None:
    """First layers, which keep all weights; equal columns of a sparse layer; levels that add more of them."""
    rng = np.random.default_rng(5)
    x = random_image(rng, 1, 3, 13, 12)
    for densities, window in (((1.0, 1.0, 1.0), {"stride": (2, 2)}), ((0.5, 0.5, 0.5), {}), ((0.4, 0.4, 0.9), {})):
        node = quantized_node(rng, 3, 37, block_rows, densities=densities, permuted=True, layout=PLANES, **window)
        same = np.repeat(node.first_level[:1], len(node.first_level), axis=0)
        for layout in (TILES, PLANES):
            check(replace(node, first_level=same), x, layout)


@pytest.mark.every_isa
def test_depthwise_channels_beyond_one_matrix() -> None:
    """More channels than are gathered at once, on one and two threads."""
    rng = np.random.default_rng(5)
    x = random_image(rng, 1, 70, 12, 12)
    for threads in (1, 2):
        node = quantized_node(rng, 70, 70, 1, groups=70, stride=(2, 2), layout=PLANES)
        check(node, x, TILES, threads=threads)


def test_a_plane_for_each_channel_of_a_pointwise_group() -> None:
    """Groups read in place from planes: offsets of a group start at its first channel."""
    rng = np.random.default_rng(5)
    check(quantized_node(rng, 8, 16, 4, groups=4, layout=TILES, **POINT), random_image(rng, 1, 8, 6, 7), PLANES)


@pytest.mark.parametrize("layout", [Layout(0, 0), Layout(0, 2), Layout(1, 2)], ids=str)
@pytest.mark.parametrize("groups", [1, 4])
def test_lines(groups: int, layout: Layout) -> None:
    """One spatial dimension: images of one row."""
    rng = np.random.default_rng(6)
    line: dict[str, Any] = {"spatial": 1, "kernel": (1, 5), "pads": (0, 2, 0, 2), "groups": groups}
    for width in (1, 50, 200):
        x = random_image(rng, 2, 4, 1, width)
        check(quantized_node(rng, 4, 8, 2, layout=layout, **line), x, layout)
        check(quantized_node(rng, 4, 8, 1, layout=layout, **{**line, "stride": (1, 3)}), x, layout)


@pytest.mark.every_isa
@pytest.mark.parametrize("layouts", [(TILES, TILES), (PLANES, PLANES), (TILES, PLANES), (PLANES, TILES)], ids=str)
@pytest.mark.parametrize("scale", [0.002, 0.05, 0.11, 3.0])
def test_residuals_of_other_scales(scale: float, layouts: tuple[Layout, Layout]) -> None:
    """Finer, alike, twice as coarse, and so coarse that its multiplier saturates; border unlike that of the output."""
    rng = np.random.default_rng(7)
    for window in ({}, POINT):
        node = quantized_node(rng, 5, 10, 4, layout=layouts[0], permuted=True, adds=True, clip=(-2.0, 4.0), **window)
        x, residual = random_image(rng, 2, 5, 9, 10), random_image(rng, 2, 10, 9, 10, scale=scale)
        check(node, x, PLANES, residual, layouts[1])


@pytest.mark.parametrize("clip", [OPEN, (0.0, math.inf), (0.0, 6.0), (-1.5, 2.5), (100.0, math.inf), (3.0, -3.0)])
def test_clips(clip: tuple[float, float]) -> None:
    """Open, ReLU, ReLU6, both sides, all of the output, and bounds in the wrong order."""
    rng = np.random.default_rng(8)
    check(quantized_node(rng, 5, 10, 4, clip=clip), random_image(rng, 1, 5, 9, 10), TILES)


@pytest.mark.every_isa
@pytest.mark.parametrize("layout", [TILES, PLANES], ids=str)
def test_tables(layout: Layout) -> None:
    """Hard-swish after the sum with a residual; the sums have ranges of their own, and a clip is not used."""
    rng = np.random.default_rng(9)
    ranges = [random_range(rng) for _ in range(LEVELS)]
    tables = [table(lambda v: v * np.clip(v + 3, 0, 6) / 6, random_range(rng, 0.08), held) for held in ranges]
    node = quantized_node(
        rng, 5, 10, 4, layout=layout, ranges=ranges, tables=tables, adds=True, clip=(0.0, 0.1), permuted=True
    )
    check(node, random_image(rng, 2, 5, 9, 10), PLANES, random_image(rng, 2, 10, 9, 10), layout)


GAINS = [0.0, -0.0, -1.0, 1e-30, -1e-12, 1e-6, 1e4, -1e30, np.inf, -np.inf, np.nan]
SHIFTS = [0.0, -3.0, 1e-30, 2e4, -1e30, np.inf, np.nan]


@pytest.mark.every_isa
def test_norms_that_networks_should_not_have() -> None:
    """Scales of zero, negative, tiny, huge; shifts that are no numbers: rows are those of the reference."""
    rng = np.random.default_rng(10)
    pairs = [(gain, shift) for gain in GAINS for shift in SHIFTS]
    norms = np.tile(np.array(pairs, np.float32).T, (LEVELS, 1, 1))
    for adds in (False, True):
        node = quantized_node(rng, 3, len(pairs), 4, norms=norms, adds=adds, layout=TILES, **POINT)
        residual = random_image(rng, 1, len(pairs), 5, 6) if adds else None
        check(node, random_image(rng, 1, 3, 5, 6), TILES, residual)


def test_rows_that_a_level_has_no_weights_of() -> None:
    """Levels without any quads, and rows whose first weights come later."""
    rng = np.random.default_rng(11)
    node = quantized_node(rng, 4, 12, 4, densities=(0.0, 0.3, 0.3))
    first_level = node.first_level.copy()
    first_level[1] = 2
    check(replace(node, first_level=first_level), random_image(rng, 1, 4, 9, 10), TILES)


@pytest.mark.every_isa
@pytest.mark.parametrize("byte", [0, 255])
@pytest.mark.parametrize("weight", [-127, 127])
def test_largest_sums(weight: int, byte: int) -> None:
    """All weights and all bytes at their bounds: 4608 columns of a layer, and the most that an int8 layer has."""
    rng = np.random.default_rng(12)
    for channels, window in ((512, {}), (32768, POINT)):
        node = quantized_node(rng, channels, 5, 4, layout=PLANES, densities=(0.1, 0.4, 1.0), **window)
        node = replace(node, weight=np.full_like(node.weight, weight))
        x = Image(np.full((1, channels, 3, 3), byte, np.uint8), Range(np.float32(0.05), 255 - byte))
        check(node, x, PLANES)
        check(replace(node, norms=node.norms * np.float32(1e-3)), x, TILES)


def test_scale_travels_with_the_image() -> None:
    """A level lowered between operators: each reads what a denser level wrote, with that level's scale and zero."""
    rng = np.random.default_rng(13)
    first = quantized_node(rng, 4, 8, 4, layout=PLANES)
    second = quantized_node(rng, 8, 8, 4, adds=True, layout=PLANES)
    x = random_image(rng, 1, 4, 9, 10)
    graph = QuantizedGraph([Step(second, adds="r")])
    for of_input, of_residual in ((2, 2), (2, 1), (1, 2), (0, 2)):
        images = [first.reference(level)(x) for level in (of_input, of_residual)]
        tensors = [QuantizedGraph([Step(first)]).run(level, x=written(x, TILES)) for level in (of_input, of_residual)]
        for level in range(min(of_input, of_residual) + 1):
            answer, _ = read(graph.run(level, x=tensors[0], r=tensors[1]))
            np.testing.assert_array_equal(answer.data, second.reference(level)(*images).data)


def chain(rng: np.random.Generator, layout: Layout) -> list[Step]:
    """A bottleneck: its third convolution adds what the first one wrote, and a fourth reads that."""
    first = quantized_node(rng, 6, 12, 4, layout=layout, **POINT)
    middle = quantized_node(rng, 12, 12, 4, layout=PLANES, clip=(0.0, math.inf))
    last = quantized_node(rng, 12, 12, 4, layout=layout, adds=True, permuted=True, clip=(0.0, math.inf))
    return [Step(first), Step(middle, "0"), Step(last, "1", "0"), Step(quantized_node(rng, 12, 9, 4), "2")]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("size", [(4, 4), (30, 31), (90, 91)])
@pytest.mark.parametrize("layout", [TILES, PLANES], ids=str)
def test_output_may_take_the_residuals_memory(layout: Layout, size: tuple[int, int], threads: int) -> None:
    """A chain whose images have equal names of shapes, so that ONNX Runtime hands the residual's memory on."""
    rng = np.random.default_rng(14)
    steps = chain(rng, layout)
    graph = QuantizedGraph(steps, threads=threads, shapes={"0": "same", "2": "same"})
    x = random_image(rng, 2, 6, *size)
    for level in range(LEVELS):
        first = steps[0].node.reference(level)(x)
        added = steps[2].node.reference(level)(steps[1].node.reference(level)(first), first)
        expected = steps[3].node.reference(level)(added)
        np.testing.assert_array_equal(read(graph.run(level, x=written(x, TILES)))[0].data, expected.data)


def test_residuals_memory_in_another_layout_is_refused() -> None:
    """Names of shapes that lie: ONNX Runtime does hand the memory on, and the pixels would overwrite each other."""
    rng = np.random.default_rng(14)
    steps = chain(rng, PLANES)
    steps[2] = replace(steps[2], node=replace(steps[2].node, layout=Layout(2, 1)))
    graph = QuantizedGraph(steps, shapes={"0": "same", "2": "same"})
    x = random_image(rng, 1, 6, 4, 4)
    assert places(12, 4, 4, PLANES).nbytes == places(12, 4, 4, Layout(2, 1)).nbytes
    with pytest.raises(Exception, match=r"layer 'layer2': the residual lies in the output's memory but has border 1"):
        graph.run(0, x=written(x, TILES))


@pytest.mark.parametrize("size", [(1, 1), (9, 10), (8, 8), (40, 1)])
@pytest.mark.parametrize("layout", [TILES, PLANES, Layout(3, 2)], ids=str)
def test_output_in_memory_that_holds_anything(layout: Layout, size: tuple[int, int]) -> None:
    """All of the image is written, borders as well, whatever the memory held before."""
    rng = np.random.default_rng(15)
    x = random_image(rng, 2, 5, *size)
    for groups, rows in ((1, 10), (5, 5)):
        node = quantized_node(rng, 5, rows, 1 if groups > 1 else 4, groups=groups, layout=layout)
        graph = QuantizedGraph([Step(node)])
        memory = rng.integers(0, 256, 64 + 2 * places(rows, *size, layout).nbytes).astype(np.uint8)
        binding = graph.session.io_binding()
        feeds = {"level": np.array(1, np.int64), "x": written(x, PLANES), **graph.segments}
        values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in feeds.items()}
        for name, value in values.items():
            binding.bind_ortvalue_input(name, value)
        given = ort.OrtValue.ortvalue_from_numpy(memory)
        binding.bind_ortvalue_output("0", given)
        graph.session.run_with_iobinding(binding)
        answer, _ = read(given.numpy())
        np.testing.assert_array_equal(answer.data, node.reference(1)(x).data)


def test_threads_share_the_work() -> None:
    """Many tiles and rows: read in place and gathered, on two threads."""
    rng = np.random.default_rng(16)
    x = random_image(rng, 3, 24, 40, 41)
    for reads, writes in ((PLANES, PLANES), (TILES, PLANES), (TILES, TILES)):
        check(quantized_node(rng, 24, 40, 4, layout=writes), x, reads, threads=2)


def test_a_run_like_an_earlier_one_allocates_nothing() -> None:
    """Neither plans, nor constants, nor scratch: not after levels have changed to and fro."""
    rng = np.random.default_rng(17)
    graph = QuantizedGraph([Step(quantized_node(rng, 5, 10, 4))])
    x = written(random_image(rng, 1, 5, 30, 30), TILES)
    for level in range(LEVELS):
        graph.run(level, x=x)
    before = library.scratch_allocations()
    for level in (2, 0, 1, 0, 2):
        graph.run(level, x=x)
    assert library.scratch_allocations() == before


def test_ranges_without_end() -> None:
    """More ranges of X than an operator keeps constants of: each is right, the first ones again as well."""
    rng = np.random.default_rng(18)
    node = quantized_node(rng, 3, 6, 2, **POINT)
    graph = QuantizedGraph([Step(node)])
    data = random_image(rng, 1, 3, 5, 6).data
    images = [Image(data, random_range(rng)) for _ in range(80)]
    for x in (*images, *images[:3]):
        answer, _ = read(graph.run(1, x=written(x, TILES)))
        np.testing.assert_array_equal(answer.data, node.reference(1)(x).data)


def test_size_and_layout_may_change_between_runs() -> None:
    """A plan for one image is not used for another."""
    rng = np.random.default_rng(19)
    node = quantized_node(rng, 5, 9, 4, layout=PLANES)
    graph = QuantizedGraph([Step(node)])
    for shape, layout in (((1, 5, 9, 12), PLANES), ((3, 5, 12, 9), PLANES), ((1, 5, 12, 9), TILES),
                          ((1, 5, 12, 9), Layout(2, 2)), ((1, 5, 2, 2), PLANES), ((1, 5, 9, 12), PLANES)):  # fmt: skip
        x = random_image(rng, *shape)
        answer, _ = read(graph.run(2, x=written(x, layout)))
        np.testing.assert_array_equal(answer.data, node.reference(2)(x).data)
