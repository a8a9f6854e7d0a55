"""Tables: activation functions between two tensors of bytes, as 256 bytes for each level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from nested_sparse.graph.contract import TABLE_NBYTES

from .byte_range import LARGEST, ByteRange

_UNARY = {
    *("Abs", "Celu", "Clip", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "Neg"),
    *(
        "Reciprocal",
        "Relu",
        "Selu",
        "Sigmoid",
        "Softplus",
        "Softsign",
        "Sqrt",
        "Tanh",
        "ThresholdedRelu",
        "Identity",
        "Swish",
    ),
}
_BINARY = {"Add", "Div", "Max", "Min", "Mul", "Pow", "Sub"}


@dataclass(frozen=True, slots=True)
class Function:
    """Element-wise steps between `given` and `answer`, in order: the answer depends on nothing else."""

    given: ir.Value
    nodes: tuple[ir.Node, ...]
    answer: ir.Value

    def __call__(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """The function of (n,) values, computed by ONNX Runtime."""
        import onnx
        import onnxruntime as ort
        from onnx import TensorProto, helper

        constants = {
            value.name: value.const_value.numpy()
            for node in self.nodes
            for value in node.inputs
            if value is not None and value.const_value is not None
        }
        graph = helper.make_graph(
            [ir.to_proto(node) for node in self.nodes],
            "function",
            [helper.make_tensor_value_info(str(self.given.name), TensorProto.FLOAT, [values.size])],
            [helper.make_tensor_value_info(str(self.answer.name), TensorProto.FLOAT, None)],
            [onnx.numpy_helper.from_array(np.asarray(array).reshape(()), name) for name, array in constants.items()],
        )
        opsets = {**{"": 18}, **self.nodes[0].graph.opset_imports}  # type: ignore[union-attr]
        imports = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
        model = helper.make_model(graph, opset_imports=imports, ir_version=9)
        session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        (answer,) = session.run(None, {self.given.name: values})
        found: NDArray[np.float32] = answer
        return found

    def table(self, sums: Sequence[ByteRange], outputs: Sequence[ByteRange]) -> bytes:
        """The bytes at each level for the bytes 0 to 255 of `sums`, level after level."""
        given = np.concatenate([each.scale * (np.arange(TABLE_NBYTES) - each.zero) for each in sums])
        values = np.nan_to_num(self(given.astype(np.float32)).astype(np.float64)).reshape(len(sums), TABLE_NBYTES)
        scales, zeros = (np.array(each)[:, None] for each in zip(*((y.scale, y.zero) for y in outputs), strict=True))
        entries: NDArray[np.uint8] = np.clip(np.rint(values / scales) + zeros, 0, LARGEST).astype(np.uint8)
        return entries.tobytes()


def functions_of(given: ir.Value) -> list[Function]:
    """The element-wise functions that alone read `given`, each the beginning of the next one.

    Such are a Sigmoid, and x · Sigmoid(x) in two nodes.
    """
    if given.is_graph_output():
        return []
    inside: dict[int, ir.Node] = {}
    values = {id(given)}
    found = []
    for node in _following(given):
        if not _element_wise(node, values):
            continue
        inside[id(node)] = node
        values.add(id(node.outputs[0]))
        leaving = [value for value in _made(given, inside) if _leaves(value, inside)]
        if len(leaving) == 1 and leaving[0] is not given:
            found.append(Function(given, tuple(inside.values()), leaving[0]))
    return found


def _made(given: ir.Value, inside: dict[int, ir.Node]) -> list[ir.Value]:
    return [given, *(node.outputs[0] for node in inside.values())]


def _leaves(value: ir.Value, inside: dict[int, ir.Node]) -> bool:
    return value.is_graph_output() or any(id(use.node) not in inside for use in value.uses())


def _following(given: ir.Value) -> list[ir.Node]:
    """The nodes that `given` leads to within a few steps, in the order of the graph."""
    near: dict[int, ir.Node] = {}
    front = [given]
    for _ in range(8):
        users = [use.node for value in front for use in value.uses()]
        near |= {id(node): node for node in users}
        front = [node.outputs[0] for node in users if len(node.outputs) == 1]
    graph = given.producer().graph if given.producer() is not None else None  # type: ignore[union-attr]
    order = {id(node): place for place, node in enumerate(graph)} if graph is not None else {}
    return sorted((node for key, node in near.items() if key in order), key=lambda node: order[id(node)])


def _element_wise(node: ir.Node, values: set[int]) -> bool:
    """Whether the node computes each element of its output from that of `values`, and from numbers alone."""
    if node.domain not in ("", "ai.onnx") or node.op_type not in _UNARY | _BINARY or len(node.outputs) != 1:
        return False
    given = [value for value in node.inputs if value is not None]
    ours = [id(value) in values for value in given]
    return any(ours) and all(mine or _is_number(value) for mine, value in zip(ours, given, strict=True))


def _is_number(value: ir.Value) -> bool:
    return value.const_value is not None and value.const_value.size == 1 and value.dtype == ir.DataType.FLOAT
