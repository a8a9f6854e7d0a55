"""Transposed convolutions: networks with them, exported, and their files compared with torch at every level."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from against_torch import assert_levels_as_torch
from torch import Tensor, nn
from torch.nn.utils import prune

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import ExportError
from nested_sparse.layouts import GatherScatter
from nested_sparse.runtime import Session
from nested_sparse.runtime.profiling import layer_profile
from nested_sparse.runtime.profiling.random_copy import write_random_copy
from nested_sparse.slice import slice_checkpoint
from nested_sparse.trainer import export, nest, nest_pretrained

DENSITIES = (0.2, 0.6)


class Decoder(nn.Module):
    """A U-Net in small: sizes that no stride divides, a norm and a clamp behind, a sum, an output size of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.down = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 16, 3, 2, 1)
        self.up, self.norm = nn.ConvTranspose2d(16, 12, 3, 2, 1), nn.BatchNorm2d(12)
        self.again = nn.ConvTranspose2d(12, 8, 4, 2, 1, bias=False)
        self.odd = nn.ConvTranspose2d(8, 8, 3, (1, 2), (1, 0), (0, 1), dilation=(2, 1))
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, 4, …)."""
        x = F.relu(self.first(x))
        x = x + F.relu(self.norm(self.up(F.relu(self.down(x)), output_size=x.shape[2:])))
        return self.last(self.odd(F.relu6(self.again(x))))


class Vocoder(nn.Module):
    """Lines: strides of 8 and 3, and a stride beyond the kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.ConvTranspose1d(6, 12, 16, 8, 4),
            nn.LeakyReLU(0.1),
            nn.ConvTranspose1d(12, 8, 3, 3),
            nn.ReLU(),
            nn.ConvTranspose1d(8, 4, 2, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, 6, W) to (N, 4, …)."""
        return self.net(x)


class Volume(nn.Module):
    """A 3-D U-Net's way down and up."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv3d(2, 32, 3, 2, 1), nn.ConvTranspose3d(32, 16, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 2, D, H, W) to (N, 18, D, H, W)."""
        return torch.cat([x, self.up(F.relu(self.down(x)))], 1)


NETS = {"decoder": (Decoder, (2, 3, 11, 14)), "vocoder": (Vocoder, (2, 6, 21)), "volume": (Volume, (2, 2, 4, 6, 8))}


@pytest.mark.parametrize("pattern", ["unstructured", "block4x1", "channel"])
@pytest.mark.parametrize("name", NETS)
def test_networks_answer_like_torch(name: str, pattern: str, tmp_path: Path) -> None:
    """They do so whole and cut, on another batch size, and no ConvTranspose is left."""
    torch.manual_seed(0)
    make, shape = NETS[name]
    net = nest(make(), densities=DENSITIES, pattern=pattern)
    assert net.dense_layers() == {}
    path = export(net, (torch.randn(shape),), tmp_path / "net.safetensors", tolerance=1e-5)
    assert_levels_as_torch(net, path, torch.randn(3, *shape[1:]))
    slice_checkpoint(path, 1, tmp_path / "cut.safetensors")
    assert_levels_as_torch(net, tmp_path / "cut.safetensors", torch.randn(shape))
    with Checkpoint.open(path) as checkpoint:
        nodes = onnx.load_from_string(checkpoint.graph()).graph.node
        assert checkpoint.metadata.format_version == 5
    assert not {"Conv", "ConvTranspose", "BatchNormalization", "Relu", "Clip"} & {node.op_type for node in nodes}


def test_the_nested_layer_is_torchs(tmp_path: Path) -> None:
    """Whole, it answers and trains as torch's layer does, with and without a batch or an output size."""
    torch.manual_seed(0)
    up = nn.ConvTranspose2d(6, 10, (4, 3), (2, 3), (1, 0), (1, 0))
    net = nest(up, densities=(1.0,))
    layer = net.nested_layers()["model"]
    x = torch.randn(2, 6, 5, 7, requires_grad=True)
    for given in ({}, {"output_size": (10, 22)}, {"output_size": (2, 10, 11, 23)}):
        torch.testing.assert_close(net(x, **given), up(x, **given))
    torch.testing.assert_close(net(x[0]), up(x[0]))
    for size in ((9, 21), (12, 21), (10, 24), (10,)):
        for each in (net, up):
            with pytest.raises(ValueError, match=r"output.size"):
                each(x, output_size=size)
    up(x).square().sum().backward()
    net(x).square().sum().backward()
    torch.testing.assert_close(layer.values.grad, up.weight.grad.transpose(0, 1))


class Reads(nn.Module):
    """It reads its layer's weight past the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(3, 8, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, 8, 2 H, 2 W)."""
        return self.up(x) + F.conv_transpose2d(x, self.up.weight, stride=2)


def test_a_weight_read_past_its_layer_is_torchs(tmp_path: Path) -> None:
    """The forward computes the level; a file refuses it by name, unless the layer is kept dense."""
    torch.manual_seed(0)
    model, x = Reads(), torch.randn(2, 3, 5, 6)
    net = nest(model, densities=(0.5, 1.0))
    torch.testing.assert_close(net(x), model(x))
    with pytest.raises(ExportError, match="'up' is nested, but forward reads its weight past the layer"):
        export(net, (x,), tmp_path / "net.safetensors")
    dense = nest(nn.Sequential(Reads(), nn.Conv2d(8, 8, 1)), densities=DENSITIES, keep_dense=("*up",))
    assert_levels_as_torch(dense, export(dense, (x,), tmp_path / "net.safetensors"), x)


def test_pruned_weights_stay_out_and_shared_ones_stay_dense() -> None:
    """Masks and sharing are those of torch's (C, O, ...)."""
    torch.manual_seed(0)
    up = nn.ConvTranspose1d(6, 8, 3)
    prune.random_unstructured(up, "weight", 0.5)
    layer = nest(up, densities=(0.2, 1.0), pattern="unstructured").nested_layers()["model"]
    kept = up.weight_mask.bool().transpose(0, 1)
    assert torch.equal(layer.mask(1), kept)
    twins = nn.Sequential(nn.ConvTranspose1d(6, 6, 3), nn.ConvTranspose1d(6, 6, 3), nn.Linear(4, 4))
    twins[1].weight = twins[0].weight
    net = nest(twins, densities=(0.5,))
    assert list(net.nested_layers()) == ["2"]
    assert "shares its weight with" in net.dense_layers()["0"]


def test_gather_groups_become_blocks(tmp_path: Path) -> None:
    """They would hold weights of several phases; other layers have them."""
    torch.manual_seed(0)
    net = nest(Decoder(), densities=(0.1, 0.4), pattern="gs8x1", keep_dense=("first", "last"))
    layers = net.nested_layers()
    assert isinstance(layers["down"].layout, GatherScatter)
    assert layers["up"].layout.name == "block4x1"
    assert_levels_as_torch(
        net, export(net, (torch.randn(2, 3, 11, 14),), tmp_path / "net.safetensors"), torch.randn(1, 3, 11, 14)
    )


def test_a_profile_has_every_layer(tmp_path: Path) -> None:
    """So has a file of random masks, by which costs are measured, in every pattern."""
    torch.manual_seed(0)
    net = nest(Decoder(), densities=DENSITIES, pattern="block4x1")
    path = export(net, (torch.randn(2, 3, 11, 14),), tmp_path / "net.safetensors")
    names = [*net.nested_layers()]
    profiled = layer_profile(path, level=1, repeats=3)
    assert [each.layer for each in profiled if each.layer in names] == names
    for pattern in ("block2x1", "gs8x1"):
        copy = tmp_path / f"{pattern}.safetensors"
        with Checkpoint.open(path) as checkpoint:
            records = write_random_copy(checkpoint, copy, (0.05, 0.2), pattern)
        patterns = {record.weight.name: record.pattern for record in records}
        assert patterns["down"] == pattern
        assert patterns["up"] == ("block4x1" if pattern == "gs8x1" else pattern)
        with Session(copy, threads=1) as session:
            assert np.isfinite(session.run({"input": np.ones((1, 3, 11, 14), np.float32)}, level=1)["output"]).all()


@pytest.mark.parametrize("values", ["float16", "int8"])
def test_other_value_types(values: str, tmp_path: Path) -> None:
    """float16 holds for them; in an int8 file they stay float32."""
    torch.manual_seed(0)
    net, x = nest(Decoder(), densities=DENSITIES), torch.randn(8, 3, 11, 14)
    calibration = [(x, None)] if values == "int8" else None
    path = export(net, (x,), tmp_path / "net.safetensors", values=values, calibration=calibration)
    with Checkpoint.open(path) as checkpoint:
        types = {layer.name: layer.value_type.name for layer in checkpoint.layers}
    assert types["down"] == values
    assert {types[name] for name in ("up", "again", "odd")} == {"float32" if values == "int8" else values}


def test_post_training(tmp_path: Path) -> None:
    """Weights are fitted to the inputs of each phase's taps, better than magnitudes alone."""
    torch.manual_seed(0)
    model, x = Decoder().eval(), torch.randn(16, 3, 11, 14)
    fitted = nest_pretrained(model, [x], densities=DENSITIES, samples=16)
    plain = nest(model, densities=DENSITIES).eval()
    errors = []
    for net in (fitted, plain):
        net.set_level(0)
        with torch.no_grad():
            errors.append(float((net(x) - model(x)).square().mean()))
    assert errors[0] < errors[1]
    assert_levels_as_torch(fitted, export(fitted, (x,), tmp_path / "net.safetensors"), x[:3])
