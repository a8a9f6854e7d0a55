"""The graph's contract: spelled in one module, and the same in the operator library."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from sparse_node import Placed, SparseModel, SparseNode, conv_node, linear_node, place, recurrent_node, transposed_node

from imports import FOLDERS, PACKAGE, repository_sources
from nested_sparse.graph.contract import (
    ATTENTION,
    CONV,
    CONV_TRANSPOSE,
    DOMAIN,
    GRU,
    INPUT_TILED,
    LEVEL,
    LINEAR,
    LSTM,
    MAX_POOL,
    NORM,
    OPERATORS,
    PLACEMENT,
    Y_TILED,
    Attribute,
    is_runtime_input,
    layer_inputs,
    layer_of_node,
    node_names,
    runtime_inputs,
    tiled_dimension,
    untiled_shape,
)
from nested_sparse.placement import LayerPlacement
from support import ROOT

CONTRACT = "nested_sparse/graph/contract.py"
SPELLED = re.compile(
    "|".join(
        (
            LEVEL.name,
            "__segment_",
            CONV,
            LINEAR,
            LSTM,
            GRU,
            MAX_POOL,
            NORM,
            ATTENTION,
            *INPUT_TILED.values(),
            Y_TILED,
            "permutation_offset",
        )
    )
)
"""Names that only the contract spells: they have no other meaning than parts of a graph."""


def texts(source: str) -> Iterator[str]:
    """The strings of a module, and pieces of f-strings, but for docstrings."""
    tree = ast.parse(source)
    notes = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in notes:
            yield node.value


def test_no_other_module_spells_the_contract() -> None:
    """No installed module does; tests do, so that they do not only repeat the contract."""
    spelled = {
        path: found
        for path, source in repository_sources(ROOT).items()
        if path.split("/")[0] in (PACKAGE, *FOLDERS)
        and (found := sorted({text for text in texts(source) if SPELLED.search(text)}))
    }
    assert spelled.keys() == {CONTRACT}, spelled


def test_runtime_inputs_are_the_level_and_the_segments() -> None:
    """The level and a segment for each level; no input of a model has such a name."""
    assert [(each.name, each.dtype, each.shape) for each in runtime_inputs(2)] == [
        ("__level__", "int64", ()),
        ("__segment_0__", "uint8", (None,)),
        ("__segment_1__", "uint8", (None,)),
    ]
    assert is_runtime_input("__level__")
    assert is_runtime_input("__segment_12__")
    assert not any(map(is_runtime_input, ("level", "__segment___", "__segment_0__x", "x__segment_0__", "")))


def test_nodes_are_named_after_layers_and_found_again() -> None:
    """Uses of a layer are numbered from the second on."""
    assert node_names(["a", "b", "a", "a", "b"]) == ("a", "b", "a.1", "a.2", "b.1")
    assert [layer_of_node(node, ("a", "b.1")) for node in ("a", "a.2", "b.1", "b", "b.1.1")] == [
        "a",
        "a",
        "b.1",
        None,
        "b.1",
    ]


def test_tiled_images_keep_their_shape_in_a_name() -> None:
    """And all else has the shape that it has."""
    assert tiled_dimension(["batch", 64, 7, 7]) == "tiled_batchx64x7x7"
    assert untiled_shape(["tiled_batchx64x7x7"]) == ["batch", 64, 7, 7]
    assert untiled_shape(["N"]) == ["N"]
    assert untiled_shape([1, 64]) == [1, 64]


def test_placements_have_the_attributes_of_the_contract() -> None:
    """A field for each, with the same default."""
    fields = LayerPlacement.__dataclass_fields__
    assert fields.keys() == PLACEMENT.keys()
    defaults = {name: fields[name].default for name, attribute in PLACEMENT.items() if attribute.default is not None}
    assert defaults == {name: PLACEMENT[name].default for name in defaults}


def test_the_page_has_every_attribute() -> None:
    """FORMAT.md, "The graph": the table of attributes, with types and what an absent one means."""
    page = (ROOT / "nested_sparse/FORMAT.md").read_text(encoding="utf-8")
    table = page.partition("| attribute | type | absent | meaning |")[2].partition("\n\n")[0]
    kinds = {"string": "s", "bytes": "s", "int": "i", "ints": "ints", "float": "f", "floats": "floats"}
    listed = {
        name: Attribute(kinds[kind], int(absent) if absent not in ("", "none") else None, absent == "none")
        for names, kind, absent in re.findall(r"^\| (`[^|]+`) \| (\w+) \|\s*(-?\d*|none)\s*\|", table, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", names)
    }
    assert listed == {name: attribute for each in OPERATORS.values() for name, attribute in each.items()}


def kernel_sources() -> str:
    """All C++ of the operators."""
    found = (path for path in sorted((ROOT / "kernels").rglob("*")) if path.suffix in (".cc", ".h"))
    return "\n".join(path.read_text(encoding="utf-8") for path in found)


def test_the_library_reads_the_same_names() -> None:
    """The sources of the operators: domain, operators, order of the inputs, and every attribute."""
    sources = kernel_sources()
    assert re.findall(r'kDomain = "(\w+)"', sources) == [DOMAIN]
    operators = set(re.findall(r'\{"(\w+)", create<', sources))
    assert operators == OPERATORS.keys()
    inputs = layer_inputs("kX", "kLevel", "kResidual", ["kFirstSegment"])
    assert "enum InputIndex : size_t { " + ", ".join(f"{name} = {i}" for i, name in enumerate(inputs)) in sources
    read = re.findall(r'attributes\.(?:text|bytes|reals?|integers?)\("(\w+)"|\(attributes, "(\w+)"', sources)
    assert {one or other for one, other in read} <= {name for each in OPERATORS.values() for name in each}
    assert {name for each in operators for name in OPERATORS[each]} <= set(re.findall(r'"(\w+)"', sources))


def answer(node: SparseNode, attributes: dict[str, Any]) -> np.ndarray:
    """Output of a node with these attributes."""
    shapes = {LINEAR: (2, 12), CONV: (2, 3, 6, 6), CONV_TRANSPOSE: (2, 3, 6, 6), LSTM: (3, 2, 48), GRU: (3, 2, 36)}
    x = np.random.default_rng(1).standard_normal(shapes[node.op]).astype(np.float32)
    placed = place([node])
    return SparseModel([node], Placed(placed.segments, [attributes])).run(x, level=1)


@pytest.mark.parametrize("operator", [CONV, CONV_TRANSPOSE, LINEAR, LSTM, GRU])
def test_the_library_asks_for_the_attributes_of_the_contract(operator: str) -> None:
    """One that has no default is missed; one that has a default answers as if it stood there."""
    rng = np.random.default_rng(0)
    make = {
        CONV: lambda: conv_node(rng, channels=3, rows=8),
        CONV_TRANSPOSE: lambda: transposed_node(rng, channels=3, rows=8),
        LINEAR: lambda: linear_node(rng, columns=12, rows=8),
    }
    node = make.get(operator, lambda: recurrent_node(rng, operator, 12))()
    given = place([node]).attributes[0]
    known = {name: attribute for name, attribute in OPERATORS[operator].items() if not attribute.optional}
    needed = {name for name, attribute in known.items() if attribute.default is None}
    assert given.keys() == needed
    for name in needed:
        with pytest.raises(Exception, match=name):
            answer(node, {key: value for key, value in given.items() if key != name})
    whole = {name: attribute.default for name, attribute in known.items() if name not in needed}
    np.testing.assert_array_equal(answer(node, {**given, **whole}), answer(node, given))
