"""Damaged int8 files whose digests are right again: each is refused with one of our errors, or runs to its end."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from forging import forge, split
from hypothesis import given, settings
from hypothesis import strategies as st
from int8_file import write_int8

from nested_sparse.errors import CheckpointError, NestedSparseError
from nested_sparse.runtime import Session

X = {"input": np.random.default_rng(0).standard_normal((1, 4, 6, 5)).astype(np.float32)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An int8 file with every operator."""
    return write_int8(tmp_path_factory.mktemp("whole") / "model.safetensors").read_bytes()


def run(path: Path) -> None:
    """Every level, one sample and several."""
    with Session(path, threads=1) as session:
        for batch in (1, 5):
            for level in range(len(session.levels)):
                (y,) = session.run({"input": np.repeat(X["input"], batch, axis=0)}, level).values()
                assert y.shape == (batch, 5)


@settings(max_examples=60)
@given(data=st.data())
def test_arrays_and_graphs(whole: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Some bytes anywhere in an array or in the graph, which the file's digests then confirm."""
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    path.write_bytes(whole)
    names = sorted(split(path)[0].keys() - {"__metadata__"})

    def damage(metadata: dict, tensors: dict[str, np.ndarray]) -> None:
        for _ in range(data.draw(st.integers(1, 3))):
            tensor = tensors[data.draw(st.sampled_from(names))].view(np.uint8)
            if tensor.size:
                tensor[data.draw(st.integers(0, tensor.size - 1))] = data.draw(st.integers(0, 255))

    forge(path, damage)
    with suppress(NestedSparseError):
        run(path)


REFUSED = {
    "ptr": (127, 128, 255),
    "col": (127, 128, 255),
    "val": (128,),
    "scale": (0, 128, 255),
}
"""Bytes of which no such array may consist. Of 127, floats are large numbers; of 128, negative ones; of 255, NaN."""


@pytest.mark.parametrize("part", ["ptr", "col", "val", "norm", "scale"])
@pytest.mark.parametrize("byte", [0, 127, 128, 255])
def test_whole_arrays_of_one_byte(whole: bytes, tmp_path: Path, part: str, byte: int) -> None:
    """Scales of NaN and zero, columns and pointers beyond the end; norms may be anything, and so may their answers."""
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(whole)
    forge(path, lambda metadata, tensors: tensors[f"conv/level0/{part}"].view(np.uint8).fill(byte))
    with pytest.raises(CheckpointError) if byte in REFUSED.get(part, ()) else suppress(CheckpointError):
        run(path)
