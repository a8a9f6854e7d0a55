"""apart(): runs a function in a daemon thread of its own, which the end of the process does not wait for."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

ResultT = TypeVar("ResultT")


async def apart(function: Callable[..., ResultT], *arguments: object) -> ResultT:
    """The result of `function`. Where the caller is cancelled, the function runs on.

    asyncio.to_thread() takes a thread of the loop's pool, and asyncio.run() does not return before all of those end.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[ResultT] = loop.create_future()

    def end(result: ResultT | None, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, error = None, None
        try:
            result = function(*arguments)
        except BaseException as caught:
            error = caught
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(end, result, error)

    threading.Thread(target=run, name=function.__name__, daemon=True).start()
    return await done
