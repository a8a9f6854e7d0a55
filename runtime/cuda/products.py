"""Products: ONNX's operators that sum: matrix products, convolutions, pools, norms, reductions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .node import Function, Node, Values, given, some, together, whole_numbers

_CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)
_MAX_POOLS = (F.max_pool1d, F.max_pool2d, F.max_pool3d)
_AVERAGE_POOLS = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)


def _matmul(node: Node) -> Function:
    return lambda values: torch.matmul(*map(some, together(values)))


def _gemm(node: Node) -> Function:
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    turned = node.get("transA", 0), node.get("transB", 0)

    def gemm(values: Values) -> Tensor:
        a, b, c = [*together(values), None][:3]
        left, right = (some(each).t() if turn else some(each) for each, turn in zip((a, b), turned, strict=True))
        product = left @ right if alpha == 1 else alpha * (left @ right)
        return product if c is None else product + (c if beta == 1 else beta * c)

    return gemm


def padded(x: Tensor, pads: Sequence[int], value: float = 0.0) -> Tensor:
    """`x` with ONNX's `pads`, first those at the beginning of each spatial axis, then those at the end."""
    half = len(pads) // 2
    wanted = [each for axis in reversed(range(half)) for each in (pads[axis], pads[half + axis])]
    return F.pad(x, wanted, value=value) if any(pads) else x


def _window(node: Node) -> dict[str, list[int]]:
    if node.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise ValueError("auto_pad is not known here; name the pads")
    return {key: list(node.get(key, ())) for key in ("kernel_shape", "strides", "dilations", "pads")}


def _conv(node: Node) -> Function:
    window, groups = _window(node), node.get("group", 1)

    def conv(values: Values) -> Tensor:
        x, weight, bias = [*together(values), None][:3]
        compute = _CONVOLUTIONS[some(x).ndim - 3]
        stride, dilation = window["strides"] or 1, window["dilations"] or 1
        y: Tensor = compute(padded(some(x), window["pads"]), some(weight), bias, stride, 0, dilation, groups)
        return y

    return conv


def _max_pool(node: Node) -> Function:
    window, ceil = _window(node), bool(node.get("ceil_mode", 0))
    if node.outputs != 1:
        raise ValueError("a MaxPool with the places of its values is not known here")

    def pool(values: Values) -> Tensor:
        x = padded(some(values[0]), window["pads"], float("-inf"))
        compute = _MAX_POOLS[x.ndim - 3]
        stride, dilation = window["strides"] or [1] * (x.ndim - 2), window["dilations"] or 1
        y: Tensor = compute(x, window["kernel_shape"], stride, 0, dilation, ceil)
        return y

    return pool


def _average_pool(node: Node) -> Function:
    window, ceil = _window(node), bool(node.get("ceil_mode", 0))
    counts = bool(node.get("count_include_pad", 0))
    pads = window["pads"] or [0]
    half = len(pads) // 2
    if pads[:half] != pads[half:] and any(pads):
        raise ValueError("an AveragePool with other pads at the end than at the beginning is not known here")
    if any(each != 1 for each in window["dilations"]):
        raise ValueError("an AveragePool with dilations is not known here")

    def pool(values: Values) -> Tensor:
        x = some(values[0])
        stride = window["strides"] or [1] * (x.ndim - 2)
        padding = pads[:half] or 0
        y: Tensor = _AVERAGE_POOLS[x.ndim - 3](x, window["kernel_shape"], stride, padding, ceil, counts)
        return y

    return pool


def _global_average_pool(node: Node) -> Function:
    return lambda values: (x := some(values[0])).mean(tuple(range(2, x.ndim)), keepdim=True)


def _layer_norm(node: Node) -> Function:
    axis, epsilon = node.get("axis", -1), node.get("epsilon", 1e-5)
    if node.outputs != 1:
        raise ValueError("a LayerNormalization with mean and deviation is of training")

    def norm(values: Values) -> Tensor:
        x, scale, bias = [*together(values), None][:3]
        shape = list(some(x).shape[axis:])
        return F.layer_norm(some(x), shape, some(scale).expand(shape), None if bias is None else bias, epsilon)

    return norm


def _batch_norm(node: Node) -> Function:
    if node.get("training_mode", 0):
        raise ValueError("a BatchNormalization in training mode cannot run")
    epsilon = node.get("epsilon", 1e-5)

    def norm(values: Values) -> Tensor:
        x, scale, bias, mean, variance = map(some, together(values))
        return F.batch_norm(x, mean, variance, scale, bias, False, 0.0, epsilon)

    return norm


def _softmax(compute: Callable[[Tensor, int], Tensor]) -> Callable[[Node], Function]:
    def make(node: Node) -> Function:
        axis = node.get("axis", -1)
        return lambda values: compute(some(values[0]), axis)

    return make


def _reduced(compute: Callable[[Tensor, tuple[int, ...], bool], Tensor]) -> Callable[[Node], Function]:
    def make(node: Node) -> Function:
        keep, nothing = bool(node.get("keepdims", 1)), bool(node.get("noop_with_empty_axes", 0))

        def reduce(values: Values) -> Tensor:
            x, places = some(values[0]), given(values, 1)
            axes = node.get("axes") if places is None else whole_numbers(places)
            if not axes and nothing:
                return x
            return compute(x, tuple(axes or range(x.ndim)), keep)

        return reduce

    return make


def _product(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    for axis in sorted((each % x.ndim for each in axes), reverse=True):
        x = x.prod(axis, keep)
    return x


def _best(compute: Callable[[Tensor, int, bool], Tensor]) -> Callable[[Node], Function]:
    def make(node: Node) -> Function:
        axis, keep = node.get("axis", 0), bool(node.get("keepdims", 1))
        if node.get("select_last_index", 0):
            raise ValueError("select_last_index is not known here")
        return lambda values: compute(some(values[0]), axis, keep)

    return make


def _einsum(node: Node) -> Function:
    equation = node.get("equation").decode()
    return lambda values: torch.einsum(equation, *map(some, together(values)))


PRODUCTS: Mapping[str, Callable[[Node], Function]] = {
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Einsum": _einsum,
    "Conv": _conv,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global_average_pool,
    "LayerNormalization": _layer_norm,
    "BatchNormalization": _batch_norm,
    "Softmax": _softmax(torch.softmax),
    "LogSoftmax": _softmax(torch.log_softmax),
    "ReduceMean": _reduced(lambda x, axes, keep: x.mean(axes, keep)),
    "ReduceSum": _reduced(lambda x, axes, keep: x.sum(axes, keep)),
    "ReduceMax": _reduced(lambda x, axes, keep: x.amax(axes, keep)),
    "ReduceMin": _reduced(lambda x, axes, keep: x.amin(axes, keep)),
    "ReduceProd": _reduced(_product),
    "ReduceSumSquare": _reduced(lambda x, axes, keep: x.square().sum(axes, keep)),
    "ReduceL1": _reduced(lambda x, axes, keep: x.abs().sum(axes, keep)),
    "ReduceL2": _reduced(lambda x, axes, keep: torch.linalg.vector_norm(x, dim=axes, keepdim=keep)),
    "ArgMax": _best(torch.argmax),
    "ArgMin": _best(torch.argmin),
}
"""Makers of the functions, by operator."""
