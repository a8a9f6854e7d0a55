"""Checkpoint: round trip, and an error for each way in which a file can be wrong."""

from __future__ import annotations

import json
import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forging import forge, join, split
from safetensors.numpy import load_file

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import CheckpointError
from nested_sparse.free_size import FreeSize
from nested_sparse.reroute import Reroute
from nested_sparse.slice import slice_checkpoint
from nested_sparse.tensor_spec import TensorSpec
from nested_sparse.writer import LevelRecord, write_checkpoint
from support import layer_record, random_weight, write_small_checkpoint


def test_free_sizes_are_read_back_and_ask_for_a_version(tmp_path: Path) -> None:
    """Also in a slice. Without them the file is that of older versions."""
    path = tmp_path / "model.safetensors"
    write_small_checkpoint(path)
    forge(path, lambda metadata, tensors: free_size(metadata, least=3, most=24, multiple=3))
    slice_checkpoint(path, 1, tmp_path / "slice.safetensors")
    batch, length = FreeSize("batch", batch=True), FreeSize("length", 3, 24, 3)
    for each in (path, tmp_path / "slice.safetensors"):
        with Checkpoint.open(each) as checkpoint:
            assert checkpoint.metadata.format_version == 5
            assert checkpoint.inputs == (TensorSpec("input", "float32", (None, None), (1, 12), (batch, length)),)
            assert (checkpoint.inputs[0].batch_axis, checkpoint.outputs[0].free) == (0, ())


def test_a_written_checkpoint_is_read_back(tmp_path: Path) -> None:
    """Values, masks, norms, permutation, levels, specs and graph survive."""
    path = tmp_path / "model.safetensors"
    records = write_small_checkpoint(path)
    with Checkpoint.open(path) as checkpoint:
        assert checkpoint.graph() == b"not an onnx graph"
        assert [level.density for level in checkpoint.levels] == [0.2, 0.5, 0.9]
        assert checkpoint.levels[1].metrics == {"accuracy": 0.5}
        assert checkpoint.inputs == (TensorSpec("input", "float32", (None, 12), (1, 12)),)
        for record in records:
            weight, norms = checkpoint.load_layer(record.weight.name)
            assert np.array_equal(norms, record.norms)
            for level in range(3):
                assert np.array_equal(weight.at(level), record.weight.at(level))
                assert np.array_equal(weight.mask(level), record.weight.mask(level))


def test_the_safetensors_library_reads_the_whole_file(path: Path) -> None:
    """Any tool of the format can open it, and sees level order."""
    tensors = load_file(path)
    assert tensors["graph"].tobytes().startswith(b"not an onnx graph")
    assert tensors["first/level0/val"].dtype == np.float32
    header, _ = split(path)
    begins = {name: entry["data_offsets"][0] for name, entry in header.items() if name != "__metadata__"}
    of_level = [[begin for name, begin in begins.items() if f"/level{level}/" in name] for level in range(3)]
    assert begins["graph"] == 0
    assert max(of_level[0]) < min(of_level[1]) <= max(of_level[1]) < min(of_level[2])
    assert all(begin % 64 == 0 for begin in begins.values())


def test_segments_are_views_of_the_file_at_aligned_addresses(path: Path) -> None:
    """Nothing is copied: the views own no memory, and start on cache lines."""
    with Checkpoint.open(path) as checkpoint:
        for level in range(3):
            segment = checkpoint.segment(level)
            assert not segment.flags.owndata
            assert not segment.flags.writeable
            assert segment.ctypes.data % 64 == 0
        assert checkpoint.levels[2].nbytes == 64 + sum(checkpoint.segment(level).size for level in range(3))


def test_an_existing_file_is_kept_unless_forced(path: Path) -> None:
    """Nothing is lost, neither by writing nor by slicing; the message suits a keyword and a command line's option."""
    before, cut = path.read_bytes(), path.with_name("cut.safetensors")
    with pytest.raises(CheckpointError, match=r"exists already; .* replace it with the option force$"):
        write_small_checkpoint(path, seed=1)
    assert path.read_bytes() == before
    cut.write_bytes(b"mine")
    with pytest.raises(CheckpointError, match="exists already"):
        slice_checkpoint(path, 1, cut)
    assert cut.read_bytes() == b"mine"
    slice_checkpoint(path, 1, cut, force=True)
    with Checkpoint.open(cut) as checkpoint:
        assert len(checkpoint.levels) == 1
    assert sorted(entry.name for entry in path.parent.iterdir()) == [cut.name, path.name]


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    """The graph builder fails: no file, no temporary file."""
    rng = np.random.default_rng(0)

    def fail(placements: object) -> bytes:
        raise RuntimeError("no graph")

    with pytest.raises(RuntimeError, match="no graph"):
        write_checkpoint(
            tmp_path / "a.safetensors",
            graph_builder=fail,
            layers=[layer_record(rng, random_weight(rng), 3)],
            levels=[LevelRecord(density, 1, {}) for density in (0.2, 0.5, 0.9)],
            inputs=[],
            outputs=[],
        )
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(CheckpointError, match="does not exist"):
        write_small_checkpoint(tmp_path / "absent" / "a.safetensors")


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    """A diverged training is noticed at the file, by the layer's name."""
    rng = np.random.default_rng(0)
    weight = random_weight(rng, "bad")
    weight.values[weight.mask(0)] = np.nan
    with pytest.raises(CheckpointError, match=r"'bad'.*not finite"):
        write_checkpoint(
            tmp_path / "a.safetensors",
            graph_builder=lambda placements: b"g",
            layers=[layer_record(rng, weight, 3)],
            levels=[LevelRecord(density, 1, {}) for density in (0.2, 0.5, 0.9)],
            inputs=[],
            outputs=[],
        )


def test_a_file_cut_anywhere_is_refused(path: Path) -> None:
    """Every length but the right one gives a CheckpointError that names the file."""
    raw = path.read_bytes()
    for nbytes in [0, 1, 7, 8, 9, 100, 2000, *range(len(raw) - 300, len(raw), 37), len(raw) - 1]:
        path.write_bytes(raw[:nbytes])
        with pytest.raises(CheckpointError, match=r"model\.safetensors"):
            Checkpoint.open(path)
    path.write_bytes(raw + b"x")
    with pytest.raises(CheckpointError, match="longer than it says"):
        Checkpoint.open(path)


def test_a_flipped_bit_anywhere_is_noticed(path: Path) -> None:
    """Header, metadata, graph or weights: no damage passes unseen."""
    raw = path.read_bytes()
    for position in range(0, len(raw), 61):
        damaged = bytearray(raw)
        damaged[position] ^= 0x04
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"model\.safetensors"):
            Checkpoint.open(path)


def test_other_files_are_told_from_ours(tmp_path: Path) -> None:
    """A safetensors file without our metadata, a text, a huge header length, nesting bombs, no file at all."""
    path = tmp_path / "x.safetensors"
    join(path, {"a": {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]}}, bytes(64))
    with pytest.raises(CheckpointError, match="not a nested-sparse checkpoint"):
        Checkpoint.open(path)
    bomb = b"[" * 100_000
    for raw in (b"hello, this is not it", struct.pack("<Q", 1 << 60) + b"{}", struct.pack("<Q", len(bomb)) + bomb):
        path.write_bytes(raw)
        with pytest.raises(CheckpointError, match="not a safetensors file"):
            Checkpoint.open(path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        Checkpoint.open(tmp_path / "absent.safetensors")
    with pytest.raises(CheckpointError, match="cannot be read"):
        Checkpoint.open(tmp_path)


def copy_level_zero_into_level_one(metadata: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
    """Level 1 claims a block that level 0 has, in an order that is right otherwise."""
    ptr0, col0 = tensors["first/level0/ptr"], tensors["first/level0/col"]
    ptr1, col1 = tensors["first/level1/ptr"], tensors["first/level1/col"]
    group = next(g for g in range(3) if ptr0[g + 1] > ptr0[g] and ptr1[g + 1] > ptr1[g])
    columns = col1[ptr1[group] : ptr1[group + 1]]
    columns[np.abs(columns.astype(int) - int(col0[ptr0[group]])).argmin()] = col0[ptr0[group]]


def gather_groups() -> dict[str, Any]:
    """A layer entry's keys for gather groups of 8."""
    return {"pattern": "gs8x8", "block_rows": 1, "blocks": [1, 1, 1]}


def reroutes(*changes: dict[str, Any]) -> Callable[[dict[str, Any], dict[str, np.ndarray]], None]:
    """A change of the metadata: a good reroute with each of these in it."""
    good = {"start": 2, "end": 0, "accuracy": {"second": 0.5}}
    return lambda metadata, tensors: metadata.__setitem__("reroutes", [{**good, **change} for change in changes])


def free_size(
    metadata: dict[str, Any],
    version: int = 5,
    names: tuple[str | None, ...] = ("batch", "length"),
    shape: tuple[int | None, ...] = (None, None),
    **size: Any,
) -> None:
    """Give the input free sizes, as in a file of version 5."""
    whole = {"least": 1, "most": None, "multiple": 1, "batch": False, "terms": [], "plus": 0}
    metadata["sizes"] = {"batch": {**whole, "batch": True}, "length": {**whole, **size}}
    metadata["inputs"][0].update(sizes=list(names), shape=list(shape))
    metadata["format_version"] = version


FORGERIES: dict[str, tuple[Callable[[dict[str, Any], dict[str, np.ndarray]], None], str]] = {
    "not nesting": (copy_level_zero_into_level_one, "levels must nest"),
    "column": (lambda m, t: t["first/level0/col"].__setitem__(0, 12), "column 12 is out of range 0 to 11"),
    "pointer": (lambda m, t: t["first/level0/ptr"].__setitem__(1, 60000), "block pointers must rise"),
    "first pointer": (lambda m, t: t["first/level0/ptr"].__setitem__(0, 1), "block pointers must rise"),
    "permutation": (lambda m, t: t["second/level0/perm"].__setitem__(0, 7), "row permutation"),
    "padding row": (lambda m, t: t["second/level0/perm"].__setitem__(7, 3), "row permutation"),
    "no number": (lambda m, t: m["levels"][0]["metrics"].__setitem__("disagreement", float("nan")), "finite numbers"),
    "endless": (lambda m, t: m["levels"][1]["metrics"].__setitem__("accuracy", float("inf")), "finite numbers"),
    "more rows": (lambda m, t: m["layers"][0].__setitem__("rows", 1000), "not where the metadata puts it"),
    "negative": (lambda m, t: m["layers"][0].__setitem__("rows", -1), "whole number"),
    "huge": (lambda m, t: m["layers"][0].__setitem__("columns", 1 << 62), "whole number"),
    "a string": (lambda m, t: m["layers"][0].__setitem__("rows", "10"), "whole number"),
    "more blocks": (lambda m, t: m["layers"][0]["blocks"].__setitem__(0, 36), "block count"),
    "fewer blocks": (lambda m, t: m["layers"][0]["blocks"].__setitem__(0, 0), "not where the metadata puts it"),
    "no levels": (lambda m, t: m.__setitem__("levels", []), "0 levels"),
    "no layers": (lambda m, t: m.__setitem__("layers", []), "no layers"),
    "one name": (lambda m, t: m["layers"][1].__setitem__("name", "first"), "two of one name"),
    "version": (lambda m, t: m.__setitem__("format_version", 9), "format version 9"),
    "missing": (lambda m, t: m.pop("inputs"), "inputs"),
    "rows without gates": (lambda m, t: m["layers"][0].update(op="gru"), "10 rows, expected 3 for each of 12 columns"),
    "gates in int8": (lambda m, t: m["layers"][0].update(op="lstm", value_bytes=1), "op 'lstm' has no int8"),
    "sizes in an old file": (lambda m, t: free_size(m, 4), "need format version 5"),
    "unknown size": (lambda m, t: free_size(m, names=("batch", "width")), "width"),
    "size of a fixed dimension": (lambda m, t: free_size(m, shape=(None, 12)), "both a fixed and a free size"),
    "too few sizes": (lambda m, t: free_size(m, names=("batch",)), "zip"),
    "no size": (lambda m, t: free_size(m, least=9, most=8), "allows no size"),
    "no multiple": (lambda m, t: free_size(m, least=9, most=15, multiple=8), "allows no size"),
    "example out of range": (lambda m, t: free_size(m, most=8), "has a size 12 of 'length'"),
    "sum of an unknown size": (lambda m, t: free_size(m, terms=["width"]), "a sum of sizes that no input has"),
    "sum of itself": (lambda m, t: free_size(m, terms=["length"]), "a sum of sizes that no input has"),
    "size that is a text": (lambda m, t: free_size(m, most="8"), "whole number"),
    "batch that is a number": (lambda m, t: free_size(m, batch=1), "allows no size"),
    "unknown pattern": (lambda m, t: m["layers"][0].__setitem__("pattern", "gs4x1"), "'gs4x1' is not supported"),
    "other pattern": (lambda m, t: m["layers"][0].__setitem__("pattern", "block8x1"), "does not go with block_rows 4"),
    "gather groups of blocks": (
        lambda m, t: m["layers"][0].__setitem__("pattern", "gs16x1"),
        "does not go with block_rows 4",
    ),
    "gather groups in version 1": (lambda m, t: m["layers"][0].update(gather_groups()), "need format version 2"),
    "rising reroute": (reroutes({"start": 0, "end": 1}), "a reroute goes down"),
    "flat reroute": (reroutes({"end": 2}), "a reroute goes down"),
    "reroute below": (reroutes({"end": -1}), "a reroute goes down"),
    "reroute of no number": (reroutes({"start": True}), "a reroute goes down"),
    "reroute from nowhere": (reroutes({"start": 3}), "there are levels 0 to 2"),
    "two reroutes": (reroutes({}, {}), "two reroutes from level 2 to 0"),
    "reroute at no layer": (reroutes({"accuracy": {"third": 0.5}}), "layers that are none: 'third'"),
    "reroute at nothing": (reroutes({"accuracy": {}}), "names no layer"),
    "reroute above 1": (reroutes({"accuracy": {"second": 1.01}}), "expected an accuracy"),
    "reroute of NaN": (reroutes({"accuracy": {"second": float("nan")}}), "expected an accuracy"),
    "reroute of text": (reroutes({"accuracy": {"second": "0.5"}}), "expected an accuracy"),
    "reroute of a list": (reroutes({"accuracy": ["second"]}), "not what format 1 asks for"),
    "reroutes of a number": (lambda m, t: m.__setitem__("reroutes", 7), "not what format 1 asks for"),
    "density": (lambda m, t: m["levels"][0].__setitem__("density", 0), "density"),
    "name of an output": (lambda m, t: m["outputs"][0].__setitem__("name", 1025 * "n"), "at most 1024 bytes"),
    "rows of another kind": (lambda m, t: m.__setitem__("rows", "some"), "rows 'some', expected 'independent'"),
    "rows of a list": (lambda m, t: m.__setitem__("rows", ["independent"]), "rows ..+, expected"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_file_with_right_digests_is_refused(path: Path, name: str) -> None:
    """Digests guard against damage; the checks behind them guard against intent."""
    change, message = FORGERIES[name]
    forge(path, change)
    for verify in (True, False):
        with pytest.raises(CheckpointError, match=message):
            Checkpoint.open(path, verify=verify)


HOSTILE_TEXT = "\x1b[2J\n" + 1_000_000 * "x"
LONG_TEXTS: dict[str, Callable[[dict[str, Any], dict[str, np.ndarray]], None]] = {
    "layer": lambda m, t: m["layers"][0].__setitem__("name", HOSTILE_TEXT),
    "pattern": lambda m, t: m["layers"][0].__setitem__("pattern", HOSTILE_TEXT),
    "pattern of many digits": lambda m, t: m["layers"][0].__setitem__("pattern", "gs" + 1_000_000 * "1" + "x1"),
    "number": lambda m, t: m["layers"][0].__setitem__("rows", HOSTILE_TEXT),
    "list": lambda m, t: m["layers"][0].__setitem__("rows", [HOSTILE_TEXT] * 3),
    "layer of another op": lambda m, t: m["layers"][0].update(name=HOSTILE_TEXT, op="other"),
    "layer of other values": lambda m, t: m["layers"][0].update(name=HOSTILE_TEXT, value_bytes=3),
    "version": lambda m, t: m.__setitem__("format_version", HOSTILE_TEXT),
    "density": lambda m, t: m["levels"][0].__setitem__("density", HOSTILE_TEXT),
    "input": lambda m, t: m["inputs"][0].update(name=HOSTILE_TEXT, shape=[]),
    "output": lambda m, t: m["outputs"][0].__setitem__("name", HOSTILE_TEXT),
    "name of a size": lambda m, t: m.__setitem__("sizes", {HOSTILE_TEXT: {}}),
    "size": lambda m, t: free_size(m, most=HOSTILE_TEXT),
    "term of a size": lambda m, t: free_size(m, terms=[HOSTILE_TEXT[:900]]),
    "reroute": reroutes({"accuracy": {HOSTILE_TEXT: 0.5}}),
    "reroutes": reroutes({"accuracy": dict.fromkeys(map(str, range(100_000)), 0.5)}),
    "start of a reroute": reroutes({"start": HOSTILE_TEXT}),
    "accuracy of a reroute": reroutes({"accuracy": {HOSTILE_TEXT: HOSTILE_TEXT}}),
}


@pytest.mark.parametrize("name", LONG_TEXTS)
def test_a_message_about_a_file_repeats_little_of_it(path: Path, name: str) -> None:
    """Neither a megabyte nor what steers a terminal."""
    forge(path, LONG_TEXTS[name])
    with pytest.raises(CheckpointError, match=r"^model\.safetensors: ") as caught:
        Checkpoint.open(path)
    assert len(str(caught.value)) < 1000
    assert str(caught.value).isprintable()


def test_forging_nothing_still_opens(path: Path) -> None:
    """The forger itself is sound, so that the refusals above are for their reasons."""
    forge(path, lambda metadata, tensors: None)
    Checkpoint.open(path).close()


def test_files_older_than_patterns_still_open(path: Path) -> None:
    """Format version 1 as it was first written names no pattern: it follows from the blocks."""

    def forget(metadata: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
        assert metadata["format_version"] == 1
        for layer in metadata["layers"]:
            del layer["pattern"]

    forge(path, forget)
    with Checkpoint.open(path) as checkpoint:
        assert [layer.pattern for layer in checkpoint.layers] == ["block4x1", "block2x1"]


def test_reroutes_are_optional(path: Path) -> None:
    """A file without them says nothing of them, as before there were any; one with them keeps its format version."""
    header, _ = split(path)
    assert "reroutes" not in json.loads(header["__metadata__"]["nested_sparse"])
    with Checkpoint.open(path) as checkpoint:
        assert checkpoint.reroutes == ()
    forge(path, reroutes({}, {"end": 1, "accuracy": {"second": 1, "first": 0.25}}))
    with Checkpoint.open(path) as checkpoint:
        assert checkpoint.metadata.format_version == 1
        assert checkpoint.reroutes == (
            Reroute(2, 0, {"second": 0.5}),
            Reroute(2, 1, {"second": 1, "first": 0.25}),
        )
        assert list(checkpoint.reroutes[1].accuracy) == ["second", "first"]


@pytest.mark.parametrize("rows", ["independent", "dependent"])
def test_the_mark_of_rows_is_optional(path: Path, tmp_path: Path, rows: str) -> None:
    """A file without it says nothing of it, as before; one with it keeps its format version, a slice says it too."""
    header, _ = split(path)
    assert "rows" not in json.loads(header["__metadata__"]["nested_sparse"])
    with Checkpoint.open(path) as checkpoint:
        assert checkpoint.rows is None
    forge(path, lambda metadata, tensors: metadata.__setitem__("rows", rows))
    slice_checkpoint(path, 2, tmp_path / "slice.safetensors")
    for file in (path, tmp_path / "slice.safetensors"):
        with Checkpoint.open(file) as checkpoint:
            assert (checkpoint.rows, checkpoint.metadata.format_version) == (rows, 1)


def test_the_first_bytes_of_a_file_are_what_the_format_page_says(path: Path) -> None:
    """Golden layout: 8 bytes of length, JSON, spaces, data on a 64-byte boundary, graph first."""
    raw = path.read_bytes()
    header_nbytes = struct.unpack("<Q", raw[:8])[0]
    assert raw[8:9] == b"{"
    assert (8 + header_nbytes) % 64 == 0
    assert raw[8 + header_nbytes :].startswith(b"not an onnx graph" + bytes(47))


@pytest.mark.parametrize(
    ("mode", "mask", "expected"), [(0o600, 0o022, 0o600), (None, 0o077, 0o600), (None, 0o022, 0o644)]
)
def test_a_replaced_file_keeps_its_permissions(
    path: Path, tmp_path: Path, mode: int | None, mask: int, expected: int
) -> None:
    """The permissions are those of the replaced file, else those of the process's mask."""
    out = tmp_path / "slice.safetensors"
    if mode is not None:
        out.write_bytes(b"before")
        out.chmod(mode)
    before = os.umask(mask)
    try:
        slice_checkpoint(path, 1, out, force=True)
    finally:
        os.umask(before)
    assert stat.S_IMODE(out.stat().st_mode) == expected
