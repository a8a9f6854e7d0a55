"""The int8 operators beside layers, alone in a session: the bytes of tests/integer_reference.py in every layout."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import byte_images
import integer_reference as reference
import numpy as np
import pytest
from byte_images import Layout
from image_node import (
    INFINITE,
    LAYOUTS,
    PLANES,
    SHAPES,
    SOME_SHAPES,
    TILES,
    VOLUMES,
    Operator,
    check,
    clipped,
    level,
    placed,
    random_image,
    ranges,
    run,
    values_around,
    window,
)
from integer_reference import Bytes, Float32, Image, Range, Window
from numpy.typing import NDArray

from nested_sparse.kernels import library


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_quantize(shape: tuple[int, ...], layout: Layout) -> None:
    held = [Range(np.float32(0.0173), 114), Range(np.float32(0.5), 0), Range(np.float32(3.3), 255)]
    operator = Operator("QuantizeImage", [np.dtype(np.float32), np.dtype(np.int64)], **ranges(*held), **placed(layout))
    for index, one in enumerate(held):
        x = values_around(one, shape)
        check(operator(x, level(index)), Image(reference.quantise(x, one), one), layout)


@pytest.mark.parametrize("scale", [1.1754944e-38, 1e-30, 7e-3, 1e20, 3.4e38])
@pytest.mark.parametrize("zero", [0, 77, 255])
def test_scales_from_the_smallest_to_the_largest(scale: float, zero: int) -> None:
    held = Range(np.float32(scale), zero)
    x = values_around(held, (1, 3, 20, 21))
    bytes_of_x = Image(reference.quantise(x, held), held)
    tensor = run("QuantizeImage", x, level(0), **ranges(held), **placed(PLANES))
    check(tensor, bytes_of_x, PLANES)
    same(run("DequantizeImage", tensor), reference.dequantise(bytes_of_x))
    same(run("QuantizedGlobalAveragePool", tensor), reference.global_average_pool(bytes_of_x))


def same(y: Float32, expected: Float32) -> None:
    """The same bits."""
    assert y.dtype == expected.dtype == np.float32
    assert y.shape == expected.shape
    np.testing.assert_array_equal(y.view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_dequantize_and_global_pool(shape: tuple[int, ...], layout: Layout) -> None:
    image = random_image(2, shape)
    tensor = byte_images.written(image, layout)
    spatial = {} if len(shape) == 4 else {"spatial_dimensions": len(shape) - 2}
    same(run("DequantizeImage", tensor, **spatial), reference.dequantise(image))
    same(run("QuantizedGlobalAveragePool", tensor, **spatial), reference.global_average_pool(image))


# ---- pools ----

NONE = (0, 0, 0, 0, 0, 0)
WINDOWS = [
    ((3, 3), (2, 2), (1, 1, 1, 1), (1, 1)),
    ((2, 2), (2, 2), (0, 0, 0, 0), (1, 1)),
    ((3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    ((1, 1), (1, 1), (0, 0, 0, 0), (1, 1)),
    ((5, 4), (3, 1), (2, 3, 4, 0), (1, 2)),
    ((7, 6), (1, 4), (9, 5, 6, 7), (2, 1)),
    ((2, 1), (1, 3), (3, 0, 2, 5), (5, 1)),
    ((1, 8), (5, 2), (0, 7, 0, 7), (1, 1)),
    ((1, 1), (2, 2), (2, 3, 1, 70), (1, 1)),
]
"""Kernel, strides, pads, dilations; some see nothing but padding."""


def fits(shape: Sequence[int], kernel: Any, pads: Any, dilation: Any) -> bool:
    sizes = (*shape[2:],) if len(shape) == 4 else (1, shape[2])
    return all((kernel[a] - 1) * dilation[a] < sizes[a] + pads[a] + pads[2 + a] for a in range(2))


@pytest.mark.parametrize("shape", SOME_SHAPES)
@pytest.mark.parametrize("which", range(len(WINDOWS)))
def test_pools(shape: tuple[int, ...], which: int) -> None:
    """Every layout read and every one written."""
    kernel, stride, pads, dilation = WINDOWS[which]
    attributes = window(kernel, stride, pads, dilation)
    image = random_image(which, shape)
    if not fits(shape, kernel, pads, dilation):
        with pytest.raises(Exception, match=r"QuantizedMaxPool: the window spans .* pixels, the padded image has"):
            run("QuantizedMaxPool", byte_images.written(image, TILES), **attributes, **placed(TILES))
        return
    planar = Image(image.data if image.data.ndim == 4 else image.data[:, :, None, :], image.range)
    seen = Window(kernel, stride, pads, dilation)
    for index, read in enumerate(LAYOUTS):
        write = LAYOUTS[(index + which) % len(LAYOUTS)]
        tensor = byte_images.written(image, read)
        check(run("QuantizedMaxPool", tensor, **attributes, **placed(write)), reference.max_pool(planar, seen), write)
        for counted in (0, 1):
            pooled = run("QuantizedAveragePool", tensor, **attributes, **placed(write), count_include_pad=counted)
            check(pooled, reference.average_pool(planar, seen, bool(counted)), write)


VOLUME_WINDOWS = [
    ((2, 2, 2), (2, 2, 2), NONE, (1, 1, 1)),
    ((3, 3, 3), (1, 2, 2), (1,) * 6, (1, 1, 1)),
    ((2, 1, 3), (1, 3, 1), (4, 0, 1, 2, 2, 3), (2, 1, 2)),
    ((1, 2, 2), (3, 1, 4), (0, 1, 0, 0, 0, 1), (1, 1, 1)),
]
"""The same with slices; one sees slices of padding alone."""


@pytest.mark.parametrize("shape", VOLUMES)
@pytest.mark.parametrize("which", range(len(VOLUME_WINDOWS)))
def test_pools_of_volumes(shape: tuple[int, ...], which: int) -> None:
    """The largest of rows, columns and slices; windows that are too large are refused."""
    kernel, stride, pads, dilation = VOLUME_WINDOWS[which]
    attributes = {**window(kernel, stride, pads, dilation), "spatial_dimensions": 3}
    image = random_image(which, shape)
    for index, layout in enumerate(LAYOUTS):
        tensor, write = byte_images.written(image, layout), LAYOUTS[(index + which) % len(LAYOUTS)]
        spans = [(size - 1) * gap + 1 for size, gap in zip(kernel, dilation, strict=True)]
        padded = [size + pads[axis] + pads[3 + axis] for axis, size in enumerate(shape[2:])]
        if all(span <= size for span, size in zip(spans, padded, strict=True)):
            y = run("QuantizedMaxPool", tensor, **attributes, **placed(write))
            check(y, reference.max_pool(image, Window(kernel, stride, pads, dilation)), write)
        else:
            with pytest.raises(Exception, match=r"QuantizedMaxPool: the window spans .* pixels, the padded image has"):
                run("QuantizedMaxPool", tensor, **attributes, **placed(write))


@pytest.mark.parametrize("size", [(181, 181), (182, 181), (300, 250)])
@pytest.mark.parametrize("fill", [0, 1, 255, None])
def test_means_of_large_windows(size: tuple[int, int], fill: int | None) -> None:
    """Windows on both sides of 2^15 pixels, from which a mean needs more bits than float32 has."""
    shape = (1, 2, size[0] + 1, size[1] + 1)
    image = random_image(3, shape) if fill is None else Image(np.full(shape, fill, np.uint8), Range(np.float32(1), 7))
    attributes = window(size, (1, 1), (0, 1, 0, 0), (1, 1))
    seen = Window(size, (1, 1), (0, 1, 0, 0), (1, 1))
    for counted in (0, 1):
        tensor = byte_images.written(image, TILES)
        pooled = run("QuantizedAveragePool", tensor, **attributes, **placed(PLANES), count_include_pad=counted)
        check(pooled, reference.average_pool(image, seen, bool(counted)), PLANES)


def test_every_mean_of_small_windows() -> None:
    """All sums of windows of 1 to 12 pixels: the mean is rounded half up, as integers are."""
    for n in range(1, 13):
        sums = np.arange(255 * n + 1)
        pixels = np.clip(sums[:, None] - 255 * np.arange(n), 0, 255).astype(np.uint8)  # (sums, n)
        image = Image(pixels.reshape(1, 1, len(sums), n), Range(np.float32(1), 9))
        attributes = window((1, n), (1, 1), (0, 0, 0, 0), (1, 1))
        tensor = byte_images.written(image, TILES)
        pooled, _ = byte_images.read(
            run("QuantizedAveragePool", tensor, **attributes, **placed(TILES), count_include_pad=0)
        )
        np.testing.assert_array_equal(pooled.data.ravel(), (2 * sums + n) // (2 * n))


# ---- add and multiply ----


@dataclass(frozen=True)
class Ranges:
    """Of two inputs and the output."""

    a: Range
    b: Range
    y: Range


RANGES = {
    "usual": Ranges(Range(np.float32(0.05), 100), Range(np.float32(0.07), 3), Range(np.float32(0.11), 60)),
    "coarse": Ranges(Range(np.float32(0.05), 255), Range(np.float32(0.07), 0), Range(np.float32(9.0), 255)),
    "saturated": Ranges(Range(np.float32(1.0), 0), Range(np.float32(1.0), 255), Range(np.float32(1e-3), 0)),
    "largest": Ranges(Range(np.float32(3e38), 0), Range(np.float32(1.3e-38), 9), Range(np.float32(1.2e-38), 8)),
    "smallest": Ranges(Range(np.float32(1.2e-38), 7), Range(np.float32(1.2e-38), 9), Range(np.float32(3e38), 200)),
}
LIMITS = [INFINITE, (0.0, np.inf), (0.0, 6.0), (-1.0, 1.0), (np.inf, np.inf), (-np.inf, -np.inf)]


@pytest.mark.parametrize("case", RANGES)
@pytest.mark.parametrize("shape", [*SOME_SHAPES, VOLUMES[0]])
def test_add(shape: tuple[int, ...], case: str) -> None:
    """Every layout of both inputs and of the output."""
    held = RANGES[case]
    a, b = Image(random_image(4, shape).data, held.a), Image(random_image(5, shape).data, held.b)
    for index, read in enumerate(LAYOUTS):
        other, write = LAYOUTS[index * 2 % len(LAYOUTS)], LAYOUTS[(index + len(case)) % len(LAYOUTS)]
        limits = LIMITS[index % len(LIMITS)]
        tensors = (byte_images.written(a, read), byte_images.written(b, other))
        y = run("QuantizedAdd", *tensors, level(0), **ranges(held.y), **clipped(limits), **placed(write))
        check(y, reference.add(a, b, held.y, limits), write)


@pytest.mark.parametrize("case", RANGES)
@pytest.mark.parametrize("shape", [*SOME_SHAPES, VOLUMES[0]])
def test_multiply(shape: tuple[int, ...], case: str) -> None:
    """Factors of both signs, beyond 16 bits, and no numbers."""
    held = RANGES[case]
    x = Image(random_image(6, shape).data, held.a)
    one = (*shape[:2], *[1] * (len(shape) - 2))
    factors = np.random.default_rng(7).choice(
        np.float32([0.5, -0.7, 1.0, 0.0, 1e-40, 30.0, -1e30, np.nan, np.inf, -np.inf]), one
    )
    for index, read in enumerate(LAYOUTS):
        write, limits = LAYOUTS[(index + len(case)) % len(LAYOUTS)], LIMITS[index % len(LIMITS)]
        tensor = byte_images.written(x, read)
        y = run("QuantizedMultiply", tensor, factors, level(0), **ranges(held.y), **clipped(limits), **placed(write))
        check(y, reference.multiply(x, factors, held.y, limits), write)


def test_the_level_chooses_the_range() -> None:
    image = random_image(8, (1, 3, 9, 9))
    held = [Range(np.float32(0.06), 10), Range(np.float32(0.6), 100)]
    factors = np.full((1, 3, 1, 1), 0.5, np.float32)
    tensor = byte_images.written(image, PLANES)
    attributes: dict[str, Any] = {**ranges(*held), **clipped(INFINITE), **placed(TILES)}
    for index, one in enumerate(held):
        added = run("QuantizedAdd", tensor, tensor, level(index), **attributes)
        check(added, reference.add(image, image, one), TILES)
        scaled = run("QuantizedMultiply", tensor, factors, level(index), **attributes)
        check(scaled, reference.multiply(image, factors, one), TILES)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("layout", [TILES, PLANES])
def test_many_channels_in_parallel(threads: int, layout: Layout) -> None:
    """Enough bytes for several tasks, and a change of size between runs of one session."""
    pool = Operator("QuantizedMaxPool", [np.dtype(np.uint8)], threads, **window((3, 3), (2, 2), (1,) * 4, (1, 1)),
                    **placed(layout))  # fmt: skip
    add = Operator("QuantizedAdd", [np.dtype(np.uint8)] * 2 + [np.dtype(np.int64)], threads,
                   **ranges(Range(np.float32(0.1), 100)), **clipped(INFINITE), **placed(layout))  # fmt: skip
    for shape in ((2, 64, 56, 57), (1, 300, 14, 14), (1, 7, 130, 100)):
        image = random_image(9, shape)
        tensor = byte_images.written(image, layout)
        check(pool(tensor), reference.max_pool(image, Window((3, 3), (2, 2), (1,) * 4, (1, 1))), layout)
        check(add(tensor, tensor, level(0)), reference.add(image, image, Range(np.float32(0.1), 100)), layout)


# ---- what is refused ----


def spoiled(**values: Any) -> Bytes:
    """The tensor of a small image with other values in its header, from the field's first byte on."""
    places = {"magic": 0, "batch": 8, "channels": 12, "height": 16, "width": 20, "border": 24, "gap": 28, "depth": 32,
              "scale": 36}  # fmt: skip
    tensor = byte_images.written(random_image(10, (1, 5, 6, 6)), PLANES)
    for name, value in values.items():
        raw = np.array(value, np.float32 if name == "scale" else np.int32).tobytes()
        tensor[places[name] : places[name] + 4] = np.frombuffer(raw, np.uint8)
    return tensor


FORGED: dict[str, tuple[Bytes, str]] = {
    "no image": (np.zeros(200, np.uint8), r"must be an image of .* got a tensor of shape \[200\]"),
    "short": (np.zeros(63, np.uint8), r"must be an image of .* got a tensor of shape \[63\]"),
    "empty": (np.zeros(0, np.uint8), r"must be an image of .* got a tensor of shape \[0\]"),
    "another shape": (spoiled().reshape(1, -1), r"must be an image of .* got a tensor of shape \[1, "),
    "cut off": (spoiled()[:-1], "its header says an image of"),
    "magic": (spoiled(magic=1), "must be an image of"),
    "batch": (spoiled(batch=2), r"its header says an image of \[2, 5, 6, 6\]"),
    "negative": (spoiled(batch=-1, channels=-5), "its header says an image of"),
    "overflow": (spoiled(height=2**31 - 1, width=2**31 - 1), "its header says an image of"),
    "wide border": (spoiled(border=2**31 - 1), "its header says an image of"),
    "negative border": (spoiled(border=-1), "its header says an image of"),
    "wide gap": (spoiled(gap=2**31 - 1), "its header says an image of"),
    "many slices": (spoiled(depth=2**31 - 1), "its header says an image of"),
    "no slices": (spoiled(depth=0), "its header says an image of"),
    "no pixels": (spoiled(height=0), "its header says an image of"),
    "scale of zero": (spoiled(scale=0.0), "scale that is a normal number above 0"),
    "negative scale": (spoiled(scale=-1.0), "scale that is a normal number above 0"),
    "no number": (spoiled(scale=np.nan), "scale that is a normal number above 0"),
    "endless": (spoiled(scale=np.inf), "scale that is a normal number above 0"),
    "subnormal": (spoiled(scale=1e-40), "scale that is a normal number above 0"),
}
SQUARE = window((3, 3), (1, 1), (1, 1, 1, 1), (1, 1))
RANGED: dict[str, Any] = {**ranges(Range(np.float32(0.1), 100)), **clipped(INFINITE), **placed(TILES)}
READERS: dict[str, Callable[[Bytes], Any]] = {
    "DequantizeImage: X": lambda x: run("DequantizeImage", x),
    "QuantizedMaxPool: X": lambda x: run("QuantizedMaxPool", x, **SQUARE, **placed(TILES)),
    "QuantizedAveragePool: X": lambda x: run("QuantizedAveragePool", x, **SQUARE, **placed(TILES)),
    "QuantizedGlobalAveragePool: X": lambda x: run("QuantizedGlobalAveragePool", x),
    "QuantizedAdd: A": lambda x: run("QuantizedAdd", x, spoiled(), level(0), **RANGED),
    "QuantizedAdd: B": lambda x: run("QuantizedAdd", spoiled(), x, level(0), **RANGED),
    "QuantizedMultiply: X": lambda x: run(
        "QuantizedMultiply", x, np.ones((1, 5, 1, 1), np.float32), level(0), **RANGED
    ),
}


@pytest.mark.parametrize("case", FORGED)
@pytest.mark.parametrize("reader", READERS)
def test_a_tensor_that_is_no_image_is_refused(reader: str, case: str) -> None:
    tensor, message = FORGED[case]
    with pytest.raises(Exception, match=f"{reader} .*{message}"):
        READERS[reader](tensor)


@pytest.mark.parametrize("reader", READERS)
def test_the_image_that_the_forged_ones_are_made_from_is_read(reader: str) -> None:
    READERS[reader](spoiled())


def quantized(**values: Any) -> NDArray[Any]:
    attributes = {**ranges(Range(np.float32(0.1), 100)), **placed(TILES), **values}
    return run("QuantizeImage", np.ones((1, 2, 3, 3), np.float32), level(0), **attributes)


ATTRIBUTES: dict[str, tuple[dict[str, Any], str]] = {
    "scale": ({"y_scale": [0.0]}, "'y_scale'.*normal number above 0"),
    "infinite scale": ({"y_scale": [np.inf]}, "'y_scale'.*normal number above 0"),
    "scale that is no number": ({"y_scale": [np.nan]}, "'y_scale'.*normal number above 0"),
    "scales": ({"y_scale": [1.0, 1.0]}, "'y_scale': expected 1 numbers, got 2"),
    "zero": ({"y_zero": [256]}, "'y_zero': expected 0 to 255, got 256"),
    "negative zero": ({"y_zero": [-1]}, "'y_zero': expected 0 to 255, got -1"),
    "border": ({"y_border": -1}, "'y_border'"),
    "gap": ({"y_gap": 2**40}, "'y_gap'"),
}


@pytest.mark.parametrize("case", ATTRIBUTES)
def test_attributes_are_checked_when_the_session_is_made(case: str) -> None:
    values, message = ATTRIBUTES[case]
    with pytest.raises(Exception, match=message):
        quantized(**values)


def test_other_inputs_that_do_not_fit() -> None:
    image = byte_images.written(random_image(11, (1, 5, 6, 6)), TILES)
    other = byte_images.written(random_image(11, (1, 5, 6, 7)), TILES)
    with pytest.raises(Exception, match=r"QuantizedAdd: B must have A's size \[1, 5, 6, 6\], got \[1, 5, 6, 7\]"):
        run("QuantizedAdd", image, other, level(0), **RANGED)
    with pytest.raises(Exception, match=r"QuantizedMultiply: F must be a factor for each channel \[1, 5, 1, 1\]"):
        run("QuantizedMultiply", image, np.ones((1, 4, 1, 1), np.float32), level(0), **RANGED)
    for shape in ((3, 3), (1, 1, 2, 3, 4, 5)):
        wrong = rf"QuantizeImage: X must be .*\[N, C, H, W\].*, got {re.escape(str(list(shape)))}"
        with pytest.raises(Exception, match=wrong):
            run(
                "QuantizeImage",
                np.ones(shape, np.float32),
                level(0),
                **ranges(Range(np.float32(1), 0)),
                **placed(TILES),
            )
    with pytest.raises(Exception, match="with one spatial dimension X must have one row"):
        run("DequantizeImage", image, spatial_dimensions=1)
    volume = byte_images.written(random_image(11, (1, 5, 3, 6, 6)), TILES)
    with pytest.raises(Exception, match=r"without three spatial dimensions X must have one slice, got \[1, 5, 3, 6, 6"):
        run("DequantizeImage", volume)
    with pytest.raises(Exception, match=r"QuantizedAveragePool: X must have one slice, got \[1, 5, 3, 6, 6\]"):
        run("QuantizedAveragePool", volume, **SQUARE, **placed(TILES), count_include_pad=0)
    with pytest.raises(Exception, match=r"QuantizedAdd: B must have A's size \[1, 5, 3, 6, 6\], got \[1, 5, 6, 6\]"):
        run("QuantizedAdd", volume, image, level(0), **RANGED)
    for index in (-1, 1, 2**40):
        with pytest.raises(Exception, match=f"QuantizedAdd: level must be 0 to 0, got {index}"):
            run("QuantizedAdd", image, image, level(index), **RANGED)
    with pytest.raises(Exception, match="QuantizedAdd: level must be one int64"):
        run("QuantizedAdd", image, image, np.zeros(2, np.int64), **RANGED)
    large = window((4000, 4000), (1, 1), (2000,) * 4, (1, 1))
    with pytest.raises(Exception, match=r"QuantizedAveragePool: the window has more than 2\^23 taps"):
        run("QuantizedAveragePool", image, **large, **placed(TILES), count_include_pad=1)


# ---- every instruction set ----

OTHERS = sorted({kernel.isa for kernel in library.kernels() if kernel.supported} - {library.isa()})


@pytest.mark.skipif("NESTED_SPARSE_FORCE_ISA" in os.environ, reason="the process that forces no ISA runs the others")
@pytest.mark.parametrize("isa", OTHERS)
def test_every_instruction_set(isa: str) -> None:
    """These tests, by each of the machine's other instruction sets."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(Path(__file__))]
    environment = {**os.environ, "NESTED_SPARSE_FORCE_ISA": isa}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
