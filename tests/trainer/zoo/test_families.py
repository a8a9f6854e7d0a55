"""Families: a minimal net of each, trained by its recipe on made-up data, as a file, and all served by one server."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nested_sparse.errors import TrainingError
from nested_sparse.runtime import Session
from nested_sparse.serving.bench.serving.server_process import running_server
from nested_sparse.toml_file import read_toml
from nested_sparse.trainer import NestedModel, export, file_metrics, metrics_per_level
from nested_sparse.trainer.recipes.recipe import FOLDER, Recipe, load_recipe
from nested_sparse.trainer.recipes.run import start, train_by

LEVELS = (0.1, 0.4, 0.8)
SHORT = ("train.dense_epochs=1", "train.search_epochs=1", "nesting.epochs=1", "train.threads=1", "train.lr=0.01")


def ranked(folder: Path) -> list[str]:
    """Lists of 1 to 9 documents, whose relevance is that of their first feature."""
    rng, arrays = np.random.default_rng(0), {}
    for part, queries in (("train", 40), ("test", 12)):
        ends = np.concatenate([[0], np.cumsum(rng.integers(1, 10, queries))])
        rows = rng.random((int(ends[-1]), 7)).astype(np.float32)
        arrays |= {f"X_{part}": rows, f"y_{part}": (4 * rows[:, 0]).astype(np.uint8), f"qptr_{part}": ends}
    np.savez(folder / "lists.npz", **arrays)
    return [f"data.file={folder / 'lists.npz'}", "model.width=16", "model.depth=1", "model.heads=2"]


def linked(folder: Path) -> list[str]:
    """A graph of 30 nodes, of three classes, of which each has words of its own."""
    rng, nodes = np.random.default_rng(0), 30
    classes = np.arange(nodes) % 3
    words = np.concatenate([np.sort(rng.choice(4, 2, replace=False)) + 4 * each for each in classes])
    masks = {f"{part}_mask": np.arange(nodes) // 10 == index for index, part in enumerate(("train", "val", "test"))}
    edges = rng.integers(0, nodes, (2, 60)).astype(np.uint16)
    np.savez(
        folder / "graph.npz",
        x_shape=np.array([nodes, 12]),
        x_indptr=np.arange(nodes + 1) * 2,
        x_indices=words,
        edge_index=edges,
        y=classes,
        **masks,
    )
    return [f"data.file={folder / 'graph.npz'}", "data.steps=4", "model.width=4", "model.heads=2"]


def written(folder: Path) -> list[str]:
    """A text whose words come again, in a gzipped file, and another."""
    (folder / "train.gz").write_bytes(gzip.compress(b"one two three, " * 60))
    (folder / "test").write_bytes(b"two three, one " * 12)
    files = [f"data.train_file={folder / 'train.gz'}", f"data.test_file={folder / 'test'}"]
    return [*files, "data.length=16", "data.batch_size=16", "model.width=16", "model.depth=1", "model.heads=2"]


def spoken(folder: Path) -> list[str]:
    """Clips of noise of three speakers, two clips of each digit; the third speaker is the test set."""
    rng, clips = np.random.default_rng(0), 60
    np.savez(
        folder / "spoken.npz",
        codes=rng.integers(0, 256, clips * 500).astype(np.uint8),
        lut=np.linspace(-30000, 30000, 256).astype(np.int16),
        offsets=np.arange(clips + 1) * 500,
        label=np.arange(clips) % 10,
        index=np.arange(clips) // 10 % 2,
        speaker=np.arange(clips) // 20,
        speakers=np.array(["ann", "bob", "theo"]),
    )
    return [f"data.file={folder / 'spoken.npz'}", "data.test_speakers=['theo']", "model.width=8"]


def seen(folder: Path) -> list[str]:
    """Clouds of 20 points of noise."""
    rng, arrays = np.random.default_rng(0), {}
    for part, count in (("train", 40), ("test", 12)):
        arrays |= {
            f"xyz_{part}": rng.integers(-1000, 1000, (count, 20, 3)).astype(np.int16),
            f"doppler_{part}": rng.integers(-8, 8, (count, 20)).astype(np.int8),
            f"intensity_{part}": rng.integers(0, 200, (count, 20)).astype(np.uint8),
            f"y_{part}": np.arange(count) % 3,
        }
    np.savez(folder / "points.npz", **arrays)
    return [f"data.file={folder / 'points.npz'}", "model.width=8", "model.centres=8", "model.neighbours=4"]


def pictured(folder: Path) -> list[str]:
    """Images of noise, in the four IDX files."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 64), ("t10k", 20)):
        images, labels = rng.integers(0, 256, (count, 12, 12)), np.arange(count) % 10
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            head = struct.pack(f">I{array.ndim}I", 0x800 + array.ndim, *array.shape)
            (folder / f"{part}-{name}-ubyte").write_bytes(head + array.astype(np.uint8).tobytes())
    return [f"data.directory={folder}"]


def pictured_for_resnet(folder: Path) -> list[str]:
    """The same, for ResNet-20."""
    return [*pictured(folder), "model.width=4", "nesting.shares=[]"]


def pictured_for_mobilenet(folder: Path) -> list[str]:
    """The same, for MobileNetV2."""
    return [*pictured(folder), "model.width=0.1", "model.strides=[2, 1, 2, 1, 1, 1, 1, 1]"]


def composed(folder: Path) -> list[str]:
    """Scenes of the same images."""
    images, *_ = pictured(folder)
    scenes = ["data.size=32", "data.epoch_scenes=32", "data.batch_size=8", "data.scored_scenes=10", "data.most=3"]
    return [images, *scenes, "model.size=32", "model.width=4", "model.sizes=[6, 10, 14]"]


def composed_with_masks(folder: Path) -> list[str]:
    """The same, for the net of two stages."""
    return [*composed(folder)[:-1], "model.sizes=[6, 12]", "model.proposals=6", "model.hidden=16"]


def paired(folder: Path) -> list[str]:
    """Sentences of one to four words, of which each has its own translation."""
    rng = np.random.default_rng(0)
    english, german = ("one", "two", "three", "four"), ("eins", "zwei", "drei", "vier")
    settings = ["data.vocabulary=12", "data.length=6", "data.batch_size=16", "model.width=16", "model.depth=2"]
    for part, count in (("train", 48), ("test", 10)):
        rows = [rng.integers(0, 4, rng.integers(1, 5)) for _ in range(count)]
        for side, words in (("source", english), ("target", german)):
            (folder / f"{part}.{side}").write_text("".join(" ".join(words[i] for i in row) + "\n" for row in rows))
            settings.append(f"data.{part}_{side}={folder / f'{part}.{side}'}")
    return settings


def paired_of_places(folder: Path) -> list[str]:
    """The same, for the net that has a position for each word."""
    return [*paired(folder), "model.heads=2", "model.longest=6"]


def shaped(folder: Path) -> list[str]:
    """Clouds of 32 points, two of each kind to score."""
    clouds = ["data.train_clouds=80", "data.test_clouds=10", "data.points=32"]
    return [*clouds, "model.width=16", "model.centres=12", "model.neighbours=4"]


FAMILIES: dict[str, Callable[[Path], list[str]]] = {
    "lightgbm-rank": ranked,
    "cora": linked,
    "bytes": written,
    "spoken-digits-by-speaker": spoken,
    "radhar": seen,
    "shapes": shaped,
    "fashion-mnist": pictured_for_resnet,
    "fashion-mnist-mobile": pictured_for_mobilenet,
    "fashion-mnist-scenes": composed,
    "fashion-mnist-scenes-masks": composed_with_masks,
    "multi30k-gnmt": paired,
    "multi30k-translator": paired_of_places,
}


def test_each_network_of_a_recipe_is_a_family() -> None:
    """But the small net of digits, which the tests of recipes train."""
    network_of = {path.stem: read_toml(path, TrainingError)["model"]["name"] for path in FOLDER.glob("*.toml")}
    assert set(network_of.values()) - {network_of[name] for name in FAMILIES} == {"digit_net"}


@dataclass(frozen=True)
class Trained:
    """A net, its file, and a batch of scored inputs."""

    recipe: Recipe
    net: NestedModel
    path: Path
    scored: list[Any]

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The first scored batch."""
        first = self.scored[0][0]
        return first if isinstance(first, tuple) else (first,)

    def answer(self, level: int, samples: slice = slice(None)) -> list[np.ndarray]:
        """The outputs of the torch model at `level`."""
        self.net.set_level(level)
        with torch.inference_mode():
            answers = self.net(*(each[samples] for each in self.inputs))
        return [each.numpy() for each in (answers if isinstance(answers, tuple) else (answers,))]


def trained(name: str, folder: Path) -> Trained:
    """The family's recipe, run on little data."""
    folder.mkdir()
    settings = [*SHORT, *FAMILIES[name](folder)]
    recipe = load_recipe(name, [*settings, f"nest.densities={list(LEVELS)}"])
    data, net = start(recipe)
    reports = train_by(recipe, data, net, folder / "run.state", lambda _: None)
    assert len(reports) == 3
    net.eval()
    path, scored = folder / f"{name}.safetensors", list(data.scored())
    metrics = metrics_per_level(net, scored, task=recipe.task)
    export(net, data.example, path, metrics=metrics, fixed_batch=recipe.output.fixed_batch)
    return Trained(recipe, net, path, scored)


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trained]:
    """One trained net of each family."""
    folder = tmp_path_factory.mktemp("families")
    return {name: trained(name, folder / name) for name in FAMILIES}


def near(got: list[np.ndarray], expected: list[np.ndarray]) -> None:
    """Equal but for the order of sums, each output."""
    for mine, wanted in zip(got, expected, strict=True):
        assert mine.shape == wanted.shape
        np.testing.assert_allclose(mine, wanted, rtol=1e-3, atol=1e-4 * float(np.abs(wanted).max()))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_file_answers_as_torch_does_at_each_level(families: dict[str, Trained], name: str) -> None:
    """One sample and many; the levels differ, so none stands in for another. The metrics are the task's."""
    family = families[name]
    with Session(family.path, threads=1) as session:
        names = [spec.name for spec in session.inputs]
        assert len(names) == len(family.inputs)
        answers = []
        for level in session.levels:
            for samples in (slice(0, 1), slice(0, 5)):
                feeds = {key: each[samples].numpy() for key, each in zip(names, family.inputs, strict=True)}
                got = list(session.run(feeds, level=level.index).values())
                near(got, family.answer(level.index, samples))
            answers.append(got)
            assert sorted(level.metrics) == sorted(family.recipe.task.metrics)
    assert len(answers) == len(LEVELS)
    assert not any(np.allclose(below[0], answers[-1][0]) for below in answers[:-1])


@pytest.mark.parametrize("name", FAMILIES)
def test_the_metrics_of_the_file_are_those_of_the_net(families: dict[str, Trained], name: str) -> None:
    """But for what rounding turns: at most one sample's answer."""
    family = families[name]
    of_file = file_metrics(family.path, family.scored, task=family.recipe.task)
    of_net = metrics_per_level(family.net, family.scored, task=family.recipe.task)
    for metric, values in of_net.items():
        assert of_file[metric] == pytest.approx(values, abs=0.11), metric


@pytest.fixture(scope="module")
def address(families: dict[str, Trained]) -> Iterator[str]:
    """One server process of all the files."""
    first, *rest = [family.path for family in families.values()]
    with running_server(first, [*map(str, rest), "--profile-cache", "off"]) as server:
        yield server.address


@pytest.mark.parametrize("name", FAMILIES)
def test_an_unmodified_client_is_served_each_level(families: dict[str, Trained], address: str, name: str) -> None:
    """tritonclient finds the model by its file's name, and gets the level that it asks for."""
    triton = pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")
    family = families[name]
    with triton.InferenceServerClient(address) as client:
        metadata = client.get_model_metadata(name)
        specs = metadata.inputs
        tensors = []
        for spec, each in zip(specs, family.inputs, strict=True):
            array = each[:1].numpy()
            tensors.append(triton.InferInput(spec.name, list(array.shape), spec.datatype))
            tensors[-1].set_data_from_numpy(array)
        for level in range(len(LEVELS)):
            result = client.infer(name, tensors, parameters={"level": level, "slo_ms": 60000.0})
            assert result.get_response().parameters["level"].int64_param == level
            got = [result.as_numpy(output.name) for output in metadata.outputs]
            near(got, family.answer(level, slice(0, 1)))


def test_absent_documents_do_not_change_the_scores_of_a_list(families: dict[str, Trained]) -> None:
    """A list alone, and padded with documents of any features that are not there; these are last."""
    net = families["lightgbm-rank"].net
    net.set_level(-1)
    documents = torch.rand(1, 4, 7, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        alone = net.model(documents)
        padded = net.model(torch.cat([documents, 9 * documents], 1), torch.tensor([[1.0] * 4 + [0.0] * 4]))
    torch.testing.assert_close(padded[:, :4], alone, rtol=1e-4, atol=1e-5)
    assert bool((padded[:, 4:] < alone.min()).all())
