"""export: its errors, the state that it leaves unchanged, and the file's content beside the graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import CheckpointError, ExportError, InputError
from nested_sparse.runtime import Session
from nested_sparse.trainer import NestedModel, export, nest

DENSITIES = (0.25, 0.5)


class Small(nn.Module):
    """A convolution called twice, a dropout, a head; another layer that forward never calls."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.drop, self.fc = nn.Dropout(0.5), nn.Linear(4, 3)
        self.unused = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(x)))
        return self.fc(self.drop(self.conv(x)).mean((2, 3)))


class Bottleneck(nn.Module):
    """ResNet's block of three convolutions."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.norm3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        self.shortcut: nn.Module = nn.Identity()
        if channels != 4 * width:
            conv = nn.Conv2d(channels, 4 * width, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(4 * width))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(self.norm2(self.conv2(y)))
        return F.relu(self.norm3(self.conv3(y)) + self.shortcut(x))


def resnet50() -> nn.Sequential:
    layers = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for width, depth, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for index in range(depth):
            layers.append(Bottleneck(channels, width, stride if index == 0 else 1))
            channels = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000))


@pytest.fixture
def net() -> NestedModel:
    torch.manual_seed(0)
    return nest(Small(), densities=DENSITIES, pattern="block4x1", keep_dense=("fc",))


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 4, 6, 5)


def test_levels_say_density_flops_and_metrics(net: NestedModel, x: Tensor, tmp_path: Path) -> None:
    """Each level has the file's density, 2 operations per kept multiply-add and sample, and its metrics."""
    path = export(net, (x,), tmp_path / "net.safetensors", metrics={"accuracy": [0.5, 1]}, verify=False)
    with Checkpoint.open(path) as checkpoint:
        levels = checkpoint.levels
        layers = {layer.name: layer for layer in checkpoint.layers}
    assert list(layers) == ["conv", "fc"]  # in the order of the graph, the uncalled one left out
    for index, level in enumerate(levels):
        conv, head = net.nested_weight("conv").nnz(index), net.nested_weight("fc").nnz(index)
        assert level.flops == 2 * (2 * conv * 6 * 5 + head)
        assert level.density == (conv + head) / (4 * 4 * 3 * 3 + 4 * 3)
        assert dict(level.metrics) == {"accuracy": [0.5, 1.0][index]}
    assert head == 12
    assert layers["conv"].attributes == {
        "kernel_shape": [3, 3],
        "strides": [1, 1],
        "pads": [1, 1, 1, 1],
        "dilations": [1, 1],
    }


def test_stored_weights_are_those_of_every_level(net: NestedModel, x: Tensor, tmp_path: Path) -> None:
    """Values and masks are bit-equal to the model's."""
    path = export(net, (x,), tmp_path / "net.safetensors", verify=False)
    with Checkpoint.open(path) as checkpoint:
        for layer in checkpoint.layers:
            stored, _ = checkpoint.load_layer(layer.name)
            for level in range(net.level_count):
                np.testing.assert_array_equal(stored.at(level), net.nested_weight(layer.name).at(level))


@pytest.mark.parametrize("fails", [False, True])
def test_net_is_left_as_it_was(net: NestedModel, x: Tensor, tmp_path: Path, fails: bool) -> None:
    """Parameters, statistics, train modes, level, forwards, hooks and torch's random state survive, errors included."""
    net.train()
    net.model.norm.eval()
    net.set_level(0)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    modes = {name: module.training for name, module in net.named_modules()}
    random_state = torch.get_rng_state()
    path = tmp_path / "net.safetensors"
    if fails:
        with pytest.raises(ExportError):
            export(net, (x,), path, output_names=("a", "b"))
        net.model.fc.forward = lambda x: x if x.sum() > 0 else -x
        with pytest.raises(ExportError):
            export(net, (x,), path)
        del net.model.fc.forward
    else:
        export(net, (x,), path, verify=False)
    assert path.exists() is not fails
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert {name: module.training for name, module in net.named_modules()} == modes
    assert net.level == 0
    assert torch.equal(torch.get_rng_state(), random_state)
    for module in net.modules():
        assert "forward" not in module.__dict__
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_existing_file_is_refused_before_any_work(x: Tensor, tmp_path: Path) -> None:
    """The message names the file and the option to overwrite it; the model is not run."""
    path = tmp_path / "net.safetensors"
    path.write_text("mine")
    with pytest.raises(CheckpointError, match=r"net\.safetensors.*exists already.*force"):
        export(None, (x,), path)
    assert path.read_text() == "mine"


def test_force_replaces_the_file(net: NestedModel, x: Tensor, tmp_path: Path) -> None:
    """With force the old file stays until the new one is complete."""
    path = tmp_path / "net.safetensors"
    path.write_text("mine")
    with pytest.raises(ExportError):
        export(net, (x,), path, force=True, input_names=())
    assert path.read_text() == "mine"
    assert export(net, (x,), str(path), force=True, verify=False) == path
    Checkpoint.open(path).close()
    assert list(tmp_path.iterdir()) == [path]


def test_missing_folder_is_refused(net: NestedModel, x: Tensor, tmp_path: Path) -> None:
    """The folder must exist."""
    with pytest.raises(CheckpointError, match="does not exist"):
        export(net, (x,), tmp_path / "absent" / "net.safetensors")


@pytest.mark.parametrize(
    "values", [[0.5], [0.1, 0.2, 0.3], [0.5, float("nan")], [float("inf"), 1.0], 0.5, ["good", "bad"], None]
)
def test_metrics_need_one_finite_value_per_level(net: NestedModel, x: Tensor, tmp_path: Path, values: object) -> None:
    """Other values are refused, with the metric's name and the number of levels."""
    with pytest.raises(ExportError, match=r"metrics\['accuracy'\]: expected .*2 "):
        export(net, (x,), tmp_path / "net.safetensors", metrics={"accuracy": values})


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        (torch.randn(1, 4, 6, 5), r"must be a tuple of tensors, e\.g\. \(x,\), got Tensor"),
        ((), "must be a tuple"),
        ((np.zeros((1, 4, 6, 5)),), r"example_inputs\[0\] must be a tensor, got ndarray"),
        ((torch.zeros(0, 4, 6, 5),), r"example_inputs\[0\] is empty"),
        ((torch.randn(1, 3, 6, 5),), r"fails on the example inputs \[\[1, 3, 6, 5\]\]"),
    ],
)
def test_bad_examples_are_refused(net: NestedModel, tmp_path: Path, examples: object, message: str) -> None:
    """The message has the problem of the example inputs."""
    with pytest.raises(ExportError, match=message):
        export(net, examples, tmp_path / "net.safetensors")


def test_norm_without_statistics_is_named(x: Tensor, tmp_path: Path) -> None:
    """A norm with batch statistics cannot be folded: the error has its name and the next step."""
    model = Small()
    model.norm = nn.BatchNorm2d(4, track_running_stats=False)
    net = nest(model, densities=DENSITIES)
    with pytest.raises(ExportError, match=r"module 'norm' \(LevelBatchNorm\).*track_running_stats=True"):
        export(net, (x,), tmp_path / "net.safetensors")


def test_model_without_a_called_nested_layer_is_refused(tmp_path: Path) -> None:
    """A file without nested layers would have no levels."""
    net = nest(nn.Sequential(nn.Linear(4, 4)), densities=DENSITIES)
    net.model.forward = lambda x: x + 1
    with pytest.raises(ExportError, match="calls no nested layer"):
        export(net, (torch.randn(2, 4),), tmp_path / "net.safetensors")


def test_single_layer_is_a_model(tmp_path: Path) -> None:
    """A model may be one layer."""
    net = nest(nn.Linear(6, 5), densities=DENSITIES)
    example = torch.randn(1, 6)
    with Session(export(net, (example,), tmp_path / "net.safetensors"), threads=1) as session:
        got = session.run({"input": example.numpy()})["output"]
    np.testing.assert_allclose(got, net(example).detach(), atol=1e-5)


def test_fixed_batch_is_exported_and_checked(tmp_path: Path) -> None:
    """A model of one batch size runs with it."""
    net = nest(nn.Sequential(nn.Linear(6, 6), nn.Unflatten(0, (1, 3)), nn.Flatten(0, 1)), densities=DENSITIES)
    path = export(net, (torch.randn(3, 6),), tmp_path / "net.safetensors", fixed_batch=True)
    with Session(path, threads=1) as session:
        assert session.inputs[0].shape == (3, 6)


def test_resnet50_at_64_pixels(tmp_path: Path) -> None:
    """The benchmark's network has 54 nested nodes, all else folded, and torch's answers at both levels."""
    torch.manual_seed(0)
    net = nest(resnet50(), densities=(0.0538, 0.1338), pattern="block4x1")
    path = export(net, (torch.randn(1, 3, 64, 64),), tmp_path / "resnet50.safetensors")
    with Checkpoint.open(path) as checkpoint:
        assert len(checkpoint.layers) == 54
        assert checkpoint.graph().count(b"NestedConv") == 53
        assert not any(operator in checkpoint.graph() for operator in (b"Relu", b"Add", b"BatchNormalization"))


@pytest.mark.slow
def test_resnet50_at_224_pixels_costs_the_storage_of_its_densest_level(tmp_path: Path) -> None:
    """At full size it answers as torch does, and the second level costs at most 5 % of the file."""
    torch.manual_seed(0)
    sizes = []
    for densities in ((0.0538, 0.1338), (0.1338,)):
        net = nest(resnet50(), densities=densities, pattern="block4x1")
        path = export(net, (torch.randn(1, 3, 224, 224),), tmp_path / f"{len(densities)}.safetensors")
        sizes.append(path.stat().st_size)
    assert sizes[0] <= 1.05 * sizes[1]


def test_inputs_of_other_batches_are_said(tmp_path: Path) -> None:
    """Where the graph fails on them."""

    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return torch.cat([self.layer(x), y], dim=1)

    net = nest(Beside().eval(), densities=(0.5,))
    path = export(net, (torch.rand(2, 4), torch.rand(2, 4)), tmp_path / "net.safetensors")
    with Session(path, threads=1) as session:
        inputs = {"x": np.ones((2, 4), np.float32), "y": np.ones((3, 4), np.float32)}
        with pytest.raises(InputError, match=r"'y': its dimension 0, the batch, is 3, but that of input 'x' is 2"):
            session.run(inputs)
