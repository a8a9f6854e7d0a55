"""Malformed operators: wrong attributes, segments and inputs give an error with the layer's name, no crash."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sparse_node import Placed, SparseModel, aligned, conv_node, linear_node, place, recurrent_node

from nested_sparse.kernels import library
from nested_sparse.layouts import GatherScatter
from nested_sparse.value_type import FLOAT16

Spoil = Callable[[dict[str, Any]], None]


def put(**values: Any) -> Spoil:
    """Replace attributes."""
    return lambda attributes: attributes.update(values)


ATTRIBUTES = {
    "rows": (put(rows=0), "rows must be 1"),
    "rows too many": (put(rows=2**40), "rows must be 1"),
    "columns": (put(columns=-1), "columns must be 1"),
    "columns of no window": (put(columns=37), "multiple of the window's 9 taps"),
    "block rows": (put(block_rows=3), "block_rows must be"),
    "block rows too many": (put(block_rows=256), "block_rows must be 1, 2, 4, 8, 16, 32, 64 or 128, got 256"),
    "banks": (put(banks=32, per_row=1), "banks must be 0, 8 or 16, got 32"),
    "per row": (put(banks=16, per_row=3), "per_row must divide banks 16, got 3"),
    "per row zero": (put(banks=16, per_row=0), "per_row must divide banks 16, got 0"),
    "per row alone": (put(per_row=1), "per_row must be 0 without banks, got 1"),
    "banks of blocks": (put(banks=16, per_row=1), "block_rows must be 1 with banks, got 4"),
    "index bytes": (put(index_bytes=8), "index_bytes must be"),
    "narrow index": (put(columns=65538 * 9), "index_bytes must be"),
    "value bytes": (put(value_bytes=3), r"value_bytes must be one of 4 \(float32\), 2 \(float16\), 1 \(int8\), got 3"),
    "no level": (put(blocks=[], offsets=[]), "blocks|attribute"),
    "negative blocks": (put(blocks=[-1, 3, 4]), "blocks must be 0"),
    "too many blocks": (put(blocks=[10**6, 3, 4]), "blocks must be 0"),
    "offsets missing": (put(offsets=[0, 64]), "'offsets': expected 12 integers, got 2"),
    "offset negative": (put(offsets=[-64] * 12), "multiples of 64"),
    "offset odd": (put(offsets=[32] * 12), "multiples of 64"),
    "offset huge": (put(offsets=[2**62] * 12), "multiples of 64"),
    "permutation": (put(permutation_offset=-2), "permutation_offset must be"),
    "stride": (put(strides=[0, 1]), "'strides'"),
    "dilation": (put(dilations=[1, 0]), "'dilations'"),
    "kernel": (put(kernel_shape=[0, 3]), "'kernel_shape'"),
    "kernel huge": (put(kernel_shape=[2**40, 2**40]), "'kernel_shape'"),
    "pads": (put(pads=[0, 0, -1, 0]), "'pads'"),
    "pads missing": (put(pads=[0, 0]), "'pads': expected 4 integers, got 2"),
    "no layer": (lambda attributes: attributes.pop("layer"), "'layer'"),
    "no clip": (lambda attributes: attributes.pop("clip_min"), "'clip_min'"),
}


@pytest.mark.parametrize("case", ATTRIBUTES)
def test_attributes_are_checked_when_the_session_is_made(case: str) -> None:
    """Each wrong attribute is refused with what was expected."""
    spoil, message = ATTRIBUTES[case]
    node = conv_node(np.random.default_rng(0), 4, 10)
    placed = place([node])
    spoil(placed.attributes[0])
    with pytest.raises(Exception, match=message):
        SparseModel([node], placed)


def array(placed: Placed, level: int, part: int, dtype: str) -> np.ndarray:
    """A part (0 ptr, 1 col, 2 val, 3 norm) of a level's segment, from its begin to the segment's end."""
    begin = placed.attributes[0]["offsets"][4 * level + part]
    view: np.ndarray = placed.segments[level][begin:].view(dtype)
    return view


def spoil_first(placed: Placed) -> None:
    array(placed, 0, 0, "<u4")[0] = 1


def spoil_order(placed: Placed) -> None:
    array(placed, 1, 0, "<u4")[1] = 2**31


def spoil_end(placed: Placed) -> None:
    groups = -(-placed.attributes[0]["rows"] // placed.attributes[0]["block_rows"])
    array(placed, 1, 0, "<u4")[groups] += 1


def spoil_column(placed: Placed) -> None:
    array(placed, 2, 1, "<u2")[3] = 60_000


def shorten(placed: Placed) -> None:
    placed.segments[1] = placed.segments[1][:-64]


def drop_level_0(placed: Placed) -> None:
    placed.segments[0] = np.zeros(0, np.uint8)


def spoil_permutation(placed: Placed) -> None:
    placed.segments[0][placed.attributes[0]["permutation_offset"] :].view("<i4")[2] = 10_000


def repeat_permutation(placed: Placed) -> None:
    perm = placed.segments[0][placed.attributes[0]["permutation_offset"] :].view("<i4")
    perm[2] = perm[3]


def spoil_padding_row(placed: Placed) -> None:
    placed.segments[0][placed.attributes[0]["permutation_offset"] :].view("<i4")[placed.attributes[0]["rows"] + 1] = 0


SEGMENTS = {
    "ptr does not start at 0": (spoil_first, "ptr must start at 0"),
    "ptr descends": (spoil_order, "ptr must start at 0 and ascend"),
    "ptr ends elsewhere": (spoil_end, "ptr must end at"),
    "column out of range": (spoil_column, "a column is not below 36"),
    "short segment": (shorten, "segment of level 1 is too short: expected at least"),
    "level 0 missing": (drop_level_0, "level 0 is not in this file"),
    "permutation out of range": (spoil_permutation, "permutation must hold each"),
    "permutation repeats": (repeat_permutation, "permutation must hold each"),
    "permutation of padding": (spoil_padding_row, "permutation must hold each"),
}


@pytest.mark.parametrize("op", ["conv", "linear", "gru"])
@pytest.mark.parametrize("case", SEGMENTS)
def test_segments_are_checked_before_they_are_used(case: str, op: str) -> None:
    """Each wrong segment is refused, on the second run as on the first."""
    spoil, message = SEGMENTS[case]
    rng = np.random.default_rng(1)
    node, shape = {
        "conv": lambda: (conv_node(rng, 4, 10, permuted=True), (1, 4, 8, 8)),
        "linear": lambda: (linear_node(rng, 36, 10, permuted=True), (1, 36)),
        "gru": lambda: (recurrent_node(rng, "NestedGRU", 36, 16, permuted=True), (2, 1, 108)),
    }[op]()
    placed = place([node])
    spoil(placed)
    model = SparseModel([node], placed)
    x = np.ones(shape, np.float32)
    for _ in range(2):
        with pytest.raises(Exception, match=f"layer 'layer0'.*{message}"):
            model.run(x, 2)


def spoil_bundle_end(placed: Placed) -> None:
    array(placed, 1, 0, "<u4")[1] += 1


GATHER_SEGMENTS = {
    "ptr ends elsewhere": (spoil_bundle_end, "ptr must end at"),
    "column out of range": (spoil_column, "a column is not below 36"),
    "short segment": (shorten, "segment of level 1 is too short: expected at least"),
    "permutation repeats": (repeat_permutation, "permutation must hold each"),
}


@pytest.mark.parametrize("rows", [1, 6])
@pytest.mark.parametrize("case", GATHER_SEGMENTS)
def test_segments_of_gathers_are_checked(case: str, rows: int) -> None:
    """The same where columns lie in gather groups."""
    spoil, message = GATHER_SEGMENTS[case]
    node = linear_node(np.random.default_rng(1), 36, 10, 1, permuted=True, layout=GatherScatter(16, 1))
    placed = place([node])
    spoil(placed)
    model = SparseModel([node], placed)
    for _ in range(2):
        with pytest.raises(Exception, match=f"layer 'layer0'.*{message}"):
            model.run(np.ones((rows, 36), np.float32), 2)


def test_the_size_of_float16_values_is_checked() -> None:
    """At the end of the segment float16 values fit exactly, and float32 values do not."""
    node = linear_node(np.random.default_rng(6), 36, 10, value_type=FLOAT16)
    placed, x = place([node]), np.ones((1, 36), np.float32)
    expected = SparseModel([node], placed).run(x, 0)
    blocks = placed.attributes[0]["blocks"][0]
    values = array(placed, 0, 2, "<f2")[: 4 * blocks].tobytes()
    placed.attributes[0]["offsets"][2] = placed.segments[0].size
    placed.segments[0] = aligned(placed.segments[0].tobytes() + values)
    np.testing.assert_array_equal(SparseModel([node], placed).run(x, 0), expected)
    whole = placed.segments[0]
    placed.segments[0] = whole[:-2]
    with pytest.raises(Exception, match="level 0 is too short: expected at least"):
        SparseModel([node], placed).run(x, 0)
    placed.segments[0] = whole
    del placed.attributes[0]["value_bytes"]
    with pytest.raises(Exception, match="level 0 is too short: expected at least"):
        SparseModel([node], placed).run(x, 0)


def test_levels_below_a_spoilt_one_still_run() -> None:
    """Contents are checked level by level, when they are first used."""
    node = linear_node(np.random.default_rng(2), 36, 10)
    placed = place([node])
    spoil_column(placed)
    model = SparseModel([node], placed)
    assert model.run(np.ones((1, 36), np.float32), 1).shape == (1, 10)
    with pytest.raises(Exception, match="a column is not below"):
        model.run(np.ones((1, 36), np.float32), 2)


@pytest.mark.parametrize("level", [-1, 3, 2**40])
def test_levels_out_of_range(level: int) -> None:
    """A level that the node does not have."""
    node = linear_node(np.random.default_rng(3), 36, 10)
    with pytest.raises(Exception, match=f"level must be 0 to 2, got {level}"):
        SparseModel([node]).run(np.ones((1, 36), np.float32), level)


def test_shapes_are_checked() -> None:
    """X of the wrong width or channels, a window larger than the image, a residual of another shape."""
    rng = np.random.default_rng(4)
    linear = SparseModel([linear_node(rng, 36, 10)])
    with pytest.raises(Exception, match=r"X must be \[..., 36\], got \[1, 35\]"):
        linear.run(np.ones((1, 35), np.float32), 0)
    conv = SparseModel([conv_node(rng, 4, 10, pads=(0, 0, 0, 0))])
    with pytest.raises(Exception, match=r"X must be \[N, 4, H, W\], got \[1, 5, 8, 8\]"):
        conv.run(np.ones((1, 5, 8, 8), np.float32), 0)
    for size in ((2, 8), (8, 2), (0, 8)):
        with pytest.raises(Exception, match="the window spans 3 pixels"):
            conv.run(np.ones((1, 4, *size), np.float32), 0)
    adding = SparseModel([linear_node(rng, 36, 10, residual=True)])
    with pytest.raises(Exception, match=r"residual must have the output's shape \[1, 10\], got \[1, 9\]"):
        adding.run(np.ones((1, 36), np.float32), 0, [np.ones((1, 9), np.float32)])


def test_padding_that_no_memory_holds_is_refused() -> None:
    """It costs a file a few digits; the plan of such a convolution would take ten gigabytes, the largest overflow."""
    for pads in ([20_000] * 4, [2**20] * 4):
        node = conv_node(np.random.default_rng(4), 4, 10)
        placed = place([node])
        placed.attributes[0]["pads"] = pads
        model = SparseModel([node], placed)
        with pytest.raises(Exception, match=r"layer 'layer0'.*(too large together|2\^31 pixels)"):
            model.run(np.ones((1, 4, 8, 8), np.float32), 2)


@pytest.mark.skipif(library.isa() in ("scalar", "neon"), reason="these kernels make no tiles of such an input")
def test_columns_that_no_memory_holds_are_refused() -> None:
    """A convolution of two million channels: a tile of its input would take gigabytes in each thread."""
    node = conv_node(np.random.default_rng(5), 4, 16, block_rows=1, layout=GatherScatter(8, 1))
    placed = place([node])
    channels = 2**21
    placed.attributes[0].update(columns=9 * channels, index_bytes=4, blocks=[0, 0, 0])
    for level in range(3):
        array(placed, level, 0, "<u4")[:3] = 0
    model = SparseModel([node], placed)
    with pytest.raises(Exception, match=r"bad_alloc|bad allocation"):
        model.run(np.ones((1, channels, 1, 1), np.float32), 2)
