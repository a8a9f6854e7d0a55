"""Golden files: checkpoints of earlier commits, which must open, verify and answer bit for bit (README.md)."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sysconfig
from collections.abc import Callable, Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nested_sparse.amend import store_reroutes, store_rows
from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import CheckpointError
from nested_sparse.metadata import FORMAT_VERSIONS
from nested_sparse.runtime import Session
from nested_sparse.slice import slice_checkpoint
from nested_sparse.tensor_spec import TensorSpec

HERE = Path(__file__).parent
COMMAND = Path(sysconfig.get_path("scripts")) / "nested-sparse"
SHA256 = {
    "v1-before-totals": "14679dbf78f1186afb134d2b4dd1b31731b8398cfa29f2adcd316a5ab7e99e79",
    "v1-block16x1": "27498c2117c17f33f5a3d258842ddad008485ff3a161615b3a29b4f2c5592279",
    "v1-block4x1-shuffled": "4c052777cf9866929f99f6f47c2e579e1abebfa46745deb5489c4b9aab448668",
    "v1-channel": "912dbd96663e00c482a3f8375d324e5be00ac650460e49be410736edb5e7358e",
    "v1-first-writer": "fd9065afe55e03de75c9d88f057be90c2dd3c9fbc085e18b75479fc704e9cdae",
    "v1-joined": "c06fc75beb6376e111a74eb41b78dff92495caf71a7555faaca39c0105f4ae3d",
    "v1-lines-tied": "f71590f523cba7353f9b7fb90e72c320d4f4498238fe5c185aca881a69ac1090",
    "v1-lines": "a0a301e2a30c5242415467e09347ea5d99a98942cdaed22164d65b916a9e706c",
    "v1-measured": "0b6f8ccdb7ca58079308b862bb211073f584c34fb3ffe629fb298687482bab7b",
    "v1-unstructured": "aabd84ff375d8eb491220b943d0d1f45860a13fdabf9da99d0e1d7a7b2b150a7",
    "v1-wide": "3ee5e686c5e8f2155d6dc07af55c797b38b66cdfb732deeee6dc1da0dfb9b878",
    "v2-before-totals": "75b617b1ae8d0d6e406c15878f2438b8fa911897d5d0eb829eba08ea4765a00f",
    "v2-gs16x4": "7181b62d31f556e38b4bd5c9f305b62b89d6c4eb7655a9515b1b53fa40deb9a0",
    "v2-gs8x1": "91b45c75714067d52bc4db381c8529f8cf7dceb4b0b40a3f213eed2ed0ebe55f",
    "v3-block4x1": "66f6085241b47bc1dc9272524928ba5a6461fabbfdd753032735df8f5d3ee44d",
    "v3-gs16x2": "d0036ca04bc2439f6353b138388efcceca3ca0e936b965a8eea3d465fd668325",
    "v3-tiny": "dc8c377a6ff04e0c792320e19dcfe17633bf3722e485b151df34597922f5dfc8",
    "v4-block4x1": "2ee23260104db6ba318d5cdf4d22f6c4d212ad92398d5aeb867433e381399445",
    "v4-gs8x1-dynamic": "7309095d2a6aa1fb31d7ed796a8aacf1de6cd179a465b2765c62b046eb9b0c47",
    "v5-recurrent": "fe3f8bd2aa662331c8dba05758cdd105f22a0902e860d55c8ca6e31fe5041dea",
    "v5-state": "734f51ea063fe0ff9b866380a95403d7bee81fb16dfcc6bae1d4a86d3cce71e2",
    "v5-volumes": "98d959bfcf05ec68582aff1a7e10ba1e8d831d65e091789fdbd43e80ed394dd0",
    "v6-block32x1": "bed2ec1b2de6a1d6a67f7200019ed03a5a86c265d461f7492dd80abc0ddd8d7d",
    "v7-attention": "ce572a736852eeda70734af990538d16d768828dc34c5d76c06432c390042d91",
    "v8-input-norms": "999d3cc854680924e376d3d625b82beb3d1505b7ba10ed261924965dc097f61f",
}
"""Of each file. A file that has changed proves nothing: put it back, and let the code read it."""
EXPECTED = json.loads((HERE / "expected.json").read_text(encoding="utf-8"))
EACH = pytest.mark.parametrize("name", SHA256)
NEAR = {"v5-recurrent": 2e-6, "v7-attention": 2e-6, "v8-input-norms": 2e-6}
"""Files whose sums round, with the largest difference from torch's answers as a share of the largest of them."""


def sizes_of(held: Any) -> Any:
    """The names of a tensor's free sizes, or all free sizes of a file by name."""
    if isinstance(held, TensorSpec):
        return [free and free.name for free in held.free]
    return {free.name: free for spec in (*held.inputs, *held.outputs) for free in spec.free if free is not None}


READ_AS: dict[str, Callable[[Any], Any]] = {"value_bytes": attrgetter("value_type.nbytes"), "sizes": sizes_of}
"""Entries of the metadata that are not attributes of the same name."""


def path_of(name: str) -> Path:
    return HERE / f"{name}.safetensors"


def level_count(name: str) -> int:
    return len(EXPECTED[name]["metadata"]["levels"])


def assert_says(actual: Any, expected: Any, place: str = "metadata") -> None:
    """All that `expected`, of JSON, holds is in `actual`, as attributes or keys; lists and maps hold nothing more."""
    if isinstance(expected, dict):
        if isinstance(actual, Mapping):
            assert list(actual) == list(expected), place
        for key, value in expected.items():
            each = actual[key] if isinstance(actual, Mapping) else READ_AS.get(key, attrgetter(key))(actual)
            assert_says(each, value, f"{place}.{key}")
    elif isinstance(expected, list):
        assert len(actual) == len(expected), place
        for index, (each, value) in enumerate(zip(actual, expected, strict=True)):
            assert_says(each, value, f"{place}[{index}]")
    else:
        assert type(actual) is type(expected), place
        assert actual == expected, place


def assert_answers(path: Path, name: str, levels: int, batches: bool = False) -> None:
    """The file at `path` answers at its levels as the golden file `name` does, bit for bit but for those in NEAR.

    batches: each sample alone as well, which other kernels run, where any batch is taken and no row needs the others.
    """
    metadata = EXPECTED[name]["metadata"]
    first = metadata["inputs"][0]
    alone = batches and first["shape"][0] is None and "sizes" not in first and metadata.get("rows") != "dependent"
    with np.load(HERE / f"{name}.npz") as golden, Session(path, threads=1) as session:
        assert len(session.levels) == levels
        inputs = {spec["name"]: golden[f"input/{spec['name']}"] for spec in metadata["inputs"]}
        samples = len(next(iter(inputs.values())))
        pieces = [slice(0, samples), *(slice(row, row + 1) for row in range(samples if alone else 0))]
        for level in range(levels):
            wanted = {spec["name"]: golden[f"output/{level}/{spec['name']}"] for spec in metadata["outputs"]}
            for piece in pieces:
                outputs = session.run({key: value[piece] for key, value in inputs.items()}, level)
                assert list(outputs) == list(wanted)
                for key, value in wanted.items():
                    assert outputs[key].dtype == np.float32
                    if name in NEAR:
                        np.testing.assert_allclose(outputs[key], value[piece], 0, NEAR[name] * np.abs(value).max())
                        continue
                    bits = np.ascontiguousarray(outputs[key]).view(np.uint32)
                    np.testing.assert_array_equal(bits, value[piece].view(np.uint32), f"{name} level {level} {key}")


@pytest.fixture
def copied(name: str, tmp_path: Path) -> Path:
    """A copy of the golden file that a test may change."""
    return Path(shutil.copy(path_of(name), tmp_path / "copy.safetensors"))


def test_there_are_no_others() -> None:
    """Each file in the folder is in the table above."""
    assert {path.stem for path in HERE.glob("*.safetensors")} == set(SHA256) == set(EXPECTED)
    assert {path.stem for path in HERE.glob("*.npz")} == set(SHA256)
    assert {EXPECTED[name]["metadata"]["format_version"] for name in SHA256} == set(FORMAT_VERSIONS)


@EACH
def test_the_file_is_the_one_written_then(name: str) -> None:
    assert hashlib.sha256(path_of(name).read_bytes()).hexdigest() == SHA256[name]


@EACH
def test_a_golden_file_verifies_and_has_the_metadata_that_were_written(name: str) -> None:
    """Version, levels, layers, inputs, outputs and marks; what an older writer left out has its default."""
    expected = EXPECTED[name]["metadata"]
    assert f"v{expected['format_version']}" == name[:2]
    with Checkpoint.open(path_of(name)) as checkpoint:
        assert_says(checkpoint.metadata, expected)
        assert checkpoint.rows == expected.get("rows")
        assert_says(checkpoint.reroutes, expected.get("reroutes", []))
        assert (checkpoint.metadata.network is None) == ("network" not in expected)
        for layer, entry in zip(checkpoint.layers, expected["layers"], strict=True):
            rows = entry["block_rows"]
            assert layer.pattern == entry.get("pattern", "unstructured" if rows == 1 else f"block{rows}x1")
            assert layer.value_type.nbytes == entry.get("value_bytes", 4)


@EACH
def test_a_golden_file_holds_the_weights_that_were_written(name: str) -> None:
    """The weights of each layer and level are equal bit for bit, and each level contains the one below."""
    with Checkpoint.open(path_of(name)) as checkpoint:
        for entry in checkpoint.layers:
            weight, norms = checkpoint.load_layer(entry.name)
            digest, below = hashlib.sha256(), np.zeros((entry.rows, entry.columns), bool)
            for level in range(level_count(name)):
                digest.update((weight.at(level) + np.float32(0)).tobytes())
                assert weight.nnz(level) == entry.nnz[level]
                assert (weight.mask(level) >= below).all()
                below = weight.mask(level)
            assert digest.hexdigest() == EXPECTED[name]["weights"][entry.name]
            assert norms.shape == (level_count(name), 2, entry.rows)


@EACH
def test_damage_is_found(name: str, copied: Path) -> None:
    """The damage is in the last byte, which is of the densest level, and in the metadata."""
    raw = copied.read_bytes()
    copied.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=f"level {level_count(name) - 1} does not match its digest"):
        Checkpoint.open(copied)
    copied.write_bytes(raw.replace(b"nested-sparse 0", b"nested-sparse 9", 1))
    with pytest.raises(CheckpointError, match="the metadata does not match its digest"):
        Checkpoint.open(copied)


@EACH
def test_a_golden_file_answers_bit_for_bit(name: str) -> None:
    """The answers agree at every level, as a batch and sample by sample, on any processor: no sum rounds."""
    assert_answers(path_of(name), name, level_count(name), batches=True)


@EACH
def test_a_slice_answers_bit_for_bit(name: str, tmp_path: Path) -> None:
    """Its first levels as a file of their own, for each number of them, and a slice of a slice."""
    source = path_of(name)
    for kept in range(level_count(name), 0, -1):
        cut = tmp_path / f"{kept}.safetensors"
        slice_checkpoint(source, kept, cut)
        assert_answers(cut, name, kept)
        with Checkpoint.open(cut) as checkpoint:
            assert checkpoint.metadata.format_version == EXPECTED[name]["metadata"]["format_version"]
            assert all(reroute.start < kept for reroute in checkpoint.reroutes)
        source = cut


@EACH
def test_an_amended_copy_answers_bit_for_bit(name: str, copied: Path) -> None:
    """Only the statement about rows changes; the data and all other metadata stay."""
    expected = EXPECTED[name]["metadata"]
    rows = "independent" if expected.get("rows") == "dependent" else "dependent"
    data = {}
    for path in (path_of(name), copied):
        if path == copied:
            store_rows(path, rows)
            with Checkpoint.open(path) as checkpoint:
                store_reroutes(path, checkpoint.reroutes)
        raw = path.read_bytes()
        data[path] = raw[8 + int.from_bytes(raw[:8], "little") :]
    assert data[copied] == data[path_of(name)]
    with Checkpoint.open(copied) as checkpoint:
        assert checkpoint.rows == rows
        assert_says(checkpoint.metadata, {**expected, "rows": rows})
    assert_answers(copied, name, level_count(name))


@pytest.mark.parametrize("name", ["v1-first-writer", "v2-gs16x4", "v3-block4x1"])
def test_the_command_line_reads_them(name: str, tmp_path: Path) -> None:
    """`inspect` verifies and names the version; `slice` writes what slice_checkpoint does."""
    shown = subprocess.run([COMMAND, "inspect", path_of(name), "--json"], capture_output=True, check=True, timeout=120)
    facts = json.loads(shown.stdout)
    assert facts["format_version"] == EXPECTED[name]["metadata"]["format_version"]
    assert [layer["nnz"] for layer in facts["layers"]] == [each["nnz"] for each in EXPECTED[name]["metadata"]["layers"]]
    cut, twin = tmp_path / "cut.safetensors", tmp_path / "twin.safetensors"
    subprocess.run([COMMAND, "slice", path_of(name), "--levels", "1", "-o", cut], check=True, timeout=120)
    slice_checkpoint(path_of(name), 1, twin)
    assert cut.read_bytes() == twin.read_bytes()
    assert_answers(cut, name, 1)
