"""attention: the node on a GPU, every form of its inputs, against numpy."""

from __future__ import annotations

import math
from typing import Any

import interpreted  # noqa: F401 -- switches Triton's interpreter on
import numpy as np
import pytest
import torch
from attention_graph import Array, reference

from nested_sparse.runtime.cuda.layers import Layers
from nested_sparse.runtime.cuda.node import Node

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
BATCH, HEADS, LENGTH, KEYS, WIDTH = 2, 4, 5, 7, 8
PLAIN: dict[str, Any] = {"scale": 0.5, **{name: [0, 1, 2] for name in ("q_axes", "k_axes", "v_axes", "y_axes")}}


def numbers(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def computed(arrays: tuple[Array | None, ...], dtype: torch.dtype = torch.float32, **attributes: Any) -> Array:
    """The node's answer as a file's graph gets it."""
    node = Node("attention", "ScaledDotProductAttention", attributes, 1, dtype)
    function = Layers(None, DEVICE, dtype, {}, []).function(node)  # type: ignore[arg-type] -- it has no weights
    given = [None if each is None else torch.from_numpy(each).to(DEVICE, dtype) for each in arrays]
    made = function(given)
    assert isinstance(made, torch.Tensor)
    assert made.dtype == dtype
    y: Array = made.float().cpu().numpy()
    return y


def check(arrays: tuple[Any, ...], **attributes: Any) -> None:
    """In float32 to rounding, in float16 nearly."""
    given = {**PLAIN, **attributes}
    expected = reference(*arrays, **given)
    np.testing.assert_allclose(computed(arrays, **given), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(computed(arrays, torch.float16, **given), expected, atol=1e-2)


def closing(*shape: int) -> Array:
    """Numbers and minus infinities; nothing else for the last sample, or where there is one, for the last query."""
    mask = numbers(*shape)
    mask[mask > 1] = -math.inf
    mask[(-1,) if shape[0] == BATCH else (..., -1, slice(None))] = -math.inf
    return mask


MASKS = {
    "none": None,
    "one number": np.array(0.5, np.float32),
    "keys": closing(1, KEYS)[0],
    "queries and keys": closing(LENGTH, KEYS),
    "samples": closing(BATCH, 1, 1, KEYS),
    "all": closing(BATCH, HEADS, LENGTH, KEYS),
}


@pytest.mark.parametrize("heads", [HEADS, 2, 1])
@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("kind", MASKS)
def test_every_mask_and_number_of_heads(kind: str, causal: int, heads: int) -> None:
    """Queries all of whose keys are closed get zeros; an absent mask may have an empty name."""
    q, k = numbers(BATCH, HEADS, LENGTH, WIDTH), numbers(BATCH, heads, KEYS, WIDTH)
    check((q, k, numbers(BATCH, heads, KEYS, 6), MASKS[kind]), causal=causal)


def test_any_axis_may_hold_anything() -> None:
    """A packed projection, parts of one tensor that is not, and an output by positions."""
    packed = {name: [0, 3, 1] for name in ("q_axes", "k_axes", "v_axes")}
    x = numbers(BATCH, LENGTH, 3, HEADS, WIDTH)
    check((x, x, x), **packed, k_place=1, v_place=2, y_axes=[0, 2, 1])
    q, both = numbers(LENGTH, BATCH, HEADS, WIDTH), numbers(HEADS, KEYS, BATCH, 2, WIDTH)
    check((q, both, both), q_axes=[1, 2, 0], k_axes=[2, 0, 1], v_axes=[2, 0, 1], v_place=1, y_axes=[1, 2, 0])


@pytest.mark.parametrize(("queries", "keys"), [(0, KEYS), (LENGTH, 0), (LENGTH, 1), (1, KEYS)])
def test_lengths_may_be_any(queries: int, keys: int) -> None:
    """Nothing to see gives zeros; without a mask, and with one."""
    arrays = numbers(BATCH, HEADS, queries, WIDTH), numbers(BATCH, HEADS, keys, WIDTH), numbers(BATCH, HEADS, keys, 3)
    for causal in (0, 1):
        check(arrays, causal=causal)
        check((*arrays, np.zeros((BATCH, 1, 1, keys), np.float32)), causal=causal)


def test_a_tensor_of_another_rank_is_refused() -> None:
    """With its rank, and those that are taken."""
    x = numbers(HEADS, LENGTH, WIDTH)
    with pytest.raises(ValueError, match="an input of attention is of rank 3, expected 4 or 5"):
        computed((x, x, x), **PLAIN)
