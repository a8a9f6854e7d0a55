"""Fuzzing of int8 convolutions: arbitrary bytes, attributes and headers give a clear error, or an image.

Every array ends where the readable memory ends, as in test_fuzz.py.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from byte_images import Layout, read, written
from hypothesis import given, settings
from hypothesis import strategies as st
from integer_reference import Image
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors
from quantized_node import QuantizedGraph, QuantizedNode, Step, place, quantized_node, random_image
from spoiling import LARGE, guarded, near, spoil_attribute, spoil_bytes

OURS = re.compile("layer 'layer0': |attribute '")
LAYOUTS = st.sampled_from((Layout(0, 0), Layout(0, 1), Layout(1, 1), Layout(2, 3)))


def check(data: st.DataObject, node: QuantizedNode, x: Image, reads: Layout) -> None:
    """Spoil the node in up to three places, then run it at some level on an image that it adds as well."""
    placed = place([node])
    told = placed.attributes[0]
    told.update({"groups": node.groups, "spatial_dimensions": node.spatial, "banks": 0, "per_row": 0})
    for _ in range(data.draw(st.integers(1, 3))):
        if data.draw(st.booleans()):
            spoil_attribute(data, told)
        else:
            spoil_bytes(data, placed)
    placed.segments[:] = [guarded(segment) for segment in placed.segments]
    level = data.draw(st.integers(0, len(placed.segments) - 1) | st.integers(-(2**63), 2**63 - 1))
    residual = Image(np.zeros((len(x.data), node.rows, *x.data.shape[2:]), np.uint8), x.range)
    images = {"x": guarded(written(x, reads)), "r": guarded(written(residual, node.layout))}
    try:
        y = QuantizedGraph([Step(node, adds="r")], placed).run(level, **images)
    except (ort_errors.InvalidArgument, ort_errors.Fail, ort_errors.RuntimeException) as error:
        if not OURS.search(str(error)):
            raise
    else:
        answer, layout = read(y)
        assert answer.data.shape == residual.data.shape
        assert layout == Layout(told["y_border"], told["y_gap"])


@settings(max_examples=400, deadline=None)
@given(st.data(), st.sampled_from((1, 2, 4, 8, 16)), st.sampled_from((1, 3)), LAYOUTS, LAYOUTS)
def test_spoilt_convolutions(data: st.DataObject, block_rows: int, kernel: int, reads: Layout, writes: Layout) -> None:
    """Those that read X in place, and those that gather it."""
    rng = np.random.default_rng(0)
    window: dict[str, Any] = {"kernel": (kernel, kernel), "pads": (kernel // 2,) * 4}
    node = quantized_node(rng, 4, 10, block_rows, permuted=True, adds=True, layout=writes, **window)
    check(data, node, random_image(rng, 2, 4, 7, 9), reads)


@settings(max_examples=400, deadline=None)
@given(st.data(), st.sampled_from((1, 2, 4)), st.sampled_from((1, 2, 3)), LAYOUTS, LAYOUTS)
def test_spoilt_convolutions_in_groups(
    data: st.DataObject, groups: int, spatial: int, reads: Layout, writes: Layout
) -> None:
    """Images, lines and volumes, with a group for each channel and without."""
    rng = np.random.default_rng(0)
    window: dict[str, Any] = {"kernel": (1, 3), "pads": (0, 1, 0, 1)} if spatial == 1 else {}
    if spatial == 3:
        window = {"kernel": (2, 3, 3), "pads": (1, 1, 1, 0, 1, 1), "stride": (1, 1, 1), "dilation": (1, 1, 1)}
    node = quantized_node(rng, 4, 4, 1, permuted=True, groups=groups, spatial=spatial, layout=writes, **window)
    check(data, node, random_image(rng, 1, 4, *(2,) * (spatial == 3), 1 if spatial == 1 else 7, 9), reads)


@settings(max_examples=400, deadline=None)
@given(st.data(), st.sampled_from((1, 5)), st.sampled_from((1, 3)), LAYOUTS, LAYOUTS)
def test_spoilt_headers(data: st.DataObject, groups: int, kernel: int, reads: Layout, writes: Layout) -> None:
    """Numbers of the header and the tensor's length; what is accepted is an image of the size that the header says."""
    rng = np.random.default_rng(0)
    x = written(random_image(rng, 2, 5, 3, 40), reads)
    numbers = x[8:40].view("<i4")
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, 7))
        small = st.integers(0, 80) | near(int(numbers[at])) | st.sampled_from(LARGE)
        numbers[at] = data.draw(small.filter(lambda value: -(2**31) <= value < 2**31))
    if data.draw(st.booleans()):
        x = np.resize(x, data.draw(st.integers(0, len(x))))
    node = quantized_node(rng, 5, 5, 1, groups=groups, kernel=(kernel,) * 2, layout=writes)
    try:
        y = QuantizedGraph([Step(node)]).run(data.draw(st.integers(0, 2)), x=guarded(x))
    except (ort_errors.InvalidArgument, ort_errors.Fail) as error:
        if not OURS.search(str(error)):
            raise
    else:
        batch, channels = x[8:16].view("<i4")
        answer, layout = read(y)
        assert (len(answer.data), channels, layout) == (batch, 5, writes)
