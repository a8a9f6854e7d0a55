"""attention: the function of an attention node, by torch's own kernels on views of its inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nested_sparse.graph.contract import (
    CAUSAL,
    HEADS_RANK,
    INPUT_AXES,
    INPUT_PLACE,
    KEY_INPUT,
    MASK_INPUT,
    PACKED_RANK,
    QUERY_INPUT,
    SCALE,
    VALUE_INPUT,
    Y_AXES,
)

from .node import Function, Node, Values, given, some


def attention(node: Node) -> Function:
    """Its inputs: queries, keys, values, and a mask that is added to the scores, which may be absent."""
    scale, causal = float(node.get(SCALE)), bool(node.get(CAUSAL, 0))
    sides = [(list(node.get(INPUT_AXES[at])), node.get(INPUT_PLACE[at], 0)) for at in sorted(INPUT_AXES)]
    order = [list(node.get(Y_AXES)).index(axis) for axis in range(HEADS_RANK - 1)]

    def attend(values: Values) -> Tensor:
        q, k, v = (_view(some(values[at]), *sides[at]) for at in (QUERY_INPUT, KEY_INPUT, VALUE_INPUT))
        return _attended(q, k, v, given(values, MASK_INPUT), scale, causal).permute(*order, HEADS_RANK - 1)

    return attend


def _view(x: Tensor, axes: Sequence[int], place: int) -> Tensor:
    """(batch, head, position, value) of an input. Raises ValueError."""
    if x.ndim == PACKED_RANK:
        (packed,) = set(range(PACKED_RANK - 1)) - set(axes)
        x, axes = x.select(packed, place), [axis - (axis > packed) for axis in axes]
    if x.ndim != HEADS_RANK:
        raise ValueError(f"an input of attention is of rank {x.ndim}, expected {HEADS_RANK} or {PACKED_RANK}")
    return x.permute(*axes, HEADS_RANK - 1)


def _attended(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, causal: bool) -> Tensor:
    """(batch, head, position, value) of the outputs. Only the kernels for no mask are told `causal`."""
    queries, keys = q.shape[2], k.shape[2]
    if not q.numel() or not k.numel():
        return v.new_zeros(*q.shape[:3], v.shape[3])
    shared = q.shape[1] != k.shape[1]
    if mask is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale, enable_gqa=shared)
    mask = mask.to(q.device, q.dtype)
    if causal:
        mask = mask + torch.full((queries, keys), -math.inf, dtype=q.dtype, device=q.device).triu(1)
    mask = mask[(None,) * (HEADS_RANK - mask.ndim)]
    y = F.scaled_dot_product_attention(q, k, v, mask, scale=scale, enable_gqa=shared)
    closed = mask.amax(-1, keepdim=True) == -math.inf
    return torch.where(closed, 0, y)  # not every kernel of torch gives 0 there
