"""UnixSocket: a second door of a server, for processes of the same user on this machine."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nested_sparse.errors import ServingError
from nested_sparse.excerpt import excerpt

MOST_BYTES = 107
"""Longest path of a unix socket on Linux."""
SCHEME = "unix:"
OWN_ONLY = 0o177
"""File mode bits that are taken away: the socket's user may connect, and no other but root."""


class UnixSocket:
    """A socket at `path`, without TLS: its connections do not leave the machine. Tokens are asked for as anywhere.

    address: as gRPC writes it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        self.address = f"{SCHEME}{self._path}"
        self._made: tuple[int, int] | None = None  # device and inode of our file

    def check(self) -> None:
        """Raise ServingError where no socket can be made. One that a dead process has left is no obstacle."""
        shown, folder = excerpt(self._path), self._path.parent
        if len(os.fsencode(self._path)) > MOST_BYTES:
            raise ServingError(
                f"unix socket {shown}: expected a path of at most {MOST_BYTES} bytes; choose a shorter one"
            )
        if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
            raise ServingError(f"unix socket {shown}: expected a folder there that this user may write into")
        try:
            mode = self._path.lstat().st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(mode):
            raise ServingError(f"unix socket {shown}: another file has this name; remove it, or choose another path")
        with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(ConnectionRefusedError):
            probe.connect(str(self._path))
            raise ServingError(f"unix socket {shown}: another process listens there; stop it, or choose another path")

    def open(self, server: Any) -> None:
        """Have a gRPC server listen here, before it starts. Raises ServingError."""
        with self._making():
            server.add_insecure_port(self.address)

    def listener(self) -> socket.socket:
        """A socket that is bound here, for a server of Python's own. Raises ServingError."""
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with self._making():
                made.bind(str(self._path))
                made.listen()  # at once: one that does not listen looks as that of a dead process
        except BaseException:
            made.close()
            raise
        return made

    @contextlib.contextmanager
    def _making(self) -> Iterator[None]:
        """Within, a file that is made here is its user's alone. Raises ServingError where none can be made."""
        self.check()
        self._path.unlink(missing_ok=True)  # the one that a dead process has left
        before = os.umask(OWN_ONLY)  # a later chmod would leave a moment in which anybody may connect
        try:
            yield
            self._made = self._found()
        except (RuntimeError, OSError) as error:
            raise ServingError(f"cannot listen on {excerpt(self.address)}: {error}") from None
        finally:
            os.umask(before)

    def close(self) -> None:
        """Remove the file, unless another process has put one of its own there since."""
        if self._made is not None and self._found() == self._made:
            self._path.unlink(missing_ok=True)

    def _found(self) -> tuple[int, int] | None:
        try:
            status = self._path.lstat()
        except OSError:
            return None
        return status.st_dev, status.st_ino
