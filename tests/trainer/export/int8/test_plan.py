"""Plan: the steps of an int8 graph around an operator that stays float32."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
import torch
from int8_exports import WORST_ERROR, exported, facts, nested, worst_error
from torch import nn

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.trainer.export.int8.plan import plan

TEXT = """<ir_version: 9, opset_import: ["": 18, "nested_sparse": 1]>
main (float[N,8,5,4] x, int64 level, uint8[S] segment) => (float[N,8,5,4] y)
<float[N,8,5,4] c, float[N,8,5,4] q, float[N,8,5,4] kv, float[N,8,5,4] a, float[N,8,5,4] s> {
  c = nested_sparse.NestedConv<layer="conv", clip_min=0.0, clip_max=6.0, kernel_shape=[1,1], strides=[1,1],
                               pads=[0,0,0,0], dilations=[1,1]>(x, level, , segment)
  q = nested_sparse.NestedLinear<layer="q", clip_min=-1.0, clip_max=1.0>(x, level, , segment)
  kv = nested_sparse.NestedLinear<layer="kv", clip_min=-1.0, clip_max=1.0>(x, level, , segment)
  a = nested_sparse.ScaledDotProductAttention<scale=0.5, q_axes=[0,1,2], k_axes=[0,1,2], v_axes=[0,1,2],
                                              y_axes=[0,1,2]>(q, kv, c)
  s = Add(a, c)
  y = nested_sparse.NestedLinear<layer="out", clip_min=-1.0, clip_max=1.0>(s, level, , segment)
}"""


def test_attention_stays_float32_and_the_layers_around_it_do_not() -> None:
    """The linear layers that make and take its values are planned; of images, only what a convolution has made."""
    model = ir.from_proto(onnx.parser.parse_model(TEXT))
    found = plan(model, {"conv", "q", "kv", "out"})
    assert [node.attributes["layer"].as_string() for node in found.linear] == ["q", "kv", "out"]
    assert [step.node.op_type for step in found.steps.values()] == ["NestedConv"]
    assert found.wanted(static=True).keys() == {"x", "c", "q", "kv", "s", "y"}
    (attention,) = (node for node in model.graph if node.op_type == "ScaledDotProductAttention")
    assert id(attention.outputs[0]) not in found.source


class Attending(nn.Module):
    """Attention between linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.packed, self.out = nn.Linear(12, 48), nn.Linear(16, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.packed(x).unflatten(-1, (3, 4, 4)).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return torch.as_tensor(self.out(y.transpose(1, 2).flatten(2)))


@pytest.mark.parametrize("form", ["static", "dynamic"])
def test_a_file_with_attention_has_int8_layers_around_it(form: str, tmp_path: Path) -> None:
    """Also where the ranges of their inputs are calibrated; the file needs the version that has attention."""
    x = torch.randn(24, 6, 12, generator=torch.Generator().manual_seed(0))
    net = nested(Attending())
    path = exported(net, x, tmp_path / "model.safetensors", activations=form)
    operators, _ = facts(path)
    assert (operators["QuantizedLinear"], operators["ScaledDotProductAttention"]) == (2, 1)
    assert worst_error(net, path, (x,)) < WORST_ERROR
    with Checkpoint.open(path) as checkpoint:
        assert checkpoint.metadata.format_version == 7
