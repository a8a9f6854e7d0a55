"""Fuzzing: arbitrary bytes and attributes in a session give a clear error or an output of the right shape.

Every array ends where the readable memory ends, so one that is overrun kills the process; `make sanitize` says where.
To see the example that did it: pytest --hypothesis-verbosity=debug.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors
from sparse_node import SparseModel, SparseNode, conv_node, linear_node, place, recurrent_node, transposed_node
from spoiling import LARGE, guarded, near, spoil_attribute, spoil_bytes
from tiled_graph import Step, TiledGraph, pool

from nested_sparse.value_type import VALUE_TYPES, ValueType

OURS = re.compile("layer 'layer0': |attribute '")
TYPES = tuple(stored for stored in VALUE_TYPES.values() if not stored.scaled)


def expected_shape(attributes: Mapping[str, Any], x: NDArray[np.float32]) -> tuple[int, ...]:
    """The output's shape, as the attributes have it."""
    if "strides" not in attributes:
        return (*x.shape[:-1], attributes["columns" if "reverse" in attributes else "rows"])
    if "output_padding" in attributes:
        return (len(x), attributes["rows"], *transposed_sides(attributes, x))
    tail = x.shape[2:] if x.ndim > 3 else (1, *x.shape[2:])
    sides = [
        (tail[axis] + attributes["pads"][axis] + attributes["pads"][len(tail) + axis] - dilation * (kernel - 1) - 1)
        // attributes["strides"][axis]
        + 1
        for axis, (kernel, dilation) in enumerate(zip(attributes["kernel_shape"], attributes["dilations"], strict=True))
    ]
    return (len(x), attributes["rows"], *sides[-attributes.get("spatial_dimensions", 2) :])


def transposed_sides(attributes: Mapping[str, Any], x: NDArray[np.float32]) -> tuple[int, ...]:
    """The output's sizes of a transposed convolution of images."""
    names = ("kernel_shape", "strides", "dilations", "output_padding")
    each = zip(x.shape[2:], *(attributes[name] for name in names), strict=True)
    full = [stride * (size - 1) + dilation * (kernel - 1) + 1 + more for size, kernel, stride, dilation, more in each]
    pads = attributes["pads"]
    return tuple(size - pads[axis] - pads[axis + len(full)] for axis, size in enumerate(full))


def check(data: st.DataObject, node: SparseNode, x: NDArray[np.float32], more: Mapping[str, int] | None = None) -> None:
    """Spoil the node, given `more` attributes, in up to three places, then run it at some level."""
    placed = place([node])
    placed.attributes[0].update(more or {})
    for _ in range(data.draw(st.integers(1, 3))):
        if data.draw(st.booleans()):
            spoil_attribute(data, placed.attributes[0])
        else:
            spoil_bytes(data, placed)
    placed.segments[:] = [guarded(segment) for segment in placed.segments]
    level = data.draw(st.integers(0, len(placed.segments) - 1) | st.integers(-(2**63), 2**63 - 1))
    try:
        y = SparseModel([node], placed).run(guarded(x), level)
    except (ort_errors.InvalidArgument, ort_errors.Fail, ort_errors.RuntimeException) as error:
        if not OURS.search(str(error)):
            raise
    else:
        told = placed.attributes[0]
        assert y.ndim == 1 if told.get("y_tiled") else y.shape == expected_shape(told, x)


@settings(max_examples=400, deadline=None)
@given(st.data(), st.sampled_from((1, 2, 4, 8, 16, 32, 128)), st.sampled_from((1, 40)), st.sampled_from(TYPES))
def test_spoilt_linear_layers(data: st.DataObject, block_rows: int, count: int, value_type: ValueType) -> None:
    """The layers get one row of x, and many."""
    rng = np.random.default_rng(0)
    node = linear_node(rng, 36, 10, block_rows, permuted=True, value_type=value_type)
    check(data, node, rng.standard_normal((count, 36)).astype(np.float32), {"activation_function": 2})


@settings(max_examples=300, deadline=None)
@given(st.data(), st.sampled_from(("NestedLSTM", "NestedGRU")), st.sampled_from((1, 4, 16)), st.sampled_from((1, 20)))
def test_spoilt_recurrent_layers(data: st.DataObject, op: str, block_rows: int, batch: int) -> None:
    """The layers get one sequence, and many."""
    rng = np.random.default_rng(0)
    node = recurrent_node(rng, op, 9, block_rows, permuted=True)
    check(data, node, rng.standard_normal((3, batch, node.weight.rows)).astype(np.float32), {"reverse": 1})


@settings(max_examples=400, deadline=None)
@given(st.data(), st.sampled_from((1, 2, 4, 8, 16, 32, 128)), st.sampled_from((1, 3)), st.sampled_from(TYPES))
def test_spoilt_convolutions(data: st.DataObject, block_rows: int, kernel: int, value_type: ValueType) -> None:
    """Those that read X where it lies, and those that make a padded copy of it."""
    rng = np.random.default_rng(0)
    pads = (kernel // 2,) * 4
    options: dict[str, Any] = {"pads": pads, "permuted": True, "value_type": value_type}
    node = conv_node(rng, 4, 10, block_rows, kernel=(kernel, kernel), **options)
    check(data, node, rng.standard_normal((1, 4, 7, 9)).astype(np.float32))


@settings(max_examples=400, deadline=None)
@given(st.data(), st.sampled_from((1, 2, 4)), st.sampled_from((1, 2, 4)), st.sampled_from((2, 3)))
def test_spoilt_transposed_convolutions(data: st.DataObject, block_rows: int, kernel: int, spatial: int) -> None:
    """Images and volumes, with and without padding, more at the end, and a tiled input that is none."""
    rng = np.random.default_rng(0)
    pads = (kernel // 4,) * 2 * spatial
    options: dict[str, Any] = {"stride": (2,) * spatial, "pads": pads, "more": (1,) * spatial, "permuted": True}
    node = transposed_node(rng, 3, 6, block_rows, kernel=(kernel,) * spatial, **options)
    x = rng.standard_normal((1, 3, *(3, 4, 5)[:spatial])).astype(np.float32)
    check(data, node, x, {"spatial_dimensions": spatial, "x_tiled": 0})


@settings(max_examples=300, deadline=None)
@given(st.data(), st.sampled_from((1, 4)), st.sampled_from((1, 3)), st.sampled_from((1, 4)))
def test_spoilt_convolutions_of_volumes(data: st.DataObject, block_rows: int, kernel: int, groups: int) -> None:
    """Windows of three sizes."""
    rng = np.random.default_rng(0)
    options: dict[str, Any] = {"pads": (kernel // 2,) * 6, "permuted": True, "groups": groups}
    node = conv_node(rng, 4, groups * block_rows, block_rows, kernel=(kernel,) * 3, **options)
    check(data, node, rng.standard_normal((1, 4, 3, 4, 5)).astype(np.float32), {**CHOICES, "spatial_dimensions": 3})


CHOICES = {"activation_function": 4, "spatial_dimensions": 2, "x_tiled": 0, "y_tiled": 0, "residual_tiled": 0}


@settings(max_examples=400, deadline=None)
@given(st.data(), st.sampled_from((1, 2, 4)), st.sampled_from((1, 2, 4)), st.sampled_from((1, 2)))
def test_spoilt_convolutions_in_groups(data: st.DataObject, groups: int, block_rows: int, spatial: int) -> None:
    """Images and lines, with a group for each channel and without, and attributes for the layout of images."""
    rng = np.random.default_rng(0)
    window = {"kernel": (1, 3), "pads": (0, 1, 0, 1)} if spatial == 1 else {}
    node = conv_node(rng, 4, groups * block_rows, block_rows, groups=groups, spatial=spatial, permuted=True, **window)
    shape = (1, 4, 9) if spatial == 1 else (1, 4, 7, 9)
    more = {**CHOICES, "spatial_dimensions": spatial, "groups": groups}
    check(data, node, rng.standard_normal(shape).astype(np.float32), more)


@settings(max_examples=400, deadline=None)
@given(st.data(), st.sampled_from(("conv", "depthwise", "pool")), st.sampled_from((1, 3)))
def test_spoilt_headers_of_tiled_images(data: st.DataObject, reader: str, kernel: int) -> None:
    """Numbers of the header and the tensor's length; what is accepted is an image of the size that the header says."""
    rng = np.random.default_rng(0)
    image = TiledGraph([Step(conv_node(rng, 5, 5, 1), "x")], "0").run(np.ones((2, 5, 3, 40), np.float32), 0)
    numbers = image[:16].view(np.int64)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, 6))
        small = st.integers(0, 80) | near(int(numbers[at])) | st.sampled_from((2**31, 2**32, 2**33, 2**61, 2**62))
        numbers[at] = data.draw(small | st.sampled_from(LARGE).filter(lambda value: -(2**63) <= value < 2**63))
    if data.draw(st.booleans()):
        image = np.resize(image, data.draw(st.integers(0, len(image))))
    node = conv_node(rng, 5, 5, 1, groups=5 if reader == "depthwise" else 1, kernel=(kernel,) * 2)
    steps = [Step(node, "x")] if reader != "pool" else [Step(pool(3, 2, (1, 1, 1, 1)), "x"), Step(node, "0")]
    level = data.draw(st.integers(0, 2))
    try:
        y = TiledGraph(steps, "x 0" if reader == "pool" else "x").run(guarded(image), level)
    except (ort_errors.InvalidArgument, ort_errors.Fail) as error:
        if not re.search("layer 'layer0': |TiledMaxPool: ", str(error)):
            raise
    else:
        batch, channels = image[:16].view(np.int64)[1:3]
        assert (y.shape[0], channels) == (batch, 5)
