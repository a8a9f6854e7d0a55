"""Tokens: the file's lines, and the search."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nested_sparse.errors import ServingError
from nested_sparse.serving.rights.right import Right
from nested_sparse.serving.rights.tokens import Tokens, read_tokens

SECRET = "0123456789abcdefghij"


def written(folder: Path, text: str) -> Path:
    path = folder / "tokens"
    path.write_text(text, encoding="utf-8")
    return path


def test_each_line_is_a_client(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"another-secret").hexdigest()
    tokens = read_tokens(
        written(
            tmp_path, f"# clients\n\ncamera inference {SECRET}  # hall\nops reading,administration sha256:{digest}\n"
        )
    )
    camera, ops = tokens.client(SECRET), tokens.client("another-secret")
    assert camera is not None
    assert ops is not None
    assert (camera.name, camera.rights) == ("camera", {Right.INFERENCE})
    assert (ops.name, ops.rights) == ("ops", {Right.READING, Right.ADMINISTRATION})


def test_two_tokens_of_one_name_are_both_valid(tmp_path: Path) -> None:
    tokens = read_tokens(written(tmp_path, f"camera inference {SECRET}1\ncamera inference {SECRET}2\n"))
    assert len(tokens) == 2
    assert tokens.client(SECRET + "1") == tokens.client(SECRET + "2")


@given(st.text(st.characters(codec="latin-1"), max_size=40))
def test_any_other_token_is_unknown(text: str) -> None:
    tokens = Tokens({hashlib.sha256(SECRET.encode()).digest(): object()})  # type: ignore[dict-item]
    assert (tokens.client(text) is not None) == (text == SECRET)


def test_the_digest_of_a_token_is_no_token(tmp_path: Path) -> None:
    """A reader of the file has no right by it."""
    digest = hashlib.sha256(b"another-secret").hexdigest()
    tokens = read_tokens(written(tmp_path, f"ops reading sha256:{digest}\n"))
    assert tokens.client(digest) is None
    assert tokens.client(f"sha256:{digest}") is None
    assert tokens.client("another-secret") is not None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no token"),
        ("# none\n", "has no token"),
        ("camera inference\n", "line 1: expected `NAME RIGHT"),
        (f"camera inference, reading {SECRET}\n", "got 4 words"),
        (f"camera infer {SECRET}\n", "RIGHT: expected some of inference, reading, administration, got 'infer'"),
        (f"camera inference,{'x'} {SECRET}\n", "got 'x'"),
        (f"cam/era inference {SECRET}\n", "NAME"),
        (f"\ncamera inference {SECRET[:19]}\n", "line 2: TOKEN: expected 20 characters or more, got 19"),
        ("camera inference sha256:12\n", "64 hexadecimal digits"),
        (f"camera inference sha256:{hashlib.sha256().hexdigest()}\n", "the SHA-256 of nothing; was the token's file"),
        (f"camera inference {SECRET}é\n", "TOKEN: expected letters"),
        (f"a inference {SECRET}\nb reading {SECRET}\n", "line 2: an earlier line has the same token"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line_and_without_its_tokens(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ServingError) as caught:
        read_tokens(written(tmp_path, text))
    assert message in str(caught.value)
    assert SECRET[:19] not in str(caught.value)


def test_a_file_that_everyone_may_write_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, f"camera inference {SECRET}\n")
    path.chmod(0o646)
    with pytest.raises(ServingError, match="everyone may write it"):
        read_tokens(path)


def test_tokens_that_everyone_may_read_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Digests may be read by everyone."""
    for line, mode, warns in ((SECRET, 0o644, True), (SECRET, 0o640, False), (f"sha256:{'0' * 64}", 0o644, False)):
        path = written(tmp_path, f"camera inference {line}\n")
        path.chmod(mode)
        caplog.clear()
        read_tokens(path)
        assert ("everyone may read" in caplog.text) == warns
        assert SECRET not in caplog.text


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(ServingError, match="token file"):
            read_tokens(path)
