"""Certificates: a CA for tests, and certificates that it signs."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

import pytest

x509 = pytest.importorskip("cryptography.x509", reason="cryptography is not installed")
from cryptography.hazmat.primitives import hashes, serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec  # noqa: E402

DAY = datetime.timedelta(days=1)
PEM, PKCS8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8


class Authority:
    """A certificate authority. pem: its own certificate."""

    def __init__(self, name: str = "test CA") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        self.pem = _pem(self._sign(name, self._key.public_key(), days=1, ca=True))

    def issue(self, folder: Path, name: str = "localhost", days: int = 1, password: bytes = b"") -> tuple[Path, Path]:
        """Files of a certificate for `name` on 127.0.0.1, and of its key; valid from two days ago for `days` + 1.

        They have the name of `name`, and are written anew by renaming.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        kept = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
        cert_path, key_path = folder / f"{name}.pem", folder / f"{name}.key"
        for path, data in (
            (cert_path, _pem(self._sign(name, key.public_key(), days))),
            (key_path, key.private_bytes(PEM, PKCS8, kept)),
        ):
            fresh = path.with_suffix(".new")
            fresh.write_bytes(data)
            fresh.rename(path)
        return cert_path, key_path

    def _sign(self, name: str, key: ec.EllipticCurvePublicKey, days: int, ca: bool = False) -> x509.Certificate:
        now = datetime.datetime.now(datetime.timezone.utc)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 2 * DAY)
            .not_valid_after(now + days * DAY)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if not ca:
            names = [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, hashes.SHA256())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(PEM)
