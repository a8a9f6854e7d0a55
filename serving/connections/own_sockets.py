"""Own sockets: the sockets of a gRPC server in this process, to which gRPC gives no access.

When a gRPC server shuts down, its core answers CANCELLED to every call that it has read and not handed over, and to
every call that arrives before the client has seen the GOAWAY. Clients take that for their own doing and do not try
elsewhere. A connection that ends is UNAVAILABLE to them.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

OPEN_FILES = (Path("/proc/self/fd"), Path("/dev/fd"))
INTERNET = (socket.AF_INET, socket.AF_INET6)
RECEIVED_AT = 128
"""Of tcpi_bytes_received in Linux's struct tcp_info, since 4.1."""


def stop_listening(host: str, port: int) -> None:
    """Accept no more connections to host:port; those that wait to be accepted are reset. Linux only."""
    for each in _bound_to(host, port):
        if each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


def finish_sending(host: str, port: int) -> None:
    """Close the sending side of all connections of a server at host:port, after all data that the system has."""
    for each in connections(host, port):
        with contextlib.suppress(OSError):  # the client was faster
            each.shutdown(socket.SHUT_WR)


def connections(host: str, port: int) -> Iterator[socket.socket]:
    """The open connections of a server at host:port, each as a duplicate that is closed behind the caller."""
    for each in _bound_to(host, port):
        if not each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            yield each


def received_bytes(connection: socket.socket) -> int | None:
    """Bytes received on a connection since it began; None where the system does not tell (Linux does)."""
    if not hasattr(socket, "TCP_INFO"):
        return None
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, RECEIVED_AT + 8)
    return None if len(info) < RECEIVED_AT + 8 else int.from_bytes(info[RECEIVED_AT:], sys.byteorder)


def _bound_to(host: str, port: int) -> Iterator[socket.socket]:
    """This process's sockets of a server at host:port, as duplicates that are closed behind the caller.

    host: of a unix socket, unix:PATH; it has no port.
    """
    own = None
    with contextlib.suppress(ValueError):  # a name, which gRPC may have found other addresses for than we would
        own = ipaddress.ip_address(host)
    for number in _open_files():
        try:
            if not stat.S_ISSOCK(os.fstat(number).st_mode):
                continue
            copy = socket.socket(fileno=os.dup(number))
        except OSError:  # closed since
            continue
        with copy:
            if copy.type != socket.SOCK_STREAM:
                continue
            name = copy.getsockname()
            if (copy.family == socket.AF_UNIX and f"unix:{name}" == host) or (
                copy.family in INTERNET
                and name[1] == port
                and (own is None or own.is_unspecified or ipaddress.ip_address(plain_address(name[0])) == own)
            ):
                yield copy


def _open_files() -> list[int]:
    for folder in OPEN_FILES:
        with contextlib.suppress(OSError):
            return [int(each) for each in os.listdir(folder)]
    return []


def plain_address(address: str) -> str:
    """The IPv4 address behind a mapped IPv6 address; any other address as it is."""
    return address.removeprefix("::ffff:")
