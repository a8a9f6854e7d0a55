"""Servicer: requests that are refused, and their memory."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any, NoReturn

import grpc
import numpy as np

from nested_sparse.errors import InputError
from nested_sparse.serving.connections.calls import Calls
from nested_sparse.serving.servicer import answered


class Context:
    """Keeps the error of its abort, as gRPC's context does, and is kept by that error's traceback."""

    ending: tuple[Any, ...] = ()

    def add_done_callback(self, callback: Any) -> None:
        """The test looks before gRPC would call it."""

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    async def abort(self, *ending: Any) -> NoReturn:
        self.ending = ending
        self.error = RuntimeError("aborted")
        raise self.error


def test_the_bytes_of_a_refused_request_are_gone_without_a_garbage_collection() -> None:
    """They may be many: a client whose requests are refused must not fill the memory until Python collects."""

    async def read(data: Any) -> Any:
        return data

    async def method(request: Any, context: Any) -> None:
        raise InputError("no such input")

    async def ask(data: Any, context: Context) -> BaseException | None:
        wrapper = asyncio.create_task(answered(method, read, Calls())(data, context))  # type: ignore[arg-type]
        (error,) = await asyncio.gather(wrapper, return_exceptions=True)
        return error

    data, context = np.zeros(1000, np.uint8), Context()  # bytes themselves have no weak references
    known = weakref.ref(data)
    gc.disable()
    try:
        assert asyncio.run(ask(data, context)) is context.error
        del data
        assert known() is None
    finally:
        gc.enable()
    assert context.ending[0] == grpc.StatusCode.INVALID_ARGUMENT
