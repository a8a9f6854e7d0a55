"""Tls: the server's certificates as gRPC and Python's own servers take them, always the newest."""

from __future__ import annotations

import ssl
from typing import Any

import grpc

from ..rotation import Rotation
from .certificates import CertificateFiles, Certificates, read_certificates


class Tls:
    """Certificates that are read again when their files change. A handshake takes those that are in force then.

    A connection keeps what it began with, until it ends by its age (ConnectionLimits). Raises ServingError for files
    that cannot be used at the start. rotation: its owner has to watch it.
    """

    def __init__(self, files: CertificateFiles) -> None:
        self.asks_clients = files.client_ca is not None
        self.rotation = Rotation("the TLS certificate", files.paths, lambda: read_certificates(files))

    def credentials(self) -> Any:
        """For one port of a gRPC server. Its core asks at each handshake, in a thread of its own."""
        given = self.rotation.value

        def changed() -> Any:
            nonlocal given
            now = self.rotation.value
            if now is given:
                return None  # as before; a new one would be parsed again, and no client could resume its session
            given = now
            return _configuration(now)

        return grpc.dynamic_ssl_server_credentials(_configuration(given), changed, self.asks_clients)

    def context(self) -> ssl.SSLContext:
        """For Python's own servers. Each handshake goes on with the context that is in force."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.verify_mode = ssl.CERT_REQUIRED if self.asks_clients else ssl.CERT_NONE  # is not taken from the other
        context.num_tickets = 0  # a session of a client whose CA was taken out must not be resumed
        context.options |= ssl.OP_NO_TICKET

        def go_on(handshake: ssl.SSLObject, name: str | None, first: ssl.SSLContext) -> None:
            handshake.context = self.rotation.value.context

        context.sni_callback = go_on
        return context


def _configuration(now: Certificates) -> Any:
    return grpc.ssl_server_certificate_configuration([(now.key, now.cert)], now.client_ca)
