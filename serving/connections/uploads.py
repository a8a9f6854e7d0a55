"""Uploads: a bound on the bytes that connections have sent and no call has taken.

gRPC's core keeps a message until it is whole, and only then looks at its size: one call that announces 2 GB may fill
the memory with them. No setting of it bounds that. So the server looks itself, where its memory grows: what the system
has received on each connection (TCP_INFO), less what calls were given, is what core holds of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, MutableMapping
from urllib.parse import unquote

import psutil

from .own_sockets import connections, plain_address, received_bytes

MOST_BYTES = 512 << 20
PERIOD_S = 0.25
REBASE_PERIODS = 20
Peer = tuple[str, int]
log = logging.getLogger(__name__)


def upload_budget(message_bytes: int) -> int:
    """Bytes that uploads may hold: a quarter of the memory that is free at the start, but a few messages at least."""
    return max(4 * message_bytes, min(MOST_BYTES, psutil.virtual_memory().available // 4))


class Uploads:
    """Closes the connections that hold most when uploads exceed half of `budget_bytes`. Belongs to one event loop.

    taken_bytes: by peer as gRPC writes it, see Calls. The bytes of a connection are counted from the last look at which
    this process was no larger than usual; so the bytes that headers and cancelled calls add to the count are forgotten.
    """

    def __init__(
        self,
        host: str,
        port: int,
        taken_bytes: MutableMapping[str, int],
        budget_bytes: int,
        memory_bytes: Callable[[], int] | None = None,
    ) -> None:
        self._host, self._port = host, port
        self._taken = taken_bytes
        self._budget = budget_bytes
        self._memory = memory_bytes or _resident_bytes
        self._usual = self._memory()
        self._base: dict[Peer, int] = {}
        self._looks = 0

    async def watch(self, period_s: float = PERIOD_S) -> None:
        """Watch until cancelled."""
        while True:
            await asyncio.sleep(period_s)
            await self.look()

    async def look(self) -> None:
        """Look once, and close the connections that hold too much."""
        memory = self._memory()
        self._usual = min(self._usual, memory)
        grown = memory - self._usual
        self._looks += 1
        if grown < self._budget // 2:
            if self._looks % REBASE_PERIODS == 0:
                self._base = await self._sample()
            return
        unclaimed = await self._sample()
        held = {peer: nbytes - self._base.get(peer, 0) for peer, nbytes in unclaimed.items()}
        total = sum(nbytes for nbytes in held.values() if nbytes > 0)
        if total < grown // 4:  # something else has grown: that is what is usual now
            self._usual, self._base = memory, unclaimed
        elif total > self._budget // 2:
            await asyncio.to_thread(self._close, self._worst(held, total - self._budget // 4))

    async def _sample(self) -> dict[Peer, int]:
        unclaimed = await asyncio.to_thread(self._unclaimed)
        for text in list(self._taken):
            if _peer_of(text) not in unclaimed:  # gone, and its port may be another's soon
                del self._taken[text]
        return unclaimed

    def _worst(self, held: dict[Peer, int], excess: int) -> set[Peer]:
        """The connections that hold most, as many as are needed to free `excess` bytes."""
        worst: set[Peer] = set()
        for peer in sorted(held, key=held.__getitem__, reverse=True):
            if excess <= 0:
                break
            worst.add(peer)
            excess -= held[peer]
        log.warning(
            "closed %d connections that hold %d MiB of requests which they do not finish, from %s",
            len(worst),
            sum(held[peer] for peer in worst) >> 20,
            ", ".join(sorted({host for host, _ in worst})[:3]),
        )
        return worst

    def _unclaimed(self) -> dict[Peer, int]:
        """By peer: bytes received minus bytes that calls took."""
        taken = {_peer_of(text): nbytes for text, nbytes in list(self._taken.items())}
        unclaimed: dict[Peer, int] = {}
        for connection in connections(self._host, self._port):
            with contextlib.suppress(OSError):
                received = received_bytes(connection)
                if received is not None:
                    peer = _peer_name(connection)
                    unclaimed[peer] = received - taken.get(peer, 0)
        return unclaimed

    def _close(self, peers: set[Peer]) -> None:
        for connection in connections(self._host, self._port):
            with contextlib.suppress(OSError):
                if _peer_name(connection) in peers:
                    connection.shutdown(socket.SHUT_RDWR)


def _resident_bytes() -> int:
    resident: int = psutil.Process().memory_info().rss
    return resident


def _peer_of(text: str) -> Peer:
    """The address in gRPC's ipv4:127.0.0.1:80 or ipv6:%5B::1%5D:80."""
    host, _, port = unquote(text).partition(":")[2].rpartition(":")
    return plain_address(host.strip("[]")), int(port) if port.isdecimal() else 0


def _peer_name(connection: socket.socket) -> Peer:
    host, port = connection.getpeername()[:2]
    return plain_address(host), port
