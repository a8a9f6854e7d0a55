"""Random copies: files that open and compute what their random weights say, of every pattern and value type."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from int8_file import write_int8

from chain import Written, small_chain, small_inputs
from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import PatternError
from nested_sparse.runtime.profiling.random_copy import write_random_copy
from nested_sparse.runtime.session import Session, random_inputs
from nested_sparse.slice import slice_checkpoint

DENSITIES = (0.1, 0.4, 1.0)


@pytest.mark.parametrize("pattern", ["", "unstructured", "block4x1", "gs8x2"])
def test_a_copy_computes_with_its_weights(tmp_path: Path, pattern: str) -> None:
    """At each level as numpy does; each layer has its pattern and its shares."""
    copy = tmp_path / "copy.safetensors"
    with Checkpoint.open(small_chain(tmp_path / "model.safetensors").path) as checkpoint:
        records = write_random_copy(checkpoint, copy, DENSITIES, pattern)
        own = [layer.layout.name for layer in checkpoint.layers]
    assert [record.pattern for record in records] == ([pattern] * 3 if pattern else own)
    x = small_inputs()
    with Session(copy, threads=1) as session:
        for level, density in enumerate(DENSITIES):
            answer = session.run(x, level)["output"]
            expected = Written(copy, records).reference(x["input"], level)
            np.testing.assert_allclose(answer, expected, rtol=1e-4, atol=1e-4)
            for record in records:
                share = record.weight.nnz(level) / record.weight.values.size
                most = record.weight.layout.most_weights(record.weight.rows, record.weight.columns)
                allowed = min(density, most / record.weight.values.size)
                assert abs(share - allowed) <= 16 * 4 / record.weight.values.size


def test_a_slice_has_copies_of_its_levels(tmp_path: Path) -> None:
    """Its graph has more levels than the file."""
    whole, cut = small_chain(tmp_path / "model.safetensors").path, tmp_path / "cut.safetensors"
    slice_checkpoint(whole, 2, cut)
    copy = tmp_path / "copy.safetensors"
    with Checkpoint.open(cut) as checkpoint:
        records = write_random_copy(checkpoint, copy, (0.2, 0.6))
    x = small_inputs()
    with Session(copy, threads=1) as session:
        for level in (0, 1):
            expected = Written(copy, records).reference(x["input"], level)
            np.testing.assert_allclose(session.run(x, level)["output"], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pattern", ["", "unstructured", "block8x1"])
def test_int8_layers_stay_int8(tmp_path: Path, pattern: str) -> None:
    """With images as bytes between them; a run gives finite values."""
    copy = tmp_path / "copy.safetensors"
    with Checkpoint.open(write_int8(tmp_path / "model.safetensors")) as checkpoint:
        records = write_random_copy(checkpoint, copy, (0.3, 0.8), pattern)
    assert all(record.value_type.name == "int8" for record in records)
    with Session(copy, threads=1) as session:
        for answer in session.run(random_inputs(session.inputs, 1), 1).values():
            assert np.isfinite(answer).all()


def test_a_layer_too_small_for_the_pattern_is_named(tmp_path: Path) -> None:
    """A gather group needs as many columns as it has banks."""
    said = pytest.raises(PatternError, match=r"of 13 weights, is too small for gs16x1; measure another pattern")
    with Checkpoint.open(small_chain(tmp_path / "model.safetensors").path) as checkpoint, said:
        write_random_copy(checkpoint, tmp_path / "copy.safetensors", DENSITIES, "gs16x1")
    assert not (tmp_path / "copy.safetensors").exists()


def test_channels_are_not_drawn_layer_by_layer(tmp_path: Path) -> None:
    """The message names another pattern."""
    path, said = small_chain(tmp_path / "model.safetensors").path, r"whole channels.*--pattern block4x1"
    with Checkpoint.open(path) as checkpoint, pytest.raises(PatternError, match=said):
        write_random_copy(checkpoint, tmp_path / "copy.safetensors", DENSITIES, "channel")
