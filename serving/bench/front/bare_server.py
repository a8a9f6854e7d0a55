"""BareServer: a process of a grpc.aio server that does nothing but answer. The least that a call can cost.

`python -m nested_sparse.serving.bench.front.bare_server BYTES...` prints its address.
Each method is named by a number of bytes: method N answers any request with N zeros. With `--model FILE`, it parses the
request and runs the model first, and does nothing else: the least that an inference can cost.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
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
def running_bare_server(sizes: Sequence[int], model: Path | None = None) -> Iterator[str]:
    """A process with a method for each of `sizes`, ended with the context; gives its address. Raises BenchError.

    model: checkpoint that each request is for; None: requests are not read.
    """
    command = [sys.executable, "-m", MODULE, *map(str, sizes), *(["--model", str(model)] if model else [])]
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


def _running_method(size: int, model: Path) -> Callable[[bytes, Any], Awaitable[bytes]]:
    import numpy as np

    from nested_sparse.proto import messages
    from nested_sparse.runtime.session import Session

    answer, session = bytes(size), Session(model, threads=1)

    async def method(data: bytes, _: Any) -> bytes:
        request = messages.ModelInferRequest.FromString(data)
        values = np.frombuffer(request.raw_input_contents[0], np.float32).reshape(request.inputs[0].shape)
        session.run({request.inputs[0].name: values})
        return answer

    return method


async def _main(sizes: Sequence[int], model: Path | None) -> None:
    server = aio.server(options=(("grpc.max_receive_message_length", -1),))
    methods = {size: _method(size) if model is None else _running_method(size, model) for size in sizes}
    handlers = {str(size): grpc.unary_unary_rpc_method_handler(method) for size, method in methods.items()}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await asyncio.to_thread(sys.stdin.read)  # ends with the process that started this one
    await server.stop(None)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("sizes", type=int, nargs="+")
    parser.add_argument("--model", type=Path)
    options = parser.parse_args()
    asyncio.run(_main(options.sizes, options.model))
