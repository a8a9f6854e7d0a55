"""Attention: graphs of torch's scaled_dot_product_attention answer as torch does, for every kind of mask."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.metadata import INDEPENDENT
from nested_sparse.runtime import Session
from nested_sparse.trainer import NestedModel, export, nest

WIDTH, HEADS = 32, 4


class Attending(nn.Module):
    """Attention of `words` to `others`; groups: number of heads of keys and values."""

    def __init__(self, kind: str = "", groups: int = HEADS, scale: float | None = None) -> None:
        super().__init__()
        self.kind, self.groups, self.scale = kind, groups, scale
        size = WIDTH // HEADS
        self.queries, self.both = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2 * groups * size)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, words: Tensor, others: Tensor, present: Tensor) -> Tensor:
        size = WIDTH // HEADS
        query = self.queries(words).unflatten(-1, (HEADS, size)).transpose(1, 2)
        key, value = self.both(others).unflatten(-1, (2, self.groups, size)).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(
            query,
            key,
            value,
            self.mask(present),
            is_causal=self.kind == "causal",
            scale=self.scale,
            enable_gqa=self.groups != HEADS,
        )
        return self.out(mixed.transpose(1, 2).flatten(2))

    def mask(self, present: Tensor) -> Tensor | None:
        there = (present > 0)[:, None, None, :]
        if self.kind == "bool":
            return there
        if self.kind == "float":
            return torch.zeros_like(present)[:, None, None, :].masked_fill(~there, -math.inf)
        return present[:, None, None, :] if self.kind == "weights" else None


def operators(path: Path) -> Counter[str]:
    """How often each operator is in the graph of a file."""
    with Checkpoint.open(path) as checkpoint:
        return Counter(node.op_type for node in onnx.load_model_from_string(checkpoint.graph()).graph.node)


def sample(count: int, words: int, others: int) -> tuple[Tensor, Tensor, Tensor]:
    """The first sequence is all there, the second is empty, and of the third the first two words are there."""
    present = torch.zeros(count, others)
    present[0], present[2:, :2] = 1.0, 1.0
    return torch.randn(count, words, WIDTH), torch.randn(count, others, WIDTH), present


def answers(net: NestedModel, path: Path, inputs: tuple[Tensor, ...]) -> list[tuple[np.ndarray, np.ndarray]]:
    """The file's output and torch's, at each level."""
    found = []
    with Session(path, threads=1) as session, torch.no_grad():
        feeds = {spec.name: each.numpy() for spec, each in zip(session.inputs, inputs, strict=False)}
        for level in session.levels:
            net.set_level(level.index)
            found.append((session.run(feeds, level.index)["output"], net(*inputs).numpy()))
    return found


@pytest.mark.parametrize(
    ("kind", "groups", "words", "others"),
    [
        ("", HEADS, 5, 5),
        ("bool", HEADS, 3, 7),
        ("float", HEADS, 7, 3),
        ("weights", HEADS, 1, 6),
        ("causal", HEADS, 3, 7),
        ("causal", 2, 7, 3),
        ("bool", 2, 1, 6),
        ("", 1, 3, 7),
    ],
)
def test_it_answers_as_torch(tmp_path: Path, kind: str, groups: int, words: int, others: int) -> None:
    """Also where a mask closes every key: 0 comes from there, not NaN and not a mean of the values."""
    torch.manual_seed(0)
    net = nest(Attending(kind, groups).eval(), densities=(0.2, 0.6), pattern="block4x1")
    path = export(net, sample(3, words, others), tmp_path / "net.safetensors", input_names=("w", "o", "present"))
    assert operators(path)["ScaledDotProductAttention"] == 1
    for got, expected in answers(net, path, sample(4, words, others)):
        np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["float", "causal"])
def test_lengths_may_be_free(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    net = nest(Attending(kind, 2, scale=0.7).eval(), densities=(0.2, 0.6), pattern="block4x1")
    words, others = (torch.export.Dim(name, min=2, max=20) for name in ("words", "others"))
    path = export(
        net,
        sample(3, 5, 6),
        tmp_path / "net.safetensors",
        input_names=("w", "o", "present"),
        dynamic_shapes=({0: "batch", 1: words}, {0: "batch", 1: others}, {0: "batch", 1: others}),
    )
    for sizes in ((4, 9, 4), (3, 2, 20)):
        for got, expected in answers(net, path, sample(*sizes)):
            np.testing.assert_allclose(got, expected, atol=1e-5)


class Plain(nn.Module):
    """Attention without heads and projections of its own; across: channels attend to each other."""

    def __init__(self, across: bool) -> None:
        super().__init__()
        self.first, self.across = nn.Linear(WIDTH, WIDTH), across

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x.mT if self.across else x
        return F.scaled_dot_product_attention(x, x, x)


@pytest.mark.parametrize("across", [False, True])
def test_width_and_rank_may_be_any(tmp_path: Path, across: bool) -> None:
    """A width that is free is the length of a sequence whose channels attend to each other."""
    net = nest(Plain(across).eval(), densities=(0.2, 0.6), pattern="block4x1")
    sizes = {0: "batch", 1: torch.export.Dim("words", min=2, max=20)}
    options = {"output_names": ("output",), "dynamic_shapes": (sizes,)}
    path = export(net, (torch.randn(2, 5, WIDTH),), tmp_path / "net.safetensors", **options)
    for got, expected in answers(net, path, (torch.randn(3, 9, WIDTH),)):
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_what_is_no_number_stays_so(tmp_path: Path) -> None:
    """The 0 of a closed mask hides no fault of the input. So dense a level has no row without a weight."""
    torch.manual_seed(0)
    net = nest(Attending("bool").eval(), densities=(0.9,), pattern="block4x1")
    path = export(net, sample(3, 5, 5), tmp_path / "net.safetensors", input_names=("w", "o", "present"))
    words, others, present = sample(3, 5, 5)
    words[0, 1] = math.nan
    ((got, _),) = answers(net, path, (words, others, present))
    assert np.isnan(got[0, 1]).all()
    assert np.isfinite(np.delete(got[0], 1, axis=0)).all()
    assert np.isfinite(got[1:]).all()


def test_attention_with_heads_is_one_node(tmp_path: Path) -> None:
    """Packed keys and values are read where they lie, and nothing else is left of the steps."""
    net = nest(Attending().eval(), densities=(0.2,), pattern="block4x1")
    path = export(net, sample(3, 5, 5), tmp_path / "net.safetensors", input_names=("w", "o", "present"))
    with Checkpoint.open(path) as checkpoint:
        assert checkpoint.metadata.rows == INDEPENDENT
    assert operators(path) == {"NestedLinear": 3, "Reshape": 3, "ScaledDotProductAttention": 1}


@pytest.mark.parametrize("net", [Plain(False), Plain(True)])
def test_attention_without_heads_is_nodes_of_onnx(tmp_path: Path, net: nn.Module) -> None:
    """torch.onnx asks for the keys' shape, and cuts and joins it; here one Transpose turns them."""
    nested = nest(net.eval(), densities=(0.2,), pattern="block4x1")
    path = export(nested, (torch.randn(2, WIDTH, WIDTH),), tmp_path / "net.safetensors")
    found = operators(path)
    assert found["MatMul"] == 2
    assert not {"Shape", "Concat", "ScaledDotProductAttention"} & found.keys()


class Broadcast(nn.Module):
    """Keys of one batch, or of one head, for all: torch broadcasts them, and our operator does not."""

    def __init__(self, heads: int, batch: int) -> None:
        super().__init__()
        self.first, self.keys = nn.Linear(WIDTH, WIDTH), nn.Parameter(torch.randn(batch, heads, 6, WIDTH // HEADS))

    def forward(self, x: Tensor) -> Tensor:
        query = self.first(x).unflatten(-1, (HEADS, WIDTH // HEADS)).transpose(1, 2)
        return F.scaled_dot_product_attention(query, self.keys, self.keys).transpose(1, 2).flatten(2)


@pytest.mark.parametrize(("heads", "batch"), [(HEADS, 1), (1, 1)])
def test_keys_that_torch_broadcasts(tmp_path: Path, heads: int, batch: int) -> None:
    net = nest(Broadcast(heads, batch).eval(), densities=(0.2, 0.6), pattern="block4x1")
    path = export(net, (torch.randn(2, 5, WIDTH),), tmp_path / "net.safetensors")
    assert "ScaledDotProductAttention" not in operators(path)
    for got, expected in answers(net, path, (torch.randn(3, 5, WIDTH),)):
        np.testing.assert_allclose(got, expected, atol=1e-5)


class Unequal(nn.Module):
    """As many heads of keys as of queries, and fewer of values, as torch allows it with enable_gqa."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, 5 * WIDTH // 2)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.first(x).split([WIDTH, WIDTH, WIDTH // 2], -1)
        query, key, value = (each.unflatten(-1, (-1, 8)).transpose(1, 2) for each in (query, key, value))
        return F.scaled_dot_product_attention(query, key, value, enable_gqa=True)


def test_values_may_have_fewer_heads_than_keys(tmp_path: Path) -> None:
    net = nest(Unequal().eval(), densities=(0.2, 0.6), pattern="block4x1")
    path = export(net, (torch.randn(2, 5, WIDTH),), tmp_path / "net.safetensors")
    for got, expected in answers(net, path, (torch.randn(3, 5, WIDTH),)):
        np.testing.assert_allclose(got, expected, atol=1e-5)


class Packed(nn.Module):
    """torch's module, called as most callers do: its weights are asked for, and perhaps dropped."""

    def __init__(self, kept: bool) -> None:
        super().__init__()
        self.attention, self.kept = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True), kept

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        y, weights = self.attention(x, x, x)
        return (y, weights) if self.kept else y


@pytest.mark.parametrize("kept", [False, True])
def test_weights_that_a_caller_drops_cost_nothing(tmp_path: Path, kept: bool) -> None:
    net = nest(Packed(kept).eval(), densities=(0.2, 0.6), pattern="block4x1")
    path = export(net, (torch.randn(2, 5, WIDTH),), tmp_path / "net.safetensors", output_names=("y", "w")[: 1 + kept])
    found = operators(path)
    assert found["ScaledDotProductAttention"] == 1
    assert found["Softmax"] == kept
    x = torch.randn(3, 5, WIDTH)
    with Session(path, threads=1) as session, torch.no_grad():
        for level in session.levels:
            net.set_level(level.index)
            got, expected = session.run({"input": x.numpy()}, level.index), net(x)
            for name, each in zip(("y", "w"), expected if kept else (expected,), strict=False):
                np.testing.assert_allclose(got[name], each.numpy(), atol=1e-5)
