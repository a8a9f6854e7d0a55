"""Graph: nodes with features and classes, of which some train and others are scored."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nested_sparse.errors import TrainingError

from ..tasks.task import IGNORED
from .files import check_array, read_arrays

PARTS = ("train", "val", "test")
MOST_NODES = 20_000
"""The adjacency is dense: 1.6 GB at this size."""


@dataclass(frozen=True, slots=True)
class Graph:
    """A graph as a batch of one. features: float32 (1, nodes, F), each node's sum is 1 or 0.

    adjacency: float32 (1, nodes, nodes), 1 where there is an edge, and on the diagonal. targets: by part ("train",
    "val", "test") the classes int64 (1, nodes), -100 at the nodes of other parts. classes: number of them.
    """

    features: Tensor
    adjacency: Tensor
    targets: dict[str, Tensor]
    classes: int

    @property
    def inputs(self) -> tuple[Tensor, Tensor]:
        """The features and the adjacency."""
        return self.features, self.adjacency


def load_graph(path: str | Path) -> Graph:
    """The graph of the .npz file `path`, as of the Planetoid data sets.

    The file's arrays: x_shape (2,), nodes and features; x_indptr (nodes + 1,) and x_indices, the features that each
    node has; edge_index (2, edges), each edge both ways or one; y (nodes,), classes from 0; train_mask, val_mask,
    test_mask bool (nodes,). Raises TrainingError.
    """
    path = Path(path)
    names = ("x_shape", "x_indptr", "x_indices", "edge_index", "y", *(f"{part}_mask" for part in PARTS))
    arrays = read_arrays(path, names)
    nodes, features = _checked_sizes(path, arrays)
    words = np.zeros((nodes, features), np.float32)
    words[np.repeat(np.arange(nodes), np.diff(arrays["x_indptr"])), arrays["x_indices"]] = 1
    words /= np.maximum(1, words.sum(1, keepdims=True))
    adjacency = np.eye(nodes, dtype=np.float32)
    begins, ends = arrays["edge_index"].astype(np.int64)
    adjacency[begins, ends] = adjacency[ends, begins] = 1
    classes = torch.from_numpy(arrays["y"].astype(np.int64))
    targets = {part: torch.where(torch.from_numpy(arrays[f"{part}_mask"]), classes, IGNORED)[None] for part in PARTS}
    return Graph(torch.from_numpy(words)[None], torch.from_numpy(adjacency)[None], targets, int(classes.max()) + 1)


def _checked_sizes(path: Path, arrays: dict[str, NDArray[Any]]) -> tuple[int, int]:
    """Numbers of nodes and features, after the check of every array."""
    check_array(path, "x_shape", arrays["x_shape"], "iu", (2,))
    nodes, features = map(int, arrays["x_shape"])
    if not (0 < nodes <= MOST_NODES and 0 < features <= 1_000_000):
        raise TrainingError(f"{path}: x_shape: expected 1 to {MOST_NODES} nodes with features, got {nodes}, {features}")
    count, edges = arrays["x_indices"].size, arrays["edge_index"].size // 2
    shapes = {"x_indptr": (nodes + 1,), "x_indices": (count,), "edge_index": (2, edges), "y": (nodes,)}
    for name, shape in shapes.items():
        check_array(path, name, arrays[name], "iu", shape)
    for part in PARTS:
        check_array(path, f"{part}_mask", arrays[f"{part}_mask"], "b", (nodes,))
        if not arrays[f"{part}_mask"].any():
            raise TrainingError(f"{path}: {part}_mask: expected at least one node")
    starts = arrays["x_indptr"].astype(np.int64)
    if starts[0] != 0 or starts[-1] != count or (np.diff(starts) < 0).any():
        raise TrainingError(f"{path}: x_indptr: expected to rise from 0 to {count}, the number of x_indices")
    for name, limit in (("x_indices", features), ("edge_index", nodes), ("y", 1 << 20)):
        values = arrays[name]
        if values.size and not (int(values.min()) >= 0 and int(values.max()) < limit):
            raise TrainingError(f"{path}: {name}: expected numbers from 0 to {limit - 1}")
    return nodes, features
