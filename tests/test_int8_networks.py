"""Int8 networks: exported files answer as the integer reference does, bit for bit, at each level and on each route."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from integer_model import IntegerModel
from torch import Tensor, nn

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.graph.conversions import conversions
from nested_sparse.runtime import Session
from nested_sparse.runtime.profiling import layer_profile
from nested_sparse.runtime.rerouting import RouteGuard, RouteTable
from nested_sparse.slice import slice_checkpoint
from nested_sparse.trainer import export, nest
from nested_sparse.value_type import INT8

DENSITIES = (0.15, 0.4, 0.7)


class Images(nn.Module):
    """A strided stem, two kinds of pooling, a residual sum, depthwise, dilated and grouped windows, hard-swish, means.

    Squeeze-and-excitation, and a sum of two branches that no convolution takes up.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 7, 2, 3, bias=False), nn.BatchNorm2d(16)
        self.point, self.window = nn.Conv2d(16, 24, 1), nn.Conv2d(24, 16, 3, padding=1)
        self.depth, self.wide = nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Conv2d(16, 16, 3, padding=2, dilation=2)
        self.squeeze, self.excite = nn.Conv2d(16, 8, 1), nn.Conv2d(8, 16, 1)
        self.groups, self.head = nn.Conv2d(16, 32, 3, 2, 1, groups=2), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm(self.stem(x))), 3, 2, 1)
        x = F.relu(self.window(F.relu6(self.point(x))) + x)
        x = F.hardswish(self.depth(x))
        x = x + F.relu(self.wide(x))
        x = x * torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        x = F.relu(self.groups(F.avg_pool2d(x, 2)))
        return self.head(x.mean((2, 3)))


class Lines(nn.Module):
    """One spatial dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv1d(2, 12, 5, 2, 2, bias=False), nn.BatchNorm1d(12)
        self.second, self.head = nn.Conv1d(12, 12, 3, padding=1), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.first(x)))
        x = F.relu(self.second(x) + x)
        return self.head(F.max_pool1d(x, 2).mean(2))


class Volumes(nn.Module):
    """Three spatial dimensions: strides, a sum, a window of slices alone, pools with padding, scaled channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv3d(2, 8, 3, (1, 2, 2), 1, bias=False), nn.BatchNorm3d(8)
        self.inner, self.point = nn.Conv3d(8, 8, 3, padding=1), nn.Conv3d(8, 8, 1)
        self.excite, self.last = nn.Conv3d(8, 8, 1), nn.Conv3d(8, 12, (3, 1, 1), dilation=(2, 1, 1))
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.norm(self.stem(x)))
        x = F.max_pool3d(F.relu(self.inner(x) + x), (2, 3, 3), (1, 2, 2), (1, 1, 1))
        x = x + F.relu(self.point(x))
        x = x * torch.sigmoid(self.excite(x.mean((2, 3, 4), keepdim=True)))
        return self.head(self.last(x).mean((2, 3, 4)))


class Vectors(nn.Module):
    """Linear layers alone."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(24, 33), nn.Linear(33, 40), nn.Linear(40, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.second(F.relu6(self.first(x)))))


SHAPES: dict[type[nn.Module], tuple[int, ...]] = {
    Images: (3, 40, 36),
    Lines: (2, 41),
    Volumes: (2, 6, 13, 18),
    Vectors: (24,),
}


def exported(path: Path, kind: type[nn.Module], pattern: str) -> Path:
    """An int8 file of an untrained network, calibrated with random samples."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    net = nest(kind().eval(), densities=DENSITIES, pattern=pattern)
    samples = [(torch.randn(8, *SHAPES[kind]), torch.zeros(8)) for _ in range(2)]
    example = (torch.randn(2, *SHAPES[kind]),)
    return export(net, example, path, values="int8", calibration=samples, verify=pattern == "block4x1")


def random_inputs(path: Path, batch: int) -> dict[str, np.ndarray]:
    with Checkpoint.open(path) as checkpoint:
        (spec,) = checkpoint.inputs
    rng = np.random.default_rng(1)
    return {spec.name: rng.standard_normal((batch, *spec.example_shape[1:])).astype(np.float32)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For the files of this module."""
    return tmp_path_factory.mktemp("int8")


@pytest.fixture(scope="module")
def images(folder: Path) -> Path:
    """An int8 file with every operator of images."""
    return exported(folder / "images.safetensors", Images, "block4x1")


CASES = [(Images, "unstructured"), (Images, "gs8x2"), (Images, "channel"), (Lines, "block8x1"), (Vectors, "block16x1"),
         (Volumes, "block4x1")]  # fmt: skip


@pytest.mark.parametrize(("kind", "pattern"), CASES)
def test_each_level_has_the_bits_of_the_reference(folder: Path, kind: type[nn.Module], pattern: str) -> None:
    """In every pattern, for images, lines, volumes and vectors."""
    assert_answers_as_reference(exported(folder / f"{kind.__name__}-{pattern}.safetensors", kind, pattern))


def test_blocks_of_four_rows_have_the_bits_of_the_reference(images: Path) -> None:
    """Whose file export has verified."""
    assert_answers_as_reference(images)


def assert_answers_as_reference(path: Path) -> None:
    """One sample and several, on one thread and on two."""
    model = IntegerModel(path)
    with Session(path, threads=1) as alone, Session(path, threads=2) as both:
        for batch, session in ((1, both), (5, both), (2, alone)):
            inputs = random_inputs(path, batch)
            for level in range(len(DENSITIES)):
                got, expected = session.run(inputs, level), model.run(inputs, level)
                for name, value in expected.items():
                    assert got[name].tobytes() == value.tobytes(), f"{name} at level {level}, batch {batch}"


def test_each_route_has_the_bits_of_the_reference(images: Path) -> None:
    """Wherever the level falls in a run, what a denser level wrote is read with the denser level's scale."""
    model, inputs = IntegerModel(images), random_inputs(images, 2)
    order = [node.layer for node in layer_profile(images, repeats=1, threads=1)]
    with Session(images, threads=1) as session:
        table = RouteTable.measure(session, repeats=3)
        assert list(table.layers) == [node for node in order if node in model.layers]
        guard = RouteGuard(table)
        for start, end in ((1, 0), (2, 0), (2, 1)):
            plain = session.run(inputs, start)["output"]
            for layer in table.layers:
                guard.force(start, end, layer)
                got = session.run(inputs, start, guard=guard)["output"]
                lowered = order.index(layer)
                levels = {node: end if place >= lowered else start for place, node in enumerate(order)}
                assert got.tobytes() == model.run(inputs, levels)["output"].tobytes(), (start, end, layer)
                assert got.tobytes() != plain.tobytes()
                assert guard.operator_count == len(table.layers)


def test_images_stay_bytes_between_the_layers(images: Path) -> None:
    """They become bytes at the entry; beside that, only the means that are squeezed and excited are converted."""
    with Checkpoint.open(images) as checkpoint:
        assert all(layer.value_type is INT8 for layer in checkpoint.layers)
        found = [(each.to_u8, each.source, each.readers) for each in conversions(checkpoint.graph())]
    assert found[0] == (True, "input", ("stem",))
    assert [(to_u8, readers[0] if to_u8 else source) for to_u8, source, readers in found[1:]] == [
        (True, "squeeze"),
        (False, "excite"),
    ]


def test_a_slice_answers_as_the_whole_file(images: Path, tmp_path: Path) -> None:
    """The first two levels alone, bit for bit."""
    cut, inputs = tmp_path / "cut.safetensors", random_inputs(images, 3)
    slice_checkpoint(images, 2, cut)
    with Session(images, threads=1) as whole, Session(cut, threads=1) as part:
        assert len(part.levels) == 2
        for level in range(2):
            assert part.run(inputs, level)["output"].tobytes() == whole.run(inputs, level)["output"].tobytes()


def test_files_and_memory_are_smaller_than_those_of_floats(images: Path, tmp_path: Path) -> None:
    """Bytes of the file, and of the segments that each level needs."""
    torch.manual_seed(0)
    net = nest(Images().eval(), densities=DENSITIES, pattern="block4x1")
    floats = export(net, (torch.randn(2, *SHAPES[Images]),), tmp_path / "floats.safetensors")
    with Checkpoint.open(images) as ours, Checkpoint.open(floats) as theirs:
        for level in range(len(DENSITIES)):
            assert ours.segment(level).nbytes < 0.6 * theirs.segment(level).nbytes
