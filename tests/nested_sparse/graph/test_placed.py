"""placed: a graph with other places, read by the onnx package, which this package does without."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from chain import small_chain
from nested_sparse.checkpoint import Checkpoint
from nested_sparse.graph.placed import placed
from nested_sparse.placement import LayerPlacement, placement
from nested_sparse.wire import WireError


def opened(path: Path) -> tuple[bytes, dict[str, LayerPlacement]]:
    """The graph of a chain, and the places that it has."""
    written = small_chain(path)
    with Checkpoint.open(written.path) as checkpoint:
        segments = checkpoint.segment_places()
        return checkpoint.graph(), {layer.name: placement(layer.shape, segments) for layer in checkpoint.layers}


def attributes(graph: bytes) -> list[dict[str, Any]]:
    """The attributes of each node, by name."""
    nodes = onnx.load_from_string(graph).graph.node
    return [{each.name: helper.get_attribute_value(each) for each in node.attribute} for node in nodes]


def test_the_places_of_now_change_nothing(tmp_path: Path) -> None:
    """Attributes may come in another order, no byte is lost."""
    graph, places = opened(tmp_path / "model.safetensors")
    again = placed(graph, places)
    assert attributes(again) == attributes(graph)
    assert len(again) == len(graph)
    assert onnx.load_from_string(again).graph.input == onnx.load_from_string(graph).graph.input


def test_only_the_places_change(tmp_path: Path) -> None:
    """Large and negative numbers, lists, and attributes that the node did not have, or has no longer."""
    graph, places = opened(tmp_path / "model.safetensors")
    other = replace(
        places["second"],
        blocks=[1, 2, 3],
        offsets=[1 << 40] * 12,
        permutation_offset=-1,
        banks=8,
        per_row=2,
        scale_offset=64,
        value_bytes=1,
    )
    now = attributes(placed(graph, {**places, "second": other}))
    assert now[0] == attributes(graph)[0]
    expected = {"banks": 8, "per_row": 2, "scale_offset": 64, "value_bytes": 1, "permutation_offset": -1}
    assert now[1] == {**attributes(graph)[1], **expected, "blocks": [1, 2, 3], "offsets": [1 << 40] * 12}
    assert attributes(placed(placed(graph, {**places, "second": other}), places)) == attributes(graph)


def test_a_list_keeps_its_length(tmp_path: Path) -> None:
    """A slice has fewer levels than its graph, which reads zeros for those cut off."""
    graph, places = opened(tmp_path / "model.safetensors")
    short = replace(places["first"], blocks=[5], offsets=[0, 64, 128, 192])
    now = attributes(placed(graph, {**places, "first": short}))[0]
    assert now["blocks"] == [5, 0, 0]
    assert now["offsets"] == [0, 64, 128, 192, *[0] * 8]


def test_layers_within_branches_are_placed(tmp_path: Path) -> None:
    """The graph of an If's attribute is a graph like the outer one; other attributes of the node stay."""
    graph, places = opened(tmp_path / "model.safetensors")
    inner = onnx.load_from_string(graph).graph
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    branch = helper.make_node("If", ["b"], ["y"], then_branch=inner, else_branch=inner, name="choice")
    outer = helper.make_model(helper.make_graph([branch], "outer", [], outputs))
    moved = {name: replace(each, permutation_offset=128) for name, each in places.items()}
    now = onnx.load_from_string(placed(outer.SerializeToString(), moved)).graph.node[0]
    for each in now.attribute:
        nodes = [{a.name: helper.get_attribute_value(a) for a in node.attribute} for node in each.g.node]
        assert [node["permutation_offset"] for node in nodes] == [128] * 3
    assert now.name == "choice"


@pytest.mark.parametrize("cut", [1, 7, 40, 200])
def test_what_is_cut_off_is_refused(tmp_path: Path, cut: int) -> None:
    """At any byte, not only between fields."""
    graph, places = opened(tmp_path / "model.safetensors")
    with pytest.raises(WireError):
        placed(graph[:-cut], places)


def test_a_layer_without_a_place_is_an_error(tmp_path: Path) -> None:
    """The caller gives all of them."""
    written = small_chain(tmp_path / "model.safetensors")
    with Checkpoint.open(written.path) as checkpoint, pytest.raises(KeyError, match="first"):
        placed(checkpoint.graph(), {})
