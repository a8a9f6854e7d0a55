"""Access: the TLS and the token by which a client reaches a server."""

from __future__ import annotations

import ssl
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from nested_sparse.errors import InputError

from ..rights.tokens import TOKEN

MOST_TOKEN_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Access:
    """Files in PEM. Raises InputError for a client's certificate without its key or without `ca`.

    ca: of the authorities whose servers are trusted; None: no TLS. cert, key: of the client; None: it has none.
    token: "" for none.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    token: str = ""

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None) or (self.cert is not None and self.ca is None):
            raise InputError("a client's certificate takes its key and a CA: give --tls-ca, --tls-cert and --tls-key")

    @property
    def scheme(self) -> str:
        """Of the server's HTTP addresses."""
        return "http" if self.ca is None else "https"

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """For each call; for HTTP, its headers."""
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()

    def channel(self, address: str, options: Sequence[tuple[str, Any]]) -> grpc.Channel:
        """A gRPC channel to `address`. Raises InputError for files that cannot be read."""
        if self.ca is None:
            return grpc.insecure_channel(address, options)
        pem = [None if path is None else _read(path) for path in (self.ca, self.key, self.cert)]
        return grpc.secure_channel(address, grpc.ssl_channel_credentials(*pem), options)

    def opener(self) -> urllib.request.OpenerDirector:
        """For HTTP, past any proxy. Raises InputError for files that are no PEM."""
        direct = urllib.request.ProxyHandler({})
        if self.ca is None:
            return urllib.request.build_opener(direct)
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.cert is not None:
                context.load_cert_chain(self.cert, self.key, password=lambda: "")
        except (OSError, ValueError) as error:
            raise InputError(f"--tls-ca {self.ca}, --tls-cert {self.cert}: expected PEM files ({error})") from None
        return urllib.request.build_opener(direct, urllib.request.HTTPSHandler(context=context))


def read_token(path: Path) -> str:
    """The token that the file at `path` holds, alone. Raises InputError."""
    token = _read(path)[:MOST_TOKEN_BYTES].decode("latin-1").strip()
    if not TOKEN.fullmatch(token):
        raise InputError(f"--token-file {path}: expected one token, of letters, digits, and any of . _ ~ + / - =")
    return token


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
