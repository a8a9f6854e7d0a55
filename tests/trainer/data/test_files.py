"""Data files: lists, graphs, texts and speakers, as they are read, and what is wrong with those that are not."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nested_sparse.errors import TrainingError
from nested_sparse.trainer.data.datasets import Bytes, Planetoid, Rank
from nested_sparse.trainer.data.graph import load_graph
from nested_sparse.trainer.data.lists import load_lists
from nested_sparse.trainer.data.points import load_radhar
from nested_sparse.trainer.data.speech import load_fsdd
from nested_sparse.trainer.data.text import load_bytes
from support import DATA

TWO_POINTS = {"xyz": (1, 2, 3), "doppler": (1, 2), "intensity": (1, 2), "y": (1,)}
OUTSIDE = "the data set lies outside the repository, in ../shared/data"


def lists() -> dict[str, Any]:
    """Three training lists of 2, 1 and 3 documents, one test list of 4."""
    rows = np.arange(30, dtype=np.float32).reshape(10, 3)
    return {
        "X_train": rows[:6],
        "y_train": np.array([0, 2, 1, 4, 0, 0], np.uint8),
        "qptr_train": np.array([0, 2, 3, 6], np.int32),
        "X_test": rows[6:],
        "y_test": np.array([1, 0, 0, 2], np.uint8),
        "qptr_test": np.array([0, 4], np.int32),
    }


def graph() -> dict[str, Any]:
    """Four nodes; node 1 has no word; the edge 0-1 is there one way, 2-3 both ways."""
    return {
        "x_shape": np.array([4, 5]),
        "x_indptr": np.array([0, 2, 2, 3, 5]),
        "x_indices": np.array([0, 4, 1, 2, 3], np.uint16),
        "edge_index": np.array([[0, 2, 3], [1, 3, 2]], np.uint16),
        "y": np.array([0, 1, 2, 1], np.int8),
        "train_mask": np.array([True, False, False, True]),
        "val_mask": np.array([False, True, False, False]),
        "test_mask": np.array([False, False, True, False]),
    }


def clouds() -> dict[str, Any]:
    """Two training clouds of three points, one test cloud."""
    return {
        "xyz_train": (np.arange(18).reshape(2, 3, 3) - 9).astype(np.int16) * 256,
        "doppler_train": np.array([[-8, 0, 8], [1, 2, 3]], np.int8),
        "intensity_train": np.array([[64, 128, 255], [0, 0, 0]], np.uint8),
        "y_train": np.array([2, 0], np.uint8),
        "xyz_test": np.zeros((1, 3, 3), np.int16),
        "doppler_test": np.zeros((1, 3), np.int8),
        "intensity_test": np.full((1, 3), 64, np.uint8),
        "y_test": np.array([1], np.uint8),
    }


def saved(path: Path, arrays: dict[str, Any]) -> Path:
    """The arrays, but those that are None, in a file."""
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def test_lists_are_padded(tmp_path: Path) -> None:
    """To the longest of both parts; each document stays with its relevance, and the rest says that it is none."""
    train, test = load_lists(saved(tmp_path / "a.npz", lists()))
    documents, present = train.inputs
    assert (documents.shape, present.shape) == ((3, 4, 3), (3, 4))
    assert present.tolist() == [[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0]]
    assert train.labels.tolist() == [[0, 2, -1, -1], [1, -1, -1, -1], [4, 0, 0, -1]]
    assert documents[2, :3].tolist() == lists()["X_train"][3:].tolist()
    assert not documents[present == 0].any()
    assert test.labels.tolist() == [[1, 0, 0, 2]]


def test_batches_keep_the_inputs_of_a_list_together(tmp_path: Path) -> None:
    """Noise is for the documents alone, and the example is one list."""
    data = Rank(file=saved(tmp_path / "a.npz", lists()), batch_size=2, noise=0.01).load(3)
    assert [tuple(each.shape) for each in data.example] == [(1, 4, 3), (1, 4)]
    assert data.facts["features"] == 3
    for (documents, present), relevances in data.batches(0):
        assert torch.equal(present, (relevances >= 0).float())
        assert len(documents) == 2
        assert bool((documents != documents.round()).any())


def test_a_graph_is_as_its_file_says(tmp_path: Path) -> None:
    """Features have the sum 1, edges go both ways, each node sees itself; a target belongs to one part."""
    got = load_graph(saved(tmp_path / "a.npz", graph()))
    words = [[0.5, 0, 0, 0, 0.5], [0] * 5, [0, 1, 0, 0, 0], [0, 0, 0.5, 0.5, 0]]
    assert got.features[0].tolist() == words
    assert got.adjacency[0].tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    assert got.targets["train"].tolist() == [[0, -100, -100, 1]]
    assert got.targets["val"].tolist() == [[-100, 1, -100, -100]]
    assert got.targets["test"].tolist() == [[-100, -100, 2, -100]]
    assert got.classes == 3
    data = Planetoid(file=tmp_path / "a.npz", steps=7, evaluate_on="validation").load(0)
    assert len(list(data.batches(0))) == 7
    (((_, _), targets),) = data.scored()
    assert torch.equal(targets, got.targets["val"])


@pytest.mark.parametrize("packed", [False, True])
def test_each_byte_is_followed_by_the_next(tmp_path: Path, packed: bool) -> None:
    """Windows do not overlap, and the byte behind a window is a target, too."""
    text = bytes(range(200, 230))
    path = tmp_path / ("text.gz" if packed else "text")
    path.write_bytes(gzip.compress(text) if packed else text)
    samples = load_bytes(path, 7)
    assert samples.inputs.tolist() == [list(text[begin : begin + 7]) for begin in (0, 7, 14, 21)]
    assert samples.labels.tolist() == [list(text[begin + 1 : begin + 8]) for begin in (0, 7, 14, 21)]
    assert len(load_bytes(path, 29)) == 1
    with pytest.raises(TrainingError, match="expected at least 31 bytes, a window and the next, got 30"):
        load_bytes(path, 30)


@pytest.mark.parametrize(
    ("load", "arrays", "change", "said"),
    [
        (load_lists, lists, {"X_test": None}, "lacks X_test"),
        (load_lists, lists, {"X_test": np.zeros((4, 2), np.float32)}, "X_train has 3 features, X_test 2"),
        (load_lists, lists, {"X_train": np.full((6, 3), np.nan)}, "expected finite numbers in X_train"),
        (load_lists, lists, {"X_train": np.zeros(6)}, r"X_train: expected floats \(rows, features\)"),
        (load_lists, lists, {"y_train": np.full(6, -1)}, "relevances from 0 to 30"),
        (load_lists, lists, {"y_train": np.full(6, 31)}, "relevances from 0 to 30"),
        (load_lists, lists, {"y_test": np.zeros(3, int)}, r"y_test: expected whole numbers of shape \(4,\)"),
        (load_lists, lists, {"qptr_train": np.array([0, 4, 3, 6])}, "qptr_train: expected to rise from 0 to 6"),
        (load_lists, lists, {"qptr_train": np.zeros(0, int)}, "qptr_train: expected whole numbers"),
        (load_graph, graph, {"x_shape": np.array([1 << 40, 5])}, "x_shape: expected 1 to 20000 nodes"),
        (load_graph, graph, {"x_indices": np.array([0, 4, 1, 2, 5])}, "x_indices: expected numbers from 0 to 4"),
        (load_graph, graph, {"edge_index": np.array([[0], [-1]])}, "edge_index: expected numbers from 0 to 3"),
        (load_graph, graph, {"edge_index": np.zeros(3, int)}, "edge_index: expected whole numbers of shape"),
        (load_graph, graph, {"x_indptr": np.array([0, 3, 2, 3, 5])}, "x_indptr: expected to rise"),
        (load_graph, graph, {"y": np.array([0, -1, 0, 0])}, "y: expected numbers from 0"),
        (load_graph, graph, {"val_mask": np.zeros(4, bool)}, "val_mask: expected at least one node"),
        (load_graph, graph, {"test_mask": np.ones(4, int)}, "test_mask: expected bools"),
        (load_radhar, clouds, {"y_test": None}, "lacks y_test"),
        (load_radhar, clouds, {"xyz_train": np.zeros((2, 3, 3), np.float32)}, "xyz_train: expected whole numbers"),
        (load_radhar, clouds, {"xyz_test": np.zeros((1, 3), np.int16)}, r"xyz_test: expected .* \(n, points, 3\)"),
        (load_radhar, clouds, {"doppler_train": np.zeros((2, 4), np.int8)}, "doppler_train: expected whole numbers"),
        (load_radhar, clouds, {"y_train": np.array([0, -1])}, "y_train: expected classes from 0"),
        (
            load_radhar,
            clouds,
            {f"{name}_test": np.zeros(shape, np.int8) for name, shape in TWO_POINTS.items()},
            "clouds of train have 3 points, those of test 2",
        ),
    ],
)
def test_malformed_files_are_errors(tmp_path: Path, load: Any, arrays: Any, change: dict[str, Any], said: str) -> None:
    """The error has the file, the array, and the expected values."""
    path = saved(tmp_path / "a.npz", {**arrays(), **change})
    with pytest.raises(TrainingError, match=said) as caught:
        load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(("load", "arrays"), [(load_lists, lists), (load_graph, graph), (load_radhar, clouds)])
def test_files_that_cannot_be_read_are_errors(tmp_path: Path, load: Any, arrays: Any) -> None:
    """Missing, foreign, cut off."""
    path = tmp_path / "a.npz"
    whole = saved(path, arrays()).read_bytes()
    for content in (None, b"", b"no zip", whole[:-200]):
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(TrainingError, match="is not a readable"):
            load(path)


def test_clouds_are_in_metres_without_the_means_of_height_and_intensity(tmp_path: Path) -> None:
    """x, y, z, Doppler and intensity of each point stay together, as channels."""
    train, test = load_radhar(saved(tmp_path / "a.npz", clouds()))
    assert train.labels.tolist() == [2, 0]
    assert test.labels.tolist() == [1]
    assert isinstance(train.inputs, torch.Tensor)
    assert train.inputs.shape == (2, 5, 3)
    assert train.inputs[0, :2].T.tolist() == [[-4.5, -4.0], [-3.0, -2.5], [-1.5, -1.0]]
    assert train.inputs[0, 2].tolist() == [-1.5, 0.0, 1.5]
    assert train.inputs[0, 3].tolist() == [-1.0, 0.0, 1.0]
    assert (train.inputs[0, 4] * 64).tolist() == pytest.approx([64 - 149, 128 - 149, 255 - 149])
    assert torch.count_nonzero(test.inputs) == 0


@pytest.mark.skipif(not (DATA / "radhar").exists(), reason=OUTSIDE)
def test_the_clouds_of_radhar() -> None:
    """1833 and 547 clouds of 512 points, within 5 m, of five activities."""
    train, test = load_radhar(DATA / "radhar" / "radhar_512.npz")
    assert (train.inputs.shape, test.inputs.shape) == ((1833, 5, 512), (547, 5, 512))
    assert torch.bincount(train.labels).tolist() == [322, 363, 336, 378, 434]
    assert float(train.inputs[:, :2].abs().max()) <= 5


def test_speakers_are_split_by_their_names(tmp_path: Path) -> None:
    """All clips of a named speaker, and no other, are the test set; an unknown name is an error."""
    clips = 6
    path = saved(
        tmp_path / "a.npz",
        {
            "codes": np.zeros(clips * 300, np.uint8),
            "lut": np.arange(256).astype(np.int16),
            "offsets": np.arange(clips + 1) * 300,
            "label": np.arange(clips),
            "index": np.full(clips, 9),
            "speaker": np.array([0, 1, 2, 0, 1, 2]),
            "speakers": np.array(["ann", "bob", "cy"]),
        },
    )
    train, test = load_fsdd(path, test_speakers=("bob", "cy"))
    assert train.labels.tolist() == [0, 3]
    assert test.labels.tolist() == [1, 2, 4, 5]
    with pytest.raises(TrainingError, match="there is no 'bo'; did you mean 'bob'"):
        load_fsdd(path, test_speakers=("bo",))
    with pytest.raises(TrainingError, match=r"expected clips of ann, bob, cy .* no training clip"):
        load_fsdd(path, test_speakers=("ann", "bob", "cy"))


def test_bytes_have_no_noise(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"Bytes\.noise: expected 0"):
        Bytes(train_file=tmp_path, test_file=tmp_path, noise=0.1)


@pytest.mark.skipif(not (DATA / "lightgbm_rank").is_dir(), reason=OUTSIDE)
def test_the_rank_example_is_as_documented() -> None:
    train, test = load_lists(DATA / "lightgbm_rank" / "lightgbm_rank.npz")
    assert [tuple(each.shape) for each in train.inputs] == [(201, 27, 301), (201, 27)]
    assert int((test.labels >= 0).sum()) == 768
    assert int(((train.labels > 0).sum(1) == 0).sum()) == 3


@pytest.mark.skipif(not (DATA / "planetoid").is_dir(), reason=OUTSIDE)
def test_cora_is_as_documented() -> None:
    cora = load_graph(DATA / "planetoid" / "cora.npz")
    assert cora.features.shape == (1, 2708, 1433)
    assert int(cora.adjacency.sum()) == 10556 + 2708
    assert [int((each >= 0).sum()) for each in cora.targets.values()] == [140, 500, 1000]
    assert cora.classes == 7
