"""Attention views: steps around attention become attributes of the operator, and the answers stay torch's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.runtime import Session
from nested_sparse.trainer import export, nest

WIDTH, HEADS, SIZE = 32, 4, 8
Heads = tuple[Tensor, Tensor, Tensor]


class Attending(nn.Module):
    """Attention between two layers, of which `parts` makes queries, keys and values of all that the first one makes."""

    def __init__(self, outputs: int, parts: Callable[[Tensor], Heads], back: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(WIDTH, outputs), nn.Linear(WIDTH, WIDTH)
        self.parts, self.back = parts, back

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.parts(self.first(x))
        return self.last(self.back(F.scaled_dot_product_attention(query, key, value)))


def split(x: Tensor, heads: int = HEADS) -> Tensor:
    """(N, L, heads E) to (N, heads, L, E)."""
    return x.unflatten(-1, (heads, SIZE)).transpose(1, 2)


def joined(x: Tensor) -> Tensor:
    """The reverse."""
    return x.transpose(1, 2).flatten(2)


def packed(x: Tensor) -> Heads:
    query, key, value = x.unflatten(-1, (3, HEADS, SIZE)).permute(2, 0, 3, 1, 4).unbind(0)
    return query, key, value


def by_index(x: Tensor) -> Heads:
    x = x.unflatten(-1, (HEADS, 3, SIZE)).transpose(1, 2)
    return x[:, :, :, 0], x[:, :, :, 1], x[:, :, :, -1]


def chunks(x: Tensor) -> Heads:
    query, key, value = (split(each) for each in x.chunk(3, -1))
    return query, key, value


def slices(x: Tensor) -> Heads:
    return split(x[..., 2 * WIDTH :]), split(x[..., :WIDTH]), split(x[..., WIDTH : 2 * WIDTH])


def unequal(x: Tensor) -> Heads:
    """Two heads of keys and values, each for two of the queries', as transformers repeats them."""
    query, key, value = x.split([WIDTH, WIDTH // 2, WIDTH // 2], -1)
    key, value = (each.unflatten(-1, (2, SIZE)).transpose(1, 2) for each in (key, value))
    n, groups, length, size = key.shape
    shared = (
        each[:, :, None].expand(n, groups, 2, length, size).reshape(n, HEADS, length, size) for each in (key, value)
    )
    return split(query), *shared


def repeated(x: Tensor) -> Heads:
    """The same by repeat_interleave, of one tensor of both."""
    query, both = x.split([WIDTH, WIDTH], -1)
    key, value = both.unflatten(-1, (2, 2, SIZE)).permute(2, 0, 3, 1, 4).unbind(0)
    return split(query), key.repeat_interleave(2, 1), value.repeat_interleave(2, 1)


def keys_alone(x: Tensor) -> Heads:
    """Keys are repeated, values are not: the operator takes as many of each."""
    query, key, value = x.split([WIDTH, WIDTH // 2, WIDTH], -1)
    return split(query), split(key, 2).repeat_interleave(2, 1), split(value)


def changed(x: Tensor) -> Heads:
    """A step between that is no view."""
    query, key, value = chunks(x)
    return torch.sin(query), key, value


def in_turn(x: Tensor) -> Heads:
    """A head's parts lie apart: (N, L, E, H) cannot be read as it is."""
    query, key, value = (each.unflatten(-1, (SIZE, HEADS)).permute(0, 3, 1, 2) for each in x.chunk(3, -1))
    return query, key, value


CASES = [
    pytest.param(3 * WIDTH, packed, {"Reshape": 2}, id="packed"),
    pytest.param(3 * WIDTH, by_index, {"Reshape": 2}, id="by index"),
    pytest.param(3 * WIDTH, chunks, {"Reshape": 2}, id="chunks"),
    pytest.param(3 * WIDTH, slices, {"Reshape": 2}, id="slices"),
    pytest.param(2 * WIDTH, unequal, {"Reshape": 3}, id="unequal"),
    pytest.param(2 * WIDTH, repeated, {"Reshape": 3, "Split": 1}, id="repeated"),
    pytest.param(5 * WIDTH // 2, keys_alone, None, id="keys alone"),
    pytest.param(3 * WIDTH, changed, None, id="changed"),
    pytest.param(3 * WIDTH, in_turn, None, id="in turn"),
]


def check(tmp_path: Path, net: nn.Module, steps: dict[str, int] | None, last: bool = False) -> None:
    """Export, compare at each level, and compare the steps that are left; None: any."""
    torch.manual_seed(0)
    nested = nest(net.eval(), densities=(0.2, 0.6), pattern="block4x1")
    path = export(nested, (torch.randn(2, 7, WIDTH),), tmp_path / "net.safetensors")
    with Checkpoint.open(path) as checkpoint:
        found = Counter(node.op_type for node in onnx.load_model_from_string(checkpoint.graph()).graph.node)
    assert found["ScaledDotProductAttention"] == 1
    if steps is not None:
        ours = {"NestedLinear": 2, "ScaledDotProductAttention": 1}
        assert found == {**ours, **steps}
    x = torch.randn(3, 7, WIDTH)
    with Session(path, threads=1) as session, torch.no_grad():
        for level in session.levels:
            nested.set_level(level.index)
            np.testing.assert_allclose(
                session.run({"input": x.numpy()}, level.index)["output"], nested(x).numpy(), atol=1e-5
            )


@pytest.mark.parametrize(("outputs", "parts", "steps"), CASES)
def test_steps_around_attention(
    tmp_path: Path, outputs: int, parts: Callable[[Tensor], Heads], steps: dict[str, int] | None
) -> None:
    """Those that only say where a value lies are gone."""
    check(tmp_path, Attending(outputs, parts, joined), steps)


def test_a_sequence_may_come_first(tmp_path: Path) -> None:
    """(L, N, E), as torch's MultiheadAttention has it unless batch_first is set."""

    def parts(x: Tensor) -> Heads:
        query, key, value = (
            each.unflatten(-1, (HEADS, SIZE)).permute(1, 2, 0, 3) for each in x.transpose(0, 1).chunk(3, -1)
        )
        return query, key, value

    check(tmp_path, Attending(3 * WIDTH, parts, lambda x: x.permute(2, 0, 1, 3).flatten(2).transpose(0, 1)), None)


def test_values_that_others_read_stay(tmp_path: Path) -> None:
    """A view that is absorbed is still there for another reader."""

    class Both(Attending):
        def forward(self, x: Tensor) -> Tensor:
            query, key, value = packed(self.first(x))
            mixed = F.scaled_dot_product_attention(query, key, value)
            return self.last(joined(mixed) + joined(query)) + joined(mixed).mean()

    check(tmp_path, Both(3 * WIDTH, packed, joined), None)
