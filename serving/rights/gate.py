"""Gate: gRPC's first handler. It refuses the calls that their caller may not make, before their bodies are read."""

from __future__ import annotations

import ipaddress
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

import grpc

from nested_sparse.errors import AccessError, ForbiddenError, UnauthenticatedError
from nested_sparse.excerpt import excerpt

from ..fault import Ending
from .caller import caller
from .right import Right, right_of
from .rights import Rights
from .tokens import Client

KEY, HOST_KEY = "authorization", "host"
"""The second is a header of HTTP; gRPC has none of this name."""
LOG_PERIOD_S = 10.0
"""Least time between two lines of the log about refused calls."""
Metadata = Sequence[tuple[str, str | bytes]] | None
log = logging.getLogger(__name__)


class Gate(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """Stands in front of all handlers of a server: gRPC asks them in their order, and this one answers for none but
    refused calls. An RPC that the table of rights lacks takes the right of administration.

    own_path: of the server's calls to itself, a secret name. on_refused: called with the error of each refusal, for
    the metrics.
    """

    def __init__(
        self,
        rights: Rights,
        own_path: str,
        on_refused: Callable[[Exception], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rights = rights
        self._anyone = Client("", rights.free)
        self._own_path = own_path
        self._on_refused = on_refused
        self._clock = clock
        self._logged_s = -LOG_PERIOD_S
        self._unlogged = 0

    def service(self, details: Any) -> Any:
        """None where the call may be made: then gRPC asks the next handler."""
        method = details.method
        right = right_of(method)
        if right is None or method == self._own_path:
            return None
        try:
            if right in self._rights.free:
                if right is Right.ADMINISTRATION:
                    _check_host(details.invocation_metadata)
                caller.set(self._anyone)
                return None
            caller.set(self._rights.check(authorization_of(details.invocation_metadata), "", right))
        except AccessError as error:
            return self._refusal(method, error)
        return None

    def _refusal(self, method: str, error: AccessError) -> Any:
        ending = Ending.of(error)
        self._on_refused(error)

        async def refuse(_: Any, context: Any) -> None:
            context.set_code(ending.status)  # in place of an abort, which raises and costs as much again
            context.set_details(ending.message)
            self._log(method, context.peer(), ending.message)

        return grpc.stream_stream_rpc_method_handler(refuse)

    def _log(self, method: str, peer: str, reason: str) -> None:
        self._unlogged += 1
        now_s = self._clock()
        if now_s - self._logged_s >= LOG_PERIOD_S:
            log.warning("refused %d calls; the last one, %s from %s: %s", self._unlogged, method, peer, reason)
            self._logged_s, self._unlogged = now_s, 0


def check_stream(rights: Rights, metadata: Metadata) -> None:
    """Raise AccessError where the caller of a stream, which has this metadata, may infer no longer."""
    rights.check(authorization_of(metadata), "", Right.INFERENCE)


def authorization_of(metadata: Metadata) -> str | None:
    """The authorization in the metadata of a call; None: there is none. Raises UnauthenticatedError for several."""
    found: str | bytes | None = None
    for key, value in metadata or ():
        if key == KEY:
            if found is not None:
                raise UnauthenticatedError("the call has more than one authorization; send one")
            found = value
    return found.decode("latin-1") if isinstance(found, bytes) else found


def _check_host(metadata: Metadata) -> None:
    """Refuse a call over HTTP that knows this server by a name other than localhost.

    A page in a browser on this machine may have its own name lead here (DNS rebinding), and is then no other site's.
    """
    for key, value in metadata or ():
        if key == HOST_KEY:
            host = value if isinstance(value, str) else ""
            if not _is_own_name(host):
                raise ForbiddenError(
                    f"administration as '{excerpt(host)}' takes a token; start the server with --token-file, or call "
                    "it by its address or as localhost"
                )


def _is_own_name(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or bool(ipaddress.ip_address(name))
    except ValueError:  # no address, or no host at all
        return False
