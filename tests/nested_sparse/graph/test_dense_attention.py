"""DenseAttention: ONNX's nodes in place of attention, run by ONNX Runtime alone, against numpy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from attention_graph import Array, attention_model, feeds, reference

from nested_sparse.graph.densified import densified

BY_HEADS, BY_POSITIONS = [0, 1, 2], [0, 2, 1]
EVERY = {"scale": 0.5, **dict.fromkeys(("q_axes", "k_axes", "v_axes", "y_axes"), BY_HEADS)}
BATCH, HEADS, LENGTH, KEYS, WIDTH = 3, 4, 5, 7, 6


def numbers(*shape: int) -> Array:
    return np.random.default_rng(len(shape) + shape[-1]).standard_normal(shape).astype(np.float32)


def three(heads: int = HEADS, keys: int = KEYS) -> tuple[Array, Array, Array]:
    """Queries, keys and values by heads; values are narrower."""
    return (
        numbers(BATCH, HEADS, LENGTH, WIDTH),
        numbers(BATCH, heads, keys, WIDTH),
        numbers(BATCH, heads, keys, WIDTH - 1),
    )


def closing(*shape: int) -> Array:
    """Numbers and minus infinities; all of the last sample, or of the last query."""
    mask = numbers(*shape)
    mask[mask > 1] = -math.inf
    mask[(-1,) if shape[0] == BATCH else (..., -1, slice(None))] = -math.inf
    return mask


def answer(graph: bytes, inputs: Mapping[str, Array]) -> Array:
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    y: Array = session.run(None, dict(inputs))[0]
    return y


def alone(arrays: Sequence[Any], shapes: Mapping[str, Any] | None = None, **attributes: Any) -> onnx.ModelProto:
    """The model without nodes of ours, which onnx has checked and whose answer is right."""
    given = {**EVERY, **attributes}
    model = attention_model(*arrays, shapes=shapes, **given)
    made = onnx.load_model_from_string(densified(model.SerializeToString(), {}, alone=True))
    assert not any(node.domain for node in made.graph.node)
    if shapes is None:
        onnx.checker.check_model(made, full_check=True)
    expected = reference(*arrays, **given)
    np.testing.assert_allclose(answer(made.SerializeToString(), feeds(*arrays)), expected, rtol=1e-5, atol=1e-5)
    return made


MASKS: dict[str, Array | None] = {
    "none": None,
    "one number": np.array(0.5, np.float32),
    "closed by one number": np.array(-math.inf, np.float32),
    "keys": closing(1, KEYS)[0],
    "queries and keys": closing(LENGTH, KEYS),
    "samples": closing(BATCH, 1, 1, KEYS),
    "samples and queries": closing(BATCH, 1, LENGTH, 1),
    "heads": closing(HEADS, LENGTH, KEYS),
    "all": closing(BATCH, HEADS, LENGTH, KEYS),
}


@pytest.mark.parametrize("heads", [HEADS, 2, 1])
@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("kind", MASKS)
def test_every_mask_and_number_of_heads(kind: str, causal: int, heads: int) -> None:
    """Queries all of whose keys are closed get zeros."""
    alone((*three(heads), MASKS[kind]), causal=causal)


@pytest.mark.parametrize("keys", [1, 3, KEYS])
def test_a_query_sees_no_later_key(keys: int) -> None:
    """Also with fewer keys than queries, and with the first key closed, without which the first query has none."""
    mask = np.zeros((1, keys), np.float32)
    mask[:, 0] = -math.inf
    for given in (None, mask):
        alone((*three(keys=keys), given), causal=1)


def test_a_packed_projection_is_parted_by_one_node_of_onnx_runtime(tmp_path: Any) -> None:
    """The slices of all three become a Split, and scale and Transpose of the keys go into the product."""
    x = numbers(BATCH, LENGTH, 3, HEADS, WIDTH)
    axes = {name: [0, 3, 1] for name in ("q_axes", "k_axes", "v_axes")}
    made = alone((x, x, x), **axes, k_place=1, v_place=2, y_axes=BY_POSITIONS)
    assert [node.op_type for node in made.graph.node].count("Slice") == 3
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    ort.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    left = [node.op_type for node in onnx.load_model(tmp_path / "optimised.onnx").graph.node]
    assert sorted(left) == sorted(
        ["Split", *["Transpose", "Squeeze"] * 3, "FusedMatMul", "Softmax", "MatMul", "Transpose"]
    )


PACKED: dict[str, tuple[tuple[int, ...], list[int], int]] = {
    "by positions": ((BATCH, KEYS, HEADS, WIDTH), BY_POSITIONS, 0),
    "positions first": ((KEYS, BATCH, HEADS, WIDTH), [1, 2, 0], 0),
    "parts first": ((2, BATCH, HEADS, KEYS, WIDTH), [1, 2, 3], 1),
    "parts last": ((BATCH, HEADS, KEYS, 3, WIDTH), [0, 1, 2], 2),
    "one part": ((BATCH, 1, KEYS, HEADS, WIDTH), [0, 3, 2], 0),
}


@pytest.mark.parametrize(
    ("kind", "told"), [(kind, told) for kind in PACKED for told in (True, False) if told or kind != "parts last"]
)
def test_any_axis_may_hold_anything(kind: str, told: bool) -> None:
    """Two inputs may be parts of one tensor. Where the graph tells no shapes, the axes tell all ranks but one."""
    shape, axes, part = PACKED[kind]
    q, both = numbers(HEADS, BATCH, LENGTH, WIDTH), numbers(*shape)
    given = {"q_axes": [1, 0, 2], "k_axes": axes, "v_axes": axes, "k_place": part, "y_axes": [2, 1, 0]}
    shapes = None if told else dict.fromkeys(("q", "k", "mask"))
    alone((q, both, both, closing(BATCH, 1, 1, KEYS)), shapes, **given)


@pytest.mark.parametrize("names", [("heads", "heads"), (None, None), (HEADS, None), (None, 2)])
def test_numbers_of_heads_that_the_graph_does_not_tell(names: tuple[Any, Any]) -> None:
    """Equal names mean equal numbers; else the numbers are found in a run."""
    of_keys = HEADS if names == ("heads", "heads") else 2
    of_queries, told = names
    shapes = {"q": ["N", of_queries, "L", WIDTH], "k": ["N", told, "S", WIDTH]}
    made = alone((*three(of_keys), closing(LENGTH, KEYS)), shapes, causal=1)
    assert ("Reshape" in [node.op_type for node in made.graph.node]) == (of_keys == 2)


def test_attention_stays_where_other_layers_are_replaced() -> None:
    """Only a graph that is to be alone has no node of ours."""
    model = attention_model(*three(), **EVERY)
    (node,) = onnx.load_model_from_string(densified(model.SerializeToString(), {})).graph.node
    assert node == model.graph.node[0]


def test_what_is_no_number_stays_so() -> None:
    """The 0 of a closed mask hides no fault of the input."""
    q, k, v = three()
    q[0, 1, 2, 0] = math.nan
    model = attention_model(q, k, v, closing(LENGTH, KEYS), **EVERY)
    y = answer(densified(model.SerializeToString(), {}, alone=True), feeds(q, k, v, closing(LENGTH, KEYS)))
    assert np.isnan(y[0, 1, 2]).all()
    y[0, 1, 2] = 0
    assert np.isfinite(y).all()
    assert not y[..., -1, :].any()
