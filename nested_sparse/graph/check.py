"""GraphCheck: refuses a checkpoint's ONNX graph that could do more than compute, before anything runs or parses it.

The graph is the file's, hence untrusted like every other byte (docs/decisions/022). A checked graph computes with its
inputs, its own constants and the file's segments, by operators that read and write nothing else, and takes not much
more memory to load than the file has. How long a run takes, and how much it allocates, is the runtime's to bound.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..checkpoint import Checkpoint
from ..errors import CheckpointError
from ..excerpt import excerpt
from ..metadata import MAX_NAME_NBYTES, LayerEntry
from ..placement import placement
from ..value_type import FLOAT32
from ..wire import Wire, WireError, integer_count, integers
from . import onnx_schema as onnx
from .operators import (
    BRANCHES,
    DECIDING,
    LOOPS,
    MAX_RANK,
    ONNX_DOMAINS,
    OPERATORS,
    OUR_DOMAIN,
    OUR_OPERATORS,
    SHAPE_OPERATORS,
    most_values,
)

IR_VERSIONS = (7, 14)
ONNX_OPSETS = (13, 28)
MAX_NODES = 50_000
MAX_DEPTH = 8
"""Of graphs within graphs."""
MAX_VALUES_OF_NODE = 4096
MAX_ATTRIBUTE_VALUES = 1 << 20
MAX_TEXT_NBYTES = 1 << 16
"""Of an attribute, as an Einsum's equation."""
MAX_FOLDED_VALUES = 1 << 24
"""Of all that ONNX Runtime would compute from constants alone while it loads the graph."""
_OBEYED_METADATA = "ort_config"
"""ONNX Runtime takes session options from it where ORT_LOAD_CONFIG_FROM_MODEL is set."""
_ORT_FORMAT = b"ORTM"
"""At byte 4: ONNX Runtime would read the graph as its own format, which is not checked here."""


@dataclass(frozen=True, slots=True)
class GraphFacts:
    """The facts about a checked graph that the runtime needs.

    foldable: whether what depends on constants alone is cheap to compute, as ONNX Runtime does while it loads a graph.
    decides: whether one value may decide what is computed for all samples of a batch, or how often.
    """

    foldable: bool
    decides: bool


def check_graph(checkpoint: Checkpoint, graph: bytes) -> GraphFacts:
    """Checks `graph` as that of an open checkpoint. Raises CheckpointError, which says what is wrong with it.

    The caller loads these very bytes: those of the file may have changed by then.
    """
    try:
        return _GraphCheck(checkpoint).check(memoryview(graph))
    except WireError as error:
        raise CheckpointError(
            f"{checkpoint.path.name}: its graph {error}; the file is damaged, or made to harm: export the model again"
        ) from None


@dataclass(slots=True)
class _Scope:
    """The values of one graph, by name: at most so many values where it is constant, None where it is not."""

    outer: _Scope | None = None
    depth: int = 0
    most: dict[str, int | None] = field(default_factory=dict)
    computed: set[str] = field(default_factory=set)

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
        self._folded = 0
        self._foldable = True
        self._decides = False
        shapes = [layer.shape for layer in checkpoint.layers]
        self._layers = {layer.name: layer for layer in checkpoint.layers}
        segments = checkpoint.segment_places()
        self._placements = {shape.name: asdict(placement(shape, segments)) for shape in shapes}

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
        return GraphFacts(self._foldable, self._decides)

    def _check_graph(self, data: memoryview, outer: _Scope | None, loops: bool = False) -> dict[str, int | None]:
        """The outputs in order, as a scope has them. loops: the graph is run over and over."""
        scope = _Scope(outer, 0 if outer is None else outer.depth + 1)
        if scope.depth > MAX_DEPTH:
            raise WireError(f"has graphs within graphs, more than {MAX_DEPTH} deep")
        graph = self._wire.read(data, "GraphProto", onnx.GRAPH)
        _check_names([graph.get("name", "")])
        for name in self._value_names(graph["input"]):
            scope.most[name] = None
        for each in graph["initializer"]:
            name, count = self._check_tensor(each)
            scope.most[name] = count
        for each in graph["node"]:
            self._check_node(each, scope)
        outputs = self._value_names(graph["output"])
        if loops and not any(name in scope.computed and scope.most[name] is None for name in outputs):
            # ONNX Runtime looks whether a run is to end between nodes only, and would loop over none for ever
            raise WireError("has a loop that computes nothing")
        return {name: scope.find(name) for name in outputs}

    def _value_names(self, values: Sequence[memoryview]) -> list[str]:
        names = [self._wire.read(each, "ValueInfoProto", onnx.VALUE).get("name", "") for each in values]
        _check_names(names)
        return names

    def _check_node(self, data: memoryview, scope: _Scope) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise WireError(f"has more than {MAX_NODES} nodes")
        node = self._wire.read(data, "NodeProto", onnx.NODE)
        operator, domain = node.get("op_type", ""), node.get("domain", "")
        known: Iterable[str] = OUR_OPERATORS if domain == OUR_DOMAIN else OPERATORS if domain in ONNX_DOMAINS else ()
        if operator not in known or node.get("overload", ""):
            raise WireError(
                f"has an operator {excerpt(operator)!r} of domain {excerpt(domain)!r}, which is none of those that a "
                "checkpoint may hold"
            )
        if max(len(node["input"]), len(node["output"])) > MAX_VALUES_OF_NODE:
            raise WireError(f"has a node with more than {MAX_VALUES_OF_NODE} inputs or outputs")
        _check_names([node.get("name", ""), *node["input"], *node["output"]])
        attributes = self._attributes(node["attribute"], operator, scope)
        if domain == OUR_DOMAIN:
            self._check_ours(operator, attributes)
        _check_texts(operator, attributes)
        self._decides |= operator in DECIDING
        most = self._fold(operator, [scope.find(name) for name in node["input"] if name], attributes)
        for name in filter(None, node["output"]):
            scope.most[name] = most
            scope.computed.add(name)

    def _attributes(self, data: Sequence[memoryview], operator: str, scope: _Scope) -> dict[str, tuple[str, Any]]:
        """(field, value) by name; of a tensor and of floats how many values there are, of a graph its outputs' most."""
        found: dict[str, tuple[str, Any]] = {}
        for each in data:
            attribute = self._wire.read(each, "AttributeProto", onnx.ATTRIBUTE)
            name, kind = attribute.get("name", ""), onnx.ATTRIBUTE_TYPES.get(attribute.get("type", 0), "")
            where = f"attribute {excerpt(name)!r} of {operator}"
            _check_names([name])
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
            return self._check_tensor(value)[1]
        if kind == "g" and value is not None:
            if operator not in LOOPS | BRANCHES:
                raise WireError(f"has an {where} that is a graph")
            return list(self._check_graph(value, scope, operator in LOOPS).values())
        if kind == "floats":
            return sum(len(piece) for piece in value) // 4
        return value if kind in ("i", "f") else None

    def _check_tensor(self, data: memoryview) -> tuple[str, int]:
        """Name, and number of values, all of which are in the file."""
        tensor = self._wire.read(data, "TensorProto", onnx.TENSOR)
        name, kind = tensor.get("name", ""), tensor.get("data_type", 0)
        _check_names([name])
        where = f"tensor {excerpt(name)!r}"
        bits = onnx.TENSOR_BITS.get(kind)
        if bits is None or tensor.get("data_location", 0) != 0:
            raise WireError(f"has a {where} of texts, of an unknown type, or in another file")
        dims = integers(tensor["dims"], MAX_RANK)
        if any(dim < 0 for dim in dims):
            raise WireError(f"has a {where} of a negative size")
        count = math.prod(dims)
        held = [_raw_values(tensor.get("raw_data"), bits)]
        for key, fixed in (("float_data", 4), ("double_data", 8)):
            held.append(sum(len(piece) for piece in tensor[key]) // fixed)
        held += [integer_count(tensor[key]) for key in ("int32_data", "int64_data", "uint64_data")]
        # two values of four bits, or half a complex one, to a number; ONNX Runtime looks at the exact count
        most = max(held) * (2 if bits == 4 else 1)
        if count > most or (count and sum(map(bool, held)) != 1):
            raise WireError(f"has a {where} of {count} values, of which the file holds {most}")
        return name, count

    def _check_ours(self, operator: str, attributes: Mapping[str, tuple[str, Any]]) -> None:
        known = OUR_OPERATORS[operator]
        for name, (kind, _) in attributes.items():
            if known.get(name) != kind:
                raise WireError(f"has an attribute {excerpt(name)!r} of {operator} that it does not take")
        if operator not in ("NestedConv", "NestedLinear"):
            return
        given = {name: value for name, (_, value) in attributes.items()}
        name = given.get("layer", b"").decode(errors="replace")
        layer = self._layers.get(name)
        if layer is None or operator != {"conv": "NestedConv", "linear": "NestedLinear"}[layer.op]:
            raise WireError(f"has a {operator} of a layer {excerpt(name)!r}, which the metadata does not have")
        for key, expected in {**self._placements[name], **_window(layer)}.items():
            if isinstance(expected, list):
                got = (given.get(key) or [])[: len(expected)]  # a slice has fewer levels than its graph
            else:
                got = given.get(key, FLOAT32.nbytes if key == "value_bytes" else 0)
            if got != expected:
                raise WireError(
                    f"says {key} {excerpt(got, 60)} of layer {excerpt(name)!r}, the metadata {excerpt(expected, 60)}"
                )

    def _fold(self, operator: str, inputs: Sequence[int | None], attributes: Mapping[str, Any]) -> int | None:
        """At most how many values an output has if it is constant, None if it is not, or is not to be folded."""
        if operator == "Constant":
            kind, value = next(iter(attributes.values()), ("", None))
            return int(value or 0) if kind in ("t", "floats") else len(value or ()) if kind == "ints" else 1
        constants = [each for each in inputs if each is not None]
        whole = len(constants) == len(inputs) and bool(inputs)
        if operator in BRANCHES and whole:  # ONNX Runtime puts the branch in the node's place
            branches = [most for kind, value in attributes.values() if kind == "g" for most in value or ()]
            return max((most for most in branches if most is not None), default=None)
        if operator in LOOPS | BRANCHES or not (whole or operator in SHAPE_OPERATORS):
            return None
        most = most_values(operator, constants)
        if most is None or self._folded + most > MAX_FOLDED_VALUES:
            self._foldable = False
            return None
        self._folded += most
        return most


def _window(layer: LayerEntry) -> dict[str, Any]:
    """A convolution's attributes, as its node has them."""
    scalars = ("groups", "spatial_dimensions")
    return {
        name: (list(values) or [0])[0] if name in scalars else list(values) for name, values in layer.attributes.items()
    }


def _raw_values(raw: memoryview | None, bits: int) -> int:
    return 0 if raw is None else len(raw) * 8 // bits


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        if len(name.encode(errors="replace")) > MAX_NAME_NBYTES:
            raise WireError(f"has a name of more than {MAX_NAME_NBYTES} bytes: {excerpt(name, 60)!r}")


def _check_texts(operator: str, attributes: Mapping[str, tuple[str, Any]]) -> None:
    """No operator makes texts: their size is bounded by nothing, and no input or output of ours has any."""
    if operator == "Cast" and attributes.get("to", ("", 0))[1] == onnx.STRING_TYPE:
        raise WireError("casts to texts")
    if operator == "Constant" and {"value_string", "value_strings"} & attributes.keys():
        raise WireError("has a constant of texts")


def _in_range(what: str, value: int, allowed: tuple[int, int]) -> None:
    low, high = allowed
    if not low <= value <= high:
        raise WireError(f"has {what} {value}, expected {low} to {high}")
