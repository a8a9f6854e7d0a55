"""Exposure: whether an address can be reached from other machines, and the refusal of such addresses without TLS."""

from __future__ import annotations

import ipaddress
import socket

from nested_sparse.errors import ServingError
from nested_sparse.excerpt import excerpt

UNIX = "unix:"


def is_local(host: str) -> bool:
    """Whether what listens at `host` can be reached from this machine only. A name is local if all its addresses are.

    A name that is not known is: nothing can listen there.
    """
    if host.startswith(UNIX):
        return True
    if not host:
        return False  # every address of this machine
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return True
    return all(_is_loopback(str(address[0])) for *_, address in found)


def check_exposure(host: str, has_tls: bool, insecure: bool) -> None:
    """Raise ServingError for an address that other machines reach, without TLS and without `insecure`."""
    if has_tls or insecure or is_local(host):
        return
    raise ServingError(
        f"--host {excerpt(host) or repr(host)} can be reached over the network, and without TLS others could read and "
        "change requests, answers and tokens on their way; give --tls-cert and --tls-key (docs/security.md shows how "
        "to make them), or say --insecure if a proxy or a network of your own protects them; or serve on 127.0.0.1"
    )


def _is_loopback(address: str) -> bool:
    number = ipaddress.ip_address(address.partition("%")[0])
    mapped = number.ipv4_mapped if isinstance(number, ipaddress.IPv6Address) else None
    return (mapped or number).is_loopback
