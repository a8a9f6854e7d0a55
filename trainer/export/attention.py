"""Attention: the translation of torch's scaled_dot_product_attention into a graph.

That of torch.onnx swaps the last two axes of the keys by nine nodes in place of one. Where a mask closes every key to a
query, it answers NaN or the mean of the values; torch answers 0, and so does this one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import opset18

op: Any = opset18  # its types know no values of a graph that is traced


def _attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """The nodes of F.scaled_dot_product_attention; arguments as there. dropout_p: left out, as at every inference."""
    *outer, last_but_one, last = range(len(key.shape))
    if enable_gqa and query.shape[-3] != key.shape[-3]:
        key, value = (_for_every_head(each, query.shape[-3]) for each in (key, value))
    keys = op.Transpose(key, perm=[*outer, last, last_but_one])
    scores = op.MatMul(op.Mul(query, _scale(query, scale)), keys)
    if is_causal:
        return op.MatMul(op.Softmax(op.Add(scores, _causal(query, key)), axis=-1), value)
    if attn_mask is None:
        return op.MatMul(op.Softmax(scores, axis=-1), value)
    closed = _scalar(-math.inf, query)
    if attn_mask.dtype == ir.DataType.BOOL:
        attn_mask = op.Where(attn_mask, _scalar(0.0, query), closed)
    mixed = op.MatMul(op.Softmax(op.Add(scores, attn_mask), axis=-1), value)
    all_closed = op.Equal(op.ReduceMax(attn_mask, op.Constant(value_ints=[-1]), keepdims=1), closed)
    return op.Where(all_closed, _scalar(0.0, query), mixed)


def _scale(query: Any, scale: Any) -> Any:
    """`scale`, or torch's default, as a value."""
    width = query.shape[-1]
    if scale is None and isinstance(width, int):
        scale = 1.0 / math.sqrt(width)
    elif scale is None:
        scale = op.Reciprocal(op.Sqrt(op.CastLike(op.Squeeze(op.Shape(query, start=-1)), query)))
    return op.CastLike(scale, query)


def _scalar(number: float, like: Any) -> Any:
    return op.Constant(value=ir.tensor(number, dtype=like.dtype))


def _for_every_head(x: Any, heads: int) -> Any:
    """Keys or values (..., groups, S, E) as (..., heads, S, E); the heads of a group have the same."""
    *outer, groups, _, width = x.shape
    repeats = [1] * len(outer) + [1, heads // groups, 1, 1]
    repeated = op.Tile(op.Unsqueeze(x, op.Constant(value_ints=[-3])), op.Constant(value_ints=repeats))
    return op.Reshape(repeated, op.Constant(value_ints=[0] * len(outer) + [heads, -1, width]))  # 0: as it is


def _causal(query: Any, key: Any) -> Any:
    """(L, S): 0 where query l sees key s, s at most l, and minus infinity elsewhere."""
    queries, keys = (op.Range(_int(0), op.Squeeze(op.Shape(each, start=-2, end=-1)), _int(1)) for each in (query, key))
    sees = op.GreaterOrEqual(op.Unsqueeze(queries, op.Constant(value_ints=[1])), keys)
    return op.Where(sees, _scalar(0.0, query), _scalar(-math.inf, query))


def _int(number: int) -> Any:
    return op.Constant(value_int=number)


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.aten.scaled_dot_product_attention.default: _attention
}
