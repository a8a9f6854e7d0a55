"""Pads: zeros in front of a convolution become a part of its window, where they can."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.runtime import Session
from nested_sparse.trainer import export, nest

FOLDED = {
    "one side": (0, 1, 0, 1),
    "all sides": (2, 1, 3, 0),
    "width alone": (1, 2),
}
LEFT = {
    "ones": ((1, 1, 1, 1), {"value": 1.0}),
    "reflected": ((1, 1, 1, 1), {"mode": "reflect"}),
    "cut off": ((-1, 1, 1, 1), {}),
    "channels": ((0, 0, 0, 0, 0, 2), {}),
}


class Padded(nn.Module):
    """A convolution behind a Pad, with padding of its own."""

    def __init__(self, sides: tuple[int, ...], options: dict, channels: int = 4) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, 8, 3, padding=(1, 0), groups=2), nn.BatchNorm2d(8)
        self.sides, self.options = sides, options

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(F.pad(x, self.sides, **self.options))).relu()


class Reused(nn.Module):
    """One convolution behind two Pads; another one that shares its Pad with an output."""

    def __init__(self, first: tuple[int, ...], second: tuple[int, ...]) -> None:
        super().__init__()
        self.conv, self.other = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)
        self.sides = first, second

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for sides in self.sides:
            x = self.conv(F.pad(x, sides))
        seen = F.pad(x, (1, 1, 1, 1))
        return self.other(seen), seen


def nodes_and_pads(model: nn.Module, path: Path) -> tuple[list[str], dict[str, list[int]]]:
    """Kinds of the nodes, and each layer's pads in the metadata; checks the file against torch at both levels."""
    torch.manual_seed(0)
    net, x = nest(model, densities=(0.3, 0.8)).eval(), torch.randn(2, 4, 6, 5)
    export(net, (x,), path, verify=False)
    with Session(path, threads=1) as session, torch.no_grad():
        for level in range(2):
            net.set_level(level)
            expected = torch.utils._pytree.tree_leaves(net(x))
            answers = session.run({session.inputs[0].name: x.numpy()}, level=level).values()
            for got, each in zip(answers, expected, strict=True):
                assert torch.allclose(torch.from_numpy(got), each, atol=1e-5)
    with Checkpoint.open(path) as file:
        nodes = onnx.load_from_string(file.graph()).graph.node
        pads = {layer.name: list(layer.attributes["pads"]) for layer in file.layers}
    for node in nodes:
        attributes = {each.name: each for each in node.attribute}
        if "layer" in attributes:
            assert list(attributes["pads"].ints) == pads[attributes["layer"].s.decode()]
    return [node.op_type for node in nodes], pads


@pytest.mark.parametrize("name", FOLDED)
def test_zeros_are_taken_into_the_window(name: str, tmp_path: Path) -> None:
    """The graph has no Pad; the pads are the sum, in the node and in the metadata."""
    left, right, top, bottom = (*FOLDED[name], 0, 0)[:4]
    nodes, pads = nodes_and_pads(Padded(FOLDED[name], {}), tmp_path / "net.safetensors")
    assert nodes == ["NestedConv"]
    assert pads == {"conv": [top + 1, left, bottom + 1, right]}


@pytest.mark.parametrize("name", LEFT)
def test_other_pads_stay(name: str, tmp_path: Path) -> None:
    """Values other than zero, other modes, negative sizes and other dimensions are left to ONNX."""
    sides, options = LEFT[name]
    model = Padded(sides, options, channels=6 if name == "channels" else 4)
    nodes, pads = nodes_and_pads(model, tmp_path / "net.safetensors")
    assert nodes[-1] == "NestedConv"
    assert len(nodes) > 1
    assert pads == {"conv": [1, 0, 1, 0]}


@pytest.mark.parametrize(("second", "folded"), [((1, 1, 1, 1), True), ((2, 1, 1, 1), False)])
def test_a_layer_has_one_window(second: tuple[int, ...], folded: bool, tmp_path: Path) -> None:
    """A layer that is used twice changes only where both uses agree; a Pad that others read stays for them."""
    nodes, pads = nodes_and_pads(Reused((1, 1, 1, 1), second), tmp_path / "net.safetensors")
    assert pads == {"conv": [1] * 4 if folded else [0] * 4, "other": [1] * 4}
    assert nodes.count("Pad") == (1 if folded else 3)
