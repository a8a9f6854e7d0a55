"""Heads: attention nodes that cannot say where heads lie, and the version of the files of those that can."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import pytest
from forging import forge
from onnx import TensorProto, helper

from hostile_graphs import Tamper, assert_refused, before_output, write_hostile
from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import CheckpointError
from nested_sparse.graph.check import check_graph
from nested_sparse.slice import slice_checkpoint
from support import write_small_checkpoint

AXES = ("q_axes", "k_axes", "v_axes")


def attention(
    inputs: Sequence[str] = ("heads", "heads", "heads"),
    told: Mapping[str, Sequence[int | str]] | None = None,
    outputs: Sequence[str] = ("extra",),
    **changes: Any,
) -> Tamper:
    """A node of attention with these attributes in place of right ones; None leaves one out.

    told: shapes that the graph tells.
    """
    axes = {name: [0, 1, 2] for name in (*AXES, "y_axes")}
    kept = {name: value for name, value in {"scale": 1.0, **axes, **changes}.items() if value is not None}
    made = helper.make_node("ScaledDotProductAttention", inputs, outputs, domain="nested_sparse", **kept)
    add = before_output([helper.make_node("Identity", ["input"], ["heads"]), made])

    def tamper(model: onnx.ModelProto) -> None:
        add(model)
        values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (told or {}).items()]
        model.graph.value_info.extend(values)

    return tamper


REFUSED: dict[str, tuple[Tamper, str]] = {
    "a missing attribute": (attention(scale=None), "has a ScaledDotProductAttention without its attribute 'scale'"),
    "missing axes": (attention(v_axes=None), "without its attribute 'v_axes'"),
    "a whole number for a float": (attention(scale=1), "'scale' of ScaledDotProductAttention that it does not take"),
    "an axis twice": (
        attention(q_axes=[0, 2, 2]),
        r"says q_axes \[0, 2, 2\], expected three different axes from 0 to 3",
    ),
    "two axes": (attention(k_axes=[0, 1]), r"says k_axes \[0, 1\], expected three"),
    "an axis below all": (attention(v_axes=[-1, 1, 2]), r"says v_axes \[-1, 1, 2\], expected three"),
    "an axis beyond": (attention(k_axes=[0, 1, 4]), r"says k_axes \[0, 1, 4\], expected three"),
    "the axis of values": (attention(y_axes=[0, 1, 3]), r"says y_axes \[0, 1, 3\], expected .* from 0 to 2"),
    "a place below all": (attention(k_place=-1), "says k_place -1, expected 0 to 1048576"),
    "a place beyond": (attention(v_place=2**40), "says v_place 1099511627776, expected"),
    "neither causal nor not": (attention(causal=2), "says causal 2, expected 0 to 1"),
    "attention to two tensors": (
        attention(["heads", "heads"]),
        "of 2 inputs and 1 outputs, expected",
    ),
    "attention to nothing": (attention([]), "of 0 inputs and 1 outputs, expected queries, keys, values"),
    "attention without keys": (attention(["heads", "", "heads"]), "of 3 inputs and 1 outputs, expected queries"),
    "five inputs of attention": (attention(["heads"] * 5), "of 5 inputs and 1 outputs, expected queries, keys, values"),
    "two outputs of attention": (attention(outputs=["extra", "more"]), "of 3 inputs and 2 outputs"),
    "an input without heads": (
        attention(["input"] * 3),
        "says q_axes .* of a tensor of rank 2, expected one of rank 4",
    ),
    "an input of rank 6": (attention(told={"heads": [2] * 6}), "says q_axes .* of a tensor of rank 6"),
    "an axis beyond a tensor": (
        attention(told={"heads": ["N", 2, 3, 4]}, k_axes=[3, 0, 1]),
        r"says k_axes \[3, 0, 1\] of a tensor of rank 4, expected .* whose last axis is none of these",
    ),
    "a part of a whole tensor": (
        attention(told={"heads": ["N", 2, 3, 4]}, v_place=1),
        "says v_place 1 of a tensor that has 1 of them",
    ),
    "a fourth of three parts": (
        attention(told={"heads": ["N", "L", 3, 2, 4]}, q_axes=[0, 3, 1], q_place=3),
        "says q_place 3 of a tensor that has 3 of them",
    ),
    "a large mask": (
        attention(["heads", "heads", "heads", "mask"], {"mask": [1] * 5}),
        "has a mask or an output of ScaledDotProductAttention of more than 4 dimensions",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_node_that_says_nonsense_is_refused(case: str, tmp_path: Path) -> None:
    assert_refused(*REFUSED[case], tmp_path)


@pytest.mark.parametrize(
    "tamper",
    [
        attention(),
        attention(["heads", "heads", "heads", ""], q_axes=[3, 0, 1], y_axes=[2, 0, 1], q_place=2, causal=1),
        attention(told={"heads": ["N", "L", "", 2, 4]}, **{name: [0, 3, 1] for name in AXES}, k_place=9),
        attention(["heads"] * 4, {"heads": ["N", 2, "L", 4], "extra": [1, 2, 3, 4]}),
    ],
)
def test_an_honest_node_passes(tamper: Tamper, tmp_path: Path) -> None:
    """Where the graph tells shapes, and where it does not."""
    with Checkpoint.open(write_hostile(tmp_path / "m.safetensors", tamper)) as checkpoint:
        check_graph(checkpoint, checkpoint.graph())


def test_readers_older_than_attention_say_that_a_file_is_newer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its version, which a graph with that operator asks for; a slice, which has the same graph, keeps it."""
    path, cut = tmp_path / "model.safetensors", tmp_path / "slice.safetensors"
    write_small_checkpoint(path)
    forge(path, lambda metadata, tensors: metadata.update(format_version=7))
    slice_checkpoint(path, 1, cut)
    for each in (path, cut):
        with Checkpoint.open(each) as checkpoint:
            assert checkpoint.metadata.format_version == 7
    monkeypatch.setattr("nested_sparse.metadata.FORMAT_VERSIONS", (1, 2, 3, 4, 5, 6))
    for each in (path, cut):
        with pytest.raises(CheckpointError, match=r"format version 7, this package reads .* upgrade nested-sparse"):
            Checkpoint.open(each)
