"""Elementwise: ONNX's operators that compute value by value."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from onnx import TensorProto
from torch import Tensor

from .node import Function, Node, Values, given, some, together

_TYPES: Mapping[int, torch.dtype] = {
    TensorProto.DOUBLE: torch.float64,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.INT64: torch.int64,
    TensorProto.INT32: torch.int32,
    TensorProto.INT16: torch.int16,
    TensorProto.INT8: torch.int8,
    TensorProto.UINT8: torch.uint8,
    TensorProto.BOOL: torch.bool,
}


def dtype_of(kind: int, node: Node) -> torch.dtype:
    """The torch type for a TensorProto.DataType; float32 and float16 are the run's own. Raises ValueError."""
    if kind in (TensorProto.FLOAT, TensorProto.FLOAT16):
        return node.dtype
    if kind not in _TYPES:
        raise ValueError(f"the type {TensorProto.DataType.Name(kind)} is not known here")
    return _TYPES[kind]


def fitting(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Floats as `dtype`; finite ones that it cannot hold become its largest, e.g. the -1e9 that closes a mask."""
    if not dtype.is_floating_point or not values.is_floating_point() or values.dtype == dtype:
        return values.to(dtype)
    bounds = torch.finfo(dtype)
    return torch.where(values.isfinite(), values.clamp(bounds.min, bounds.max), values).to(dtype)


def _plain(compute: Callable[..., Tensor]) -> Callable[[Node], Function]:
    """An operator without attributes."""
    return lambda node: lambda values: compute(*together(values))


def _folded(compute: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Node], Function]:
    """An operator over any number of inputs."""
    return lambda node: lambda values: functools.reduce(compute, map(some, together(values)))


def _with(compute: Callable[..., Tensor], **defaults: Any) -> Callable[[Node], Function]:
    """An operator of one input with numbers as attributes: torch's names of arguments by ONNX's of attributes."""

    def make(node: Node) -> Function:
        options = {name: node.get(key, default) for name, (key, default) in defaults.items()}
        return lambda values: compute(some(values[0]), **options)

    return make


def _divide(x: Tensor, y: Tensor) -> Tensor:
    return x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


def _modulo(node: Node) -> Function:
    compute = torch.fmod if node.get("fmod", 0) else torch.remainder
    return lambda values: compute(*map(some, together(values)))


def _cast(node: Node) -> Function:
    dtype = dtype_of(node.get("to"), node)
    return lambda values: fitting(some(values[0]), dtype)


def _cast_like(node: Node) -> Function:
    return lambda values: fitting(some(values[0]), some(values[1]).dtype)


def _clip(node: Node) -> Function:
    def clip(values: Values) -> Tensor:
        x, least, most = [*together(values), None, None][:3]
        return some(x) if least is None and most is None else torch.clamp(some(x), least, most)

    return clip


def _gelu(node: Node) -> Function:
    form = node.get("approximate", b"none").decode()
    return lambda values: F.gelu(some(values[0]), approximate=form)


def _hard_sigmoid(node: Node) -> Function:
    alpha, beta = node.get("alpha", 0.2), node.get("beta", 0.5)
    return lambda values: (some(values[0]) * alpha + beta).clamp(0, 1)


def _dropout(node: Node) -> Function:
    if node.outputs != 1:
        raise ValueError("a Dropout with a mask is of training")

    def dropout(values: Values) -> Tensor:
        training = given(values, 2)
        if training is not None and bool(training):
            raise ValueError("a Dropout in training mode cannot run")
        return some(values[0])

    return dropout


ELEMENTWISE: Mapping[str, Callable[[Node], Function]] = {
    **{
        name: _plain(getattr(torch, function))
        for name, function in {
            **{name: name.lower() for name in ("Abs", "Neg", "Exp", "Log", "Sqrt", "Erf", "Tanh", "Sigmoid", "Relu")},
            **{name: name.lower() for name in ("Sin", "Cos", "Floor", "Ceil", "Round", "Sign", "Reciprocal", "IsNaN")},
            **{name: name.lower() for name in ("Add", "Sub", "Mul", "Pow", "Where", "Greater", "Less")},
            "Not": "logical_not",
            "And": "logical_and",
            "Or": "logical_or",
            "Xor": "logical_xor",
            "Equal": "eq",
            "GreaterOrEqual": "ge",
            "LessOrEqual": "le",
        }.items()
    },
    "Div": _plain(_divide),
    "Mod": _modulo,
    "Min": _folded(torch.minimum),
    "Max": _folded(torch.maximum),
    "Sum": _folded(torch.add),
    "Cast": _cast,
    "CastLike": _cast_like,
    "Clip": _clip,
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _plain(F.hardswish),
    "Softplus": _plain(F.softplus),
    "Softsign": _plain(F.softsign),
    "Mish": _plain(F.mish),
    "Elu": _with(F.elu, alpha=("alpha", 1.0)),
    "LeakyRelu": _with(F.leaky_relu, negative_slope=("alpha", 0.01)),
    "Dropout": _dropout,
}
"""Makers of the functions, by operator."""
