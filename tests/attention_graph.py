"""Attention graphs: a model of one ScaledDotProductAttention, and the same in numpy, written from FORMAT.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

Array = NDArray[np.float32]
INPUTS = ("q", "k", "v", "mask")


def reference(
    q: NDArray[Any],
    k: NDArray[Any],
    v: NDArray[Any],
    mask: NDArray[Any] | None = None,
    *,
    scale: float,
    causal: bool | int = False,
    q_axes: Sequence[int],
    k_axes: Sequence[int],
    v_axes: Sequence[int],
    y_axes: Sequence[int],
    q_place: int = 0,
    k_place: int = 0,
    v_place: int = 0,
) -> NDArray[np.float64]:
    """softmax(scale · q kᵀ + mask) v in float64, laid out by `y_axes`; arguments as the operator's.

    q, k, v: of rank 4 or 5. mask: broadcast to (N, H, L, S). A query whose scores are all minus infinity gets zeros.
    """
    queries, keys, values = _view(q, q_axes, q_place), _view(k, k_axes, k_place), _view(v, v_axes, v_place)
    repeats = queries.shape[1] // keys.shape[1]
    keys, values = np.repeat(keys, repeats, axis=1), np.repeat(values, repeats, axis=1)
    with np.errstate(invalid="ignore"):  # a difference of infinities, and what it is multiplied by, is no number
        scores = float(np.float32(scale)) * np.einsum("nhle,nhse->nhls", queries, keys)
        if mask is not None:
            scores = scores + mask.astype(np.float64)
        if causal:
            length, keys_count = scores.shape[-2:]
            scores = np.where(np.arange(keys_count) <= np.arange(length)[:, None], scores, -np.inf)
        largest = scores.max(axis=-1, keepdims=True, initial=-np.inf)
        closed = largest == -np.inf
        weights = np.exp(scores - np.where(closed, 0.0, largest))
        sums = np.where(closed, 1.0, weights.sum(axis=-1, keepdims=True))
        mixed = np.where(closed, 0.0, np.einsum("nhls,nhse->nhle", weights / sums, values))
    places = [list(y_axes).index(axis) for axis in range(3)]
    result: NDArray[np.float64] = np.ascontiguousarray(mixed.transpose(*places, 3))
    return result


def _view(x: NDArray[Any], axes: Sequence[int], place: int) -> NDArray[np.float64]:
    """(batch, head, position, value) of an input."""
    x = x.astype(np.float64)
    if x.ndim == 4:
        return x.transpose(*axes, 3)
    (packed,) = set(range(4)) - set(axes)
    return x.transpose(packed, *axes, 4)[place]


def attention_model(
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None = None,
    *,
    opset: int = 18,
    shapes: Mapping[str, Sequence[int | str | None]] | None = None,
    **attributes: Any,
) -> ModelProto:
    """A model of one node with these attributes; its output is y.

    The arrays give the names of the inputs: one that is the same object as one before has that one's name. A mask of
    None is absent. shapes: by name, those that the model tells in place of the arrays'; None where it tells no rank.
    """
    fed = feeds(q, k, v, mask)
    arrays = [array for array in (q, k, v, mask) if array is not None]
    given = [next(name for name, each in fed.items() if each is array) for array in arrays]
    node = helper.make_node(
        "ScaledDotProductAttention", given, ["y"], "attention", domain="nested_sparse", **attributes
    )
    told: dict[str, Any] = {**{name: array.shape for name, array in fed.items()}, **(shapes or {})}
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, told[name]) for name in fed]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, told.get("y", [None] * 4))
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("nested_sparse", 1)]
    return helper.make_model(
        helper.make_graph([node], "attention", inputs, [output]), ir_version=9, opset_imports=opsets
    )


def feeds(q: Array, k: Array, v: Array, mask: Array | None = None) -> dict[str, Array]:
    """The inputs of `attention_model` by name; each array once."""
    found: dict[str, Array] = {}
    for name, array in zip(INPUTS, (q, k, v, mask), strict=True):
        if array is not None and not any(array is each for each in found.values()):
            found[name] = array
    return found
