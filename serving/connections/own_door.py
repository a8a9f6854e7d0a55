"""OwnDoor: the address at which a server's calls to itself reach it."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

from .listening import address_text

ANY_ADDRESS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}
log = logging.getLogger(__name__)


class OwnDoor:
    """The server's own port, or beside TLS a unix socket: the server has no certificate of a client, nor a name that
    its own certificate must have. The socket is in a folder that only this user may enter.

    Made before the server starts. address: "" where no such socket can be made.
    """

    def __init__(self, server: Any, host: str, port: int, has_tls: bool) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self.address = address_text(ANY_ADDRESS.get(host, host), port)
        if has_tls:
            self.address = self._unix_socket(server)

    def _unix_socket(self, server: Any) -> str:
        try:
            self._folder = tempfile.TemporaryDirectory(prefix="nested-sparse-", ignore_cleanup_errors=True)
            address = f"unix:{Path(self._folder.name) / 'door'}"
            server.add_insecure_port(address)
        except (OSError, RuntimeError) as error:
            log.warning(
                "the waits of requests in front of the server are not known, and none is refused there: %s", error
            )
            return ""
        return address

    def close(self) -> None:
        """Remove the socket."""
        if self._folder is not None:
            self._folder.cleanup()
