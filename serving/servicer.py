"""Servicer: the protocol's methods over gRPC. Each converts the request, asks the dataplane, converts the answer."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc

import nested_sparse
from nested_sparse.errors import DeadlineError, InputError, NotFoundError, SequenceError
from nested_sparse.proto import messages
from nested_sparse.runtime.generation import text_model
from nested_sparse.runtime.scheduling import Response, time_limit_ms
from nested_sparse.runtime.session import batch_size
from nested_sparse.tensor_spec import TensorSpec

from .connections.call_task import call_task
from .connections.calls import Calls
from .connections.front import arrived_s, load_form, waited_s
from .dataplane import Dataplane
from .fault import ending_of
from .generation.text_message import asks_for_text
from .generation.texts import Texts
from .load_report import LoadReport
from .log_settings import LogSettings
from .metrics import Metrics, Record
from .model_config import config_message, sizes
from .protocol.answers import Answers
from .protocol.call import Call, wanted_outputs
from .protocol.convert import (
    LARGE_BYTES,
    MAX_MESSAGE_BYTES,
    Bounds,
    InferRequest,
    parse_infer_request,
    read_call,
    read_message,
)
from .protocol.datatype import datatype_of
from .protocol.extended import extended_answer
from .protocol.inflate import inflated
from .protocol.known_headers import KnownHeaders, KnownRequest
from .protocol.parameters import MS_PER_S
from .protocol.wire import HEADER_BYTES
from .repository.repository import Repository
from .repository.rpcs import RepositoryRpcs
from .rights.caller import check_priority, client_name, name_client
from .sequences.step import SequenceStep, read_step
from .sequences.visit import Visit, missed
from .served_model import PLATFORM, ServedModel
from .shared_memory.regions import Regions
from .shared_memory.rpcs import MemoryRpcs
from .statistics import statistics_message
from .streaming import Streaming
from .trace_settings import TraceSettings

EXTENSIONS = (
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "statistics",
    "parameters",
    "classification",
    "sequence",
    "trace",
    "logging",
)
REST_EXTENSION = "binary_tensor_data"
MEMORY_EXTENSION = "system_shared_memory"
METRICS_EXTENSION = "prometheus_metrics"
"""Extension that names the port of the metrics, in brackets; the protocol has no field for it."""

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")
Method = Callable[[RequestT, Any], Awaitable[ResponseT]]
AnyRequest = InferRequest | KnownRequest


def answered(
    method: Method[RequestT, ResponseT], read: Callable[[bytes], Awaitable[RequestT]], calls: Calls
) -> Callable[[bytes, Any], Awaitable[ResponseT]]:
    """`method` as an RPC method that takes bytes, and whose errors become gRPC statuses.

    read: makes the request of its bytes. calls: counts the call until it is answered.
    """

    @functools.wraps(method)
    async def wrapper(data: bytes, context: Any) -> ResponseT:
        calls.begin(context)
        calls.took(context, len(data))
        task = call_task()
        if task is not None:
            task.release()
        try:
            return await method(await read(data), context)
        except Exception as error:
            ending = ending_of(error, method.__name__)
        finally:
            if task is not None:
                task.hold()
        del data  # gRPC keeps the abort, whose traceback has this frame, until Python's garbage collector finds it
        # outside of `except`: otherwise the traceback of the abort would name the error as its context
        await ending.send(context)

    return wrapper


class Servicer:
    """GRPCInferenceService, version 2 of the Open Inference Protocol.

    metrics_port: port of the metrics, which the server's metadata names; None: there is none.
    has_rest: whether the server answers over HTTP, too.
    calls: the calls that are not answered yet. limit_bytes: most bytes of a request for an inference.
    repository: the models that come and go; None: there are none such. streaming: the streams that are open.
    memory: the shared memory that requests may name; None: there is none. check_stream: see Streaming.
    """

    def __init__(
        self,
        dataplane: Dataplane,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        *,
        limit_bytes: int = MAX_MESSAGE_BYTES,
        repository: Repository | None = None,
        memory: Regions | None = None,
        check_stream: Callable[[Any], None] = lambda metadata: None,
    ) -> None:
        self.limit_bytes = limit_bytes
        self._memory = memory
        self.memory = MemoryRpcs(memory)
        self._dataplane = dataplane
        self.metrics = metrics
        self.load = LoadReport(dataplane, metrics)
        self._repository = repository
        self.repository = RepositoryRpcs(dataplane, repository)
        self.log = LogSettings()
        self.trace = TraceSettings(dataplane)
        self._clock = clock
        self._conversion, self._statistics = asyncio.Lock(), asyncio.Lock()
        self._headers, self._answers = KnownHeaders(memory), Answers()
        self.metrics_port: int | None = None
        self.has_rest = False
        self.calls = Calls()
        texts = Texts(dataplane, metrics, clock)
        self.streaming = Streaming(
            self.read_infer, self.infer, self.calls, limit_bytes, clock, check_stream, texts.responses
        )

    async def server_live(self, request: messages.ServerLiveRequest, context: Any) -> messages.ServerLiveResponse:
        """Whether the process answers."""
        return messages.ServerLiveResponse(live=True)

    async def server_ready(self, request: messages.ServerReadyRequest, context: Any) -> messages.ServerReadyResponse:
        """Whether the server takes requests; it does not while draining."""
        return messages.ServerReadyResponse(ready=self._dataplane.ready)

    async def model_ready(self, request: messages.ModelReadyRequest, context: Any) -> messages.ModelReadyResponse:
        """Whether the model takes requests. An unknown model is not ready; that is no error."""
        try:
            model = self._dataplane.find(request.name, request.version)
        except NotFoundError:
            return messages.ModelReadyResponse(ready=False)
        return messages.ModelReadyResponse(ready=self._dataplane.ready and model not in self._dataplane.stuck)

    async def server_metadata(
        self, request: messages.ServerMetadataRequest, context: Any
    ) -> messages.ServerMetadataResponse:
        """Name, version and extensions of the server."""
        rest = (REST_EXTENSION,) if self.has_rest else ()
        memory = () if self._memory is None else (MEMORY_EXTENSION,)
        metrics = () if self.metrics_port is None else (f"{METRICS_EXTENSION}({self.metrics_port})",)
        return messages.ServerMetadataResponse(
            name="nested-sparse", version=nested_sparse.__version__, extensions=(*EXTENSIONS, *rest, *memory, *metrics)
        )

    async def model_metadata(
        self, request: messages.ModelMetadataRequest, context: Any
    ) -> messages.ModelMetadataResponse:
        """Inputs and outputs of a version of a model, and the versions that are served."""
        model = self._dataplane.find(request.name, request.version)
        return messages.ModelMetadataResponse(
            name=model.name,
            versions=[each.version for each in self._dataplane.versions(model.name)],
            platform=PLATFORM,
            inputs=[_tensor_metadata(spec) for spec in model.inputs],
            outputs=[_tensor_metadata(spec) for spec in model.outputs],
        )

    def arrived(self) -> None:
        """Note the arrival of a request for model_infer, when its handler begins and nothing is read yet."""
        arrived_s.set(self._clock() - waited_s.get())

    async def read_infer(self, data: bytes) -> AnyRequest:
        """The inference request in `data`. Raises InputError, TooLargeError."""
        if len(data) <= self.limit_bytes and (known := self._headers.find(data)) is not None:
            return known
        with self.metrics.unread():
            return read_message(await inflated(data, self.limit_bytes), parse_infer_request, self.limit_bytes)

    async def model_infer(self, request: AnyRequest, context: Any) -> bytes:
        """Run a model at the level that the deadline allows; returns the serialised response.

        Time counts from the arrival of the request.
        """
        name_client(context)
        now_s, arrival_s = self._clock(), arrived_s.get()
        received_s = now_s if arrival_s is None else arrival_s
        left_s = context.time_remaining()
        if (form := load_form.get()) is not None:
            context.set_trailing_metadata(self.load.trailers(form))
        return await self.infer(request, received_s, None if left_s is None else left_s + now_s - received_s)

    async def infer(self, request: AnyRequest, received_s: float, time_left_s: float | None) -> bytes:
        """Run one request of any transport; returns the serialised response.

        received_s: time of arrival. time_left_s: seconds from then to the transport's deadline; None: there is none.
        """
        began_s = self._clock()
        message = request.message
        try:
            model = self._dataplane.find(message.model_name, message.model_version)
        except NotFoundError as error:
            self.metrics.count_unread(error)
            self._missed(request, self._dataplane.versions(message.model_name))
            raise
        with self.metrics.request(model, received_s) as record:
            if model.state:
                try:
                    step = read_step(message.parameters)
                except InputError:
                    self._missed(request, [model])
                    raise
                if step is not None:
                    return await self._in_sequence(step, request, model, received_s, time_left_s, record)
            call = await self._read(request, model, received_s, time_left_s)
            check_priority(call.request.priority)
            record.input_s = self._clock() - began_s
            return await self._answered(model, call, record)

    async def _answered(self, model: ServedModel, call: Call, record: Record) -> bytes:
        """The serialised response to `call`, noted in `record`."""
        served = await self._dataplane.infer(model, call)
        ended_s = self._clock()
        wanted = wanted_outputs(call.outputs, model.outputs)
        if call.is_plain:
            data = self._answers.serialized(model.name, model.version, call.id, wanted, served)
        else:
            data = await self._extended(model, call, wanted, served)
        record.batch, record.response = batch_size(model.inputs, call.request.inputs), served
        record.output_s = self._clock() - ended_s
        return data

    async def _in_sequence(
        self,
        step: SequenceStep,
        request: AnyRequest,
        model: ServedModel,
        received_s: float,
        time_left_s: float | None,
        record: Record,
    ) -> bytes:
        """As infer(), of a request of a sequence. Its state goes on only when the answer is made, and not too late."""
        began_s = self._clock()
        try:
            with Visit(self._dataplane.sequences, model, client_name.get(), step) as visit:
                with self._dataplane.held(model):
                    call = await self._read(request, model, received_s, time_left_s)
                    check_priority(call.request.priority)
                    record.input_s = self._clock() - began_s
                    limit_s = time_limit_ms(call.request, model.default_slo_ms) / MS_PER_S
                    call = await visit.ready(call, received_s + limit_s - self._clock())
                data = await self._answered(model, call, record)
                assert record.response is not None
                if time_left_s is not None and self._clock() >= received_s + time_left_s:
                    raise DeadlineError("expired: the client's deadline passed before the answer was made")
                visit.keep(record.response.outputs)
        except SequenceError:
            self._dataplane.check_ready()  # the reason why those before it failed
            raise
        return data

    def _missed(self, request: AnyRequest, models: list[ServedModel]) -> None:
        """Note that `request`, for one of `models`, has no place in its sequence, if it is of any."""
        stateful = [model for model in models if model.state]
        missed(self._dataplane.sequences, stateful, client_name.get(), request.message.parameters)

    async def _read(
        self, request: AnyRequest, model: ServedModel, received_s: float, time_left_s: float | None
    ) -> Call:
        if isinstance(request, KnownRequest):
            return request.call(received_s, time_left_s)
        if asks_for_text(request.message) and text_model(model.inputs, model.outputs, model.state):
            raise InputError(
                "A text is answered token by token; send the request for it in a stream, by ModelStreamInfer "
                "(tritonclient: async_stream_infer), to a server that is not behind a cluster's ingress."
            )
        bounds = Bounds(len(model.inputs), len(model.outputs), self._memory, bool(model.state))
        if not request.is_large:
            call = read_call(request, bounds, received_s, time_left_s)
            self._headers.learn(request, bounds, model.inputs)
            return call
        with self._dataplane.held(model):
            async with self._conversion:  # one thread at a time beside the loop's
                return await asyncio.to_thread(read_call, request, bounds, received_s, time_left_s)

    async def _extended(self, model: ServedModel, call: Call, wanted: tuple[str, ...], served: Response) -> bytes:
        """The answer to a request that wants classes of an output, or an output in shared memory."""
        make = functools.partial(extended_answer, model, call, wanted, served)
        if call.classes or sum(served.outputs[name].nbytes for name in call.places) > LARGE_BYTES:
            return await asyncio.to_thread(make)
        return make()

    async def model_config(self, request: messages.ModelConfigRequest, context: Any) -> messages.ModelConfigResponse:
        """The configuration that Triton's load tools ask for before they start."""
        model = self._dataplane.find(request.name, request.version)
        policy = None if self._repository is None else self._repository.policy_message(model.name)
        return messages.ModelConfigResponse(
            config=config_message(model, self.limit_bytes, policy, self._dataplane.sequences.limits.idle_s)
        )

    async def model_statistics(
        self, request: messages.ModelStatisticsRequest, context: Any
    ) -> messages.ModelStatisticsResponse:
        """Counts and times since each was loaded, of one version, of all versions of a model, or of all models."""
        if request.name:
            latest = self._dataplane.find(request.name, request.version)
            models = [latest] if request.version else self._dataplane.versions(request.name)
        else:
            models = self._dataplane.every()
        tallies = [(model, self.metrics.tallies[model]) for model in models]
        async with self._statistics:  # one thread of the pool at most, however many ask
            stats = await asyncio.to_thread(lambda: [statistics_message(model, tally) for model, tally in tallies])
        return messages.ModelStatisticsResponse(model_stats=stats)


def _tensor_metadata(spec: TensorSpec) -> messages.ModelMetadataResponse.TensorMetadata:
    return messages.ModelMetadataResponse.TensorMetadata(
        name=spec.name, datatype=datatype_of(spec.dtype).name, shape=sizes(spec)
    )


def generic_handler(servicer: Servicer) -> Any:
    """gRPC's handler for the methods above, with message classes from the private pool.

    Only requests for an inference may be large; all others hold names only.
    """
    methods: dict[str, Method[Any, Any]] = {
        "ServerLive": servicer.server_live,
        "ServerReady": servicer.server_ready,
        "ModelReady": servicer.model_ready,
        "ServerMetadata": servicer.server_metadata,
        "ModelMetadata": servicer.model_metadata,
        "ModelInfer": servicer.model_infer,
        "ModelConfig": servicer.model_config,
        "ModelStatistics": servicer.model_statistics,
        "RepositoryIndex": servicer.repository.repository_index,
        "RepositoryModelLoad": servicer.repository.repository_model_load,
        "RepositoryModelUnload": servicer.repository.repository_model_unload,
        "SystemSharedMemoryStatus": servicer.memory.system_shared_memory_status,
        "SystemSharedMemoryRegister": servicer.memory.system_shared_memory_register,
        "SystemSharedMemoryUnregister": servicer.memory.system_shared_memory_unregister,
        "CudaSharedMemoryStatus": servicer.memory.cuda_shared_memory_status,
        "CudaSharedMemoryRegister": servicer.memory.cuda_shared_memory_register,
        "CudaSharedMemoryUnregister": servicer.memory.cuda_shared_memory_unregister,
        "TraceSetting": servicer.trace.trace_setting,
        "LogSettings": servicer.log.log_settings,
    }

    async def read_infer(data: bytes) -> AnyRequest:
        servicer.arrived()
        return await servicer.read_infer(data)

    def read(name: str) -> Callable[[bytes], Awaitable[Any]]:
        parse = getattr(messages, f"{name}Request").FromString

        async def read_small(data: bytes) -> Any:
            return read_message(await inflated(data, HEADER_BYTES), parse, HEADER_BYTES)

        return read_small

    handlers = {
        name: grpc.unary_unary_rpc_method_handler(
            answered(method, read_infer if name == "ModelInfer" else read(name), servicer.calls),
            response_serializer=None
            if name == "ModelInfer"
            else getattr(messages, f"{name}Response").SerializeToString,
        )
        for name, method in methods.items()
    }
    handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(servicer.streaming.model_stream_infer)
    return grpc.method_handlers_generic_handler(messages.SERVICE_NAME, handlers)
