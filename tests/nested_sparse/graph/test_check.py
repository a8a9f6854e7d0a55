"""Refused graphs: each ends in CheckpointError, before ONNX Runtime sees a byte of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from attention_graph import attention_model
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from chain import counting_chain, counting_layer, write
from hostile_graphs import (
    Tamper,
    assert_refused,
    attribute,
    before_output,
    doubling,
    external,
    floats,
    integers,
    loop,
    nested_ifs,
    write_hostile,
)
from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import CheckpointError
from nested_sparse.graph import check as graph_check
from nested_sparse.graph.check import check_graph
from nested_sparse.graph.operators import OPERATORS

LONG = "n" * 1_000_000
FOREVER = numpy_helper.from_array(np.array(True), "forever")


def on_model(change: Callable[[onnx.ModelProto], Any]) -> Tamper:
    def tamper(model: onnx.ModelProto) -> None:
        change(model)

    return tamper


def node(operator: str, *inputs: str, domain: str = "", **attributes: Any) -> Tamper:
    return before_output([helper.make_node(operator, list(inputs), ["extra"], domain=domain, **attributes)])


def with_attribute(made: AttributeProto, operator: str = "Identity") -> Tamper:
    bad = helper.make_node(operator, ["input"], ["extra"])
    bad.attribute.append(made)
    return before_output([bad])


def tensor(**fields: Any) -> Tamper:
    """An initializer with these fields in place of its own."""

    def tamper(model: onnx.ModelProto) -> None:
        made = model.graph.initializer.add(name="extra", data_type=TensorProto.FLOAT)
        for key, value in fields.items():
            if isinstance(value, list):
                getattr(made, key).extend(value)
            else:
                setattr(made, key, value)

    return tamper


def ours(**attributes: Any) -> Tamper:
    """Attributes of the first of our nodes, in place of what it says."""

    def tamper(model: onnx.ModelProto) -> None:
        first = model.graph.node[0]
        kept = [each for each in first.attribute if each.name not in attributes]
        del first.attribute[:]
        first.attribute.extend(kept)
        first.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())

    return tamper


def appended(data: bytes) -> Tamper:
    return lambda model: model.SerializeToString() + data


def in_graph(data: bytes) -> Tamper:
    """Raw bytes at the end of the graph, in a model written by hand."""

    def tamper(model: onnx.ModelProto) -> bytes:
        graph = model.graph.SerializeToString() + data
        model.ClearField("graph")
        return bytes(model.SerializeToString() + b"\x3a" + varint(len(graph)) + graph)

    return tamper


def varint(value: int) -> bytes:
    pieces = []
    while value > 127:
        pieces.append(value & 127 | 128)
        value >>= 7
    return bytes([*pieces, value])


def function(model: onnx.ModelProto) -> None:
    made = helper.make_function("local", "f", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], [])
    model.functions.append(made)


def rename_output(model: onnx.ModelProto) -> None:
    model.graph.node[-1].output[0] = model.graph.output[0].name = "\x1b[2Jother"


def second_output(model: onnx.ModelProto) -> None:
    model.graph.output.append(helper.make_tensor_value_info("hidden0", TensorProto.FLOAT, None))


def scan() -> Tamper:
    body = helper.make_graph(
        [],
        "body",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("state", "row")],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("state", "row")],
    )
    made = helper.make_node("Scan", ["start", "input"], ["last", "extra"], body=body, num_scan_inputs=1)
    return before_output([made], [floats("start", [0.0])])


def constant_loop() -> Tamper:
    body = [helper.make_node("Add", ["one", "one"], ["value"]), helper.make_node("Not", ["no"], ["go"])]
    return loop(body, initializers=[floats("one", [1.0]), numpy_helper.from_array(np.array(False), "no")])


OTHER_FILE = "external_data"
REFUSED: dict[str, tuple[Tamper, str]] = {
    "external initializer": (before_output([], [external(floats("extra", [1.0]), "etc/passwd")]), OTHER_FILE),
    "external, absolute": (before_output([], [external(floats("extra", [1.0]), "/etc/passwd")]), OTHER_FILE),
    "external constant": (node("Constant", value=external(floats("v", [1.0]), "etc/passwd")), OTHER_FILE),
    "external in a branch": (
        before_output(
            [nested_ifs(1, helper.make_node("Constant", [], ["extra"], value=external(floats("v", [1.0]), "x")))],
            [FOREVER],
        ),
        OTHER_FILE,
    ),
    "external without a place": (tensor(data_location=TensorProto.EXTERNAL), "in another file"),
    "segment of a tensor": (lambda model: model.graph.initializer.add(name="e").segment.SetInParent(), "segment"),
    "sparse initializer": (on_model(lambda m: m.graph.sparse_initializer.add()), "sparse_initializer"),
    "sparse constant": (
        with_attribute(
            AttributeProto(name="sparse_value", type=11, sparse_tensor=onnx.SparseTensorProto()), "Constant"
        ),
        "sparse_tensor",
    ),
    "function": (on_model(function), "functions"),
    "overload": (on_model(lambda m: setattr(m.graph.node[0], "overload", "o")), "may not hold"),
    "training": (on_model(lambda m: m.training_info.add()), "training_info"),
    "device": (on_model(lambda m: m.configuration.add()), "configuration"),
    "quantisation": (on_model(lambda m: m.graph.quantization_annotation.add()), "quantization_annotation"),
    "foreign domain": (node("Gelu", "input", domain="com.microsoft"), "'Gelu' of domain 'com.microsoft'"),
    "compiled model": (node("EPContext", "input", domain="com.microsoft", ep_cache_context="/x"), "'EPContext'"),
    "classical": (node("Normalizer", "input", domain="ai.onnx.ml"), "ai.onnx.ml"),
    "unknown operator": (node("ReadFile", "input"), "'ReadFile'"),
    "our unknown operator": (node("NestedShell", "input", domain="nested_sparse"), "'NestedShell'"),
    "text operator": (node("StringConcat", "input", "input"), "'StringConcat'"),
    "images": (node("ImageDecoder", "input"), "'ImageDecoder'"),
    "text tensor": (tensor(data_type=TensorProto.STRING, dims=[1], string_data=[b"a"]), "string_data"),
    "text tensor, empty": (tensor(data_type=TensorProto.STRING, dims=[0]), "texts"),
    "text constant": (node("Constant", value_string="a"), "constant of texts"),
    "cast to texts": (node("Cast", "input", to=TensorProto.STRING), "casts to texts"),
    "larger than the file": (tensor(dims=[10**6, 10**6], raw_data=b"1234"), "of which the file holds 1"),
    "larger than it says": (tensor(dims=[2**62, 2**62], raw_data=b""), "of which the file holds 0"),
    "larger in numbers": (tensor(data_type=TensorProto.INT64, dims=[9], int64_data=[1]), "of which the file holds 1"),
    "two kinds of values": (tensor(dims=[1], raw_data=b"1234", float_data=[1.0]), "of which the file"),
    "negative size": (tensor(dims=[-1]), "negative size"),
    "unknown type": (tensor(data_type=99, dims=[0]), "unknown type"),
    "too many dimensions": (tensor(dims=[1] * 17, raw_data=b"1234"), "more than 16 numbers"),
    "reference of a function": (with_attribute(AttributeProto(name="a", ref_attr_name="b")), "ref_attr_name"),
    "graph of a plain operator": (with_attribute(helper.make_attribute("a", onnx.GraphProto())), "is a graph"),
    "two graphs": (with_attribute(AttributeProto(name="a", type=10, graphs=[onnx.GraphProto()])), "graphs"),
    "type of an attribute": (with_attribute(attribute("a", AttributeProto.UNDEFINED, i=1)), "unknown type"),
    "type and value": (with_attribute(attribute("axis", AttributeProto.INT, f=1.0)), "unknown type"),
    "long attribute": (with_attribute(attribute("a", AttributeProto.STRING, s=b"a" * 70_000)), "65536 bytes"),
    "attribute twice": (
        lambda model: model.graph.node[0].attribute.append(helper.make_attribute("layer", "layer0")),
        "twice",
    ),
    "long node name": (on_model(lambda m: setattr(m.graph.node[0], "name", LONG)), "a name of more than 1024"),
    "long operator": (on_model(lambda m: setattr(m.graph.node[0], "op_type", LONG)), "characters"),
    "long value": (before_output([helper.make_node("Relu", ["input"], [LONG])]), "a name of more than 1024"),
    "long initializer": (before_output([], [floats(LONG, [1.0])]), "a name of more than 1024"),
    "long output": (on_model(lambda m: setattr(m.graph.output[0], "name", LONG)), "a name of more than 1024"),
    "other output": (on_model(rename_output), r"outputs \['\\x1b\[2Jother'\]"),
    "another output": (on_model(second_output), "outputs"),
    "deep": (before_output([nested_ifs(9)], [FOREVER]), "more than 8 deep"),
    "very deep": (before_output([nested_ifs(30)], [FOREVER]), "more than 8 deep"),
    "many nodes": (
        lambda m: m.graph.node.extend([helper.make_node("Relu", ["input"], [""])] * (graph_check.MAX_NODES + 1)),
        "more than 50000 nodes",
    ),
    "many inputs": (node("Sum", *["input"] * 5000), "more than 4096"),
    "many fields": (in_graph(b"\x0a\x00" * 510_000), "of domain|more fields"),
    "many unpacked numbers": (
        before_output([onnx.NodeProto.FromString(b"\x2a" + varint(1_200_000) + b"\x40\x01" * 600_000)]),
        "more fields|unknown type|may not hold",
    ),
    "many types": (in_graph((b"\x6a" + varint(1 << 20) + bytes(1 << 20)) * 17), "bytes of types"),
    "old operators": (on_model(lambda m: setattr(m.opset_import[0], "version", 5)), "version of ONNX's operators 5"),
    "new operators": (on_model(lambda m: setattr(m.opset_import[0], "version", 99)), "expected 13 to"),
    "old format": (on_model(lambda m: setattr(m, "ir_version", 2)), "IR version 2"),
    "new format": (on_model(lambda m: setattr(m, "ir_version", 2**40)), "IR version"),
    "options": (on_model(lambda m: m.metadata_props.add(key="ort_config", value="{}")), "ort_config"),
    "another format": (
        lambda m: b"\x08\x08\x12\x06ORTMxx" + m.SerializeToString()[2:],
        "ONNX Runtime's own format",
    ),
    "loop over nothing": (loop([], ("going", "held")), "a loop that computes nothing"),
    "loop over constants": (constant_loop(), "a loop that computes nothing"),
    "scan over nothing": (scan(), "a loop that computes nothing"),
    "unknown field": (appended(b"\xa2\x06\x00"), "a field 100 of ModelProto"),
    "unknown field of the graph": (in_graph(b"\xa2\x06\x00"), "a field 100 of GraphProto"),
    "another graph": (appended(b"\x3a\x00"), "two ModelProto.graph"),
    "cut off": (lambda m: m.SerializeToString()[:-1], "cut off"),
    "endless number": (appended(b"\x08" + b"\xff" * 40), "cut off"),
    "group": (appended(b"\x0b\x0c"), "protobuf|another type"),
    "number for a text": (in_graph(b"\x10\x01"), "another type"),
    "name in no encoding": (in_graph(b"\x0a\x04\x1a\x02\xff\xfe"), "not UTF-8"),
    "no graph": (lambda m: b"\x08\x08", "is empty"),
    "nothing": (lambda m: b"\x08", "cut off"),
    "our unknown attribute": (ours(plugin="/tmp/x.so"), "'plugin' of NestedLinear"),
    "our attribute of another type": (ours(rows="4"), "'rows' of NestedLinear"),
    "no such layer": (ours(layer="other"), "a layer 'other'"),
    "rows": (ours(rows=8), "says rows 8 of layer 'layer0', the metadata 4"),
    "columns": (ours(columns=2**31 - 1), "says columns"),
    "value bytes": (ours(value_bytes=2), "says value_bytes 2"),
    "offsets beyond the file": (ours(offsets=[2**40] * 8), "says offsets"),
    "offsets of other layers": (ours(offsets=[64] * 8), "says offsets"),
    "no offsets": (ours(offsets=[64]), "says offsets"),
    "blocks": (ours(blocks=[2**20, 1]), "says blocks"),
    "no such function": (ours(activation_function=8), "says activation_function 8, expected 0 to 7"),
    "a function below all": (ours(activation_function=-1), "says activation_function -1"),
    "a part of a norm": (ours(norm_scale=[1.0] * 4), "has norm_scale and not all of"),
    "a norm of other columns": (
        ours(norm_scale=[1.0], norm_shift=[0.0], norm_epsilon=1e-5),
        "has 1 numbers in norm_scale",
    ),
    "another kind of layer": (on_model(lambda m: setattr(m.graph.node[0], "op_type", "NestedConv")), "NestedConv"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_hostile_graph_is_refused(case: str, tmp_path: Path) -> None:
    assert_refused(*REFUSED[case], tmp_path)


def test_honest_graph_passes(tmp_path: Path) -> None:
    """Loops, branches, constants of every form, and values computed from constants pass, too."""
    add = [helper.make_node("Add", ["held", "input"], ["value"]), helper.make_node("Identity", ["going"], ["go"])]
    scalars = [
        helper.make_node("Constant", [], ["a"], value_floats=[1.0, 2.0]),
        helper.make_node("Constant", [], ["b"], value_int=2),
        helper.make_node("Cast", ["b"], ["c"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["a", "c"], ["extra"]),
    ]
    quarter = helper.make_tensor("q", TensorProto.INT4, [3], [1, 2, 3])
    forms = [
        helper.make_tensor("h", TensorProto.FLOAT16, [2], [1.0, 2.0]),
        helper.make_tensor("d", TensorProto.DOUBLE, [2], [1.0, 2.0]),
        helper.make_tensor("i", TensorProto.INT64, [2], [1, -2]),
        helper.make_tensor("u", TensorProto.UINT64, [1], [2**63]),
        helper.make_tensor("z", TensorProto.COMPLEX64, [2], [1 + 2j, 3 + 4j]),
        quarter,
    ]
    ways: list[Tamper] = [
        lambda model: None,
        loop(add),
        before_output([nested_ifs(8)], [FOREVER]),
        before_output(scalars, forms),
    ]
    for index, tamper in enumerate(ways):
        path = write_hostile(tmp_path / f"{index}.safetensors", tamper)
        with Checkpoint.open(path) as checkpoint:
            assert check_graph(checkpoint, checkpoint.graph()).foldable


FOLDS: dict[str, tuple[Tamper, bool]] = {
    "doubled twice": (before_output(doubling(2, "k", axis=0), [floats("k", [1.0])]), True),
    "doubled forty times": (before_output(doubling(40, "k", axis=0), [floats("k", [1.0])]), False),
    "squared": (
        before_output(
            [helper.make_node("Add", ["k", "row"], ["extra"])],
            [floats("k", np.ones((5000, 1))), floats("row", np.ones((1, 5000)))],
        ),
        False,
    ),
    "multiplied": (before_output([helper.make_node("MatMul", ["k", "k"], ["extra"])], [floats("k", np.eye(4))]), False),
    "expanded": (node("Expand", "k", "s"), True),
    "expanded constants": (
        before_output(
            [helper.make_node("Expand", ["k", "s"], ["extra"])], [floats("k", [1.0]), integers("s", [10**12])]
        ),
        False,
    ),
    "from a shape": (
        before_output(
            [helper.make_node("Shape", ["input"], ["shape"]), helper.make_node("ConstantOfShape", ["shape"], ["extra"])]
        ),
        False,
    ),
    "in a branch": (
        before_output(
            [
                nested_ifs(1, helper.make_node("Identity", ["k"], ["extra"])),
                *doubling(40, "extra", axis=0)[:-1],
            ],
            [FOREVER, floats("k", [1.0])],
        ),
        False,
    ),
    "of inputs": (before_output(doubling(40, "input", axis=0)), True),
}


@pytest.mark.parametrize("case", FOLDS)
def test_computations_that_loading_would_do_are_bounded(case: str, tmp_path: Path) -> None:
    """ONNX Runtime may compute values that depend on constants alone only where they are few."""
    tamper, foldable = FOLDS[case]
    with Checkpoint.open(write_hostile(tmp_path / "m.safetensors", tamper)) as checkpoint:
        assert check_graph(checkpoint, checkpoint.graph()).foldable == foldable


@pytest.mark.parametrize("name", ["rows", "clip_min", "layer", "groups"])
def test_attributes_of_the_metadata_are_those_of_the_kind(name: str, tmp_path: Path) -> None:
    """A linear layer that states one that its node has in another form, or has not."""
    layer = replace(counting_layer("fc", 4, 2), attributes={name: [1]})
    written = write(tmp_path / "m.safetensors", [layer], 2)
    with (
        Checkpoint.open(written.path) as checkpoint,
        pytest.raises(CheckpointError, match=f"says {name} .* layer 'fc'"),
    ):
        check_graph(checkpoint, checkpoint.graph())


@pytest.fixture(scope="module", params=["chain", "attention"])
def honest(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    if request.param == "attention":
        x = np.zeros((1, 2, 3, 1, 4), np.float32)
        axes = {name: [0, 3, 1] for name in ("q_axes", "k_axes", "v_axes")}
        model = attention_model(x, x, x, scale=0.5, causal=1, **axes, k_place=1, v_place=2, y_axes=[0, 2, 1])
        return bytes(model.SerializeToString())
    path = counting_chain(tmp_path_factory.mktemp("honest") / "m.safetensors", 2, 4).path
    with Checkpoint.open(path) as checkpoint:
        return checkpoint.graph()


@settings(max_examples=300, deadline=None)
@given(
    changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4),
    cut=st.floats(0, 1),
)
def test_damaged_graphs_end_in_no_other_error(honest: bytes, changes: list[tuple[int, int]], cut: float) -> None:
    """Nothing but CheckpointError comes out, whatever the bytes are."""
    data = bytearray(honest)
    for place, value in changes:
        data[place % len(data)] = value
    data = data[: round(cut * len(data))] if cut < 0.2 else data

    class Damaged:
        path = Path("damaged.safetensors")
        layers = ()
        outputs = ()

        def segment_places(self) -> list[Any]:
            return []

    with pytest.raises(CheckpointError):
        check_graph(Damaged(), bytes(data))  # type: ignore[arg-type]


def test_every_allowed_operator_is_one_of_onnx() -> None:
    """The list is typed by hand."""
    known = {schema.name for schema in onnx.defs.get_all_schemas_with_history() if schema.domain == ""}
    assert known >= OPERATORS
    left_out = {"ImageDecoder", "RegexFullMatch", "SequenceMap", "StringConcat", "StringNormalizer", "StringSplit"}
    left_out |= {"TfIdfVectorizer", "Optional", "OptionalGetElement", "OptionalHasElement"}
    assert known - OPERATORS >= left_out
