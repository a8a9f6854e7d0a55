"""Functional uses: weights that other forwards read directly are the level's in torch, sparse in the file."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as checkpointed

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import ExportError
from nested_sparse.runtime import Session
from nested_sparse.trainer import NestedModel, export, nest

DENSITIES = (0.2, 0.5)


class Read(nn.Module):
    """Two rows, as many as there are levels; each sample's answer is a sum of weights and biases."""

    def __init__(self) -> None:
        super().__init__()
        self.proj, self.last = nn.Linear(6, 2), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.linear(x, self.proj.weight, self.proj.bias).sin())


class Biases(nn.Module):
    """One weight with its own bias, without, with another, and in a call of its layer; another layer without bias."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.shift = nn.Linear(6, 6), nn.Linear(6, 6, bias=False), nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        w = self.a.weight
        x = F.linear(x, w, self.a.bias).sin() + F.linear(x, w).cos() + F.linear(x, w, self.shift).tanh() + self.a(x)
        return F.linear(F.linear(x, self.b.weight), self.b.weight, self.shift)


class Pool(nn.Module):
    """A pool like CLIP's AttentionPool2d: torch's own function for attention gets the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.c = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1)
        answer, _ = F.multi_head_attention_forward(
            query=x[:1],
            key=x,
            value=x,
            embed_dim_to_check=8,
            num_heads=2,
            q_proj_weight=self.q.weight,
            k_proj_weight=self.k.weight,
            v_proj_weight=self.v.weight,
            in_proj_weight=None,
            in_proj_bias=torch.cat([self.q.bias, self.k.bias, self.v.bias]),
            bias_k=None,
            bias_v=None,
            add_zero_attn=False,
            dropout_p=0.0,
            out_proj_weight=self.c.weight,
            out_proj_bias=self.c.bias,
            use_separate_proj_weight=True,
            training=self.training,
            need_weights=False,
        )
        return answer.squeeze(0)


class Tied(nn.Module):
    """An autoencoder whose decoder is the transposed encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.out = nn.Linear(6, 4), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.linear(self.encode(x).relu(), self.encode.weight.t()))


class Looked(nn.Module):
    """A module that inspects a weight, as T5 does, but computes nothing with it."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x.to(self.proj.weight.dtype)) * self.proj.weight.shape[0]


def net_of(model: nn.Module, **options: object) -> NestedModel:
    """The nested model in eval mode, with another bias at every level."""
    torch.manual_seed(0)
    net = nest(model, densities=DENSITIES, **options).eval()  # type: ignore[arg-type]
    for layer in net.nested_layers().values():
        if layer.bias is not None:
            nn.init.normal_(layer.bias)
    return net


@torch.no_grad()
def at_level(model: nn.Module, net: NestedModel, level: int) -> nn.Module:
    """The original `model` of `net`, with the weights and biases of a level."""
    for name, layer in net.nested_layers().items():
        plain = model.get_submodule(name)
        assert isinstance(plain, nn.Linear)
        plain.weight.copy_(layer.weight * layer.mask(level))
        if plain.bias is not None:
            plain.bias.copy_(layer.bias[level])  # type: ignore[index]
    return model.eval()


MODELS = [
    (Read, (2, 6), (), ["NestedLinear", "Sin", "NestedLinear"]),
    (Biases, (2, 6), (), None),
    (Pool, (2, 5, 8), (), None),
    (Pool, (2, 5, 8), ("q", "c"), None),
    (Tied, (2, 6), ("encode",), None),
    (Looked, (2, 6), (), ["NestedLinear", "Mul"]),
]


@pytest.mark.parametrize(("kind", "shape", "keep", "graph"), MODELS)
def test_every_level_computes_with_its_own(
    kind: type[nn.Module], shape: tuple[int, ...], keep: tuple[str, ...], graph: list[str] | None, tmp_path: Path
) -> None:
    """Torch and the file compute as the plain model does with the level's weights and biases."""
    model = kind()
    net = net_of(model, keep_dense=keep)
    x = torch.randn(shape)
    path = export(net, (x,), tmp_path / "net.safetensors", verify=False)
    with Session(path, threads=1) as session, torch.no_grad():
        for level in range(2):
            expected = at_level(model, net, level)(x)
            net.set_level(level)
            assert torch.allclose(net(x), expected, atol=1e-6)
            got = torch.from_numpy(session.run({"input": x.numpy()}, level=level)["output"])
            assert torch.allclose(got, expected, atol=1e-5)
    with Checkpoint.open(path) as file:
        nodes = [node for node in onnx.load_from_string(file.graph()).graph.node if node.op_type != "Constant"]
        layers = {layer.name: layer for layer in file.layers}
    assert graph is None or [node.op_type for node in nodes] == graph
    # what is nested and sparse is in the graph, and what the file counts is what the graph holds
    sparse = {name for name, layer in net.nested_layers().items() if not layer.dense}
    assert sparse <= layers.keys()
    used = {attribute.s.decode() for node in nodes for attribute in node.attribute if attribute.name == "layer"}
    assert used == layers.keys()


def test_uses_past_the_layer_count() -> None:
    """Each use of a weight counts one multiply-add per element, wherever it is read."""
    net = nest(Biases(), densities=DENSITIES, budget_by="flops", budget="erk", example_inputs=(torch.randn(3, 6),))
    assert net.budget.positions == {"a": 4, "b": 2}


def test_what_has_no_sparse_operator_is_refused_by_name(tmp_path: Path) -> None:
    """The message names the layer, the reader of its weight, and the next step."""
    with pytest.raises(ExportError, match=r"'encode' is nested.*aten\.t.*keep_dense=\('encode',\)"):
        export(net_of(Tied()), (torch.randn(2, 6),), tmp_path / "net.safetensors")
    assert not list(tmp_path.iterdir())


class Aside(nn.Module):
    """A layer that only training uses."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.aside = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        return y + self.aside(x) if self.training else y


def test_a_layer_that_is_not_called_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The layer is logged and left out: the file's density and FLOPs are of its own layers."""
    net = net_of(Aside())
    path = export(net, (torch.randn(2, 6),), tmp_path / "net.safetensors")
    assert "forward does not call aside in eval mode" in caplog.text
    with Checkpoint.open(path) as file:
        assert [layer.name for layer in file.layers] == ["body"]
        for level, entry in enumerate(file.levels):
            kept = int(net.nested_layers()["body"].mask(level).sum())
            assert entry.density == pytest.approx(kept / 36)
            assert entry.flops == 2 * kept


class Block(nn.Module):
    """A part of a model that the backward pass computes again."""

    def __init__(self) -> None:
        super().__init__()
        self.read = Read()

    def forward(self, x: Tensor) -> Tensor:
        y = checkpointed(self.read, x, use_reentrant=False)
        assert isinstance(y, Tensor)
        return y


def test_gradients_reach_the_parameters() -> None:
    """Gradients reach the level's kept weights and its bias, also when activations are computed again."""
    x, gradients = torch.randn(4, 6), []
    for kind in (Read, Block):
        torch.manual_seed(0)
        net = net_of(kind())
        net.set_level(0)
        net(x).square().sum().backward()
        (proj, _) = net.nested_layers().values()
        assert proj.weight.grad is not None
        assert proj.bias is not None
        assert not proj.weight.grad[~proj.mask(0)].any()
        assert proj.weight.grad[proj.mask(0)].any()
        assert proj.bias.grad is not None
        assert proj.bias.grad[0].any()
        assert not proj.bias.grad[1].any()
        gradients.append(proj.weight.grad)
    assert torch.allclose(*gradients)


def test_outside_a_forward_they_are_the_parameters() -> None:
    """Training, pruning and saving see every level's values; a part called alone sees the level's."""
    net = net_of(Read())
    (layer, _) = net.nested_layers().values()
    assert layer.weight is dict(net.named_parameters())["model.proj.weight"]
    assert layer.bias is not None
    assert layer.bias.shape == (2, 2)
    seen: list[Tensor] = []
    handle = layer.register_forward_hook(lambda module, args, out: seen.append(module.weight))
    layer(torch.randn(1, 6))
    handle.remove()
    assert seen[0] is layer.weight  # the layer's own hooks, too
