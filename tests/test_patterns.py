"""Patterns: the whole path for each: nest, train, export, run at each level, slice, refuse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from against_torch import assert_answers_as_torch
from torch import nn

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import CheckpointError, PatternError
from nested_sparse.runtime import Session
from nested_sparse.serving.commands.inspect import describe
from nested_sparse.slice import slice_checkpoint
from nested_sparse.trainer import FreezeThenGrow, NestedModel, TrainConfig, export, nest, train

DENSITIES = (0.15, 0.4, 0.8)
PATTERNS = (
    "unstructured",
    "block4x1",
    "block16x1",
    "block32x1",
    "gs16x1",
    "gs8x1",
    "gs16x4",
    "gs16x16",
    "gs8x2",
    "channel",
)


def net_of(pattern: str, **options: object) -> NestedModel:
    """Convolutions (rows that no bundle divides, columns that no B divides), a norm, a residual sum, linear layers."""
    torch.manual_seed(1)
    arguments: dict[str, object] = {"densities": DENSITIES, "pattern": pattern, "keep_dense": ("0",), **options}
    return nest(Small(), **arguments)  # type: ignore[arg-type]


class Small(nn.Sequential):
    """A tiny image classifier; its layers are "0", "2", "5.body" and so on."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 12, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(12, 20, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(20),
            nn.ReLU(),
            Residual(nn.Conv2d(20, 20, 1)),
            nn.Flatten(),
            nn.Linear(20 * 16, 33),
            nn.ReLU(),
            nn.Linear(33, 3),
        )


class Residual(nn.Module):
    """x + body(x), with a ReLU."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The sum."""
        return F.relu(self.body(x) + x)


@pytest.fixture(scope="module", params=PATTERNS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[NestedModel, Path]:
    """A net of the pattern, trained for a moment with masks that fall gradually, and its file."""
    torch.set_num_threads(1)
    net = net_of(request.param)
    images, labels = torch.randn(24, 1, 8, 8), torch.randint(0, 3, (24,))
    batches = [(images[:12], labels[:12]), (images[12:], labels[12:])]
    config = TrainConfig(dense_epochs=1, search_epochs=1, lr=0.01)
    train(net, lambda epoch: batches, F.cross_entropy, config, nesting=FreezeThenGrow(epochs_per_level=2))
    path = tmp_path_factory.mktemp("patterns") / "model.safetensors"
    export(net, (images[:2],), path)
    return net.eval(), path


@pytest.mark.parametrize("batch", [1, 7])
def test_the_runtime_answers_as_torch_does(exported: tuple[NestedModel, Path], batch: int) -> None:
    """Answers agree at each level, for one image and for batches with the other linear kernel."""
    assert_answers_as_torch(*exported, torch.randn(batch, 1, 8, 8))


def test_the_file_holds_the_models_masks(exported: tuple[NestedModel, Path]) -> None:
    """Masks and values of every level survive; levels nest; the file says which pattern each layer has."""
    net, path = exported
    with Checkpoint.open(path) as checkpoint:
        for entry in checkpoint.layers:
            layer, (stored, _) = net.nested_layers()[entry.name], checkpoint.load_layer(entry.name)
            below = np.zeros(stored.values.shape, bool)
            for level in range(3):
                mask = layer.mask(level).flatten(1).numpy()
                np.testing.assert_array_equal(stored.mask(level), mask)
                np.testing.assert_array_equal(stored.at(level), np.where(mask, layer.weight.detach().flatten(1), 0))
                assert not (below & ~mask).any()
                assert entry.nnz[level] == mask.sum()
                below = mask
            assert entry.pattern == (layer.layout.name if layer.dense else net.pattern)
        shown = {layer["name"]: layer["pattern"] for layer in describe(checkpoint)["layers"]}
        assert shown == {entry.name: entry.pattern for entry in checkpoint.layers}
        version = 2 if net.pattern.startswith("gs") else 6 if net.pattern == "block32x1" else 1
        assert checkpoint.metadata.format_version == version


def test_a_slice_runs_alone(exported: tuple[NestedModel, Path], tmp_path: Path) -> None:
    """The first two levels are a smaller file that gives the same outputs."""
    _, path = exported
    cut = tmp_path / "cut.safetensors"
    slice_checkpoint(path, 2, cut)
    images = {"input": np.ones((3, 1, 8, 8), np.float32)}
    with Session(path, threads=1) as whole, Session(cut, threads=1) as part:
        assert len(part.levels) == 2
        for level in range(2):
            np.testing.assert_array_equal(part.run(images, level)["output"], whole.run(images, level)["output"])
    assert cut.stat().st_size < path.stat().st_size


@pytest.mark.parametrize("budget", ["uniform", "global"])
@pytest.mark.parametrize("pattern", ["gs16x1", "gs8x4", "channel"])
def test_density_follows_the_budget(pattern: str, budget: str) -> None:
    """The whole net keeps about what was asked for; gather groups and channels come and go many weights at a time."""
    net = net_of(pattern, budget=budget, keep_dense=("0", "9"))
    sparse = [layer for layer in net.nested_layers().values() if not layer.dense]
    for level, density in enumerate(DENSITIES):
        kept = sum(int(layer.mask(level).sum()) for layer in sparse) / sum(layer.weight.numel() for layer in sparse)
        assert kept == pytest.approx(density, rel=0.35 if pattern == "channel" else 0.1)


def test_layers_that_gathers_do_not_fit_are_named() -> None:
    """Too few columns for a gather group, or for the density: each layer is named, with what it could keep."""
    with pytest.raises(PatternError, match=r"keep_dense:\n  0: gs16x1 keeps at most 0 of the 9 weights of a row, 0%"):
        net_of("gs16x1", keep_dense=())
    with pytest.raises(PatternError, match=r"  2: gs16x1 keeps at most 96 of the 108 weights of a row, 89%"):
        net_of("gs16x1", densities=(0.5, 0.95))


def test_patterns_that_kernels_lack_are_refused_by_name() -> None:
    """B and k outside what is built, and names that mean nothing."""
    with pytest.raises(PatternError, match=r"'gs16x3' is not supported.*B must be one of \(8, 16\) and k a divisor"):
        net_of("gs16x3")
    with pytest.raises(PatternError, match=r"'gs32x1' is not supported"):
        net_of("gs32x1")
    with pytest.raises(PatternError, match=r"'channels' is not known; choose one of: .*gs16x1.*channel"):
        net_of("channels")


def test_broken_gathers_are_refused(tmp_path: Path) -> None:
    """A file whose digests are right but whose gather groups are not (the writer of a test is no friend of readers)."""
    path = tmp_path / "model.safetensors"
    export(net_of("gs16x1"), (torch.randn(1, 1, 8, 8),), path)
    with Checkpoint.open(path) as checkpoint:
        place = next(p for section in checkpoint._sections for p in section if p.name == "7/level1/col")
        begin = checkpoint._data_begin + place.begin
    raw = bytearray(path.read_bytes())
    columns = np.frombuffer(raw, "<u2", 16, begin)
    for spoil, message in ((columns[1], "16 different remainders"), (320 + columns[0], "out of range 0 to 319")):
        broken = bytearray(raw)
        broken[begin : begin + 2] = int(spoil).to_bytes(2, "little")
        path.write_bytes(broken)
        with pytest.raises(CheckpointError, match=f"'7' level 1.*{message}"):
            Checkpoint.open(path, verify=False)
    twice = bytearray(raw)
    twice[begin + 32 : begin + 64] = raw[begin : begin + 32]
    path.write_bytes(twice)
    with pytest.raises(CheckpointError, match="'7' level 1: holds a weight twice"):
        Checkpoint.open(path, verify=False)
