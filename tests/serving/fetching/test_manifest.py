"""Manifest: its bytes, its signature, and what hostile ones may not do."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from fetching_device import SAMPLE, Published

from nested_sparse.errors import CheckpointError, FetchError, InputError
from nested_sparse.runtime import Session
from nested_sparse.serving import cli
from nested_sparse.serving.fetching.manifest import MOST_BYTES, read_manifest
from nested_sparse.serving.fetching.proof import Proof
from nested_sparse.serving.fetching.publication import publish
from nested_sparse.serving.fetching.self_check import SelfCheck, StatedArray
from nested_sparse.serving.fetching.self_check_run import drawn_inputs, run_self_check
from nested_sparse.slice import slice_checkpoint
from support import EXAMPLE


def test_it_describes_the_file(first: Published) -> None:
    """Its pieces are the file; each level ends where a slice of it would."""
    manifest = read_manifest(first.manifest.raw, "here")
    assert manifest == first.manifest
    assert manifest.nbytes == first.path.stat().st_size
    with Session(first.path, threads=1) as session:
        ends = [manifest.pieces[0].nbytes + level.nbytes for level in session.levels]
        assert ends == [manifest.prefix_nbytes(level + 1) for level in range(len(session.levels))]


def test_the_command_writes_it(tmp_path: Path) -> None:
    output = tmp_path / "net.manifest"
    arguments = ["publish", str(EXAMPLE), "-o", str(output), "--serial", "7", "--json"]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said == {
        "manifest": str(output),
        "levels": 4,
        "nbytes": EXAMPLE.stat().st_size,
        "serial": 7,
        "signed": False,
    }
    assert read_manifest(output.read_bytes(), "here").serial == 7


@pytest.mark.parametrize("name", ["net.safetensors", "other.safetensors", "signing.pem", "link"])
def test_the_command_replaces_no_other_file(tmp_path: Path, name: str) -> None:
    """Neither the checkpoint itself nor another one; an older manifest is replaced."""
    shutil.copyfile(EXAMPLE, tmp_path / "net.safetensors")
    shutil.copyfile(EXAMPLE, tmp_path / "other.safetensors")
    (tmp_path / "signing.pem").write_bytes(b"-----BEGIN PRIVATE KEY-----")
    (tmp_path / "link").symlink_to(tmp_path / "net.safetensors")
    before = (tmp_path / name).read_bytes()
    with pytest.raises(InputError, match="is no manifest, so it is not replaced"):
        publish(tmp_path / "net.safetensors", tmp_path / name)
    assert (tmp_path / name).read_bytes() == before
    for serial in (1, 2):
        path, _ = publish(tmp_path / "net.safetensors", serial=serial)
    assert read_manifest(path.read_bytes(), "here").serial == 2
    with pytest.raises(InputError, match=r"has the serial 2, .* refuse the lower 1; give --serial 3"):
        publish(tmp_path / "net.safetensors", serial=1)
    path.write_bytes(path.read_bytes()[:200])
    publish(tmp_path / "net.safetensors", serial=1)  # a damaged one is replaced


def test_a_sample_without_names_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "sample.npy", SAMPLE["input"])
    with pytest.raises(InputError, match=r"expected an \.npz file of arrays .*numpy\.savez"):
        publish(EXAMPLE, tmp_path / "net.manifest", sample=tmp_path / "sample.npy")


def broken(**changes: Any) -> Any:
    """A change of the JSON of a manifest."""
    return lambda said: said.update(changes)


def in_check(**changes: Any) -> Any:
    """A change of its self-check."""
    return lambda said: said["self_check"].update(changes)


HUGE = {"dtype": "float32", "shape": [2**40, 2**40], "data": ""}


@pytest.mark.parametrize(
    "change",
    [
        broken(format="nested-sparse manifest 2"),
        broken(serial=-1),
        broken(serial=True),
        broken(serial=2**60),
        broken(serial=10**400),
        broken(serial="1"),
        broken(pieces=[]),
        broken(pieces={}),
        broken(pieces=[{"nbytes": 1, "sha256": "0" * 64}] * 40),
        broken(pieces=[{"nbytes": 0, "sha256": "0" * 64}] * 3),
        broken(pieces=[{"nbytes": 2**60, "sha256": "0" * 64}] * 3),
        broken(pieces=[{"nbytes": 10**9, "sha256": "0" * 64}] * 3),
        broken(pieces=[{"nbytes": 1, "sha256": "../../etc"}] * 3),
        broken(pieces=[{"nbytes": 1.5, "sha256": "0" * 64}] * 3),
        broken(pieces=[[]] * 3),
        broken(self_check=None),
        in_check(expected=[]),
        in_check(expected=[{"output": [1.0] * 1000}] * 4),
        in_check(expected=[{"output": [float("nan")]}] * 4),
        in_check(expected=[{"output": "text"}] * 4),
        in_check(tolerance=-1.0),
        in_check(tolerance=float("inf")),
        in_check(inputs={"input": HUGE}),
        in_check(inputs={"input": {**HUGE, "dtype": "object"}}),
        in_check(inputs={"input": {**HUGE, "shape": [-1]}}),
        in_check(inputs={"input": {**HUGE, "shape": [1], "data": "&"}}),
        in_check(inputs={"input": {"dtype": "V99999999999", "shape": [], "data": ""}}),
        in_check(inputs=[]),
    ],
)
def test_a_hostile_manifest_is_refused(first: Published, change: Any) -> None:
    """Without a crash, and before anything is allocated by its numbers."""
    said = json.loads(first.manifest.raw)
    change(said)
    with pytest.raises(FetchError) as caught:
        read_manifest(json.dumps(said).encode() + b"\n", "here")
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "raw",
    [b"", b"\n", b"{}", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"format":' * 10_000, b" " * (MOST_BYTES + 1)],
)
def test_what_is_no_manifest_is_refused(raw: bytes) -> None:
    with pytest.raises(FetchError):
        read_manifest(raw, "here")


def test_a_cut_manifest_is_refused(first: Published) -> None:
    raw = first.manifest.raw
    for end in range(0, len(raw) - 2, 97):
        with pytest.raises(FetchError):
            read_manifest(raw[:end], "here")


def test_a_header_that_names_other_levels_is_refused(first: Published, second: Published) -> None:
    """Such a manifest is signed by its maker, who has made a mistake."""
    manifest, nbytes = first.manifest, first.manifest.pieces[0].nbytes
    header = first.path.read_bytes()[:nbytes]
    assert Proof.of(manifest, header, "here").metadata.levels
    mixed = replace(manifest, pieces=(*manifest.pieces[:-1], second.manifest.pieces[-1]))
    moved = replace(manifest, pieces=(*manifest.pieces[:-1], replace(manifest.pieces[-1], nbytes=64)))
    for wrong in (mixed, moved):
        with pytest.raises(CheckpointError):
            Proof.of(wrong, header, "here")
    with pytest.raises(CheckpointError, match="not the one of the manifest"):
        Proof.of(manifest, header[:-1] + b"x", "here")


def test_a_slice_has_the_digest_that_the_proof_states(first: Published, tmp_path: Path) -> None:
    from nested_sparse.checkpoint import Checkpoint

    header = first.path.read_bytes()[: first.manifest.pieces[0].nbytes]
    proof = Proof.of(first.manifest, header, "here")
    for level_count in (1, 2, 3):
        path = tmp_path / f"{level_count}.safetensors"
        slice_checkpoint(first.path, level_count, path)
        with Checkpoint.open(path) as checkpoint:
            assert checkpoint.seal.digest == proof.digest(level_count)


def test_a_sample_of_ones_own_is_kept(first: Published, tmp_path: Path) -> None:
    """Its bytes are in the manifest, and the check uses them."""
    np.savez(tmp_path / "sample.npz", **SAMPLE)
    _, manifest = publish(first.path, tmp_path / "m", sample=tmp_path / "sample.npz")
    check = read_manifest((tmp_path / "m").read_bytes(), "here").self_check
    assert check.inputs == {"input": StatedArray("float32", SAMPLE["input"].shape, SAMPLE["input"].tobytes())}
    assert check.expected[3]["output"] == pytest.approx(first.answers[3].ravel().tolist(), rel=1e-6)
    with Session(first.path, threads=1) as session:
        run_self_check(check, session)
    for content in (b"no zip", b"PK\x03\x04" + bytes(100)):
        (tmp_path / "sample.npz").write_bytes(content)
        with pytest.raises((InputError, CheckpointError), match="sample"):
            publish(first.path, tmp_path / "m", sample=tmp_path / "sample.npz")
    assert manifest.self_check.inputs


def test_a_self_check_finds_other_answers(first: Published, second: Published) -> None:
    """Within its tolerance of 1 part in 20 it takes them."""
    with Session(second.path, threads=1) as session:
        run_self_check(second.manifest.self_check, session)
        with pytest.raises(CheckpointError, match="self-check: level 3, 'output'"):
            run_self_check(first.manifest.self_check, session)
        own = second.manifest.self_check
        for factor, fits in ((1.03, True), (1.1, False)):
            scaled = tuple({"output": tuple(factor * value for value in level["output"])} for level in own.expected)
            if fits:
                run_self_check(replace(own, expected=scaled), session)
            else:
                with pytest.raises(CheckpointError, match="another answer"):
                    run_self_check(replace(own, expected=scaled), session)
        renamed = replace(first.manifest.self_check, expected=({"other": (1.0,)},) * 4)
        with pytest.raises(CheckpointError, match="expected 'other'"):
            run_self_check(renamed, session)
        foreign = replace(first.manifest.self_check, inputs={"other": StatedArray("float32", (1,), bytes(4))})
        with pytest.raises(CheckpointError, match="does not take the sample"):
            run_self_check(foreign, session)
        endless = replace(first.manifest.self_check, expected=({"output": (float("nan"),) * 10},) * 4)
        with pytest.raises(CheckpointError, match="self-check"):
            run_self_check(endless, session)


def test_drawn_inputs_are_the_same_everywhere(first: Published) -> None:
    """By their definition, written here again: two bytes of SHAKE-256 of the name for each value."""
    import hashlib

    with Session(first.path, threads=1) as session:
        drawn = drawn_inputs(session)["input"]
    stream = hashlib.shake_256(b"input").digest(2 * drawn.size)
    numbers = [int.from_bytes(stream[2 * at : 2 * at + 2], "little") for at in range(drawn.size)]
    assert drawn.ravel() == pytest.approx([(number / 65535 - 0.5) * 12**0.5 for number in numbers], rel=1e-6)
    assert SelfCheck.of_json(first.manifest.self_check.to_json(), 4) == first.manifest.self_check
