"""Exposure: addresses that other machines reach take TLS."""

from __future__ import annotations

from pathlib import Path

import pytest

from nested_sparse.errors import ServingError
from nested_sparse.serving.security import Security, SecurityConfig
from nested_sparse.serving.tls.exposure import is_local


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "::1", "::ffff:127.0.0.1", "localhost", "unix:/run/x"])
def test_this_machine_only(host: str) -> None:
    assert is_local(host)
    Security(SecurityConfig(), host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1", "fe80::1%lo"])
def test_reached_from_other_machines(host: str) -> None:
    assert not is_local(host)
    with pytest.raises(ServingError, match="--tls-cert and --tls-key"):
        Security(SecurityConfig(), host)
    Security(SecurityConfig(insecure=True), host)


@pytest.mark.parametrize(("host", "warns"), [("127.0.0.1", False), ("0.0.0.0", True)])
def test_tokens_in_clear_over_the_network_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, host: str, warns: bool
) -> None:
    (tmp_path / "tokens").write_text("camera inference 0123456789abcdefghij\n", encoding="utf-8")
    Security(SecurityConfig(token_file=tmp_path / "tokens", insecure=True), host)
    assert ("tokens travel in clear" in caplog.text) == warns
