"""Tables: the nodes that are one function of a convolution's sums, and its bytes against the function in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from nested_sparse.trainer.export.int8.byte_range import ByteRange
from nested_sparse.trainer.export.int8.tables import Function, functions_of

Float64 = NDArray[np.float64]

SUMS = [ByteRange(0.03, 120), ByteRange(0.06, 100)]
OUTPUTS = [ByteRange(0.02, 14), ByteRange(0.04, 9)]


def sums_of(body: str, outputs: str = "float[N,4,8,8] y") -> ir.Value:
    """The value `c` of a graph in onnx's text form: the sums of a convolution."""
    head = '<ir_version: 9, opset_import: ["": 20, "nested_sparse": 1]>'
    text = (
        f"{head} main (float[N,4,8,8] x) => ({outputs}) <float[N,4,8,8] c> {{ c = nested_sparse.NestedConv(x) {body} }}"
    )
    model = ir.from_proto(onnx.parser.parse_model(text))
    for node in model.graph:  # constants are initializers in a traced graph
        if node.op_type == "Constant":
            node.outputs[0].const_value = node.attributes["value"].as_tensor()
            node.outputs[0].dtype = ir.DataType.FLOAT
    return next(value for node in model.graph for value in node.outputs if value.name == "c")


def sigmoid(x: Float64) -> Float64:
    return 1 / (1 + np.exp(-x))


ERF = np.vectorize(math.erf)
FUNCTIONS: dict[str, tuple[str, Callable[[Float64], Float64]]] = {
    "SiLU": ("s = Sigmoid(c) y = Mul(c, s)", lambda x: x * sigmoid(x)),
    "SiLU, turned round": ("s = Sigmoid(c) y = Mul(s, c)", lambda x: x * sigmoid(x)),
    "hard-swish": ("y = HardSwish(c)", lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
    "hard-swish in nodes": (
        "three = Constant<value = float {3.0}>() six = Constant<value = float {6.0}>() "
        "a = Add(c, three) r = Relu(a) m = Min(r, six) p = Mul(c, m) y = Div(p, six)",
        lambda x: x * np.clip(x + 3, 0, 6) / 6,
    ),
    "sigmoid": ("y = Sigmoid(c)", sigmoid),
    "GELU": ("y = Gelu(c)", lambda x: x * 0.5 * (1 + ERF(x / math.sqrt(2)))),
    "leaky": ("y = LeakyRelu<alpha = 0.2>(c)", lambda x: np.where(x < 0, 0.2 * x, x)),
}


def found(body: str) -> Function:
    return functions_of(sums_of(body))[-1]


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_a_table_is_the_function_in_float64(kind: str) -> None:
    """All 256 bytes at each level; float32 may move a value that lies at the middle of two bytes by one."""
    body, exact = FUNCTIONS[kind]
    function = found(body)
    assert function.answer.name == "y"
    table = np.frombuffer(function.table(SUMS, OUTPUTS), np.uint8).reshape(len(SUMS), 256)
    for level, (sums, outputs) in enumerate(zip(SUMS, OUTPUTS, strict=True)):
        steps = exact(sums.scale * (np.arange(256.0) - sums.zero)) / outputs.scale + outputs.zero
        expected = np.clip(np.rint(steps), 0, 255)
        near_a_middle = np.abs(steps - np.floor(steps) - 0.5) < 1e-4
        np.testing.assert_array_equal(table[level][~near_a_middle], expected[~near_a_middle])
        assert np.abs(table[level].astype(int) - expected).max() <= 1


def test_levels_have_their_own_table() -> None:
    """Another range of sums or outputs gives other bytes."""
    table = found("y = Sigmoid(c)").table(SUMS, OUTPUTS)
    assert table[:256] != table[256:]
    assert table[:256] == found("y = Sigmoid(c)").table(SUMS[:1], OUTPUTS[:1])


def test_a_function_without_a_value_gives_zero() -> None:
    """The root of a negative number has no byte of its own."""
    table = np.frombuffer(found("y = Sqrt(c)").table(SUMS[:1], OUTPUTS[:1]), np.uint8)
    assert (table[: SUMS[0].zero] == OUTPUTS[0].zero).all()
    assert table[-1] == np.rint(np.sqrt(0.03 * 135) / 0.02) + 14


def test_the_longest_function_is_taken() -> None:
    """Two activations in a row are one table."""
    assert [node.op_type for node in found("s = Sigmoid(c) t = Mul(c, s) y = Tanh(t)").nodes] == [
        "Sigmoid",
        "Mul",
        "Tanh",
    ]


@pytest.mark.parametrize(
    ("body", "outputs", "answer"),
    [
        ("y = nested_sparse.NestedConv(c)", "float[N,4,8,8] y", None),
        ("y = Softmax(c)", "float[N,4,8,8] y", None),
        ("y = Add(c, x)", "float[N,4,8,8] y", None),
        ("y = Sigmoid(c)", "float[N,4,8,8] y, float[N,4,8,8] c", None),
        ("s = Sigmoid(c) y = Tanh(s)", "float[N,4,8,8] y, float[N,4,8,8] s", "s"),
        ("s = Sigmoid(c) y = Mul(s, x)", "float[N,4,8,8] y", "s"),
        ("y = Sigmoid(c) z = Tanh(c)", "float[N,4,8,8] y, float[N,4,8,8] z", None),
    ],
    ids=["a layer", "no element-wise step", "another tensor", "an output", "an inner output", "a gate", "two answers"],
)
def test_where_a_function_ends(body: str, outputs: str, answer: str | None) -> None:
    """It ends before what reads other tensors, and holds no value that anything outside reads."""
    functions = functions_of(sums_of(body, outputs))
    assert (functions[-1].answer.name if functions else None) == answer


def test_a_constant_of_many_numbers_is_no_number() -> None:
    """A number for each channel is not the same function everywhere."""
    body = "four = Constant<value = float[4,1,1] {1.0, 2.0, 3.0, 4.0}>() y = Mul(c, four)"
    assert functions_of(sums_of(body)) == []
