"""Attention: the translation of torch's scaled_dot_product_attention into a graph.

Attention with heads becomes one operator of ours (docs/decisions/066), all other attention nodes of ONNX. Those of
torch.onnx swap the last two axes of the keys by nine nodes in place of one. Where a mask closes every key to a query,
they answer NaN or the mean of the values; torch answers 0, and so do these.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import onnx
import onnx_ir as ir
import torch
from onnx.defs import OpSchema
from onnxscript import opset18
from onnxscript.values import Opset

from nested_sparse.graph.contract import (
    ATTENTION,
    CAUSAL,
    DOMAIN,
    DOMAIN_VERSION,
    HEADS_RANK,
    INPUT_AXES,
    INPUT_PLACE,
    OPERATORS,
    SCALE,
    Y_AXES,
)

from .nodes import same_size

op: Any = opset18  # its types know no values of a graph that is traced
own: Any = Opset(DOMAIN, DOMAIN_VERSION)
_HEADS_FIRST = [0, 1, 2]
"""The axes of batch, head and position in torch's tensors."""


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
    factor, has_heads = _factor(query, scale), _has_heads(query, key, value, attn_mask, enable_gqa)
    if attn_mask is not None and attn_mask.dtype == ir.DataType.BOOL:
        attn_mask = op.Where(attn_mask, _scalar(0.0, query), _scalar(-math.inf, query))
    if factor is not None and has_heads:
        masks = [] if attn_mask is None else [attn_mask]
        return _operator()(query, key, value, *masks, **_attributes(factor, is_causal))
    return _nodes(query, key, value, attn_mask, is_causal, factor, enable_gqa)


def _has_heads(query: Any, key: Any, value: Any, mask: Any, groups: bool) -> bool:
    """Whether our operator computes the same: it broadcasts nothing but the mask."""
    operands = (query, key, value)
    if any(each.dtype != ir.DataType.FLOAT or len(each.shape) != HEADS_RANK for each in operands):
        return False
    if mask is not None and (mask.dtype not in (ir.DataType.FLOAT, ir.DataType.BOOL) or len(mask.shape) > HEADS_RANK):
        return False
    heads, of_keys, of_values = (each.shape[1] for each in operands)
    if not all(isinstance(each, int) for each in (heads, of_keys, of_values)) or of_keys != of_values:
        return False
    fits = heads % of_keys == 0 if groups else heads == of_keys
    return fits and all(same_size(query.shape[0], each.shape[0]) for each in operands)


def _attributes(factor: float, is_causal: bool) -> dict[str, Any]:
    """Those of our operator for tensors as torch has them."""
    axes = dict.fromkeys((*INPUT_AXES.values(), Y_AXES), _HEADS_FIRST)
    return {SCALE: factor, CAUSAL: int(is_causal), **axes, **dict.fromkeys(INPUT_PLACE.values(), 0)}


def _operator() -> Any:
    """Our operator as a function of onnxscript, which takes its name from the schemas of this process."""
    if not onnx.defs.has(ATTENTION, DOMAIN):
        kinds = {"f": OpSchema.AttrType.FLOAT, "i": OpSchema.AttrType.INT, "ints": OpSchema.AttrType.INTS}
        one, optional = OpSchema.FormalParameter, OpSchema.FormalParameterOption.Optional
        schema = OpSchema(
            ATTENTION,
            DOMAIN,
            DOMAIN_VERSION,
            inputs=[*(one(name, "T") for name in "QKV"), one("mask", "T", param_option=optional)],
            outputs=[one("Y", "T")],
            type_constraints=[("T", ["tensor(float)"], "")],
            attributes=[
                OpSchema.Attribute(name, kinds[each.kind], "")
                if each.default is None
                else OpSchema.Attribute(name, onnx.helper.make_attribute(name, each.default))
                for name, each in OPERATORS[ATTENTION].items()
            ],
        )
        onnx.defs.register_schema(schema)
    return getattr(own, ATTENTION)


def _nodes(query: Any, key: Any, value: Any, mask: Any, is_causal: bool, factor: float | None, enable_gqa: bool) -> Any:
    """Attention by nodes of ONNX. mask: of floats, or None. factor: of the scores; None where the width is free."""
    *outer, last_but_one, last = range(len(key.shape))
    if enable_gqa:  # torch lets keys have other heads than values
        heads = query.shape[-3]
        key, value = (each if each.shape[-3] == heads else _for_every_head(each, heads) for each in (key, value))
    keys = op.Transpose(key, perm=[*outer, last, last_but_one])
    scores = op.MatMul(op.Mul(query, _scale(query, factor)), keys)
    if is_causal:
        return op.MatMul(op.Softmax(op.Add(scores, _causal(query, key)), axis=-1), value)
    if mask is None:
        return op.MatMul(op.Softmax(scores, axis=-1), value)
    mixed = op.MatMul(op.Softmax(op.Add(scores, mask), axis=-1), value)
    largest = op.ReduceMax(mask, op.Constant(value_ints=[-1]), keepdims=1)
    return op.Where(op.Equal(largest, _scalar(-math.inf, query)), _scalar(0.0, query), mixed)


def _factor(query: Any, scale: float | None) -> float | None:
    """`scale`, or torch's default; None where the width of a head is free."""
    width = query.shape[-1]
    if scale is None and isinstance(width, int):
        return 1.0 / math.sqrt(width)
    return scale


def _scale(query: Any, factor: float | None) -> Any:
    """The factor of the scores as a value."""
    if factor is None:
        factor = op.Reciprocal(op.Sqrt(op.CastLike(op.Squeeze(op.Shape(query, start=-1)), query)))
    return op.CastLike(factor, query)


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
