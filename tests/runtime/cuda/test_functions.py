"""Functions: those of ONNX's operators in torch, each compared with ONNX Runtime's own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from interpreted import FUNCTIONS
from onnx import TensorProto, helper, numpy_helper

from nested_sparse.runtime.cuda.node import REFUSALS, Node


@dataclass
class Case:
    """A node: inputs (None is absent), attributes, number of outputs."""

    operator: str
    inputs: list[Any]
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: int = 1


def case(operator: str, *inputs: Any, outputs: int = 1, **attributes: Any) -> Case:
    return Case(operator, [each if each is None else np.asarray(each) for each in inputs], attributes, outputs)


RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 3, 4)).astype(np.float32)
Y = RNG.standard_normal((3, 4)).astype(np.float32)
IMAGE = RNG.standard_normal((2, 4, 7, 6)).astype(np.float32)
WHOLE = RNG.integers(-9, 10, (2, 3, 4))
OTHER = np.array([[-3], [2], [5]])
BOOLS = X > 0
FOUR = RNG.random(4).astype(np.float32) + 0.5
POOL = {"kernel_shape": [3, 2], "strides": [2, 1]}

CASES = [
    *(case(name, X) for name in ("Abs", "Neg", "Exp", "Erf", "Tanh", "Sigmoid", "Relu", "Sin", "Cos", "Floor")),
    *(case(name, X) for name in ("Ceil", "Round", "Sign", "Reciprocal", "HardSwish", "Softplus", "Softsign", "Mish")),
    *(case(name, np.abs(X)) for name in ("Log", "Sqrt")),
    *(case(name, X) for name in ("Elu", "LeakyRelu", "HardSigmoid", "Gelu", "Identity", "Dropout")),
    case("Elu", X, alpha=0.3),
    case("LeakyRelu", X, alpha=0.3),
    case("HardSigmoid", X, alpha=0.4, beta=0.1),
    case("Gelu", X, approximate="tanh"),
    case("IsNaN", np.where(BOOLS, X, np.float32(np.nan))),
    *(case(name, X, Y) for name in ("Add", "Sub", "Mul", "Div", "Greater", "Less", "GreaterOrEqual", "LessOrEqual")),
    *(case(name, WHOLE, OTHER) for name in ("Add", "Mul", "Div", "Mod", "Equal", "Min", "Max")),
    case("Mod", X, Y, fmod=1),
    case("Pow", np.abs(X), np.float32(2)),
    case("Not", BOOLS),
    *(case(name, BOOLS, BOOLS[:1]) for name in ("And", "Or", "Xor")),
    *(case(name, X, Y, Y[:1]) for name in ("Min", "Max", "Sum")),
    case("Where", BOOLS, X, Y),
    case("Cast", X, to=TensorProto.INT64),
    case("Cast", BOOLS, to=TensorProto.FLOAT),
    case("CastLike", WHOLE, X),
    case("Clip", X, np.float32(-0.5), np.float32(0.5)),
    case("Clip", X, None, np.float32(0.5)),
    case("Clip", X),
    case("Reshape", X, [0, -1]),
    case("Reshape", X, [4, 1, 6], allowzero=1),
    case("Flatten", X, axis=2),
    case("Flatten", X, axis=0),
    case("Transpose", X),
    case("Transpose", X, perm=[1, 2, 0]),
    case("Concat", X, X[:, :1], axis=1),
    case("Expand", Y, [2, 1, 4]),
    case("Squeeze", X[:1], [0]),
    case("Squeeze", X[:1, :1]),
    case("Unsqueeze", X, [0, -1]),
    case("Slice", X, [1, -3], [3, 9], [1, 2], [1, 2]),
    case("Slice", X, [-1, 3], [-9, 0], [1, 2], [-1, -2]),
    case("Slice", X, [5], [9]),
    case("Split", X, [1, 3], axis=2, outputs=2),
    case("Split", X, axis=2, num_outputs=3, outputs=3),
    case("Shape", X, start=1),
    case("Size", X),
    case("Gather", X, [[2, -1], [0, 1]], axis=1),
    case("Gather", X, 1),
    case("GatherElements", X, WHOLE % 4, axis=2),
    case("GatherElements", X, -(WHOLE % 3) - 1, axis=-2),
    case("Tile", Y, [2, 3]),
    case("Range", np.int64(2), np.int64(9), np.int64(3)),
    case("ConstantOfShape", [2, 3]),
    case("ConstantOfShape", [2], value=numpy_helper.from_array(np.array([7], np.int64))),
    case("Trilu", X),
    case("Trilu", X, np.int64(-1), upper=0),
    case("Pad", X, [0, 1, 2, 1, 0, 0], np.float32(3)),
    case("Pad", X, [1, 2], None, [-1]),
    case("MatMul", X, Y.T.copy()),
    case("MatMul", X, X.transpose(0, 2, 1).copy()),
    case("Gemm", Y, X[0], Y[:, 0], transB=1, alpha=0.5, beta=2.0),
    case("Gemm", X[0], Y, transA=1),
    case("Einsum", X, X, equation="bij,bkj->bik"),
    case("Conv", IMAGE, RNG.standard_normal((6, 2, 3, 3)).astype(np.float32), group=2, pads=[1, 0, 2, 1]),
    case("Conv", IMAGE, RNG.standard_normal((4, 4, 2, 3)).astype(np.float32), FOUR, strides=[2, 1], dilations=[1, 2]),
    case("Conv", X, RNG.standard_normal((2, 3, 2)).astype(np.float32), pads=[1, 1]),
    case("MaxPool", IMAGE, **POOL, pads=[1, 0, 0, 1]),
    case("MaxPool", IMAGE, **POOL, ceil_mode=1),
    case("AveragePool", IMAGE, kernel_shape=[3, 2], strides=[2, 1], pads=[1, 1, 1, 1]),
    case("AveragePool", IMAGE, kernel_shape=[3, 2], pads=[1, 0, 1, 0], count_include_pad=1),
    case("GlobalAveragePool", IMAGE),
    case("LayerNormalization", X, FOUR, -FOUR, epsilon=1e-3),
    case("LayerNormalization", X, Y, axis=1),
    case("BatchNormalization", IMAGE, FOUR, -FOUR, FOUR - 1, FOUR),
    *(case(name, X) for name in ("Softmax", "LogSoftmax")),
    case("Softmax", X, axis=1),
    *(case(f"Reduce{name}", X, [0, -1]) for name in ("Mean", "Sum", "Max", "Min", "Prod", "SumSquare", "L1", "L2")),
    case("ReduceSum", X, keepdims=0),
    case("ReduceMean", X, np.zeros(0, np.int64), noop_with_empty_axes=1),
    case("ArgMax", X, axis=1),
    case("ArgMin", X, axis=-1, keepdims=0),
]


def by_onnx_runtime(each: Case) -> list[Any]:
    """The outputs of a graph of this node alone."""
    names = ["" if value is None else f"x{place}" for place, value in enumerate(each.inputs)]
    made = [f"y{place}" for place in range(each.outputs)]
    node = helper.make_node(each.operator, names, made, **each.attributes)
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in zip(names, each.inputs, strict=True)
        if name
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in made]
    graph = helper.make_graph([node], "one", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(made, {name: value for name, value in zip(names, each.inputs, strict=True) if name}))


def function_of(each: Case) -> Any:
    """Ours, of a node with the attributes as they come from a file."""
    proto = helper.make_node(each.operator, ["x"], ["y"], **each.attributes)
    attributes = {held.name: helper.get_attribute_value(held) for held in proto.attribute}
    return FUNCTIONS[each.operator](Node("node", each.operator, attributes, each.outputs, torch.float32))


@pytest.mark.parametrize("each", CASES, ids=lambda each: each.operator)
def test_an_operator_gives_what_onnx_runtime_gives(each: Case) -> None:
    """Values, shapes and types; negative axes and places, broadcasts, absent inputs."""
    REFUSALS.of_run = []
    made = function_of(each)([None if value is None else torch.from_numpy(value) for value in each.inputs])
    made = [made] if isinstance(made, torch.Tensor) else made
    expected = by_onnx_runtime(each)
    assert len(made) == len(expected)
    assert not any(bool(wrong) for wrong, _ in REFUSALS.of_run)
    for got, wanted in zip(made, expected, strict=True):
        assert got.numpy().dtype == wanted.dtype
        np.testing.assert_allclose(got.numpy(), wanted, rtol=1e-5, atol=1e-6)


def test_every_function_has_a_case() -> None:
    """A new one is compared, too."""
    assert {each.operator for each in CASES} == FUNCTIONS.keys()


@pytest.mark.parametrize("place", [3, -4])
def test_a_place_out_of_range_refuses_the_run(place: int) -> None:
    """It would end the process of a GPU: nothing is read there, and the run is marked."""
    REFUSALS.of_run = []
    function_of(case("Gather", X, place, axis=1))([torch.from_numpy(X), torch.tensor(place)])
    ((wrong, said),) = REFUSALS.of_run
    assert bool(wrong)
    assert said == "node 'node': a place is outside of -3 to 2"


@pytest.mark.parametrize(
    ("each", "said"),
    [
        (case("Conv", IMAGE, IMAGE, auto_pad="SAME_UPPER"), "auto_pad"),
        (case("Pad", X, [1, 1], mode="reflect"), "mode 'reflect'"),
        (case("MaxPool", IMAGE, kernel_shape=[2, 2], outputs=2), "places of its values"),
        (case("AveragePool", IMAGE, kernel_shape=[2, 2], pads=[1, 0, 0, 1]), "other pads at the end"),
        (case("BatchNormalization", IMAGE, training_mode=1), "training mode"),
        (case("Cast", X, to=TensorProto.STRING), "the type STRING"),
    ],
    ids=lambda each: each.operator if isinstance(each, Case) else "",
)
def test_forms_that_are_not_known_are_refused_at_once(each: Case, said: str) -> None:
    """When the graph is opened, not in a run."""
    with pytest.raises(ValueError, match=said):
        function_of(each)
