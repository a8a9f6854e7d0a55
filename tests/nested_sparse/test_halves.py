"""Halves: values stored in float16, with round trip, versions, slices and files that contradict themselves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forging import forge, metadata_of
from safetensors.numpy import load_file

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import CheckpointError
from nested_sparse.layouts import Blocks, GatherScatter
from nested_sparse.slice import slice_checkpoint
from nested_sparse.value_type import FLOAT16, FLOAT32
from nested_sparse.weight import NestedWeight
from nested_sparse.writer import LayerRecord
from support import layer_record, random_weight, write_layers, write_small_checkpoint


def records() -> list[LayerRecord]:
    """Blocks, permuted blocks, gather groups, and a layer that keeps float32."""
    rng = np.random.default_rng(0)
    weights = [
        random_weight(rng, "blocks", 10, 12),
        random_weight(rng, "permuted", 37, 29, block_rows=16, permuted=True),
        random_weight(rng, "gather groups", 21, 50, block_rows=1, permuted=True, layout=GatherScatter(16, 4)),
        random_weight(rng, "floats", 7, 10, block_rows=2),
    ]
    made = [layer_record(rng, weight, 3) for weight in weights]
    return [replace(record, value_type=FLOAT32 if record.weight.name == "floats" else FLOAT16) for record in made]


def test_values_read_back_are_rounded_once_and_nest(tmp_path: Path) -> None:
    """Each kept value is numpy's nearest half, as float32, the same bits at every level; masks and norms as written."""
    written = records()
    with Checkpoint.open(write_layers(tmp_path / "model.safetensors", written)) as checkpoint:
        for record, entry in zip(written, checkpoint.layers, strict=True):
            stored, norms = checkpoint.load_layer(entry.name)
            assert entry.value_type is record.value_type
            assert stored.values.dtype == np.float32
            np.testing.assert_array_equal(norms, record.norms)
            rounded = record.weight.values.astype(record.value_type.dtype).astype(np.float32)
            for level in range(3):
                mask = record.weight.mask(level)
                np.testing.assert_array_equal(stored.mask(level), mask)
                np.testing.assert_array_equal(stored.at(level), np.where(mask, rounded, 0))
                assert not (record.weight.mask(level - 1) & ~mask).any() or level == 0


def test_values_take_half_the_bytes(tmp_path: Path) -> None:
    """The safetensors library reads the halves as such, as many as the floats would be."""
    halves = load_file(write_layers(tmp_path / "halves.safetensors", records()))
    floats = load_file(
        write_layers(tmp_path / "floats.safetensors", [replace(r, value_type=FLOAT32) for r in records()])
    )
    for name, array in halves.items():
        values = name.endswith("/val") and not name.startswith("floats/")
        assert array.dtype == (np.float16 if values else floats[name].dtype)
        if values:  # padded to 64 bytes each
            count = np.flatnonzero(floats[name]).max() + 1
            np.testing.assert_array_equal(array[:count], floats[name][:count].astype(np.float16))
            assert array.nbytes <= floats[name].nbytes // 2 + 32


def test_only_files_with_halves_ask_for_version_3(tmp_path: Path) -> None:
    """Others say nothing of value bytes: they are what they were."""
    write_small_checkpoint(tmp_path / "floats.safetensors")
    metadata = metadata_of(tmp_path / "floats.safetensors")
    assert metadata["format_version"] == 1
    assert not any("value_bytes" in layer for layer in metadata["layers"])
    metadata = metadata_of(write_layers(tmp_path / "halves.safetensors", records()))
    assert metadata["format_version"] == 3
    assert [layer.get("value_bytes") for layer in metadata["layers"]] == [2, 2, 2, None]


def test_a_slice_keeps_halves(tmp_path: Path) -> None:
    """The same values for the levels that are left."""
    whole, cut = write_layers(tmp_path / "whole.safetensors", records()), tmp_path / "cut.safetensors"
    slice_checkpoint(whole, 2, cut)
    with Checkpoint.open(whole) as left, Checkpoint.open(cut) as right:
        assert right.metadata.format_version == 3
        for entry in right.layers:
            for level in range(2):
                ours, theirs = right.load_layer(entry.name)[0], left.load_layer(entry.name)[0]
                np.testing.assert_array_equal(ours.at(level), theirs.at(level))


@pytest.mark.parametrize("value", [65505.0, -1e6])
def test_weights_beyond_float16_are_refused_by_name(tmp_path: Path, value: float) -> None:
    """One kept weight is enough; one that no level keeps is not; what cannot be written leaves no file."""
    record = records()[0]
    kept = np.argwhere(record.weight.mask(2))[0]
    record.weight.values[tuple(kept)] = value
    with pytest.raises(
        CheckpointError, match=r"'blocks' has a weight of magnitude (65505|1000000); float16 holds at most 65504"
    ):
        write_layers(tmp_path / "model.safetensors", [record])
    assert not list(tmp_path.iterdir())
    write_layers(tmp_path / "floats.safetensors", [replace(record, value_type=FLOAT32)])
    record.weight.values[tuple(kept)] = 65504.0
    dropped = np.argwhere(~record.weight.mask(2))[0]
    record.weight.values[tuple(dropped)] = value
    write_layers(tmp_path / "model.safetensors", [record])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"value_bytes": 4}, "tensor"),
        ({"value_bytes": 3}, r"'blocks': value_bytes must be one of 4 \(float32\), 2 \(float16\), 1 \(int8\), got 3"),
        ({"value_bytes": 1}, "tensor"),
        ({"value_bytes": 0}, "value_bytes must be one of .*, got 0"),
        ({"value_bytes": "2"}, "got '2'"),
        ({"value_bytes": 2.0}, "got 2.0"),
        ({"value_bytes": True}, "got True"),
        ({"format_version": 2}, "need format version 3"),
    ],
)
def test_files_that_lie_of_their_values_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    """Sizes that do not go with value_bytes, widths that do not exist, a version too old for halves."""
    path = write_layers(tmp_path / "model.safetensors", records())
    Checkpoint.open(path).close()

    def change(metadata: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
        (metadata if "format_version" in changes else metadata["layers"][0]).update(changes)

    forge(path, change)
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(path)


def test_infinity_is_refused(tmp_path: Path) -> None:
    """Infinity is refused as in float32."""
    record = records()[0]
    values = record.weight.values.copy()
    values[record.weight.mask(2)] = np.inf
    weight = NestedWeight("blocks", values, record.weight.first_level, Blocks(4))
    with pytest.raises(CheckpointError, match="'blocks' has weights that are not finite"):
        write_layers(tmp_path / "model.safetensors", [replace(record, weight=weight)])
