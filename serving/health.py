"""HealthServicer: grpc.health.v1, with a watcher for itself.

The servicer of grpc_health is not used. It writes to a watcher under a lock that all watchers of a service share, so
one watcher that does not read blocks the status for all others, and the end of the server. It also forgets the other
watchers when one of them leaves.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

SERVICE_NAME = "grpc.health.v1.Health"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
POLL_S = 0.01


class _Watcher:
    """One call of Watch: the service, and the status that its client was sent last."""

    def __init__(self, service: str | None) -> None:
        self.service = service
        self.told: int | None = None
        self.changed = asyncio.Event()


class HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # grpc has no types
    """Statuses by service; "" is the server as a whole. Belongs to one event loop."""

    def __init__(self) -> None:
        self._statuses: dict[str, int] = {"": SERVING}
        self._watchers: set[_Watcher] = set()
        self._ended = False
        self._closed = False

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Any) -> health_pb2.HealthCheckResponse:  # noqa: N802
        """As in the protocol. NOT_FOUND for a service that is not here."""
        status = self._statuses.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "There is no such service here.")
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:  # noqa: N802
        """As in the protocol: the status now and each later one; SERVICE_UNKNOWN for a service that is not here."""
        watcher = _Watcher(request.service if request.service in self._statuses else None)
        self._watchers.add(watcher)
        try:
            while not self._closed or watcher.told != self._status_for(watcher):
                watcher.changed.clear()
                status = self._status_for(watcher)
                if status != watcher.told:
                    await context.write(health_pb2.HealthCheckResponse(status=status))
                    watcher.told = status
                elif not self._closed:
                    await watcher.changed.wait()
            await context.abort(grpc.StatusCode.UNAVAILABLE, "The server has stopped.")
        finally:
            self._watchers.discard(watcher)

    def set(self, service: str, status: int) -> None:
        """Set the status of a service; without effect once the server ends."""
        if self._ended:
            return
        self._statuses[service] = status
        self._wake(service)

    def forget(self, service: str) -> None:
        """There is no such service any more; its watchers are told so. Without effect once the server ends."""
        if not self._ended and self._statuses.pop(service, None) is not None:
            self._wake(service)

    def _wake(self, service: str) -> None:
        for watcher in self._watchers:
            if watcher.service == service:
                watcher.changed.set()

    def end(self) -> None:
        """Set every status to NOT_SERVING, for good."""
        for service in self._statuses:
            self.set(service, NOT_SERVING)
        self._ended = True

    async def close(self, limit_s: float) -> None:
        """End the calls of all watchers after their last status; wait at most `limit_s` for that."""
        self._closed = True
        for watcher in self._watchers:
            watcher.changed.set()
        end_s = asyncio.get_running_loop().time() + limit_s
        while self._watchers and asyncio.get_running_loop().time() < end_s:
            await asyncio.sleep(POLL_S)

    def _status_for(self, watcher: _Watcher) -> int:
        return int(UNKNOWN if watcher.service is None else self._statuses.get(watcher.service, UNKNOWN))
