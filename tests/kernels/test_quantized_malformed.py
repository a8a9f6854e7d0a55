"""Malformed int8 operators: wrong attributes and segments give an error with the layer's name, no crash."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from byte_images import Layout, written
from integer_reference import Image, Range, Table
from quantized_node import QuantizedGraph, Step, place, quantized_node
from sparse_node import Placed

Spoil = Callable[[dict[str, Any]], Any]
X = written(Image(np.full((1, 4, 8, 8), 7, np.uint8), Range(np.float32(0.1), 9)), Layout(1, 1))
NAN, INFINITE = float("nan"), float("inf")


def put(**values: Any) -> Spoil:
    """Replace attributes."""
    return lambda attributes: attributes.update(values)


def drop(name: str) -> Spoil:
    """Leave an attribute out."""
    return lambda attributes: attributes.pop(name)


def ranges(scale: float = 0.1, zero: int = 3, count: int = 3, name: str = "y") -> Spoil:
    """The same range at each level but the first."""
    return put(**{f"{name}_scale": [0.1] + [scale] * (count - 1), f"{name}_zero": [3] + [zero] * (count - 1)})


ATTRIBUTES: dict[str, tuple[Spoil, str]] = {
    "float weights": (put(value_bytes=4), r"layer 'layer0': value_bytes must be 1 \(int8\)"),
    "value bytes": (put(value_bytes=3), r"value_bytes must be one of .*1 \(int8\), got 3"),
    "banks": (put(banks=8, per_row=1, block_rows=1), "banks must be 0 where value_bytes is 1, got 8"),
    "wide index": (put(index_bytes=4), "index_bytes must be 2 where value_bytes is 1, got 4"),
    "columns": (put(columns=9 * 3641), "columns must be at most 32768 where value_bytes is 1, got 32769"),
    "columns of no window": (put(columns=37), "multiple of the window's 9 taps"),
    "block rows": (put(block_rows=3), "block_rows must be"),
    "block rows of floats": (put(block_rows=32), "block_rows must be at most 16 where value_bytes is 1, got 32"),
    "too many blocks": (put(blocks=[28, 0, 0]), "level 0: blocks must be 0 to groups x columns, got 28"),
    "no scales": (drop("scale_offset"), "'scale_offset'"),
    "scales negative": (put(scale_offset=-1), "scale_offset must be a multiple of 64, got -1"),
    "scales odd": (put(scale_offset=4), "scale_offset must be a multiple of 64, got 4"),
    "scales far": (put(scale_offset=2**62), "scale_offset must be a multiple of 64"),
    "y_scale zero": (ranges(0.0), "'y_scale': expected a normal number above 0 for each level, got 0.0.* for level 1"),
    "y_scale negative": (ranges(-0.1), "'y_scale': .*got -0.1.* for level 1"),
    "y_scale tiny": (ranges(1e-40), "'y_scale': .* for level 1"),
    "y_scale nan": (ranges(NAN), "'y_scale': .*got -?nan for level 1"),
    "y_scale infinite": (ranges(INFINITE), "'y_scale': .*got inf for level 1"),
    "y_zero below": (ranges(zero=-1), "'y_zero': expected 0 to 255, got -1 for level 1"),
    "y_zero above": (ranges(zero=256), "'y_zero': expected 0 to 255, got 256 for level 1"),
    "few ranges": (ranges(count=2), "'y_scale': expected 3 numbers, got 2"),
    "few zeros": (put(y_zero=[0]), "'y_zero': expected 3 integers, got 1"),
    "no range": (drop("y_scale"), "'y_scale'"),
    "no layout": (drop("y_border"), "'y_border'"),
    "border": (put(y_border=-1), "'y_border': expected 0 to 4096, got -1"),
    "gap": (put(y_gap=2**31), "'y_gap': expected 0 to 4096, got 2147483648"),
    "short table": (put(table=bytes(767)), "the table must have 256 bytes for each level, 768, got 767"),
    "table without sums": (put(table=bytes(768)), "'sum_scale'"),
    "groups": (put(groups=2), "rows of each of the 2 groups must be whole blocks of 4"),
    "stride": (put(strides=[0, 1]), "'strides'"),
    "kernel": (put(kernel_shape=[2**40, 2**40]), "'kernel_shape'"),
    "clip": (drop("clip_max"), "'clip_max'"),
}


@pytest.mark.parametrize("case", ATTRIBUTES)
def test_attributes_are_checked_when_the_session_is_made(case: str) -> None:
    """Each wrong attribute is refused with what was expected."""
    spoil, message = ATTRIBUTES[case]
    node = quantized_node(np.random.default_rng(0), 4, 10)
    placed = place([node])
    spoil(placed.attributes[0])
    with pytest.raises(Exception, match=message):
        QuantizedGraph([Step(node)], placed)


def test_ranges_of_sums_are_checked() -> None:
    """As those of the output, where there is a table."""
    held = Table(Range(np.float32(0.1), 3), np.arange(256).astype(np.uint8))
    node = quantized_node(np.random.default_rng(0), 4, 10, tables=[held] * 3)
    for spoil, message in (
        (ranges(0.0, name="sum"), "'sum_scale': .* for level 1"),
        (ranges(zero=256, name="sum"), "'sum_zero': .* for level 1"),
    ):
        placed = place([node])
        spoil(placed.attributes[0])
        with pytest.raises(Exception, match=message):
            QuantizedGraph([Step(node)], placed)


def array(placed: Placed, level: int, part: int, dtype: str) -> np.ndarray:
    """A part (0 ptr, 1 col, 2 val, 3 norm) of a level's segment, from its begin to the segment's end."""
    view: np.ndarray = placed.segments[level][placed.attributes[0]["offsets"][4 * level + part] :].view(dtype)
    return view


def last_quad(placed: Placed, level: int, group: int = 0) -> int:
    """The last quad of a row group."""
    return int(array(placed, level, 0, "<u4")[group + 1]) - 1


def spoil_first(placed: Placed) -> None:
    array(placed, 0, 0, "<u4")[0] = 1


def spoil_order(placed: Placed) -> None:
    array(placed, 1, 0, "<u4")[1] = 2**31


def spoil_end(placed: Placed) -> None:
    array(placed, 1, 0, "<u4")[3] += 1


def spoil_column(placed: Placed) -> None:
    array(placed, 2, 1, "<u2")[3] = 36


def swap_columns(placed: Placed) -> None:
    columns = array(placed, 2, 1, "<u2")
    columns[:2] = columns[1::-1]


def repeat_column(placed: Placed) -> None:
    """In a quad that another one follows."""
    columns = array(placed, 2, 1, "<u2")
    assert last_quad(placed, 2) > 0
    columns[1] = columns[0]


def weigh_padding(placed: Placed) -> None:
    quad = last_quad(placed, 2)
    columns = array(placed, 2, 1, "<u2")
    columns[4 * quad + 3] = columns[4 * quad + 2]
    array(placed, 2, 2, "<i1")[16 * quad + 3 :: 4][:4] = (0, 0, 1, 0)


def shorten(placed: Placed) -> None:
    placed.segments[1] = placed.segments[1][:-64]


def drop_scales(placed: Placed) -> None:
    placed.attributes[0]["scale_offset"] = placed.segments[0].size - placed.segments[0].size % 64


def drop_level_0(placed: Placed) -> None:
    placed.segments[0] = np.zeros(0, np.uint8)


def put_scale(value: float) -> Callable[[Placed], None]:
    def spoil(placed: Placed) -> None:
        placed.segments[0][placed.attributes[0]["scale_offset"] :].view("<f4")[11] = value

    return spoil


def repeat_permutation(placed: Placed) -> None:
    perm = placed.segments[0][placed.attributes[0]["permutation_offset"] :].view("<i4")
    perm[2] = perm[3]


SEGMENTS: dict[str, tuple[Callable[[Placed], None], str]] = {
    "ptr does not start at 0": (spoil_first, "ptr must start at 0"),
    "ptr descends": (spoil_order, "ptr must start at 0 and ascend"),
    "ptr ends elsewhere": (spoil_end, "ptr must end at"),
    "column out of range": (spoil_column, "level 2: a column is not below 36"),
    "columns descend": (swap_columns, "level 2: the columns of a group do not rise"),
    "column repeats": (repeat_column, "level 2: the columns of a group do not rise"),
    "padding weighs": (weigh_padding, "level 2: a weight of a repeated column is not zero"),
    "short segment": (shorten, "segment of level 1 is too short: expected at least"),
    "scales outside": (drop_scales, "segment of level 0 is too short: expected at least"),
    "level 0 missing": (drop_level_0, "level 0 is not in this file"),
    "scale zero": (put_scale(0), "the scale of a row must be a normal number above 0; scale 11 is 0.0"),
    "scale negative": (put_scale(-0.5), "scale 11 is -0.5"),
    "scale tiny": (put_scale(1e-40), "the scale of a row must be a normal number"),
    "scale nan": (put_scale(NAN), "scale 11 is -?nan"),
    "scale infinite": (put_scale(INFINITE), "scale 11 is inf"),
    "permutation repeats": (repeat_permutation, "permutation must hold each"),
}


@pytest.mark.parametrize("case", SEGMENTS)
def test_segments_are_checked_before_they_are_used(case: str) -> None:
    """Each wrong segment is refused, on the second run as on the first."""
    spoil, message = SEGMENTS[case]
    node = quantized_node(np.random.default_rng(1), 4, 10, permuted=True, densities=(0.3, 0.5, 0.9))
    placed = place([node])
    spoil(placed)
    graph = QuantizedGraph([Step(node)], placed)
    for _ in range(2):
        with pytest.raises(Exception, match=f"layer 'layer0'.*{message}"):
            graph.run(2, x=X)


@pytest.mark.parametrize("level", [-1, 3, 2**40])
def test_levels_out_of_range(level: int) -> None:
    """A level that the node does not have."""
    node = quantized_node(np.random.default_rng(3), 4, 10)
    with pytest.raises(Exception, match=f"level must be 0 to 2, got {level}"):
        QuantizedGraph([Step(node)]).run(level, x=X)
