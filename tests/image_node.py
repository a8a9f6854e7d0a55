"""Image nodes: sessions of one int8 operator beside layers, its attributes, and images in every layout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import byte_images
import numpy as np
import onnxruntime as ort
from byte_images import Layout
from integer_reference import Bytes, Float32, Image, Range
from numpy.typing import NDArray
from onnx import TensorProto, helper
from sparse_node import session_of

TILES, WIDE_TILES, PLANES, WIDE_PLANES = Layout(), Layout(0, 3), Layout(1, 1), Layout(3, 5)
LAYOUTS = (TILES, WIDE_TILES, PLANES, WIDE_PLANES, Layout(2, 0))
VOLUMES = [(2, 3, 4, 5, 7), (1, 2, 1, 9, 3), (1, 4, 3, 17, 16), (0, 1, 2, 2, 2)]
SHAPES = [(1, 1, 1, 1), (2, 3, 7, 7), (1, 5, 8, 8), (3, 2, 1, 130), (1, 4, 33, 34), (2, 3, 65), (1, 2, 1), (0, 3, 4, 4),
          *VOLUMES]  # fmt: skip
SOME_SHAPES = [(2, 3, 7, 7), (1, 4, 33, 34), (2, 3, 65), (1, 1, 1, 1), (0, 3, 4, 4)]
TYPES = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.uint8): TensorProto.UINT8,
         np.dtype(np.int64): TensorProto.INT64}  # fmt: skip
INFINITE = (-np.inf, np.inf)


class Operator:
    """One node in a session."""

    def __init__(self, name: str, inputs: Sequence[np.dtype[Any]], threads: int = 1, **attributes: Any) -> None:
        floats = name in {"DequantizeImage", "QuantizedGlobalAveragePool"}
        names = [f"in{index}" for index in range(len(inputs))]
        node = helper.make_node(name, names, ["out"], domain="nested_sparse", **attributes)
        values = [helper.make_tensor_value_info(i, TYPES[t], None) for i, t in zip(names, inputs, strict=True)]
        output = helper.make_tensor_value_info("out", TensorProto.FLOAT if floats else TensorProto.UINT8, None)
        self.session = session_of(helper.make_graph([node], "one", values, [output]), threads)

    def __call__(self, *inputs: NDArray[Any]) -> NDArray[Any]:
        """The node's output."""
        feeds = {f"in{index}": ort.OrtValue.ortvalue_from_numpy(array) for index, array in enumerate(inputs)}
        result: NDArray[Any] = self.session.run_with_ort_values(None, feeds)[0].numpy()
        return result


def run(name: str, *inputs: NDArray[Any], threads: int = 1, **attributes: Any) -> NDArray[Any]:
    """The output of a node for `inputs`."""
    return Operator(name, [array.dtype for array in inputs], threads, **attributes)(*inputs)


def level(index: int) -> NDArray[np.int64]:
    return np.array(index, np.int64)


def ranges(*each: Range) -> dict[str, Any]:
    """The attributes of ranges, one for each level."""
    return {"y_scale": [float(one.scale) for one in each], "y_zero": [one.zero for one in each]}


def placed(layout: Layout) -> dict[str, int]:
    return {"y_border": layout.border, "y_gap": layout.gap}


def clipped(limits: tuple[float, float]) -> dict[str, float]:
    return {"clip_min": limits[0], "clip_max": limits[1]}


def window(
    kernel: Sequence[int], stride: Sequence[int], pads: Sequence[int], dilation: Sequence[int]
) -> dict[str, Any]:
    return {"kernel_shape": kernel, "strides": stride, "pads": pads, "dilations": dilation}


def random_image(seed: int, shape: Sequence[int], scale: float = 0.05, zero: int = 100) -> Image:
    """Bytes of all sizes, the ends among them."""
    data = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    return Image(data, Range(np.float32(scale), zero))


def check(tensor: Bytes, expected: Image, layout: Layout) -> None:
    """The tensor holds the expected image in the expected layout, and its borders are whole."""
    image, found = byte_images.read(tensor)
    assert found == layout
    assert image.range == expected.range
    np.testing.assert_array_equal(image.data, planar(expected.data))


def planar(data: NDArray[Any]) -> NDArray[Any]:
    """Lines as images of one row, and volumes of one slice as images."""
    if data.ndim == 3:
        return data[:, :, None, :]
    return data[:, :, 0] if data.ndim == 5 and data.shape[2] == 1 else data


# ---- in and out ----


def values_around(held: Range, shape: Sequence[int]) -> Float32:
    """Values over twice the range, exact ties, and what is no number."""
    rng = np.random.default_rng(1)
    steps = np.where(rng.random(shape) < 0.5, rng.uniform(-300, 600, shape), rng.integers(-300, 600, shape) + 0.5)
    with np.errstate(over="ignore"):
        x = ((steps - held.zero) * float(held.scale)).astype(np.float32)
    odd = np.float32([np.nan, np.inf, -np.inf, 3e38, -3e38, 0.0, -0.0, 1e-45, -1e-40, 1.1e-38])
    picked = rng.random(shape) < 0.1
    x[picked] = rng.choice(odd, int(picked.sum()))
    return x
