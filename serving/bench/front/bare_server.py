"""BareServer: a process of a grpc.aio server that does nothing but answer. The least that a call can cost.

`python -m nested_sparse.serving.bench.front.bare_server BYTES...` prints its address.
Each method is named by a number of bytes: method N answers any request with N zeros.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import grpc
from grpc import aio

from nested_sparse.errors import BenchError

MODULE = "nested_sparse.serving.bench.front.bare_server"
SERVICE = "nested_sparse.Bare"


def path_of(size: int) -> str:
    """The path of the method that answers with `size` bytes."""
    return f"/{SERVICE}/{size}"


@contextlib.contextmanager
def running_bare_server(sizes: Sequence[int]) -> Iterator[str]:
    """A process with a method for each of `sizes`, ended with the context; gives its address. Raises BenchError."""
    command = [sys.executable, "-m", MODULE, *map(str, sizes)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        if not address:
            raise BenchError("the bare gRPC server did not start; its error is above")
        yield address
    finally:
        process.kill()
        process.communicate()


def _method(size: int) -> Callable[[bytes, Any], Awaitable[bytes]]:
    answer = bytes(size)

    async def method(_: bytes, __: Any) -> bytes:
        return answer

    return method


async def _main(sizes: Sequence[int]) -> None:
    server = aio.server(options=(("grpc.max_receive_message_length", -1),))
    handlers = {str(size): grpc.unary_unary_rpc_method_handler(_method(size)) for size in sizes}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await asyncio.to_thread(sys.stdin.read)  # ends with the process that started this one
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(_main([int(size) for size in sys.argv[1:]]))
