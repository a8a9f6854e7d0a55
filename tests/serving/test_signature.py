"""Signature: a checkpoint is served only if the owner of the key has signed what is in it now."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from support import ROOT

pytest.importorskip("cryptography", reason="cryptography is not installed")
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from nested_sparse.amend import store_metrics, store_signature
from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import CheckpointError, InputError
from nested_sparse.runtime.resources import Governor, ResourceMonitor
from nested_sparse.runtime.session import Session
from nested_sparse.serving import cli
from nested_sparse.serving.settings.groups import Security
from nested_sparse.serving.settings.parts import loader_of
from nested_sparse.serving.settings.settings import Settings
from nested_sparse.serving.signature import PublicKey, sign_checkpoint
from nested_sparse.slice import slice_checkpoint

EXAMPLE = ROOT / "docs" / "examples" / "fashion-mnist.safetensors"
PEM = serialization.Encoding.PEM


def key_files(folder: Path, name: str = "key", password: bytes = b"", kind: str = "ed25519") -> tuple[Path, Path]:
    """Files of a new private key and of its public key."""
    key = ed25519.Ed25519PrivateKey.generate() if kind == "ed25519" else ec.generate_private_key(ec.SECP256R1())
    kept = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, kept))
    public.write_bytes(key.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copy(EXAMPLE, tmp_path / "model.safetensors"))


def opened(path: Path, public: Path) -> str:
    """The error with which the file is refused; "" where a session opens it."""
    try:
        Session(path, threads=1, check=PublicKey(public).check).close()
    except CheckpointError as error:
        return str(error)
    return ""


def test_a_signed_file_is_opened_and_holds_the_same_model(model: Path, tmp_path: Path) -> None:
    private, public = key_files(tmp_path)
    before = Checkpoint.open(model)
    result = CliRunner().invoke(cli.app, ["sign", str(model), "--key", str(private)])
    assert result.exit_code == 0, result.output
    assert opened(model, public) == ""
    with Checkpoint.open(model) as after:
        assert after.metadata == before.metadata
        np.testing.assert_array_equal(after.data_prefix(len(after.levels)), before.data_prefix(len(before.levels)))
    before.close()


def test_an_unsigned_file_is_refused(model: Path, tmp_path: Path) -> None:
    _, public = key_files(tmp_path)
    assert "is not signed" in opened(model, public)


def test_a_signature_of_another_key_is_refused(model: Path, tmp_path: Path) -> None:
    sign_checkpoint(model, key_files(tmp_path, "other")[0])
    assert "does not fit" in opened(model, key_files(tmp_path)[1])


def test_a_signature_is_of_one_file_and_not_of_its_name(model: Path, tmp_path: Path) -> None:
    """The signature of another file, put into this one, is refused, as are texts that are no signature."""
    private, public = key_files(tmp_path)
    other = tmp_path / "other.safetensors"
    slice_checkpoint(model, 1, other)
    sign_checkpoint(other, private)
    with Checkpoint.open(other) as signed:
        foreign = signed.seal.signature
    for text in (foreign, "", "no base64", base64.b64encode(b"short").decode(), "é" * 88):
        store_signature(model, lambda _, text=text: text)
        assert opened(model, public) != ""


def test_every_change_of_a_signed_file_is_refused(model: Path, tmp_path: Path) -> None:
    """A single other bit anywhere: in the header, the graph, a weight, or the padding."""
    private, public = key_files(tmp_path)
    sign_checkpoint(model, private)
    data = bytearray(model.read_bytes())
    header = int.from_bytes(data[:8], "little") + 8
    signature = data.index(b"nested_sparse_signature")
    places = [0, 9, signature, signature + 40, header - 1, header, header + 5000, len(data) // 2, len(data) - 1]
    for place in places:
        spoilt = data.copy()
        spoilt[place] ^= 1
        copy = tmp_path / "spoilt.safetensors"
        copy.write_bytes(spoilt)
        assert opened(copy, public), place
    model.write_bytes(data)
    assert opened(model, public) == ""


def with_header(path: Path, change: Callable[[str], str]) -> None:
    """Change the text of the header, and keep the data where it has to begin."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    text = change(data[8:end].decode().rstrip(" ")).encode()
    text += b" " * (-(8 + len(text)) % 64)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[end:])


def test_what_no_signature_covers_is_refused(model: Path, tmp_path: Path) -> None:
    """An entry beside ours in the header. A key that comes twice is refused in any file: readers differ about it."""
    private, public = key_files(tmp_path)
    sign_checkpoint(model, private)
    begin = '"__metadata__":{' if b'"__metadata__":{' in model.read_bytes() else '"__metadata__": {'
    with_header(model, lambda text: text.replace(begin, begin + '"note":"mine",'))
    assert "also holds 'note', which no signature covers" in opened(model, public)
    Session(model, threads=1).close()
    with_header(model, lambda text: text.replace(begin, '"__metadata__":{"note":"first"},' + begin))
    with pytest.raises(CheckpointError, match="its header is damaged"):
        Session(model, threads=1)


def test_a_link_stays_a_link_to_the_signed_file(model: Path, tmp_path: Path) -> None:
    private, public = key_files(tmp_path)
    link = tmp_path / "link.safetensors"
    link.symlink_to(model)
    sign_checkpoint(link, private)
    assert link.is_symlink()
    assert opened(model, public) == ""


def test_amending_and_slicing_take_the_signature_away(model: Path, tmp_path: Path) -> None:
    private, public = key_files(tmp_path)
    sign_checkpoint(model, private)
    slice_checkpoint(model, 1, tmp_path / "slice.safetensors")
    assert "is not signed" in opened(tmp_path / "slice.safetensors", public)
    with Checkpoint.open(model) as checkpoint:
        count = len(checkpoint.levels)
    store_metrics(model, {"accuracy": [0.5] * count})
    assert "is not signed" in opened(model, public)


@pytest.mark.parametrize("data", [b"", b"nonsense", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"])
def test_a_file_that_is_no_key_is_refused(model: Path, tmp_path: Path, data: bytes) -> None:
    bad = tmp_path / "bad.pem"
    bad.write_bytes(data)
    with pytest.raises(InputError, match="expected an Ed25519 public key in PEM"):
        PublicKey(bad)
    with pytest.raises(InputError, match="expected an Ed25519 private key in PEM"):
        sign_checkpoint(model, bad)


def test_keys_of_other_kinds_are_refused(model: Path, tmp_path: Path) -> None:
    for private, public in (key_files(tmp_path, "ec", kind="ec"), reversed(key_files(tmp_path))):
        with pytest.raises(InputError, match="Ed25519"):
            PublicKey(public)
        with pytest.raises(InputError, match="Ed25519"):
            sign_checkpoint(model, private)
    with pytest.raises(InputError, match="without a password"):
        sign_checkpoint(model, key_files(tmp_path, "locked", password=b"secret")[0])
    with pytest.raises(InputError, match="No such file"):
        PublicKey(tmp_path / "none")


def test_a_missing_library_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nested_sparse.serving.signature.find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"pip install 'nested-sparse\[signature\]'"):
        PublicKey(tmp_path / "key.pub")


def test_serve_takes_signed_files_only(model: Path, tmp_path: Path) -> None:
    """Both doors: `--check`, and the loader of all that is served."""
    private, public = key_files(tmp_path)
    loader = loader_of(lambda: Settings(security=Security(check_signature=public)), Governor(ResourceMonitor()))
    command = ["serve", str(model), "--check-signature", str(public), "--check"]
    result = CliRunner().invoke(cli.app, command)
    assert result.exit_code == 2
    assert "is not signed" in result.stderr
    with pytest.raises(CheckpointError, match="is not signed"):
        loader.load(model)
    sign_checkpoint(model, private)
    result = CliRunner().invoke(cli.app, command)
    assert result.exit_code == 0, result.output
