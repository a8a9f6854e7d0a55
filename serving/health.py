"""Health: the statuses that grpc.health.v1 tells, once or as they change."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from nested_sparse.errors import UnavailableError
from nested_sparse.serving.fault import Ending

_STATUS = health_pb2.HealthCheckResponse


class HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # grpc has no types
    """What grpc_health's own does on an event loop, but for two faults of that (1.81).

    There a watcher that leaves takes the news of all others of its service with it, and one whose connection takes no
    bytes holds up whoever sets a status, a server's end included.
    """

    def __init__(self) -> None:
        self._statuses: dict[str, int] = {"": _STATUS.SERVING}
        self._changed = asyncio.Condition()
        self._ending = self._ended = False

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Any) -> Any:  # noqa: N802  # the protocol's
        """The status of a service; NOT_FOUND where there is none of that name."""
        status = self._statuses.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND)
        return _STATUS(status=status)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:  # noqa: N802  # the protocol's
        """The status of a service now and whenever it changes, SERVICE_UNKNOWN while there is none, until the end."""
        told: int | None = None
        while True:
            async with self._changed:
                while not self._ended and told == self._status(request.service):
                    await self._changed.wait()
                if told == self._status(request.service):
                    break
                told = self._status(request.service)
            await context.write(_STATUS(status=told))  # not under the lock: it may take as long as the client likes
        await Ending.of(UnavailableError("The server has ended.")).send(context)

    async def set(self, service: str, status: int) -> None:
        """Tell this status from now on; the last ones are those of the graceful shutdown."""
        if not self._ending:
            await self._tell({service: status})

    async def enter_graceful_shutdown(self) -> None:
        """Tell NOT_SERVING of every service, for good."""
        self._ending = True
        await self._tell(dict.fromkeys(self._statuses, _STATUS.NOT_SERVING))

    async def end_watches(self) -> None:
        """End every watch behind its last status: what clients have not read goes with a connection that closes."""
        self._ended = True
        await self._tell({})

    async def _tell(self, statuses: dict[str, int]) -> None:
        async with self._changed:
            self._statuses.update(statuses)
            self._changed.notify_all()

    def _status(self, service: str) -> int:
        status: int = self._statuses.get(service, _STATUS.SERVICE_UNKNOWN)
        return status
