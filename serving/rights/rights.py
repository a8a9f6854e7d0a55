"""Rights: decides whether a call may be made. gRPC and REST ask it once a call."""

from __future__ import annotations

from collections.abc import Callable

from nested_sparse.errors import ForbiddenError, UnauthenticatedError

from .right import Right
from .tokens import Client, Tokens

SCHEME = "bearer"
ADVICE = "send `authorization: Bearer TOKEN` in the call's metadata"
EVERY_RIGHT = frozenset(Right)
WITHOUT_TOKENS = EVERY_RIGHT - {Right.ADMINISTRATION}


class Rights:
    """The rights of callers.

    tokens: gives those that are valid now; None: the server has no token file. Then every caller may infer and read,
    and administer if the server is `local`: reached from this machine only.
    free: the rights that take no token.
    """

    def __init__(self, tokens: Callable[[], Tokens] | None = None, local: bool = True) -> None:
        self._tokens = tokens
        self.free = frozenset[Right]()
        if tokens is None:
            self.free = EVERY_RIGHT if local else WITHOUT_TOKENS

    def check(self, authorization: str | None, client: str, right: Right) -> Client:
        """The caller, if it has `right`.

        authorization: of the call's metadata or HTTP header, None where there is none. client: the caller's name if
        no token names it. Raises UnauthenticatedError, ForbiddenError.
        """
        if self._tokens is None:
            if right not in self.free:
                raise ForbiddenError(
                    f"{right.value} over the network takes a token, and this server has none; start it with "
                    "--token-file, or call it from its own machine on a loopback address"
                )
            return Client(client, self.free)
        caller = self._tokens().client(_token(authorization))
        if caller is None:
            raise UnauthenticatedError("the call's token is not known here, or no longer; ask for a new one")
        if right not in caller.rights:
            has = ", ".join(sorted(each.value for each in caller.rights))
            raise ForbiddenError(f"the token of '{caller.name}' is good for {has}; this call takes {right.value}")
        return caller


def _token(authorization: str | None) -> str:
    if authorization is None:
        raise UnauthenticatedError(f"this server answers calls with a token only; {ADVICE}")
    scheme, _, token = authorization.strip().partition(" ")
    if scheme.lower() != SCHEME or not token:
        raise UnauthenticatedError(f"the call's authorization is no bearer token; {ADVICE}")
    return token.strip()
