"""Certificates: files that do not fit together are refused at once, in one line."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from certificates import Authority

from nested_sparse.errors import ServingError
from nested_sparse.serving.security import SecurityConfig
from nested_sparse.serving.tls.certificates import CertificateFiles, read_certificates

AUTHORITY = Authority()


def test_the_end_of_the_certificate_is_known(tmp_path: Path) -> None:
    cert, key = AUTHORITY.issue(tmp_path)
    got = read_certificates(CertificateFiles(cert, key))
    assert (got.cert, got.key, got.client_ca) == (cert.read_bytes(), key.read_bytes(), None)
    assert got.end_s is not None


def test_a_certificate_out_of_its_time_is_taken_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        got = read_certificates(CertificateFiles(*AUTHORITY.issue(tmp_path, days=-1)))
    assert got.end_s is None
    assert "clients will refuse it: certificate has expired" in caplog.text


def test_a_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    cert, _ = AUTHORITY.issue(tmp_path)
    _, key = AUTHORITY.issue(tmp_path, "other")
    with pytest.raises(ServingError, match=r"cannot be used .*; expected a certificate chain in PEM"):
        read_certificates(CertificateFiles(cert, key))


def test_a_key_with_a_password_is_refused_without_asking_for_it(tmp_path: Path) -> None:
    with pytest.raises(ServingError, match="without a password"):
        read_certificates(CertificateFiles(*AUTHORITY.issue(tmp_path, password=b"secret")))


@pytest.mark.parametrize("data", [b"", b"nonsense", b"\x00\xff" * 100, b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
@pytest.mark.parametrize("which", ["cert", "key", "client_ca"])
def test_a_file_that_is_no_pem_is_refused(tmp_path: Path, data: bytes, which: str) -> None:
    cert, key = AUTHORITY.issue(tmp_path)
    files = {"cert": cert, "key": key, which: tmp_path / "bad"}
    (tmp_path / "bad").write_bytes(data)
    with pytest.raises(ServingError, match="cannot be used"):
        read_certificates(CertificateFiles(**files))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    cert, _ = AUTHORITY.issue(tmp_path)
    with pytest.raises(ServingError, match=r"none\.key: No such file"):
        read_certificates(CertificateFiles(cert, tmp_path / "none.key"))


@pytest.mark.parametrize(
    "fields", [{"tls_cert": Path("x")}, {"tls_key": Path("x")}, {"client_ca": Path("x")}], ids=lambda it: next(iter(it))
)
def test_one_file_without_its_other_is_refused(fields: dict[str, Path]) -> None:
    with pytest.raises(ServingError, match="needs --tls"):
        SecurityConfig(**fields)
