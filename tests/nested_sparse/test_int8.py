"""Int8 layers in a file: values and scales, versions, slices, and files that contradict themselves."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import integer_reference as reference
import numpy as np
import pytest
from forging import forge, metadata_of
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load_file

from nested_sparse.amend import store_rows
from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import CheckpointError
from nested_sparse.layouts import Blocks, Channels, GatherScatter
from nested_sparse.mask import NEVER
from nested_sparse.quantization import in_quads, out_of_quads, quantised, row_scales
from nested_sparse.slice import slice_checkpoint
from nested_sparse.value_type import FLOAT32, INT8
from nested_sparse.weight import NestedWeight
from nested_sparse.writer import LayerRecord
from support import layer_record, random_weight, write_layers

GROUPS = GatherScatter(16, 4)


def records() -> list[LayerRecord]:
    """Blocks, permuted blocks, gather groups, channels, a layer that adds nothing after level 0, and one of float32."""
    rng = np.random.default_rng(0)
    channels = random_weight(rng, "channels", 18, 12, block_rows=1, layout=Channels(4))
    layout, first_level, order = channels.layout.stored(channels.first_level, None, "channels")
    weights = [
        random_weight(rng, "blocks", 10, 12),
        random_weight(rng, "permuted", 37, 29, block_rows=16, permuted=True),
        random_weight(rng, "gather groups", 21, 50, block_rows=1, permuted=True, layout=GROUPS),
        NestedWeight("channels", channels.values, first_level, layout, order),
        NestedWeight("dense", rng.standard_normal((5, 9)).astype(np.float32), np.zeros((5, 9), np.uint8), Blocks(1)),
        random_weight(rng, "floats", 7, 10, block_rows=2),
    ]
    made = [replace(layer_record(rng, weight, 3), value_type=INT8, sqnr_db=(30.5, 31.0, 32.0)) for weight in weights]
    made[3] = replace(made[3], pattern="channel", sqnr_db=())
    made[5] = replace(made[5], value_type=FLOAT32)
    return made


@st.composite
def float_weights(draw: st.DrawFn) -> NestedWeight:
    """Rows of all magnitudes, of zeros, of subnormal numbers; rows without a weight; ties of rounding."""
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    rows, columns, block_rows = draw(st.integers(1, 20)), draw(st.integers(1, 20)), draw(st.sampled_from((1, 2, 4)))
    values = rng.standard_normal((rows, columns)) * 10.0 ** rng.integers(-45, 38, (rows, 1))
    values[rng.random(rows) < 0.2] = 0
    ties = rng.random(rows) < 0.3
    values[ties] = rng.integers(-254, 255, (int(ties.sum()), columns)) / 2
    values[ties, 0] = 127
    first_level = rng.choice([0, 1, NEVER], size=(-(-rows // block_rows), columns)).astype(np.uint8)
    return NestedWeight("layer", values.astype(np.float32), first_level, Blocks(block_rows))


@given(float_weights())
def test_weights_are_quantised_as_the_reference_does(weight: NestedWeight) -> None:
    """Bit for bit. A float32 weight is half a scale away at most, and a bit for its own rounding."""
    kept = weight.at(1)
    scales = row_scales(weight)
    np.testing.assert_array_equal(scales, reference.row_scales(kept))
    q = quantised(weight, scales)
    np.testing.assert_array_equal(q, reference.quantised_rows(kept, scales))
    assert (scales.dtype, q.dtype) == (np.float32, np.int8)
    back = out_of_quads(in_quads(weight, scales), scales)
    error = np.abs(back.values.astype(np.float64) - kept)
    assert (error <= scales[:, None] * (0.5 + 1e-4)).all()


def test_values_read_back_are_whole_multiples_of_the_scale_and_nest(tmp_path: Path) -> None:
    """Each kept value is q · scale in float32, the same bits at every level; masks, norms and notes as written."""
    written = records()
    with Checkpoint.open(write_layers(tmp_path / "model.safetensors", written)) as checkpoint:
        for record, entry in zip(written, checkpoint.layers, strict=True):
            assert (entry.value_type, entry.sqnr_db) == (record.value_type, record.sqnr_db)
            assert entry.pattern == (record.pattern or record.weight.layout.name)
            stored, norms = checkpoint.load_layer(entry.name)
            np.testing.assert_array_equal(norms, record.norms)
            expected = record.weight.at(2)
            if record.value_type is INT8:
                assert stored.layout == Blocks(record.weight.layout.block_rows)
                scales = reference.row_scales(expected)
                expected = reference.quantised_rows(expected, scales).astype(np.float32) * scales[:, None]
            for level in range(3):
                mask = record.weight.mask(level)
                np.testing.assert_array_equal(stored.mask(level), mask)
                np.testing.assert_array_equal(stored.at(level), np.where(mask, expected, 0))


def test_arrays_lie_as_the_page_says(tmp_path: Path) -> None:
    """The safetensors library reads bytes as int8, one scale for a packed row at level 0 only, columns of two bytes."""
    written = records()
    arrays = load_file(write_layers(tmp_path / "model.safetensors", written))
    for record in written[:-1]:
        name, weight = record.weight.name, record.weight
        scale = arrays[f"{name}/level0/scale"]
        packed = -(-weight.rows // weight.layout.block_rows) * weight.layout.block_rows
        order = np.arange(weight.rows) if weight.permutation is None else weight.permutation
        np.testing.assert_array_equal(scale[: weight.rows], reference.row_scales(weight.at(2))[order])
        assert (scale[weight.rows : packed] == 1).all()
        assert f"{name}/level1/scale" not in arrays
        for level in range(3):
            assert arrays[f"{name}/level{level}/val"].dtype == np.int8
            assert arrays[f"{name}/level{level}/col"].dtype == np.uint16
    assert "floats/level0/scale" not in arrays


def test_writing_again_what_was_read_gives_the_same_bytes(tmp_path: Path) -> None:
    """The largest weight of each row is 127 scales, so the scale is found again."""
    written = records()
    with Checkpoint.open(write_layers(tmp_path / "first.safetensors", written)) as checkpoint:
        again = [
            replace(record, weight=checkpoint.load_layer(record.weight.name)[0], pattern=entry.pattern)
            for record, entry in zip(written, checkpoint.layers, strict=True)
        ]
    write_layers(tmp_path / "second.safetensors", again)
    assert (tmp_path / "first.safetensors").read_bytes() == (tmp_path / "second.safetensors").read_bytes()


def test_only_files_with_int8_ask_for_version_4(tmp_path: Path) -> None:
    """And only those say `value_bytes` 1."""
    metadata = metadata_of(write_layers(tmp_path / "int8.safetensors", records()))
    assert metadata["format_version"] == 4
    assert [layer.get("value_bytes") for layer in metadata["layers"]] == [1] * 5 + [None]
    metadata = metadata_of(write_layers(tmp_path / "floats.safetensors", records()[5:]))
    assert metadata["format_version"] == 1


def test_a_slice_keeps_int8(tmp_path: Path) -> None:
    """The same values and notes for the levels that are left; what is amended keeps them too."""
    whole, cut = write_layers(tmp_path / "whole.safetensors", records()), tmp_path / "cut.safetensors"
    slice_checkpoint(whole, 2, cut)
    store_rows(cut, "independent")
    with Checkpoint.open(whole) as left, Checkpoint.open(cut) as right:
        assert (right.metadata.format_version, right.rows) == (4, "independent")
        assert right.segment(1).tobytes() == left.segment(1).tobytes()
        for entry, full in zip(right.layers, left.layers, strict=True):
            assert entry.sqnr_db == full.sqnr_db[:2]
            for level in range(2):
                ours, theirs = right.load_layer(entry.name)[0], left.load_layer(entry.name)[0]
                np.testing.assert_array_equal(ours.at(level), theirs.at(level))


def test_more_columns_than_sums_can_take_are_refused(tmp_path: Path) -> None:
    """At 32768 columns of 127 times 255 a sum stays below 2^30."""
    values = np.ones((1, 32769), np.float32)
    weight = NestedWeight("wide", values, np.zeros((1, 32769), np.uint8), Blocks(1))
    record = replace(layer_record(np.random.default_rng(0), weight, 3), value_type=INT8)
    with pytest.raises(CheckpointError, match="'wide' has 32769 columns; int8 takes at most 32768"):
        write_layers(tmp_path / "model.safetensors", [record])
    weight = NestedWeight("wide", values[:, 1:], np.zeros((1, 32768), np.uint8), Blocks(1))
    write_layers(tmp_path / "model.safetensors", [replace(record, weight=weight)])


@pytest.mark.parametrize("noise", [(1.0,), (1.0, 2.0, np.nan), (np.inf, 1.0, 2.0)])
def test_notes_that_are_no_numbers_are_refused(tmp_path: Path, noise: tuple[float, ...]) -> None:
    """One finite number a level."""
    record = replace(records()[0], sqnr_db=noise)
    with pytest.raises(CheckpointError, match="'blocks': sqnr_db must have a finite number for each of 3 levels"):
        write_layers(tmp_path / "model.safetensors", [record])


Change = Callable[[dict[str, Any]], Any]
FORGED: dict[str, tuple[Change, str]] = {
    "floats": (lambda layer: layer.pop("value_bytes"), "tensor"),
    "halves": (lambda layer: layer.update(value_bytes=2), "tensor"),
    "columns": (lambda layer: layer.update(columns=40000), "40000 columns, int8 takes at most 32768"),
    "blocks": (lambda layer: layer.update(blocks=[1000, 0, 0]), "expected a block count for each of 3 levels"),
    "notes": (lambda layer: layer.update(sqnr_db=[1.0]), "expected an sqnr_db for each of 3 levels"),
    "text": (lambda layer: layer.update(sqnr_db=["a", "b", "c"]), "not what format 4 asks for"),
    "infinite": (lambda layer: layer.update(sqnr_db=[float("inf")] * 3), "expected an sqnr_db"),
}


@pytest.mark.parametrize("change", FORGED)
def test_metadata_that_lies_is_refused(tmp_path: Path, change: str) -> None:
    """Sizes and notes that do not go with int8, in a file whose digests are right."""
    path = write_layers(tmp_path / "model.safetensors", records())
    tamper, message = FORGED[change]
    forge(path, lambda metadata, tensors: tamper(metadata["layers"][0]))
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(path)


def test_an_old_version_has_no_int8(tmp_path: Path) -> None:
    """A file that says version 3 holds none."""
    path = write_layers(tmp_path / "model.safetensors", records())
    forge(path, lambda metadata, tensors: metadata.update(format_version=3))
    with pytest.raises(CheckpointError, match="need format version 4"):
        Checkpoint.open(path)


SPOILT: dict[str, tuple[str, Callable[[NDArray[Any]], Any], str]] = {
    "zero": ("scale", lambda a: a.__setitem__(3, 0), "the scale of packed row 3 is 0.0, expected a finite"),
    "negative": ("scale", lambda a: a.__setitem__(0, -0.5), "the scale of packed row 0 is -0.5"),
    "NaN": ("scale", lambda a: a.__setitem__(11, np.nan), "the scale of packed row 11 is nan"),
    "infinite": ("scale", lambda a: a.__setitem__(1, np.inf), "the scale of packed row 1 is inf"),
    "subnormal": ("scale", lambda a: a.__setitem__(1, 1e-39), "of at least 2\\^-126; the file is damaged"),
    "norm": ("norm", lambda a: a.__setitem__(2, np.nan), "level 0: its norm holds nan, expected finite numbers"),
    "shift": ("norm", lambda a: a.__setitem__(13, -np.inf), "level 0: its norm holds -inf, expected finite numbers"),
    "weight": ("val", lambda a: a.__setitem__(0, -128), "values must lie in -127 to 127"),
    "column": ("col", lambda a: a.__setitem__(0, 12), "column 12 is out of range 0 to 11"),
    "falling": ("col", lambda a: a.__setitem__(0, a[1] + 1), "columns must rise within a row group"),
    "pointer": ("ptr", lambda a: a.__setitem__(1, 1000), "block pointers must rise from 0"),
}


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("fault", SPOILT)
def test_arrays_that_lie_are_refused(tmp_path: Path, fault: str, verify: bool) -> None:
    """When the file is opened, also where digests are not asked for."""
    path = write_layers(tmp_path / "model.safetensors", records()[:1])
    part, change, message = SPOILT[fault]
    forge(path, lambda metadata, tensors: change(tensors[f"blocks/level0/{part}"]))
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(path, verify=verify)


@pytest.fixture(scope="module")
def int8_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a file with every kind of int8 layer."""
    return write_layers(tmp_path_factory.mktemp("int8") / "model.safetensors", records()).read_bytes()


@given(data=st.data())
def test_damaged_files_end_in_no_other_error(int8_file: bytes, tmp_path_factory: Any, data: st.DataObject) -> None:
    """Bytes that changed, or a file that was cut off: refused, or, without digests, read as weights that are finite."""
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    raw = bytearray(int8_file)
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw[: data.draw(st.sampled_from((len(raw), len(raw), len(raw) // 2)))])
    with suppress(CheckpointError), Checkpoint.open(path, verify=False) as checkpoint:
        for layer in checkpoint.layers:
            weight, _ = checkpoint.load_layer(layer.name)
            assert layer.value_type is not INT8 or np.isfinite(weight.at(2)).all()
