"""Replacement: the nodes of ONNX that compute what a node of ours does with the dense weight of its layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..phases import column_order
from .contract import (
    CLIP_MAX,
    CLIP_MIN,
    CONV_TRANSPOSE,
    DOMAIN,
    FUNCTION,
    FUNCTIONS,
    LEVEL,
    LINEAR,
    NORM,
    NORM_EPSILON,
    NORM_SCALE,
    NORM_SHIFT,
    OUTPUT_PADDING,
    RESIDUAL_INPUT,
    SPATIAL_DIMENSIONS,
    WINDOW,
    Y_TILED,
)
from .encoding import Value, node
from .input_norm import has_input_norm
from .told_shapes import Shape

ReadNode = dict[str, Any]
"""A NodeProto by its fields; "values" has its attributes by name."""
_LEAST = float(np.finfo(np.float32).min)


@dataclass(frozen=True, slots=True)
class DenseLayer:
    """The weight of a layer that ONNX Runtime is to run.

    values: (O, K) float32, columns in the order of the file. norms: (L, 2, O) float32, scale and shift of each level;
    (1, 2, O) where all levels have the same, which then go into the weight and its bias.
    """

    values: NDArray[np.float32]
    norms: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Step:
    """A new node."""

    operator: str
    inputs: list[str]
    output: str
    attributes: Mapping[str, Value]


class Names(Protocol):
    """Gives names to what is new in a graph."""

    def tiled(self, image: str) -> bool: ...  # noqa: D102 -- whether an image that was tiled stays so

    def shape(self, value: str) -> Shape | None: ...  # noqa: D102 -- None where the graph does not tell

    def name(self, layer: str, step: str) -> str: ...  # noqa: D102 -- one that nothing has

    def initializer(self, name: str, values: NDArray[np.generic]) -> str: ...  # noqa: D102 -- that of a constant


class Replacement:
    """ONNX's nodes for one node of ours."""

    def __init__(self, names: Names, read: ReadNode, layer: str, dense: DenseLayer | None) -> None:
        self._names, self._read, self._values = names, read, read["values"]
        self._layer, self._dense = layer, dense
        self._steps: list[_Step] = []

    def nodes(self) -> list[bytes | memoryview]:
        """They write the same output."""
        assert self._dense is not None
        norms, x = self._dense.norms, self._read["input"][0]
        folded = len(norms) == 1
        scale, shift = norms[0] if folded else (np.ones_like(norms[0, 0]), np.zeros_like(norms[0, 1]))
        y = self._multiplied(self._normalised(x), self._dense.values * scale[:, None], shift if shift.any() else None)
        residual = input_of(self._read, RESIDUAL_INPUT)
        if not folded:
            y = self._normed(y, norms, last=not residual)
        if residual:
            y = self._step("Add", [y, residual])
        if folded or residual:
            y = self._function(self._clamped(y))
        return self._encoded()

    def of_norm(self) -> list[bytes | memoryview]:
        """Those for a NestedNorm, at the densest level."""
        x, _, *tables = self._read["input"]
        last = self._names.initializer("last", np.array(-1, np.int64))
        scale, shift = (self._step("Gather", [table, last], {"axis": 0}) for table in tables)
        mean = self._step("Mul", [shift, self._number(0.0)])
        variance = self._step("Add", [mean, self._number(1.0)])
        y = self._step("BatchNormalization", [x, scale, shift, mean, variance], {"epsilon": 0.0})
        self._function(self._clamped(y))
        return self._encoded()

    def _encoded(self) -> list[bytes | memoryview]:
        """The nodes of all steps; the last one writes the output of the node that they stand for."""
        steps = [*self._steps[:-1], replace(self._steps[-1], output=self._read["output"][0])]
        return [
            node(
                each.operator,
                each.inputs,
                [each.output],
                self._names.name(self._layer, each.operator),
                each.attributes,
                DOMAIN if each.operator == NORM else "",
            )
            for each in steps
        ]

    def _normed(self, y: str, norms: NDArray[np.float32], *, last: bool) -> str:
        """As the exporter keeps a norm that no layer takes over. last: whether clamp and function are behind it."""
        tables = [self._constant(part, norms[:, place]) for place, part in enumerate(("scale", "shift"))]
        if self._read["op_type"] == LINEAR and len(self._names.shape(self._read["output"][0]) or ()) != 2:
            scale, shift = (self._step("Gather", [table, LEVEL.name], {"axis": 0}) for table in tables)
            y = self._step("Add", [self._step("Mul", [y, scale]), shift])  # the channels are not dimension 1
            return self._function(self._clamped(y)) if last else y
        given: dict[str, Value] = {CLIP_MIN: -math.inf, CLIP_MAX: math.inf}
        if last:
            given = {name: self._values[name] for name in (CLIP_MIN, CLIP_MAX)}
            given |= {name: self._values[name] for name in (FUNCTION,) if self._values.get(name)}
        if self._read["op_type"] != LINEAR:
            given |= {SPATIAL_DIMENSIONS: self._spatial} if self._spatial != 2 else {}
            given |= {Y_TILED: 1} if last and self._names.tiled(self._read["output"][0]) else {}
        return self._step(NORM, [y, LEVEL.name, *tables], given)

    @property
    def _spatial(self) -> int:
        return int(self._values.get(SPATIAL_DIMENSIONS, 2))

    def _normalised(self, x: str) -> str:
        if not has_input_norm(self._values):
            return x
        of_node = self._read["output"][0]  # a layer may be used again, behind another norm
        tables = [
            self._names.initializer(f"{of_node}.{name}", np.array(self._values[name], np.float32))
            for name in (NORM_SCALE, NORM_SHIFT)
        ]
        given: dict[str, Value] = {"axis": -1, "epsilon": self._values[NORM_EPSILON]}
        return self._step("LayerNormalization", [x, *tables], given)

    def _multiplied(self, x: str, values: NDArray[np.float32], bias: NDArray[np.float32] | None) -> str:
        if self._read["op_type"] == LINEAR:
            y = self._step("MatMul", [x, self._constant("weight", values.T)])
            return y if bias is None else self._step("Add", [y, self._constant("bias", bias)])
        axes, sizes = self._spatial, {name: self._values[name] for name in WINDOW}
        kernel, strides, pads, dilations = (sizes[name] for name in WINDOW)
        before, after = pads[: len(kernel)], pads[len(kernel) :]
        taps = kernel[-axes:]
        given: dict[str, Value] = {
            "kernel_shape": taps,
            "strides": strides[-axes:],
            "dilations": dilations[-axes:],
            "pads": [*before[-axes:], *after[-axes:]],
        }
        channels = values.shape[1] // math.prod(kernel)
        if self._read["op_type"] == CONV_TRANSPOSE:
            ordered = np.empty_like(values)
            ordered[:, column_order(channels, kernel, strides, before, dilations)] = values
            weight = ordered.reshape(-1, channels, *taps).swapaxes(0, 1)
            operator, given[OUTPUT_PADDING] = "ConvTranspose", self._values[OUTPUT_PADDING][-axes:]
        else:
            operator, weight = "Conv", values.reshape(-1, channels, *taps)
            given["group"] = self._values.get("groups", 1)
        constants = [self._constant("weight", weight)] + ([] if bias is None else [self._constant("bias", bias)])
        return self._step(operator, [x, *constants], given)

    def _clamped(self, y: str) -> str:
        least, most = self._values[CLIP_MIN], self._values[CLIP_MAX]
        if (least, most) == (0.0, math.inf):
            return self._step("Relu", [y])
        if (least, most) == (-math.inf, math.inf):
            return y
        return self._step("Clip", [y, self._number(max(least, _LEAST)), self._number(min(most, -_LEAST))])

    def _function(self, x: str) -> str:
        """As torch.onnx spells the function; ONNX Runtime knows these spellings."""
        name = FUNCTIONS[self._values.get(FUNCTION, 0)]
        if name == "sigmoid":
            return self._step("Sigmoid", [x])
        if name == "silu":
            return self._step("Mul", [x, self._step("Sigmoid", [x])])
        if name == "quick_gelu":
            return self._step("Mul", [x, self._step("Sigmoid", [self._step("Mul", [x, self._number(1.702)])])])
        if name == "hard_sigmoid":
            return self._step("HardSigmoid", [x], {"alpha": 1 / 6, "beta": 0.5})
        if name == "hard_swish":
            return self._step("HardSwish", [x])
        if name == "gelu":
            share = self._step("Erf", [self._step("Div", [x, self._number(math.sqrt(2))])])
            return self._half_of_both(x, share)
        if name == "gelu_tanh":
            cube = self._step("Mul", [self._number(0.044715), self._step("Pow", [x, self._number(3.0)])])
            inner = self._step("Mul", [self._number(math.sqrt(2 / math.pi)), self._step("Add", [x, cube])])
            return self._half_of_both(x, self._step("Tanh", [inner]))
        return x

    def _half_of_both(self, x: str, share: str) -> str:
        """x / 2 · (1 + share)."""
        both = self._step("Mul", [x, self._step("Add", [share, self._number(1.0)])])
        return self._step("Mul", [both, self._number(0.5)])

    def _step(self, operator: str, inputs: list[str], attributes: Mapping[str, Value] | None = None) -> str:
        output = self._names.name(self._layer, "y")
        self._steps.append(_Step(operator, inputs, output, attributes or {}))
        return output

    def _constant(self, part: str, values: NDArray[np.float32]) -> str:
        return self._names.initializer(f"{self._layer}.{part}", values)

    def _number(self, value: float) -> str:
        return self._names.initializer(f"number {value!r}", np.array(value, np.float32))


_LEAST = float(np.finfo(np.float32).min)


def input_of(read: ReadNode, place: int) -> str:
    """The input at `place`; "" where it is absent."""
    return str(read["input"][place]) if place < len(read["input"]) else ""
