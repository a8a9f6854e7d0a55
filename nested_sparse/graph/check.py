"""check_graph: refuses a checkpoint's ONNX graph that could do more than compute, before anything parses or runs it.

The graph comes from the file, so it is untrusted like every other byte (docs/decisions/022). A checked graph computes
with its inputs, its own constants and the file's segments, by operators that read and write nothing else. To load it
takes not much more memory than the file has bytes. The runtime bounds the time and the memory of a run.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..checkpoint import Checkpoint
from ..errors import CheckpointError
from ..excerpt import excerpt
from ..wire import Wire, WireError, float_value, float_values, integers
from . import contract
from . import onnx_schema as onnx
from .folding import Folding
from .heads import check_head_shapes
from .names import check_names
from .operators import BRANCHES, DECIDING, LOOPS, ONNX_DOMAINS, OPERATORS
from .our_nodes import OurNodes
from .tensors import check_tensor
from .told_shapes import told_shapes

IR_VERSIONS = (7, 14)
ONNX_OPSETS = (13, 28)
MAX_NODES = 50_000
MAX_DEPTH = 8
"""Depth of graphs within graphs."""
MAX_VALUES_OF_NODE = 4096
"""Inputs of a node, and outputs of a node."""
MAX_ATTRIBUTE_VALUES = 1 << 20
MAX_TEXT_NBYTES = 1 << 16
"""Bytes of a text in an attribute, such as an Einsum's equation."""
_OBEYED_METADATA = "ort_config"
"""Entry of a model's metadata from which ONNX Runtime takes session options if ORT_LOAD_CONFIG_FROM_MODEL is set."""
_ORT_FORMAT = b"ORTM"
"""With these bytes at byte 4, ONNX Runtime reads the graph as its own format, which is not checked here."""
_OPERATORS: Mapping[str, Container[str]] = {
    contract.DOMAIN: contract.OPERATORS,
    **dict.fromkeys(ONNX_DOMAINS, OPERATORS),
}
"""Operators that a graph may hold, by domain."""


@dataclass(frozen=True, slots=True)
class GraphFacts:
    """The facts about a checked graph that the runtime needs.

    foldable: whether all results that depend on constants alone are cheap; ONNX Runtime computes them while it loads.
    decides: whether one value may decide what is computed for all samples of a batch, or how often.
    """

    foldable: bool
    decides: bool


def check_graph(checkpoint: Checkpoint, graph: bytes) -> GraphFacts:
    """Check `graph`, the serialised ModelProto of an open checkpoint. Raises CheckpointError, which says what is wrong.

    Load these very bytes afterwards, and do not read them from the file again: they may have changed there.
    """
    try:
        return _GraphCheck(checkpoint).check(memoryview(graph))
    except WireError as error:
        raise CheckpointError(
            f"{checkpoint.path.name}: its graph {error}; the file is damaged, or made to harm: export the model again"
        ) from None


@dataclass(slots=True)
class _Scope:
    """Values of one graph while its nodes are read.

    outer: scope of the graph around it, whose values it may read too. depth: number of graphs around it.
    most: by name, the most numbers that a value holds if it is constant; None if it is not.
    computed: names of the values that a node of this graph computes.
    attention: inputs, outputs and attributes of its nodes of attention.
    """

    outer: _Scope | None = None
    depth: int = 0
    most: dict[str, int | None] = field(default_factory=dict)
    computed: set[str] = field(default_factory=set)
    attention: list[tuple[list[str], list[str], dict[str, Any]]] = field(default_factory=list)

    def find(self, name: str) -> int | None:
        scope: _Scope | None = self
        while scope is not None:
            if name in scope.most:
                return scope.most[name]
            scope = scope.outer
        return None


class _GraphCheck:
    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._wire = Wire()
        self._nodes = 0
        self._folding = Folding()
        self._our_nodes = OurNodes(checkpoint)
        self._decides = False

    def check(self, data: memoryview) -> GraphFacts:
        if bytes(data[4:8]) == _ORT_FORMAT:
            raise WireError("is in ONNX Runtime's own format")
        model = self._wire.read(data, "ModelProto", onnx.MODEL)
        _in_range("IR version", model.get("ir_version", 0), IR_VERSIONS)
        for entry in model["metadata_props"]:
            if self._wire.read(entry, "StringStringEntryProto", onnx.ENTRY).get("key") == _OBEYED_METADATA:
                raise WireError(f"sets ONNX Runtime's options by an entry {_OBEYED_METADATA!r} of its metadata")
        for entry in model["opset_import"]:
            opset = self._wire.read(entry, "OperatorSetIdProto", onnx.OPSET)
            if opset.get("domain", "") in ONNX_DOMAINS:
                _in_range("version of ONNX's operators", opset.get("version", 0), ONNX_OPSETS)
        if "graph" not in model:
            raise WireError("is empty")
        got = sorted(self._check_graph(model["graph"], None))
        expected = sorted(spec.name for spec in self._checkpoint.outputs)
        if got != expected:
            raise WireError(f"has the outputs {excerpt(got)}, the metadata says {excerpt(expected)}")
        return GraphFacts(self._folding.foldable, self._decides)

    def _check_graph(self, data: memoryview, outer: _Scope | None, loops: bool = False) -> dict[str, int | None]:
        """`_Scope.most` of the graph's outputs, in order. loops: whether the graph is the body of a loop."""
        scope = _Scope(outer, 0 if outer is None else outer.depth + 1)
        if scope.depth > MAX_DEPTH:
            raise WireError(f"has graphs within graphs, more than {MAX_DEPTH} deep")
        graph = self._wire.read(data, "GraphProto", onnx.GRAPH)
        check_names([graph.get("name", "")])
        inputs = self._value_names(graph["input"])
        scope.most.update(dict.fromkeys(inputs))
        if outer is None:
            self._our_nodes.level_count = max(contract.level_count_of(inputs), self._our_nodes.level_count)
        for each in graph["initializer"]:
            name, count = check_tensor(self._wire, each)
            scope.most[name] = count
        for each in graph["node"]:
            self._check_node(each, scope)
        shapes = told_shapes(data) if scope.attention else {}
        for node in scope.attention:
            check_head_shapes(*node, shapes)
        outputs = self._value_names(graph["output"])
        if loops and not any(name in scope.computed and scope.most[name] is None for name in outputs):
            # ONNX Runtime can end a run only between two nodes; a loop without a node would run for ever
            raise WireError("has a loop that computes nothing")
        return {name: scope.find(name) for name in outputs}

    def _value_names(self, values: Sequence[memoryview]) -> list[str]:
        names = [self._wire.read(each, "ValueInfoProto", onnx.VALUE).get("name", "") for each in values]
        check_names(names)
        return names

    def _check_node(self, data: memoryview, scope: _Scope) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise WireError(f"has more than {MAX_NODES} nodes")
        node = self._wire.read(data, "NodeProto", onnx.NODE)
        operator, domain = node.get("op_type", ""), node.get("domain", "")
        if operator not in _OPERATORS.get(domain, ()) or node.get("overload", ""):
            raise WireError(
                f"has an operator {excerpt(operator)!r} of domain {excerpt(domain)!r}, which a checkpoint may not hold"
            )
        if max(len(node["input"]), len(node["output"])) > MAX_VALUES_OF_NODE:
            raise WireError(f"has a node with more than {MAX_VALUES_OF_NODE} inputs or outputs")
        check_names([node.get("name", ""), *node["input"], *node["output"]])
        attributes = self._attributes(node["attribute"], operator, scope)
        if domain == contract.DOMAIN:
            self._our_nodes.check(operator, attributes)
            if operator == contract.ATTENTION:
                given = {name: value for name, (_, value) in attributes.items()}
                scope.attention.append((node["input"], node["output"], given))
        _check_texts(operator, attributes)
        self._decides |= operator in DECIDING
        most = self._folding.most(operator, [scope.find(name) for name in node["input"] if name], attributes)
        for name in filter(None, node["output"]):
            scope.most[name] = most
            scope.computed.add(name)

    def _attributes(self, data: Sequence[memoryview], operator: str, scope: _Scope) -> dict[str, tuple[str, Any]]:
        """(kind, value) by name, the kind as in contract.Attribute.

        In place of a tensor stands the number of its values, in place of a graph what _check_graph says. Floats are an
        array.
        """
        found: dict[str, tuple[str, Any]] = {}
        for each in data:
            attribute = self._wire.read(each, "AttributeProto", onnx.ATTRIBUTE)
            name, kind = attribute.get("name", ""), onnx.ATTRIBUTE_TYPES.get(attribute.get("type", 0), "")
            where = f"attribute {excerpt(name)!r} of {operator}"
            check_names([name])
            given = {key for key in onnx.ATTRIBUTE_TYPES.values() if attribute.get(key) not in (None, [])}
            if not kind or not given <= {kind} or name in found:
                raise WireError(f"has an {where} of an unknown type, with several values, or twice")
            found[name] = kind, self._attribute_value(kind, attribute.get(kind), where, operator, scope)
        return found

    def _attribute_value(self, kind: str, value: Any, where: str, operator: str, scope: _Scope) -> Any:
        texts = [value] if kind == "s" and value is not None else value if kind == "strings" else []
        if any(len(text) > MAX_TEXT_NBYTES for text in texts):
            raise WireError(f"has an {where} of more than {MAX_TEXT_NBYTES} bytes")
        if kind == "s":
            return b"" if value is None else bytes(value)
        if kind == "ints":
            return integers(value, MAX_ATTRIBUTE_VALUES)
        if kind == "t" and value is not None:
            return check_tensor(self._wire, value)[1]
        if kind == "g" and value is not None:
            if operator not in LOOPS | BRANCHES:
                raise WireError(f"has an {where} that is a graph")
            return list(self._check_graph(value, scope, operator in LOOPS).values())
        if kind == "floats":
            return float_values(value)
        if kind == "i":
            return value or 0  # 0 where the file leaves it out
        return float_value(value) if kind == "f" else None


def _check_texts(operator: str, attributes: Mapping[str, tuple[str, Any]]) -> None:
    """Refuse operators that make texts: nothing bounds the size of a text, and no input or output of ours has any."""
    if operator == "Cast" and attributes.get("to", ("", 0))[1] == onnx.STRING_TYPE:
        raise WireError("casts to texts")
    if operator == "Constant" and {"value_string", "value_strings"} & attributes.keys():
        raise WireError("has a constant of texts")


def _in_range(what: str, value: int, allowed: tuple[int, int]) -> None:
    low, high = allowed
    if not low <= value <= high:
        raise WireError(f"has {what} {value}, expected {low} to {high}")
