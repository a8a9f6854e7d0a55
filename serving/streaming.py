"""Streaming: ModelStreamInfer, many inference requests on one call.

The answers come in the order of the requests. Only the tokens of texts come as they are made, between other answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc
from grpc import aio

from nested_sparse.errors import AccessError, UnavailableError
from nested_sparse.proto import messages

from .connections.calls import Calls
from .fault import Ending, ending_of
from .generation.text_message import FINAL_RESPONSE, asks_for_text
from .protocol.convert import InferRequest
from .protocol.known_headers import KnownRequest
from .protocol.wire import length_prefix
from .rights.caller import name_client
from .sequences.source import StreamSource, stream_source

MOST_UNANSWERED = 16
"""Requests of one stream that are in the server at once. The next one is not read before the oldest is answered, and
gRPC's flow control then holds the client back."""
GRPC_ERROR = ("triton_grpc_error", "true")
"""Header by which a client asks for a gRPC status in place of an error message in the stream; it ends the stream."""
INFER_RESPONSE = messages.ModelStreamInferResponse.DESCRIPTOR.fields_by_name["infer_response"].number
REFUSED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
"""Statuses of an AccessError that another part of the server has found. They end the stream, as that error does."""
FINAL = messages.ModelInferResponse(
    parameters={FINAL_RESPONSE: messages.InferParameter(bool_param=True)}
).SerializeToString()
"""The parameter that tells the last response of a request; all but those for texts have one response. In front of
another response, these bytes become part of it: protobuf merges messages that follow one another."""

WriteText = Callable[
    [messages.ModelInferRequest, float, float | None], AsyncGenerator[messages.ModelInferResponse, None]
]
_Answer = bytes | Ending | None
"""Of a request: the message, the ending of the stream, or nothing more, where its messages are written already."""


class Streaming:
    """The streams that are open. Belongs to one event loop.

    read: makes a request of its bytes. infer: answers it, given its time of arrival and the seconds that are left.
    write_text: the same for a request for a text, token by token; None: such a request is as any other.
    limit: most bytes of a request; a stream whose unanswered requests hold as many is not read further.
    check: given the metadata of a stream, raises AccessError where it may go on no longer. Asked for each request: a
        stream may live longer than the token that opened it.
    """

    def __init__(
        self,
        read: Callable[[bytes], Awaitable[InferRequest | KnownRequest]],
        infer: Callable[[InferRequest | KnownRequest, float, float | None], Awaitable[bytes]],
        calls: Calls,
        limit: int,
        clock: Callable[[], float],
        check: Callable[[Any], None],
        write_text: WriteText | None = None,
    ) -> None:
        self.read, self.infer, self.write_text = read, infer, write_text
        self.calls, self.limit, self.clock, self.check = calls, limit, clock, check
        self._open: set[_Stream] = set()

    async def model_stream_infer(self, _: Any, context: Any) -> None:
        """ModelStreamInfer: read, run and answer requests until the client ends its side, or cancels the call.

        An error of a request is a message in the stream, which goes on; with the header GRPC_ERROR it is the end of
        the stream, as is a token that has gone. A cancelled stream cancels its requests. Its deadline is that of each
        request.
        """
        self.calls.begin(context)
        name_client(context)
        stream_source.set(source := StreamSource())
        stream = _Stream(self, context, source)
        self._open.add(stream)
        try:
            ending = await stream.run()
        finally:
            self._open.discard(stream)
        if ending is not None:
            await ending.send(context)

    def close(self) -> None:
        """Read no more requests, and end each stream behind its last answer, with UNAVAILABLE."""
        for stream in self._open:
            stream.close()


class _Stream:
    """One call of ModelStreamInfer."""

    def __init__(self, streaming: Streaming, context: Any, source: StreamSource) -> None:
        self._source = source
        self._streaming = streaming
        self._context = context
        self._metadata = context.invocation_metadata() or ()
        self._ends_at_error = GRPC_ERROR in ((key, value) for key, value in self._metadata)
        self._unanswered: set[asyncio.Task[_Answer]] = set()
        self._answers: asyncio.Queue[asyncio.Task[_Answer] | None] = asyncio.Queue()
        self._writing = asyncio.Lock()
        self._held_bytes = 0
        self._reading = asyncio.Lock()  # requests of one sequence take their places in the order of the stream
        self._room = asyncio.Event()
        self._ending: Ending | None = None
        self._reader: asyncio.Task[None] | None = None

    async def run(self) -> Ending | None:
        """Serve the stream; returns the status that it ends with, None for OK."""
        self._reader = asyncio.create_task(self._read())
        self._reader.add_done_callback(lambda _: self._answers.put_nowait(None))
        try:
            while (task := await self._answers.get()) is not None:
                answer = await task
                self._unanswered.discard(task)
                if isinstance(answer, Ending):
                    return answer
                if answer is not None:
                    await self._write(answer)
                self._room.set()
            if not self._reader.cancelled():
                self._reader.result()
            return self._ending
        finally:
            for each in (self._reader, *self._unanswered):
                each.cancel()

    def close(self) -> None:
        """End it, see Streaming."""
        self._ending = Ending.of(UnavailableError("The server is draining; open a stream to another one."))
        if self._reader is not None:
            self._reader.cancel()

    async def _read(self) -> None:
        while (data := await self._context.read()) is not aio.EOF:
            self._streaming.calls.took(self._context, len(data))
            task = asyncio.create_task(self._answered(data, self._streaming.clock()))
            self._unanswered.add(task)
            self._answers.put_nowait(task)
            self._held_bytes += len(data)
            del data
            while len(self._unanswered) >= MOST_UNANSWERED or self._held_bytes >= self._streaming.limit:
                self._room.clear()
                await self._room.wait()
        while working := [task for task in self._unanswered if not task.done()]:  # they may yet be for texts
            await asyncio.wait(working)

    async def _write(self, message: bytes) -> None:
        async with self._writing:  # gRPC takes one at a time
            await self._context.write(message)

    async def _answered(self, data: bytes, received_s: float) -> _Answer:
        """The answer to the request in `data`. One for a text gets none in its place: a task of its own answers it."""
        size, name = len(data), ""
        try:
            self._streaming.check(self._metadata)
            async with self._reading:
                try:
                    request = await self._streaming.read(data)
                except Exception:
                    self._source.unread += 1  # it may be of any sequence
                    raise
            name = request.message.id
            write = self._streaming.write_text
            if write is not None and asks_for_text(request.message):
                if not request.message.raw_input_contents:  # they were taken out of a large message
                    request.message.raw_input_contents.extend(bytes(each) for each in request.raw)
                task = asyncio.create_task(self._write_text(write, request.message, received_s))
                self._unanswered.add(task)
                task.add_done_callback(self._answers.put_nowait)
                return None
            response = await self._streaming.infer(request, received_s, self._context.time_remaining())
        except Exception as error:
            return self._failed(error, name)
        finally:
            self._held_bytes -= size
        return b"".join((length_prefix(INFER_RESPONSE, len(FINAL) + len(response)), FINAL, response))

    async def _write_text(self, write: WriteText, message: messages.ModelInferRequest, received_s: float) -> _Answer:
        """Write the tokens that `message` asks for, each as soon as it is there; returns the error, if there is one."""
        try:
            left_s = self._context.time_remaining()
            async with aclosing(write(message, received_s, left_s)) as responses:
                async for response in responses:
                    self._streaming.check(self._metadata)
                    await self._write(messages.ModelStreamInferResponse(infer_response=response).SerializeToString())
        except Exception as error:
            return self._failed(error, message.id)
        return None

    def _failed(self, error: Exception, name: str) -> bytes | Ending:
        """The message for an error of the request whose id is `name`, or the ending of the stream."""
        if isinstance(error, AccessError):
            return Ending.of(error)
        ending = ending_of(error, "model_stream_infer")
        return ending if self._ends_at_error or ending.status in REFUSED else _error(ending, name)


def _error(ending: Ending, name: str) -> bytes:
    """The message for an error of the request whose id is `name`."""
    message = messages.ModelStreamInferResponse(error_message=ending.message or ending.status.name)
    message.infer_response.id = name
    return message.SerializeToString()
