"""Listening: whether an address can be listened on, and why not in one line."""

from __future__ import annotations

import socket

from nested_sparse.errors import ServingError


def check_listenable(host: str, port: int) -> None:
    """Raise ServingError, with the system's reason, if nothing could listen on host:port now. Port 0 always fits."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ServingError(
            f"cannot listen on {address_text(host, port)}: {reason}; "
            "stop what uses it or choose another (port 0 picks a free one)"
        ) from None


def address_text(host: str, port: int) -> str:
    """host:port, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
