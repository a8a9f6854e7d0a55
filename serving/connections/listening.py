"""Listening: checks that an address can be listened on, and tells in one line why it cannot."""

from __future__ import annotations

import errno
import ipaddress
import re
import socket

from nested_sparse.errors import ServingError
from nested_sparse.excerpt import excerpt

MOST_PORT = 65535
NAME = re.compile(r"[\w.-]+", re.ASCII)
NUMBERS = re.compile(r"(0x[0-9a-f]+|[0-9]+)(\.(0x[0-9a-f]+|[0-9]+))*", re.IGNORECASE)
"""Hosts of numbers alone, in any form of inet_aton."""
HOST_ADVICE = "give --host an address of this machine: 127.0.0.1 for it alone, 0.0.0.0 or :: for every network"
ADVICE = {
    errno.EADDRINUSE: "stop what uses it or choose another port (0 picks a free one)",
    errno.EACCES: "ports below 1024 take a privilege that this process lacks; choose another (0 picks a free one)",
    errno.EADDRNOTAVAIL: f"it is no address of this machine; {HOST_ADVICE}",
    errno.EINVAL: f"a link-local address takes its interface behind it, as in fe80::1%eth0; or {HOST_ADVICE}",
    errno.EAFNOSUPPORT: f"this machine has no such addresses; {HOST_ADVICE}",
}
"""The advice, by the system's reason."""


def check_listenable(host: str, port: int) -> None:
    """Raise ServingError, with the system's reason, if nothing could listen on host:port now. Port 0 always fits."""
    if not _is_host(host):
        raise ServingError(_no_host(host, ValueError("gRPC does not take it")))
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:  # the latter for a name with an empty or too long part
        raise ServingError(_no_host(host, error)) from None
    try:
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        advice = ADVICE.get(error.errno or 0, "choose another address or port")
        raise ServingError(
            f"cannot listen on {address_text(excerpt(host), port)}: {error.strerror or error}; {advice}"
        ) from None


def _is_host(host: str) -> bool:
    """Whether gRPC could take `host`: an address in full, or a name. The system also takes forms as 127.1 and *."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return NAME.fullmatch(host) is not None and not NUMBERS.fullmatch(host)
    return True


def address_text(host: str, port: int) -> str:
    """host:port, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _no_host(host: str, error: Exception) -> str:
    shown = f"cannot listen on host '{excerpt(host)}'"
    if host.startswith("[") and host.endswith("]"):
        return f"{shown}: write an IPv6 address without brackets, '{excerpt(host[1:-1])}'"
    if host.count(":") == 1:
        return f"{shown}: it takes no port; give that as --port"
    reason = getattr(error, "strerror", None) or error
    return f"{shown}: it is neither an address nor a name that this machine knows ({reason}); {HOST_ADVICE}"
