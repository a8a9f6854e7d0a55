"""integer_form: a QDQ model rewritten with ConvInteger and MatMulInteger, the only form that DeepSparse runs sparse.

DeepSparse 1.8 leaves a QDQ model of ONNX Runtime's tools to the ONNX Runtime inside it, whole (its log:
"non-scalar or non-uniform scales", "kernel is not constant"). This is the form that SparseML exported for it: integer
convolution, int32 bias, Cast, Mul by one scale, QuantizeLinear; sums of branches in float32. QLinearConv runs as fast,
a scale per channel makes it 1.9 × slower (13.3 against 25.9 ms).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto

_INTEGER = {"Conv": "ConvInteger", "Gemm": "MatMulInteger"}


def integer_form(qdq: Path) -> Path:
    """Write `qdq`, quantised per tensor, in integer form beside it; returns its path."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(qdq))
    graph = model.graph
    constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    _keep_branches_in_float(graph)
    makers = {output: node for node in graph.node for output in node.output}
    nodes: list[NodeProto] = []
    for node in graph.node:
        made = _integer_nodes(node, makers, constants) if node.op_type in _INTEGER else ([node], {})
        nodes += made[0]
        constants.update(made[1])
    nodes = _needed(nodes, {output.name for output in graph.output})
    read = {name for node in nodes for name in node.input}
    for field in ("node", "initializer", "value_info"):
        graph.ClearField(field)
    graph.node.extend(nodes)
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items() if name in read)
    path = qdq.with_suffix(".integer.onnx")
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


def _integer_nodes(
    node: NodeProto, makers: Mapping[str, NodeProto], constants: Mapping[str, NDArray[Any]]
) -> tuple[list[NodeProto], dict[str, NDArray[Any]]]:
    """The nodes in the place of a Conv or Gemm, and their constants."""
    from onnx import TensorProto, helper

    image, weight, bias = (makers[name] for name in node.input)
    y = node.output[0]
    conv = node.op_type == "Conv"
    added = constants[bias.input[0]].astype(np.int32)
    made = {
        f"{y}.zero": np.int8(0),
        f"{y}.bias": added.reshape(-1, 1, 1) if conv else added,
        f"{y}.scale": np.float32(constants[image.input[1]] * constants[weight.input[1]]),
    }
    stored = weight.input[0]
    if not conv:  # a Gemm of this exporter has its weight transposed
        stored = f"{y}.weight"
        made[stored] = constants[weight.input[0]].T.copy()
    window = {each.name: helper.get_attribute_value(each) for each in node.attribute} if conv else {}
    sums = [image.input[0], stored, image.input[2], f"{y}.zero"]
    nodes = [
        helper.make_node(_INTEGER[node.op_type], sums, [f"{y}.sums"], f"{node.name}.sums", **window),
        helper.make_node("Add", [f"{y}.sums", f"{y}.bias"], [f"{y}.biased"], f"{node.name}.biased"),
        helper.make_node("Cast", [f"{y}.biased"], [f"{y}.float"], f"{node.name}.float", to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{y}.float", f"{y}.scale"], [y], f"{node.name}.scaled"),
    ]
    return nodes, {name: np.asarray(value) for name, value in made.items()}


def _keep_branches_in_float(graph: GraphProto) -> None:
    """Let an Add read a convolution's output itself, in place of the same quantised and dequantised.

    A tensor with other readers stays quantised: that may be all that is left of a ReLU.
    """
    makers = {output: node for node in graph.node for output in node.output}
    readers = Counter(name for node in graph.node for name in node.input)
    for node in graph.node:
        if node.op_type != "Add":
            continue
        for index, name in enumerate(node.input):
            if makers[name].op_type == "DequantizeLinear" and readers[name] == readers[makers[name].input[0]] == 1:
                quantise = makers[makers[name].input[0]]
                if makers[quantise.input[0]].op_type == "Conv":
                    node.input[index] = quantise.input[0]


def _needed(nodes: list[NodeProto], outputs: set[str]) -> list[NodeProto]:
    """Those that contribute to `outputs`, in order."""
    kept, wanted = [], set(outputs)
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.append(node)
    return kept[::-1]
