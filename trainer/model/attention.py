"""ProjectedAttention: torch's MultiheadAttention with its projections as linear layers, which can be nested.

torch keeps the projections of queries, keys and values in one parameter, or in three, and multiplies in a function.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

PARTS = ("q_proj", "k_proj", "v_proj")
OUTPUT = "out_proj"
"""Names of the linear layers for queries, keys and values, and of the one behind the heads, which torch has, too."""
_PACKED, _BIAS = "in_proj_weight", "in_proj_bias"


class ProjectedAttention(nn.MultiheadAttention):
    """Attention that calls `q_proj`, `k_proj`, `v_proj` and `out_proj`, four layers; all else is as in torch.

    in_proj_weight, q_proj_weight, k_proj_weight, v_proj_weight, in_proj_bias: weights and biases of these layers, in
    the places where torch has them.
    """

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """The output and, if needed, the weights of attention; arguments and shapes as in torch.

        is_causal: no more than a hint, that `attn_mask` is the causal mask. Raises AssertionError, RuntimeError.
        """
        batched = F._mha_shape_check(query, key, value, key_padding_mask, attn_mask, self.num_heads)  # type: ignore[attr-defined]
        if is_causal and attn_mask is None:
            raise RuntimeError("is_causal says that attn_mask is the causal mask, but there is no attn_mask; pass both")
        mask = self._mask(query, key_padding_mask, attn_mask)
        q, k, v = (self._heads(part(x)) for part, x in zip(self._parts(), (query, key, value), strict=True))
        k, v, mask = self._with_added(k, v, mask)
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = q * math.sqrt(1.0 / self.head_dim) @ k.mT
            weights = torch.softmax(scores if mask is None else scores + mask, dim=-1)
            weights = F.dropout(weights, dropout) if dropout else weights
            # in a file the weights, which most callers drop, are then no part of the answer; a mask that closes every
            # key makes it NaN here, as in torch, and 0 there
            fused = mask is None and not dropout and torch.compiler.is_exporting()
            answer = F.scaled_dot_product_attention(q, k, v) if fused else weights @ v
            weights = weights.mean(dim=1) if average_attn_weights else weights
            weights = weights if batched else weights.squeeze(0)
        else:
            answer = F.scaled_dot_product_attention(q, k, v, mask, dropout)
        return self.out_proj(self._joined(answer, batched)), weights

    def _parts(self) -> list[nn.Module]:
        return [self._modules[name] for name in PARTS]  # type: ignore[misc]

    def _heads(self, x: Tensor) -> Tensor:
        """(N, S, E), (S, N, E) or (S, E) as (N, heads, S, E / heads)."""
        x = x.unflatten(-1, (self.num_heads, self.head_dim))  # type: ignore[no-untyped-call]
        if x.dim() == 3:
            return x.transpose(0, 1).unsqueeze(0)
        return x.transpose(1, 2) if self.batch_first else x.permute(1, 2, 0, 3)

    def _joined(self, x: Tensor, batched: bool) -> Tensor:
        """The reverse of `_heads`."""
        if not batched:
            return x.squeeze(0).transpose(0, 1).flatten(-2)
        return (x.transpose(1, 2) if self.batch_first else x.permute(2, 0, 1, 3)).flatten(-2)

    def _mask(self, query: Tensor, key_padding_mask: Tensor | None, attn_mask: Tensor | None) -> Tensor | None:
        """The sum of both masks as floats, in a shape that fits (N, heads, L, S)."""
        padding = F._canonical_mask(
            key_padding_mask, "key_padding_mask", F._none_or_dtype(attn_mask), "attn_mask", query.dtype
        )
        mask = F._canonical_mask(attn_mask, "attn_mask", None, "", query.dtype, check_other=False)
        if mask is not None and mask.dim() == 3:  # a mask for each head of each sample
            mask = mask.unflatten(0, (-1, self.num_heads))  # type: ignore[no-untyped-call]
        if padding is None:
            return mask
        padding = padding.reshape(-1, 1, 1, padding.shape[-1])
        return padding if mask is None else mask + padding

    def _with_added(self, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys, values and mask with the positions that add_bias_kv and add_zero_attn add, which no mask hides."""
        shape = (k.shape[0], self.num_heads, 1, self.head_dim)
        if self.bias_k is not None and self.bias_v is not None:
            added_k, added_v = (each.view(1, *shape[1:]).expand(shape) for each in (self.bias_k, self.bias_v))
            k, v = torch.cat([k, added_k], dim=2), torch.cat([v, added_v], dim=2)
        if self.add_zero_attn:
            k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
        added = (self.bias_k is not None) + bool(self.add_zero_attn)
        return k, v, mask if mask is None or not added else F.pad(mask, (0, added))

    def __getattr__(self, name: str) -> Any:
        """torch's attributes for the weights and biases of the parts, for code that looks at them."""
        if name in (_PACKED, _BIAS):
            field = "weight" if name == _PACKED else "bias"
            held = [getattr(part, field) for part in self._parts()]
            packed = self._qkv_same_embed_dim if name == _PACKED else held[0] is not None
            return torch.cat(held, dim=0 if name == _PACKED else -1) if packed else None
        if name.removesuffix("_weight") in PARTS and name.endswith("_weight"):
            part = self._modules[name.removesuffix("_weight")]
            return None if self._qkv_same_embed_dim else part.weight  # type: ignore[union-attr]
        return super().__getattr__(name)


def project(attention: nn.MultiheadAttention, masks: Mapping[str, Tensor]) -> dict[nn.Module, Tensor]:
    """Make `attention` a ProjectedAttention, in place; returns the masks of its new layers' weights.

    masks: bool masks of its parameters, by dotted name.
    """
    held, packed = attention._parameters, attention._qkv_same_embed_dim
    names = [f"{part}_weight" for part in PARTS]
    weights = _split(held[_PACKED]) if packed else [held[name] for name in names]
    allowed = _split(masks.get(_PACKED)) if packed else [masks.get(name) for name in names]
    biases = _split(held[_BIAS])
    for name in (_PACKED, _BIAS, *names):
        held.pop(name, None)
    found: dict[nn.Module, Tensor] = {}
    for part, weight, bias, mask in zip(PARTS, weights, biases, allowed, strict=True):
        assert weight is not None
        attention._modules[part] = linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        linear.weight, linear.bias = weight, bias
        linear.train(attention.training)
        if mask is not None:
            found[linear] = mask
    if type(attention.out_proj) is NonDynamicallyQuantizableLinear:  # the same as nn.Linear, but for its name
        attention.out_proj.__class__ = nn.Linear  # type: ignore[assignment]
    attention._modules[OUTPUT] = attention._modules.pop(OUTPUT)  # behind the others, as it runs
    attention.__class__ = ProjectedAttention
    if f"{OUTPUT}.weight" in masks:
        found[attention.out_proj] = masks[f"{OUTPUT}.weight"]
    return found


def _split(packed: Tensor | None) -> list[Any]:
    """The parts for queries, keys and values, each a parameter if `packed` is one."""
    if packed is None:
        return [None] * len(PARTS)
    parts = [part.clone() for part in packed.detach().chunk(len(PARTS))]
    is_parameter = isinstance(packed, nn.Parameter)
    return [nn.Parameter(part, packed.requires_grad) for part in parts] if is_parameter else parts
