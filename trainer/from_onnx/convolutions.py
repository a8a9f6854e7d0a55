"""convolutions: Conv and ConvTranspose as torch's layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from torch import nn

from ..export.nodes import constant_of
from .found import (
    Found,
    Make,
    answer_by,
    constant_in,
    fed_input,
    in_front,
    number,
    removed,
    text,
    weight_of,
    whole_numbers,
)
from .taken import Taken

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


class Convolution(Found):
    """A Conv. Pads that differ from side to side become a Pad in front of the layer; the export takes it in again."""

    def place(self, node: ir.Node, make: Make) -> None:
        """A Pad where it is needed, and the layer."""
        (path,) = self.modules
        x = node.inputs[0]
        assert x is not None
        pads = whole_numbers(node, "pads", ())
        half = len(pads) // 2
        if pads[:half] != pads[half:]:
            sizes = np.array([0, 0, *pads[:half], 0, 0, *pads[half:]], np.int64)
            pad = ir.node("Pad", [x, constant_in(node, f"{node.name}.pads", sizes)], name=f"{node.name}.pad")
            pad.outputs[0].name, pad.outputs[0].type = f"{node.name}.pad", x.type
            pad.outputs[0].shape = _padded(x, sizes)
            in_front(node, pad)
            x = pad.outputs[0]
        (answer,) = make(path, [x], 1)
        answer_by(node, node.outputs[0], answer)
        removed(node)


def _padded(x: ir.Value, sizes: NDArray[np.int64]) -> ir.Shape | None:
    if x.shape is None:
        return None
    added = sizes.reshape(2, -1).sum(axis=0)
    pairs = zip(x.shape, added, strict=True)
    return ir.Shape([size + int(more) if isinstance(size, int) else (None if more else size) for size, more in pairs])


class TransposedConvolution(Found):
    """A ConvTranspose."""

    def place(self, node: ir.Node, make: Make) -> None:
        """The layer alone."""
        (path,) = self.modules
        assert node.inputs[0] is not None
        (answer,) = make(path, [node.inputs[0]], 1)
        answer_by(node, node.outputs[0], answer)
        removed(node)


def convolution(model: ir.Model, node: ir.Node, taken: Taken) -> Found | str | None:
    """The layer of a Conv or ConvTranspose; the reason why it has none."""
    weight = node.inputs[1]
    assert weight is not None
    values = constant_of(weight)
    if values is None:
        return "its weight is computed in the graph"
    if values.dtype != np.float32:
        return f"it computes in {values.dtype}; layers compute in float32: convert the model to float32"
    spatial = values.ndim - 2
    if spatial not in CONVOLUTIONS or not values.size:
        return f"its weight has the shape {list(values.shape)}; convolutions of one to three dimensions are nested"
    transposed = node.op_type == "ConvTranspose"
    groups = int(number(node, "group", 1))
    rows = values.shape[1] * groups if transposed else values.shape[0]
    columns = values.shape[0] if transposed else values.shape[1] * groups
    added = node.inputs[2] if len(node.inputs) > 2 else None
    bias = np.zeros(rows, np.float32) if added is None else constant_of(added)
    if bias is None:
        return "its bias is computed in the graph"
    strides, dilations = (whole_numbers(node, name, [1] * spatial) for name in ("strides", "dilations"))
    more = whole_numbers(node, "output_padding", [0] * spatial)
    pads = _pads(node, values.shape[2:], strides, dilations)
    if isinstance(pads, str):
        return pads
    half = pads[:spatial]
    if transposed:
        more = [size + before - after for size, before, after in zip(more, half, pads[spatial:], strict=True)]
        steps = zip(strides, dilations, strict=True)
        if not all(0 <= size < max(step) for size, step in zip(more, steps, strict=True)):
            return f"it cuts {pads[spatial:]} from the end and {half} from the begin, which torch's layer cannot"
    alike = transposed or half == pads[spatial:]
    path = taken.path(node, weight)
    settings: dict[str, Any] = {"groups": groups, "dilation": tuple(dilations), "device": "meta"}
    if transposed:
        settings["output_padding"] = tuple(more)
    kind: Any = (TRANSPOSED if transposed else CONVOLUTIONS)[spatial]
    layer = kind(columns, rows, values.shape[2:], tuple(strides), tuple(half) if alike else 0, **settings)
    key = (id(weight), node.op_type, groups)
    layer.weight = weight_of(values) if transposed else taken.parameter(key, lambda: weight_of(values))
    layer.bias = weight_of(bias)
    found = (TransposedConvolution if transposed else Convolution)(node.name or "", {path: layer})
    for place, part, shape in ((1, "weight", values.shape), (2, "bias", (rows,))):
        value = fed_input(model, taken.name(f"{path}.{part}"), shape)
        node.resize_inputs(max(3, len(node.inputs)))
        node.replace_input_with(place, value)
        found.feeds[value.name or ""] = lambda get, part=part: getattr(get(path), part)  # type: ignore[misc]
    node.attributes["pads"] = ir.AttrInt64s("pads", pads)
    node.attributes.pop("auto_pad", None)
    return found


def _pads(node: ir.Node, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> list[int] | str:
    """The pads, those before each axis first; the reason where they are not known."""
    mode = text(node, "auto_pad", "NOTSET")
    spatial = len(kernel)
    if node.op_type == "ConvTranspose" and ("output_shape" in node.attributes or mode.startswith("SAME")):
        return "its pads follow from the size of its output; export it with pads"
    if mode in ("NOTSET", "VALID"):
        pads = whole_numbers(node, "pads", [0] * 2 * spatial) if mode == "NOTSET" else [0] * 2 * spatial
        return pads if min(pads, default=0) >= 0 else f"its pads are {pads}, expected none below 0"
    image = None if node.inputs[0] is None else node.inputs[0].shape
    sizes: list[Any] = [None] * spatial if image is None else list(image.dims[2:])
    totals = []
    for size, taps, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        span = dilation * (taps - 1) + 1
        if stride == 1:
            totals.append(span - 1)
        elif isinstance(size, int):
            totals.append(max(0, (-(-size // stride) - 1) * stride + span - size))
        else:
            return f"its pads ({mode}) follow from the size of the image, which is free; fix that size"
    small = [total // 2 for total in totals]
    large = [total - each for total, each in zip(totals, small, strict=True)]
    return [*small, *large] if mode == "SAME_UPPER" else [*large, *small]
