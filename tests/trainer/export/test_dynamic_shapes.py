"""dynamic_shapes: a file whose sizes are free answers as torch does at each of them, and refuses all others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import ExportError, InputError
from nested_sparse.free_size import FreeSize
from nested_sparse.runtime import Session
from nested_sparse.runtime.session import LevelCell
from nested_sparse.trainer import export, nest
from nested_sparse.trainer.model.nested_model import NestedModel

WIDTH, TOKENS, PLACES = 16, 20, 24


def nested(model: nn.Module) -> NestedModel:
    """`model` with two levels, norms of which have been fed with something."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.running_mean)
    return nest(model.eval(), densities=(0.2, 0.6), pattern="block4x1")


def agree(net: NestedModel, session: Session, feeds: Mapping[str, np.ndarray], level: int = -1) -> None:
    """The file answers as torch does."""
    net.set_level(level)
    with torch.no_grad():
        expected = net.eval()(*(torch.from_numpy(array) for array in feeds.values()))
    answers = list(session.run(dict(feeds), level=level).values())
    for one, got in zip([expected] if isinstance(expected, Tensor) else expected, answers, strict=True):
        assert got.shape == one.shape
        np.testing.assert_allclose(got, one.numpy(), rtol=1e-4, atol=1e-4 * float(one.abs().max()))


class Encoder(nn.Module):
    """A Transformer encoder over tokens, with learned positions and a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(TOKENS, WIDTH), nn.Embedding(PLACES, WIDTH)
        self.layer = nn.TransformerEncoderLayer(WIDTH, 2, 32, batch_first=True)
        self.head = nn.Linear(WIDTH, TOKENS)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1]))
        return self.head(self.layer(x, src_key_padding_mask=mask == 0))


def test_the_length_of_a_sequence(tmp_path: Path) -> None:
    """From 1 to its bound, any batch, every level; beyond the bound, and for two lengths, the error says so."""
    length = Dim("length", max=PLACES)
    net = nested(Encoder())
    example = torch.randint(0, TOKENS, (1, 7)), torch.ones(1, 7, dtype=torch.int64)
    path = export(
        net, example, tmp_path / "m.safetensors", dynamic_shapes=({0: "batch", 1: length}, {0: "batch", 1: length})
    )
    with Session(path, threads=1) as session:
        batch, free = FreeSize("batch", batch=True), FreeSize("length", most=PLACES)
        assert session.inputs[0].free == session.inputs[1].free == (batch, free)
        assert session.outputs[0].free == (batch, free, None)
        assert session.rows == "independent"
        rng = np.random.default_rng(0)
        for count, size, level in ((1, 1, 0), (1, 1, 1), (3, 13, 0), (2, PLACES, 1), (1, 7, 0), (5, 2, 1)):
            mask = rng.integers(0, 2, (count, size))
            mask[:, 0] = 1
            agree(net, session, {"ids": rng.integers(0, TOKENS, (count, size)), "mask": mask}, level)
        wrong = np.ones((1, PLACES + 1), np.int64)
        with pytest.raises(InputError, match=f"'length', may be 1 to {PLACES}, got {PLACES + 1}"):
            session.run({"ids": wrong, "mask": wrong})
        with pytest.raises(InputError, match="'length', is 5, but that of input 'ids' is 6; they must be equal"):
            session.run({"ids": wrong[:, :6], "mask": wrong[:, :5]})


class Images(nn.Module):
    """A fully convolutional net: strides, a residual, a pool between convolutions, batch norms, a global mean."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16)
        self.second, self.third = nn.Conv2d(16, 16, 3, 1, 1), nn.Conv2d(16, 16, 1)
        self.depthwise = nn.Conv2d(16, 16, 3, 1, 1, groups=16)
        self.last = nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.relu(self.norm(self.first(x)))
        x = nn.functional.max_pool2d(torch.relu(self.second(x) + x), 3, 2, 1)
        x = torch.relu(self.depthwise(torch.relu(self.third(x))))
        return self.last(x), x.mean((2, 3))


@pytest.mark.parametrize("values", ["float32", "float16"])
def test_the_size_of_an_image(tmp_path: Path, values: str) -> None:
    """Height and width apart, in tiled images, whose sizes are known at run time only."""
    net = nested(Images())
    path = export(
        net,
        (torch.randn(2, 3, 16, 16),),
        tmp_path / "m.safetensors",
        dynamic_shapes={"x": {0: "batch", 2: "height", 3: Dim.DYNAMIC}},
        values=values,
    )
    with Session(path, threads=1) as session:
        names = [free and free.name for free in session.inputs[0].free]
        assert names == ["batch", None, "height", "input_3"]
        least = max(free.least for free in session.inputs[0].free if free)
        rng = np.random.default_rng(0)
        for shape, level in (((1, 16, 16), 0), ((2, 33, 7), 1), ((1, 5, 64), 0), ((3, least, least), 1)):
            image = rng.standard_normal((shape[0], 3, *shape[1:])).astype(np.float32)
            if values == "float32":
                agree(net, session, {"input": image}, level)
            else:
                assert session.run({"input": image}, level=level)["output_0"].shape[0] == shape[0]


def test_an_image_in_bytes(tmp_path: Path) -> None:
    """An int8 file was calibrated at one size, and answers at others as well as there."""
    net = nested(Images())
    path = export(
        net,
        (torch.randn(2, 3, 16, 16),),
        tmp_path / "m.safetensors",
        dynamic_shapes={"x": {0: "batch", 2: "height", 3: "width"}},
        values="int8",
        calibration=[(torch.randn(8, 3, 16, 16), None) for _ in range(4)],
    )
    image = torch.randn(2, 3, 37, 22)
    net.set_level(1)
    with torch.no_grad():
        expected = net.eval()(image)
    with Session(path, threads=1) as session:
        got = session.run({"input": image.numpy()}, level=1).values()
    for one, array in zip(expected, got, strict=True):
        assert array.shape == one.shape
        assert float((torch.from_numpy(array) - one).pow(2).mean() / one.pow(2).mean()) < 0.2**2


def test_a_level_lowered_in_mid_run_at_another_size(tmp_path: Path) -> None:
    """The cell's level holds for all layers that follow, as at the example's size."""
    net = nested(Images())
    dims = {"x": {0: "batch", 2: "height", 3: "width"}}
    path = export(net, (torch.randn(1, 3, 16, 16),), tmp_path / "m.safetensors", dynamic_shapes=dims)
    image = np.random.default_rng(1).standard_normal((1, 3, 21, 34)).astype(np.float32)
    with Session(path, threads=1) as session:
        cell = LevelCell(1)
        cell.lower(0)
        lowered = session.run({"input": image}, cell)
        for name, array in session.run({"input": image}, 0).items():
            np.testing.assert_array_equal(lowered[name], array)


class Step(nn.Module):
    """A step of a decoder: tokens, and the keys and values of those before them."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(TOKENS, WIDTH)
        self.queries, self.keys, self.values = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.head = nn.Linear(WIDTH, TOKENS)

    def forward(self, ids: Tensor, mask: Tensor, past: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        x = self.tokens(ids)
        keys = torch.cat([past[0], self.keys(x)], 1)
        values = torch.cat([past[1], self.values(x)], 1)
        weights = (self.queries(x) @ keys.transpose(1, 2)).masked_fill(mask[:, None] == 0, -1e9).softmax(-1)
        return self.head(weights @ values), [keys, values]


def test_the_past_of_a_cache(tmp_path: Path) -> None:
    """Two free sizes, and a mask over their sum, which the exporter finds by itself."""
    net = nested(Step())
    past = {0: "batch", 1: Dim("past", min=1, max=64)}
    example = torch.randint(0, TOKENS, (1, 1)), torch.ones(1, 5, dtype=torch.int64), [torch.randn(1, 4, WIDTH)] * 2
    path = export(
        net,
        example,
        tmp_path / "m.safetensors",
        dynamic_shapes={"ids": {0: "batch", 1: "length"}, "mask": {0: "batch", 1: "seen"}, "past": [past, past]},
    )
    rng = np.random.default_rng(0)

    def feeds(batch: int, length: int, before: int, seen: int) -> dict[str, np.ndarray]:
        cache = [rng.standard_normal((batch, before, WIDTH)).astype(np.float32) for _ in range(2)]
        return {
            "ids": rng.integers(0, TOKENS, (batch, length)),
            "mask": np.ones((batch, seen), np.int64),
            "past_0": cache[0],
            "past_1": cache[1],
        }

    with Session(path, threads=1) as session:
        assert session.inputs[1].free[1] == FreeSize("seen", terms=("past", "length"))
        for batch, length, before, level in ((1, 1, 1, 0), (2, 1, 63, 1), (3, 6, 17, 0)):
            given = feeds(batch, length, before, before + length)
            net.set_level(level)
            arrays = [torch.from_numpy(array) for array in given.values()]
            with torch.no_grad():
                expected, cache = net(arrays[0], arrays[1], arrays[2:])
            got = list(session.run(given, level=level).values())
            for one, array in zip([expected, *cache], got, strict=True):
                np.testing.assert_allclose(array, one.numpy(), atol=1e-4)
        with pytest.raises(InputError, match=r"'seen' must be past \+ length, here 9, got 8"):
            session.run(feeds(1, 2, 7, 8))
        with pytest.raises(InputError, match="'past', may be 1 to 64, got 65"):
            session.run(feeds(1, 1, 65, 66))


class Graph(nn.Module):
    """Two layers over the nodes of a graph, which is given by its edges."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, WIDTH), nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        for layer in (self.first, self.second):
            x = torch.relu(layer(x))
            x = x + torch.zeros_like(x).index_add(0, edges[1], x[edges[0]])
        return x


def test_the_nodes_of_a_graph(tmp_path: Path) -> None:
    """Nodes and edges are free, there is no batch, and no requests are joined."""
    net = nested(Graph())
    example = torch.randn(9, 6), torch.randint(0, 9, (2, 14))
    dims = {"x": {0: "nodes"}, "edges": {1: "edges"}}
    path = export(net, example, tmp_path / "m.safetensors", dynamic_shapes=dims)
    rng = np.random.default_rng(0)
    with Session(path, threads=1) as session:
        assert [spec.batch_axis for spec in session.inputs] == [None, None]
        assert session.rows is None
        for nodes, edges in ((1, 1), (30, 100), (7, 3)):
            x = rng.standard_normal((nodes, 6)).astype(np.float32)
            agree(net, session, {"x": x, "edges": rng.integers(0, nodes, (2, edges))})


class Halves(nn.Module):
    """Halves an image and doubles it again: only multiples of 4 come back as they were."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + nn.functional.interpolate(self.up(torch.relu(self.down(x))), scale_factor=4.0)


def test_a_size_that_must_be_a_multiple(tmp_path: Path) -> None:
    """As torch writes it: a number times a Dim."""
    net = nested(Halves())
    height, width = 4 * Dim("h", max=16), 4 * Dim("w", max=16)
    example = (torch.randn(2, 3, 8, 12),)
    path = export(net, example, tmp_path / "m.safetensors", dynamic_shapes=({2: height, 3: width},))
    with Session(path, threads=1) as session:
        assert session.inputs[0].shape == (2, 3, None, None)
        agree(net, session, {"input": np.ones((2, 3, 4, 64), np.float32)})
        with pytest.raises(InputError, match=r"'4\*h', may be 4 to 64, a multiple of 4, got 10"):
            session.run({"input": np.ones((2, 3, 10, 12), np.float32)})


def test_only_a_free_batch_is_a_file_as_before(tmp_path: Path) -> None:
    """Old readers can open it, and its graph is that of a file without dynamic_shapes."""
    net = nested(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)))
    example = (torch.randn(3, 6),)
    plain = export(net, example, tmp_path / "plain.safetensors")
    named = export(net, example, tmp_path / "named.safetensors", dynamic_shapes=({0: "samples"},))
    with Checkpoint.open(plain) as one, Checkpoint.open(named) as other:
        assert other.metadata.format_version == 1
        assert (other.inputs, other.outputs, other.rows) == (one.inputs, one.outputs, one.rows)


class Constant(nn.Module):
    """Takes the length of its input for a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 8)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.linear(x.reshape(2, 5, 6)) + y[:, :, None]


@pytest.mark.parametrize(
    ("dims", "words"),
    [
        ({"x": {1: "length"}}, "treats dimension 1 of input 'x' as a constant"),
        ({"z": {1: "length"}}, "forward has no parameter 'z'; its parameters are x, y"),
        ({"x": {3: "length"}}, "input 'x' has the dimensions 0 to 2, got 3"),
        ({"x": {1: 7}}, "input 'x', dimension 1 is fixed at 7, but its example has 5"),
        ({"x": {1: 1.5}}, "expected a name, a torch.export.Dim"),
        ({"x": (None, "length")}, "has 3 dimensions, got 2 entries"),
        ({"x": "length"}, "expected a dict by dimension or a tuple"),
        ({"x": {1: {0: "length"}}}, "expected a name, a torch.export.Dim"),
        ({"x": None, "y": {1: None, "length": "y"}}, "has the dimensions 0 to 1, got 'length'"),
        ("length", "expected a dict by forward's parameters"),
        (({}, {}, {}), "has 3 entries, example_inputs 2 arguments"),
        ({"x": {1: Dim("length", max=4)}}, "'length' may be 1 to 4, but its example has 5"),
        ({"x": {1: 3 * Dim("third")}}, "a multiple of 3, but its example has 5"),
        ({"x": {1: "length", 2: "length"}}, "the examples have the sizes 5 and 6 of 'length'"),
        ({"x": {1: "length"}, "y": {1: Dim("length", max=9)}}, "'length' has two ranges"),
    ],
)
def test_what_cannot_be_free_is_named(tmp_path: Path, dims: Any, words: str) -> None:
    """The input, the dimension, and what to do; nothing is written."""
    net = nested(Constant())
    with pytest.raises(ExportError, match=words):
        export(net, (torch.randn(2, 5, 6), torch.randn(2, 5)), tmp_path / "m.safetensors", dynamic_shapes=dims)
    assert not list(tmp_path.iterdir())


class Sum(nn.Module):
    """Adds two sequences of one length."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 8)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.linear(x + y)


def test_sizes_that_the_model_needs_to_be_equal_want_one_name(tmp_path: Path) -> None:
    """Two names would promise that they may differ."""
    net = nested(Sum())
    with pytest.raises(ExportError, match="needs 'a' and 'b' to be equal"):
        export(net, (torch.randn(2, 5, 6),) * 2, tmp_path / "m.safetensors", dynamic_shapes=({1: "a"}, {1: "b"}))
    with pytest.raises(ExportError, match="leave fixed_batch out"):
        export(net, (torch.randn(2, 5, 6),) * 2, tmp_path / "m.safetensors", fixed_batch=True, dynamic_shapes=({}, {}))


class Places(nn.Module):
    """Has learned places for so many tokens only."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.places = nn.Linear(6, 8), nn.Embedding(PLACES, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + self.places(torch.arange(x.shape[1]))


def test_a_range_that_the_model_does_not_have_is_found(tmp_path: Path) -> None:
    """The largest size is tried before the file gets its name."""
    net = nested(Places())
    dims = ({0: "batch", 1: Dim("length", max=PLACES + 1)},)
    with pytest.raises(ExportError, match=rf"the model fails on inputs of \[2, {PLACES + 1}, 6\].*Dim\('length'"):
        export(net, (torch.randn(2, 5, 6),), tmp_path / "m.safetensors", dynamic_shapes=dims)
    assert not list(tmp_path.iterdir())
