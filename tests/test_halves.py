"""float16 values: the whole path of nest, export, verify, run at each level, profile and slice."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from against_torch import assert_answers_as_torch
from torch import nn

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import CheckpointError, ExportError
from nested_sparse.runtime import Session
from nested_sparse.runtime.profiling.layer_profile import layer_profile
from nested_sparse.serving.commands.inspect import describe
from nested_sparse.slice import slice_checkpoint
from nested_sparse.trainer import NestedModel, export, nest

PATTERNS = ("unstructured", "block2x1", "block4x1", "block16x1", "gs16x4", "gs8x1", "channel")


class Small(nn.Module):
    """Convolutions with and without a window, a residual sum, linear layers; "first" is kept dense."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.conv, self.body = nn.Conv2d(12, 37, 3, stride=2, padding=1), nn.Conv2d(37, 37, 1)
        self.hidden, self.head = nn.Linear(37 * 16, 33), nn.Linear(33, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.conv(F.relu(self.norm(self.first(x)))))
        x = F.relu(self.body(x) + x)
        return self.head(F.relu(self.hidden(x.flatten(1))))


def net_of(pattern: str) -> NestedModel:
    """Three levels; the head and the first layer whole."""
    torch.manual_seed(2)
    return nest(Small(), densities=(0.15, 0.4, 0.7), pattern=pattern, keep_dense=("first", "head")).eval()


@pytest.fixture(scope="module", params=PATTERNS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[NestedModel, Path]:
    """A net as it was before its export, and its file, which export has verified."""
    torch.set_num_threads(1)
    net = net_of(request.param)
    before = copy.deepcopy(net)
    path = tmp_path_factory.mktemp("halves") / "model.safetensors"
    export(net, (torch.randn(2, 1, 8, 8),), path, values="float16")
    after = net.state_dict()
    for name, tensor in before.state_dict().items():
        assert torch.equal(tensor, after[name]), name
    return before, path


def rounded(net: NestedModel) -> NestedModel:
    """The net with every nested weight rounded to a half."""
    twin = copy.deepcopy(net)
    with torch.no_grad():
        for layer in twin.nested_layers().values():
            layer.weight.copy_(layer.weight.half().float())
    return twin


@pytest.mark.parametrize("batch", [1, 7])
def test_the_runtime_answers_as_torch_does_with_rounded_weights(exported: tuple[NestedModel, Path], batch: int) -> None:
    """Answers agree at each level, for one image and for batches with the other linear kernel."""
    assert_answers_as_torch(rounded(exported[0]), exported[1], torch.randn(batch, 1, 8, 8))


def test_the_file_holds_halves_that_nest(exported: tuple[NestedModel, Path], tmp_path: Path) -> None:
    """Every level's values are the rounded ones, bit for bit; the file says so, and is smaller than with floats."""
    net, path = exported
    export(net, (torch.randn(2, 1, 8, 8),), tmp_path / "floats.safetensors")
    with Checkpoint.open(path) as checkpoint, Checkpoint.open(tmp_path / "floats.safetensors") as floats:
        assert checkpoint.metadata.format_version == 3
        assert [layer["value_bytes"] for layer in describe(checkpoint)["layers"]] == [2] * len(checkpoint.layers)
        for entry in checkpoint.layers:
            weight = rounded(net).nested_layers()[entry.name]
            for level in range(3):
                expected = weight.masked_weight(level).detach().flatten(1).numpy()
                np.testing.assert_array_equal(checkpoint.load_layer(entry.name)[0].at(level), expected)
        for level in range(3):
            assert checkpoint.segment(level).nbytes < floats.segment(level).nbytes


def test_the_profile_names_the_kernels(exported: tuple[NestedModel, Path]) -> None:
    """The profile names the kernels for float16 values, for each nested layer."""
    kernels = [layer.kernel for layer in layer_profile(exported[1], repeats=1, threads=1)]
    ours = [kernel for kernel in kernels if kernel.startswith(("spmm", "gemv"))]
    assert len(ours) == 5
    assert all(kernel.endswith("_f16") for kernel in ours)


def test_a_slice_runs_alone(exported: tuple[NestedModel, Path], tmp_path: Path) -> None:
    """The first two levels are a smaller file that gives the same outputs."""
    cut = tmp_path / "cut.safetensors"
    slice_checkpoint(exported[1], 2, cut)
    images = {"input": np.random.default_rng(0).standard_normal((3, 1, 8, 8)).astype(np.float32)}
    with Session(exported[1], threads=1) as whole, Session(cut, threads=1) as part:
        for level in range(2):
            np.testing.assert_array_equal(part.run(images, level)["output"], whole.run(images, level)["output"])
    assert cut.stat().st_size < exported[1].stat().st_size


def test_a_weight_too_large_for_float16_is_refused_with_its_layer(tmp_path: Path) -> None:
    """A weight too large names its layer, an unknown type what there is; weights that no level keeps do not matter."""
    net, example = net_of("block4x1"), (torch.randn(1, 1, 8, 8),)
    with pytest.raises(ExportError, match=r"values: expected one of \('float32', 'float16', 'int8'\), got 'bfloat16'"):
        export(net, example, tmp_path / "model.safetensors", values="bfloat16")
    layer = net.nested_layers()["hidden"]
    with torch.no_grad():
        layer.weight[~layer.mask(2)] = 1e30
    export(net, example, tmp_path / "model.safetensors", values="float16")
    with torch.no_grad():
        layer.weight[layer.mask(0)] = 65505.0
    with pytest.raises(CheckpointError, match="'hidden' has a weight of magnitude 65505; float16 holds at most 65504"):
        export(net, example, tmp_path / "other.safetensors", values="float16")
    assert not (tmp_path / "other.safetensors").exists()
