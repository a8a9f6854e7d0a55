"""Access: a server with TLS and tokens is read with both, and an error says what lacks."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority

from nested_sparse.errors import InputError, UnavailableError
from nested_sparse.serving.security import SecurityConfig
from nested_sparse.serving.server import ServerConfig
from nested_sparse.serving.top.access import Access, read_token
from nested_sparse.serving.top.source import CountsSource

AUTHORITY = Authority()
READING, INFERENCE = "reading-0123456789abcdef", "inference-0123456789abcdef"


def test_a_server_with_tls_certificates_of_clients_and_tokens_is_read(model: Any, serve: Any, tmp_path: Path) -> None:
    ca, tokens = tmp_path / "ca.pem", tmp_path / "tokens"
    ca.write_bytes(AUTHORITY.pem)
    tokens.write_text(f"a reading {READING}\nb inference {INFERENCE}\n", encoding="utf-8")
    (cert, key), own = AUTHORITY.issue(tmp_path), AUTHORITY.issue(tmp_path, "client")
    security = SecurityConfig(cert, key, ca, tokens)
    with serve([model], ServerConfig(port=0, metrics_port=0, security=security)) as server:
        with closing(CountsSource(server.address, access=Access(ca, *own, READING))) as source:
            counts = source.read()
        assert [each.name for each in counts.models] == ["net"]
        assert counts.models[0].metrics is not None
        for access, said in (
            (Access(ca, *own), "give --token-file"),
            (Access(ca, *own, INFERENCE), "give --token-file"),
            (Access(ca, token=READING), "no inference server answers"),
            (Access(token=READING), "no inference server answers"),
        ):
            with (
                closing(CountsSource(server.address, access=access)) as it,
                pytest.raises(UnavailableError, match=said),
            ):
                it.read()


@pytest.mark.parametrize("text", ["", "two words", "é", "line\nline"])
def test_a_file_that_holds_no_token_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "token").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="expected one token"):
        read_token(tmp_path / "token")


def test_files_that_are_no_pem_are_refused(tmp_path: Path) -> None:
    (tmp_path / "bad").write_text("nonsense", encoding="utf-8")
    with pytest.raises(InputError, match="expected PEM files"):
        Access(ca=tmp_path / "bad").opener()
    with pytest.raises(InputError, match="No such file"):
        Access(ca=tmp_path / "none").channel("127.0.0.1:1", ())
    with pytest.raises(InputError, match="takes its key and a CA"):
        Access(cert=tmp_path / "bad")
