"""InputNorms: LayerNorms go into the linear layers that alone read them, and stay nodes elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.checker
import onnx_ir as ir
import pytest
import torch
from torch import nn

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.placement import LayerPlacement
from nested_sparse.runtime import Session
from nested_sparse.trainer import export, nest
from nested_sparse.trainer.export.fuse import FusedGraph
from nested_sparse.trainer.export.input_norms import fold_input_norms

SCALE, SHIFT = [0.5, 2.0, 1.0, -1.0], [0.0, 0.25, -3.0, 1.0]
PLACEMENT = LayerPlacement(
    rows=4, columns=4, block_rows=4, index_bytes=2, blocks=[1], offsets=[0, 64, 128, 192], permutation_offset=-1
)
NORM = "n = LayerNormalization<axis=-1>(x, scale, shift)"
LAYER = 'nested_sparse.NestedLinear<layer="{}">'


NONE = '""'
"""An input that is absent."""


def linear(name: str, x: str, residual: str = "") -> str:
    return f"{LAYER.format(name)}({x}, level, {residual or NONE}, segment)"


def graph(body: str, outputs: str = "float[N,5,4] y") -> ir.Model:
    """A fused graph in onnx's text form, over rows of four inputs."""
    tables = f"float[4] scale = {{{str(SCALE)[1:-1]}}}, float[4] shift = {{{str(SHIFT)[1:-1]}}}"
    inputs = "float[N,5,4] x, int64 level, uint8[S] segment, float[4] given"
    head = '<ir_version: 9, opset_import: ["": 20, "nested_sparse": 1]>'
    return ir.from_proto(onnx.parser.parse_model(f"{head} main ({inputs}) => ({outputs}) <{tables}> {{ {body} }}"))


def folded(model: ir.Model) -> tuple[list[onnx.NodeProto], FusedGraph]:
    """The nodes behind the step, of a graph that is still a valid one."""
    fold_input_norms(model)
    result = FusedGraph(model, {}, {})
    proto = onnx.load_from_string(result.to_bytes({"a": PLACEMENT, "b": PLACEMENT}))
    onnx.checker.check_model(proto)
    return list(proto.graph.node), result


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def test_a_norm_goes_into_the_layers_that_read_it() -> None:
    """Its tables and its epsilon are theirs, and nothing is left of it; the file asks for its version."""
    nodes, result = folded(graph(f"{NORM} a = {linear('a', 'n')} b = {linear('b', 'n')} y = Add(a, b)"))
    assert [node.op_type for node in nodes] == ["NestedLinear", "NestedLinear", "Add"]
    for node in nodes[:2]:
        held = attributes(node)
        assert node.input[0] == "x"
        assert (held["norm_scale"], held["norm_shift"]) == (SCALE, SHIFT)
        assert held["norm_epsilon"] == pytest.approx(1e-5)
    assert not result.model.graph.initializers
    assert result.version == 8


def test_a_norm_without_shift_has_zeros_and_an_epsilon_of_its_own() -> None:
    nodes, _ = folded(graph(f"n = LayerNormalization<axis=2, epsilon=0.25>(x, scale) y = {linear('a', 'n')}"))
    (held,) = map(attributes, nodes)
    assert (held["norm_shift"], held["norm_epsilon"]) == ([0.0] * 4, 0.25)


FIVE = " ".join(f"a{i} = {linear('a', 'n')}" for i in range(5))
STAYS = {
    "another reader": f"{NORM} a = {linear('a', 'n')} y = Add(a, n)",
    "as a residual": f"{NORM} y = {linear('a', 'n', 'n')}",
    "as a residual alone": f"{NORM} y = {linear('a', 'x', 'n')}",
    "another axis": f"n = LayerNormalization<axis=1>(x, scale) y = {linear('a', 'n')}",
    "mean read": f"n, m = LayerNormalization<axis=-1>(x, scale) a = {linear('a', 'n')} y = Add(a, m)",
    "tables computed": f"n = LayerNormalization<axis=-1>(x, given, shift) y = {linear('a', 'n')}",
    "many readers": f"{NORM} {FIVE} y = Sum(a0, a1, a2, a3, a4)",
    "another norm": f"n = RMSNormalization<axis=-1>(x, scale) y = {linear('a', 'n')}",
}


@pytest.mark.parametrize("case", STAYS)
def test_it_stays_a_node(case: str) -> None:
    model = graph(STAYS[case])
    before = [node.op_type for node in model.graph]
    fold_input_norms(model)
    assert [node.op_type for node in model.graph] == before
    assert not any("norm_scale" in node.attributes for node in model.graph)
    assert FusedGraph(model, {}, {}).version == 1


def test_an_output_of_the_graph_stays() -> None:
    model = graph(f"{NORM} y = {linear('a', 'n')}", "float[N,5,4] y, float[N,5,4] n")
    fold_input_norms(model)
    assert [node.op_type for node in model.graph] == ["LayerNormalization", "NestedLinear"]


class Normed(nn.Module):
    """One layer behind two norms, rows of odd sizes, and a norm whose output is added, too."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.other, self.third = nn.LayerNorm(11), nn.LayerNorm(11, eps=0.1, bias=False), nn.LayerNorm(11)
        self.layer, self.last = nn.Linear(11, 11), nn.Linear(11, 11)
        for norm in (self.norm, self.other, self.third):
            nn.init.normal_(norm.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + torch.nn.functional.gelu(self.layer(self.norm(x)))
        x = self.third(self.layer(self.other(x)))
        y: torch.Tensor = x + self.last(x)
        return y


@pytest.mark.parametrize("shape", [(2, 11), (3, 7, 11)], ids=str)
def test_levels_are_those_of_torch(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """With few and with many rows; the file's layers are used behind each norm."""
    torch.manual_seed(0)
    net = nest(Normed(), densities=(0.3, 0.7)).eval()
    path = export(net, (torch.randn(shape),), tmp_path / "normed.safetensors", tolerance=1e-4)
    assert operators(path).count("LayerNormalization") == 1
    assert operators(path).count("NestedLinear") == 3
    for batch in (1, 5):
        x = torch.randn(batch, *shape[1:])
        with Session(path, threads=1) as session, torch.no_grad():
            for level in range(2):
                net.set_level(level)
                (y,) = session.run({session.inputs[0].name: x.numpy()}, level).values()
                np.testing.assert_allclose(y, net(x).numpy(), rtol=1e-4, atol=1e-5)


def test_int8_layers_read_the_norm_of_a_node(tmp_path: Path) -> None:
    """Their ranges are those of what is behind it."""
    torch.manual_seed(0)
    net = nest(Normed(), densities=(0.5,)).eval()
    path = export(net, (torch.randn(4, 11),), tmp_path / "int8.safetensors", values="int8", activations="dynamic")
    assert operators(path).count("LayerNormalization") == 3
    with Checkpoint.open(path) as checkpoint:
        assert checkpoint.metadata.format_version < 8


def operators(path: Path) -> list[str]:
    with Checkpoint.open(path) as checkpoint:
        return [node.op_type for node in onnx.load_from_string(bytes(checkpoint.graph())).graph.node]
