"""Sender: the refusal of requests that a web page of another site sends through a browser on this machine.

A browser reaches addresses that an attacker does not, 127.0.0.1 above all. A page may send there what needs no leave of
the server (a POST of text), or give its own name that address ("DNS rebinding") and then read the answers, too.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

import grpc

from nested_sparse.excerpt import excerpt

from ..fault import EndedError, Ending


def check_sender(headers: Mapping[str, str], *, is_local: bool) -> None:
    """Raise EndedError, PERMISSION_DENIED, for a request of a page of another site.

    is_local: the server listens on this machine only, and takes no tokens, which a page would not have. Then its name
    must be an address or localhost, because such a server has no other.
    """
    host = headers.get("Host", "").lower()
    origin = headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc.lower() != host:
        raise _refusal("the request comes from a page of another site")
    if is_local and not _is_plain(host):
        raise _refusal(
            f"the request names the host '{excerpt(host)}', and this server goes by localhost or an address: a page "
            "may have given its own name this address. A proxy has to send `Host: localhost`, or the server takes a "
            "token file (docs/security.md)"
        )


def _refusal(reason: str) -> EndedError:
    return EndedError(Ending(grpc.StatusCode.PERMISSION_DENIED, reason, ()))


def _is_plain(host: str) -> bool:
    """Whether the header names an address, localhost, or nothing, as HTTP/1.0 does."""
    name = host.rpartition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]
    if name in ("", "localhost") or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
