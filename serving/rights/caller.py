"""Caller: the name under which a call's client has its share of the queue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from nested_sparse.errors import ForbiddenError
from nested_sparse.runtime.scheduling import DEFAULT_PRIORITY

from .right import Right
from .tokens import Client

CERTIFICATE_NAMES = ("x509_subject_alternative_name", "x509_common_name")
"""Of gRPC's authentication context; gRPC itself names a peer by the first that its certificate has."""

caller: ContextVar[Client | None] = ContextVar("caller", default=None)
"""In a call: its client, if the call needed a right. Its name is "" where no token states it."""
client_name: ContextVar[str] = ContextVar("client_name", default="")
"""In a call of an inference method: the name of its client."""


def name_client(context: Any) -> None:
    """Set `client_name` for the call of this gRPC context: its token's name, else its certificate's, else its address.

    The port is no part of the address: a client does not get a share for each of its connections.
    """
    client = caller.get()
    name = "" if client is None else client.name
    if not name:
        name = _certified(context.auth_context())
    client_name.set(name or context.peer().rpartition(":")[0])


def _certified(facts: Mapping[str, Sequence[bytes]]) -> str:
    """The name in the client's certificate; "" where it showed none. facts: gRPC's authentication context."""
    for key in CERTIFICATE_NAMES:
        if names := facts.get(key):
            return names[0].decode("utf-8", "replace")
    return ""


def check_priority(priority: int | None) -> None:
    """Raise ForbiddenError where the call's client may not go before others with this priority of its request.

    A priority beats the shares of clients, so without this rule one client could take the device from all others.
    """
    client = caller.get()
    if priority is None or priority >= DEFAULT_PRIORITY or client is None or Right.ADMINISTRATION in client.rights:
        return
    raise ForbiddenError(
        f"priority {priority} goes before the requests of other clients and takes the right of administration; send "
        f"{DEFAULT_PRIORITY} or more, or none"
    )
