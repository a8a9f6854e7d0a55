"""CallTask: the task of a gRPC call, which is cancelled in our own code only."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any

AnyCoroutine = Coroutine[Any, Any, Any] | Generator[Any, None, Any]
GRPC_CALL = "_handle_exceptions"
"""Name of the coroutine in which gRPC handles a call. If a gRPC names it otherwise, all is as without CallTask."""


class CallTask(asyncio.Task[Any]):
    """As a task, but between hold() and release() a cancellation waits.

    gRPC cancels the task of a call that its client has cancelled, wherever the task is. A batch of operations that the
    task waits for is then never freed: grpcio 1.81 and 1.85 lose about 100 bytes for each call that is cancelled before
    its request has been read (decision 068). The batches of such a call end at once by themselves, so nothing is lost
    by waiting for them. Our own code, which may compute for long, is still cancelled at once.
    """

    _held = _left = False

    def cancel(self, msg: Any = None) -> bool:
        """As a task's."""
        if not self._held:
            return super().cancel(msg)
        self._left = True
        return not self.done()

    def hold(self) -> None:
        """From now on gRPC reads the request, or sends the answer."""
        self._held = True

    def release(self) -> None:
        """From now on our code runs. Raises CancelledError where the client has left meanwhile."""
        self._held = False
        if self._left:
            raise asyncio.CancelledError


def call_task() -> CallTask | None:
    """The running task, if it is that of a call."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # there is no event loop
        return None
    return task if isinstance(task, CallTask) else None


def make_task(loop: asyncio.AbstractEventLoop, coroutine: AnyCoroutine, **options: Any) -> asyncio.Task[Any]:
    """A factory for the event loop of a server (loop.set_task_factory)."""
    kind = CallTask if getattr(coroutine, "__name__", "") == GRPC_CALL else asyncio.Task
    return kind(coroutine, loop=loop, **options)
