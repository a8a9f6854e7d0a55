"""Certificates: the certificate and key of the server, and the CA of its clients, from files in PEM."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from nested_sparse.errors import ServingError
from nested_sparse.regular_file import read_regular

from .self_test import end_of

MOST_FILE_BYTES = 1 << 20
ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """Paths in PEM. cert: of the server's chain, its own certificate first. key: of its key, without a password.

    client_ca: of the certificates that sign those of clients; None: clients need none.
    """

    cert: Path
    key: Path
    client_ca: Path | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """All of them."""
        return (self.cert, self.key) if self.client_ca is None else (self.cert, self.key, self.client_ca)


@dataclass(frozen=True, slots=True)
class Certificates:
    """The content of the files, found to fit together. client_ca: None where clients need no certificate.

    context: the same for Python's own servers. end_s: seconds since the epoch after which clients refuse the
    certificate; None where they do now.
    """

    cert: bytes
    key: bytes
    client_ca: bytes | None
    context: ssl.SSLContext
    end_s: float | None


def read_certificates(files: CertificateFiles) -> Certificates:
    """Read and try the files: the key must be the certificate's. Raises ServingError.

    A certificate that is not valid now is taken, with a warning: a device whose clock is not set yet must start.
    """
    for _ in range(ATTEMPTS):
        content = [_read(path) for path in files.paths]
        context = _context(files)
        if content == [_read(path) for path in files.paths]:  # else they changed between the two readings
            end_s = end_of(context, content[0].decode("latin-1"), files.cert)
            client_ca = None
            if files.client_ca is not None:
                context.verify_mode, client_ca = ssl.CERT_REQUIRED, content[2]
            return Certificates(content[0], content[1], client_ca, context, end_s)
    raise ServingError(f"{files.cert}, {files.key}: they keep changing; write each once, or rename new files over them")


def _context(files: CertificateFiles) -> ssl.SSLContext:
    """It knows the clients' CA, and does not ask for certificates yet: the self-test has none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # with a password of "", because Python would ask for one on the terminal
        context.load_cert_chain(files.cert, files.key, password=lambda: "")
    except (OSError, ValueError) as error:
        raise ServingError(
            f"--tls-cert {files.cert}, --tls-key {files.key}: cannot be used ({_reason(error)}); expected a "
            "certificate chain in PEM, and the key of its first certificate in PEM without a password"
        ) from None
    if files.client_ca is not None:
        try:
            context.load_verify_locations(files.client_ca)
        except (OSError, ValueError) as error:
            raise ServingError(
                f"--client-ca {files.client_ca}: cannot be used ({_reason(error)}); expected certificates in PEM"
            ) from None
    return context


def _reason(error: Exception) -> object:
    return getattr(error, "reason", None) or getattr(error, "strerror", None) or error


def _read(path: Path) -> bytes:
    try:
        return read_regular(path, MOST_FILE_BYTES)
    except OSError as error:
        raise ServingError(f"{path}: {error.strerror or error}") from None
