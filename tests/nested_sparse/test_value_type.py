"""Value types: the table in Python, the same table in the kernels, and what one more entry gives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nested_sparse.errors import ExportError, InputError
from nested_sparse.kernels.library import kernels
from nested_sparse.metadata import FORMAT_VERSIONS
from nested_sparse.places import DTYPES
from nested_sparse.value_type import VALUE_TYPES, ValueType, value_type, value_type_of_bytes

EACH = pytest.mark.parametrize("stored", VALUE_TYPES.values(), ids=VALUE_TYPES)
TESTS = Path(__file__).parent.parent

ONE_MORE = """
import sys
import numpy as np
from nested_sparse.value_type import VALUE_TYPES, ValueType
DOUBLE = ValueType("float64", "F64", np.dtype("<f8"), format_version=9, largest=1000.0)
VALUE_TYPES[DOUBLE.name] = DOUBLE

from dataclasses import replace
from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import CheckpointError
from nested_sparse.slice import slice_checkpoint
from nested_sparse.tensor_spec import TensorSpec
from nested_sparse.writer import LevelRecord, write_checkpoint
from support import layer_record, random_weight

rng = np.random.default_rng(0)
record = replace(layer_record(rng, random_weight(rng, "blocks", 10, 12, permuted=True), 3), value_type=DOUBLE)

def write(path):
    write_checkpoint(
        path,
        graph_builder=lambda placements: bytes([placements["blocks"].value_bytes]),
        layers=[record],
        levels=[LevelRecord(density, 1, {}) for density in (0.2, 0.5, 0.9)],
        inputs=[TensorSpec("input", "float32", (None, 12), (1, 12))],
        outputs=[TensorSpec("output", "float32", (None, 10), (1, 10))],
    )

folder = sys.argv[1]
write(folder + "/whole")
slice_checkpoint(folder + "/whole", 2, folder + "/cut")
for name, levels in (("/whole", 3), ("/cut", 2)):
    with Checkpoint.open(folder + name) as checkpoint:
        assert checkpoint.metadata.format_version == 9
        assert checkpoint.graph() == bytes([8])
        (entry,) = checkpoint.layers
        assert entry.value_type is DOUBLE
        places = [place for section in checkpoint.segment_places() for place in section if place.name.endswith("/val")]
        assert [place.dtype for place in places] == ["F64"] * levels
        weight, _ = checkpoint.load_layer("blocks")
        for level in range(levels):
            np.testing.assert_array_equal(weight.at(level), record.weight.at(level))
record.weight.values[record.weight.mask(2)] = 2000.0
try:
    write(folder + "/large")
except CheckpointError as error:
    assert "float64 holds at most 1000" in str(error), error
else:
    raise AssertionError("a weight beyond the largest was written")
"""


def test_one_more_entry_is_all_that_the_format_needs(tmp_path: Path) -> None:
    """A type that this package does not have is written, placed, verified, read and sliced, by its entry alone."""
    command = [sys.executable, "-c", ONE_MORE, str(tmp_path)]
    result = subprocess.run(command, cwd=TESTS, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_the_kernels_have_the_same_types() -> None:
    """Every type has kernels; `kernels()` fails on a kernel whose type has no entry."""
    assert {kernel.value_type for kernel in kernels()} == set(VALUE_TYPES.values())


def test_files_can_tell_the_types_apart() -> None:
    """The bytes per value in metadata and graph, and the dtype in the tensor table, differ."""
    types = VALUE_TYPES.values()
    assert len({stored.nbytes for stored in types}) == len({stored.tensor_dtype for stored in types}) == len(types)


@EACH
def test_an_entry_agrees_with_itself(stored: ValueType) -> None:
    """Name, dtype and version are known wherever they are looked up."""
    assert VALUE_TYPES[stored.name] is value_type(stored.name) is value_type_of_bytes(stored.nbytes) is stored
    assert DTYPES[stored.tensor_dtype] == stored.dtype
    assert stored.format_version in FORMAT_VERSIONS


@EACH
def test_rounding_changes_nothing_twice(stored: ValueType) -> None:
    """Values of a file, read as float32 and stored again, are the same bytes."""
    values = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)
    held = stored.stored(values)
    assert held.dtype == stored.dtype
    loaded = stored.loaded(held)
    assert loaded.dtype == np.float32
    assert stored.stored(loaded).tobytes() == held.tobytes()
    np.testing.assert_array_equal(stored.rounded(values), loaded)


@pytest.mark.parametrize("name", ["bfloat16", "", None, 4, ["float32"]])
def test_other_names_are_refused(name: object) -> None:
    """With the names that there are, as the error that the caller asks for."""
    with pytest.raises(InputError, match=r"values: expected one of \('float32', 'float16', 'int8'\), got "):
        value_type(name)
    with pytest.raises(ExportError):
        value_type(name, ExportError)
