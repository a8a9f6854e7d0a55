"""CallTask: a cancellation waits while gRPC works on the call, and comes at once in our code."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import itertools
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import grpc
import pytest
from clients import infer_stub, typed_request, wait_for

from nested_sparse.serving.connections.call_task import CallTask, call_task, make_task

CALLS = 2000
LOST_BYTES = 40
"""Of a call; gRPC without CallTask loses 96."""


async def _handle_exceptions(body: Callable[[CallTask], Coroutine[Any, Any, str]]) -> str:
    """Named as gRPC's."""
    task = call_task()
    assert task is not None
    return await body(task)


def end_of(body: Callable[[CallTask], Coroutine[Any, Any, str]]) -> str:
    """The end of a call that is cancelled as soon as it waits: its result, or the name of its error."""

    async def run() -> str:
        asyncio.get_running_loop().set_task_factory(make_task)
        task = asyncio.create_task(_handle_exceptions(body))
        await asyncio.sleep(0)
        assert task.cancel()
        (ended,) = await asyncio.gather(task, return_exceptions=True)
        return ended if isinstance(ended, str) else type(ended).__name__

    return asyncio.run(run())


def test_a_cancellation_waits_until_our_code_begins() -> None:
    """Then the call ends before anything is computed."""

    async def body(task: CallTask) -> str:
        task.hold()
        await asyncio.sleep(0.01)
        task.release()
        return "computed"

    assert end_of(body) == "CancelledError"


def test_a_cancellation_comes_at_once_in_our_code() -> None:
    """Also where gRPC has read the request before."""

    async def body(task: CallTask) -> str:
        task.hold()
        task.release()
        await asyncio.sleep(60)
        return "computed"

    assert end_of(body) == "CancelledError"


def test_an_answer_is_sent_to_the_end() -> None:
    """gRPC's own operations end by themselves."""

    async def body(task: CallTask) -> str:
        task.release()
        task.hold()
        await asyncio.sleep(0.01)
        return "sent"

    assert end_of(body) == "sent"


def test_other_tasks_are_ordinary() -> None:
    """A coroutine of another name has a task of asyncio's, and code outside of calls has no call task."""

    async def other() -> type:
        assert call_task() is None
        return type(asyncio.current_task())

    async def run() -> type:
        asyncio.get_running_loop().set_task_factory(make_task)
        return await asyncio.create_task(other())

    assert asyncio.run(run()) is asyncio.Task


class MallInfo(ctypes.Structure):
    """As mallinfo(3). uordblks: bytes in use; hblkhd: those of large blocks, which have mappings of their own."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def used_bytes() -> int:
    """Bytes of this process that its C library has given out and not got back."""
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = MallInfo
    info = mallinfo2()
    return int(info.uordblks + info.hblkhd)


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="this C library does not count"
)
def test_a_call_that_its_client_cancels_costs_no_memory(server: Any) -> None:
    """Its task is ours, and all that gRPC takes for it is given back."""
    calls = server._servicer.calls

    def cancel_many() -> int:
        with grpc.insecure_channel(server.address) as channel:
            ask, request = infer_stub(channel), typed_request()
            for _ in range(CALLS):
                ask.future(request).cancel()
            ask(request)
        assert wait_for(lambda: not calls._open)
        gc.collect()
        return used_bytes()

    cancel_many()
    used = [cancel_many() for _ in range(5)]
    least = min(after - before for before, after in itertools.pairwise(used))  # other parts come and go
    assert least < LOST_BYTES * CALLS, used
