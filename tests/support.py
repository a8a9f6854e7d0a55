"""Support: small nested weights and checkpoints that several test folders share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nested_sparse.layouts import Blocks, Layout
from nested_sparse.mapped_file import MappedFile
from nested_sparse.mask import block_scores
from nested_sparse.tensor_spec import TensorSpec
from nested_sparse.weight import NestedWeight
from nested_sparse.writer import LayerRecord, LevelRecord, write_checkpoint

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "docs/examples/fashion-mnist.safetensors"
DATA = ROOT.parent / "shared/data"
"""Folder of data sets. It is missing on most machines; tests that use it are skipped then, with a reason."""


def random_weight(
    rng: np.random.Generator,
    name: str = "layer",
    rows: int = 10,
    columns: int = 12,
    block_rows: int = 4,
    densities: tuple[float, ...] = (0.2, 0.5, 0.9),
    permuted: bool = False,
    layout: Layout | None = None,
    permutation: NDArray[np.int32] | None = None,
) -> NestedWeight:
    """A weight whose levels keep the given shares, by magnitude, of what its layout can keep of it.

    layout: V × 1 blocks of `block_rows` rows where it is left out.
    """
    layout = layout or Blocks(block_rows)
    values = rng.standard_normal((rows, columns)).astype(np.float32)
    if permuted:
        permutation = rng.permutation(rows).astype(np.int32)
    scores = block_scores(values, layout.block_rows, permutation)
    most = layout.size((rows, columns), None).most or scores.size
    keep = [max(1, round(density * most)) for density in densities]
    return NestedWeight(name, values, layout.first_level(scores, keep, 1), layout, permutation)


def mapped(path: Path) -> MappedFile:
    """The file, mapped."""
    with path.open("rb") as file:
        return MappedFile(path, file)


def layer_record(rng: np.random.Generator, weight: NestedWeight, level_count: int, op: str = "linear") -> LayerRecord:
    """`weight` with a random scale and shift for each level."""
    norms = rng.standard_normal((level_count, 2, weight.rows)).astype(np.float32)
    return LayerRecord(weight, norms, op, {})


def write_layers(path: Path, layers: Sequence[LayerRecord]) -> Path:
    """A checkpoint of `layers` with three levels, and no graph that could run."""
    write_checkpoint(
        path,
        graph_builder=lambda placements: b"not an onnx graph",
        layers=layers,
        levels=[LevelRecord(density, int(1000 * density), {}) for density in (0.2, 0.5, 0.9)],
        inputs=[TensorSpec("input", "float32", (None, 12), (1, 12))],
        outputs=[TensorSpec("output", "float32", (None, 7), (1, 7))],
    )
    return path


def write_small_checkpoint(path: Path, seed: int = 0, graph: bytes = b"not an onnx graph") -> list[LayerRecord]:
    """Write a checkpoint of two linear layers, the second permuted, with three levels; returns its layer records."""
    rng = np.random.default_rng(seed)
    records = [
        layer_record(rng, random_weight(rng, "first", 10, 12), 3),
        layer_record(rng, random_weight(rng, "second", 7, 10, block_rows=2, permuted=True), 3),
    ]
    write_checkpoint(
        path,
        graph_builder=lambda placements: graph,
        layers=records,
        levels=[LevelRecord(density, int(1000 * density), {"accuracy": density}) for density in (0.2, 0.5, 0.9)],
        inputs=[TensorSpec("input", "float32", (None, 12), (1, 12))],
        outputs=[TensorSpec("output", "float32", (None, 7), (1, 7))],
    )
    return records
