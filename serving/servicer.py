"""Servicer: the protocol's methods over gRPC. Each converts, asks the dataplane, converts back."""

from __future__ import annotations

import functools
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

import nested_sparse
from nested_sparse.errors import NotFoundError
from nested_sparse.proto import messages
from nested_sparse.runtime.tensors import batch_size
from nested_sparse.serving.call import wanted_outputs
from nested_sparse.serving.convert import read_call, read_message, write_outputs
from nested_sparse.serving.dataplane import Dataplane
from nested_sparse.serving.datatype import datatype_of
from nested_sparse.serving.fault import INTERNAL, fault_of, message_of, trailers_of
from nested_sparse.serving.metrics import Metrics
from nested_sparse.serving.parameters import served_parameters
from nested_sparse.serving.served_model import PLATFORM, VERSION, ServedModel
from nested_sparse.tensor_spec import TensorSpec

EXTENSIONS = ("model_configuration", "model_repository(index)", "statistics", "parameters")
METRICS_EXTENSION = "prometheus_metrics"
"""With the port in brackets: where the metrics are, which the protocol has no field for."""

RequestT = TypeVar("RequestT", bound=Message)
ResponseT = TypeVar("ResponseT")
Method = Callable[[RequestT, Any], Awaitable[ResponseT]]

log = logging.getLogger(__name__)


def answered(
    method: Method[RequestT, ResponseT], message: type[RequestT], limit: int
) -> Callable[[bytes, Any], Awaitable[ResponseT]]:
    """An RPC method, of a request's bytes, whose errors are gRPC statuses.

    What nobody foresaw is INTERNAL with an id, its details in the log. limit: bytes that a request may have.
    """

    @functools.wraps(method)
    async def wrapper(data: bytes, context: Any) -> ResponseT:
        try:
            return await method(read_message(data, message, limit), context)
        except Exception as error:
            fault = fault_of(error)
            details, trailers = message_of(error), trailers_of(error)
            if fault is INTERNAL:
                incident = uuid.uuid4().hex[:12]
                log.exception("%s failed, incident %s", method.__name__, incident)
                details = f"The server failed on this request; its log has the details under incident {incident}."
        # outside the handler: the abort is no consequence of the error, and its traceback should not say so
        await context.abort(fault.status, details, trailers)
        raise AssertionError("abort always raises")

    return wrapper


class Servicer:
    """GRPCInferenceService, version 2 of the Open Inference Protocol.

    metrics_port: where the metrics are served, None for nowhere; told in the server's metadata.
    """

    def __init__(self, dataplane: Dataplane, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._dataplane = dataplane
        self._metrics = metrics
        self._clock = clock
        self.metrics_port: int | None = None

    async def server_live(self, request: messages.ServerLiveRequest, context: Any) -> messages.ServerLiveResponse:
        """Whether the process answers."""
        return messages.ServerLiveResponse(live=True)

    async def server_ready(self, request: messages.ServerReadyRequest, context: Any) -> messages.ServerReadyResponse:
        """Whether it takes requests; not while draining."""
        return messages.ServerReadyResponse(ready=self._dataplane.ready)

    async def model_ready(self, request: messages.ModelReadyRequest, context: Any) -> messages.ModelReadyResponse:
        """Whether the model takes requests; one that is not here is not ready, which is an answer and no error."""
        try:
            self._dataplane.find(request.name, request.version)
        except NotFoundError:
            return messages.ModelReadyResponse(ready=False)
        return messages.ModelReadyResponse(ready=self._dataplane.ready and request.name not in self._dataplane.stuck)

    async def server_metadata(
        self, request: messages.ServerMetadataRequest, context: Any
    ) -> messages.ServerMetadataResponse:
        """Who answers."""
        metrics = () if self.metrics_port is None else (f"{METRICS_EXTENSION}({self.metrics_port})",)
        return messages.ServerMetadataResponse(
            name="nested-sparse", version=nested_sparse.__version__, extensions=(*EXTENSIONS, *metrics)
        )

    async def model_metadata(
        self, request: messages.ModelMetadataRequest, context: Any
    ) -> messages.ModelMetadataResponse:
        """Inputs and outputs of a model."""
        model = self._dataplane.find(request.name, request.version)
        return messages.ModelMetadataResponse(
            name=model.name,
            versions=[VERSION],
            platform=PLATFORM,
            inputs=[_tensor_metadata(spec) for spec in model.inputs],
            outputs=[_tensor_metadata(spec) for spec in model.outputs],
        )

    async def model_infer(self, request: messages.ModelInferRequest, context: Any) -> messages.ModelInferResponse:
        """Run a model at the level that its deadline allows."""
        received_s = self._clock()
        model = self._dataplane.find(request.model_name, request.model_version)
        with self._metrics.request(model, received_s) as record:
            call = read_call(request, received_s, context.time_remaining())
            record.slo_ms = min(record.slo_ms, call.options.slo_ms or record.slo_ms)
            served = await self._dataplane.infer(model, call)
            response = messages.ModelInferResponse(
                model_name=model.name,
                model_version=VERSION,
                id=request.id,
                parameters=served_parameters(served),
            )
            write_outputs(response, wanted_outputs(call.outputs, model.outputs), served.outputs)
            record.batch, record.response = batch_size(model.inputs, call.inputs), served
        return response

    async def model_config(self, request: messages.ModelConfigRequest, context: Any) -> messages.ModelConfigResponse:
        """What Triton's load tools ask for before they start."""
        model = self._dataplane.find(request.name, request.version)
        config = messages.ModelConfig(name=model.name, platform=PLATFORM, max_batch_size=0)
        for spec in model.inputs:
            config.input.add(name=spec.name, data_type=_type_name(spec), dims=_sizes(spec))
        for spec in model.outputs:
            config.output.add(name=spec.name, data_type=_type_name(spec), dims=_sizes(spec))
        return messages.ModelConfigResponse(config=config)

    async def model_statistics(
        self, request: messages.ModelStatisticsRequest, context: Any
    ) -> messages.ModelStatisticsResponse:
        """Counts and times since the start, of one model or of all."""
        models = self._dataplane.models.values()
        chosen = [self._dataplane.find(request.name, request.version)] if request.name else models
        return messages.ModelStatisticsResponse(model_stats=[self._statistics(model) for model in chosen])

    async def repository_index(
        self, request: messages.RepositoryIndexRequest, context: Any
    ) -> messages.RepositoryIndexResponse:
        """The models of this server."""
        ready = self._dataplane.ready
        response = messages.RepositoryIndexResponse()
        for name in self._dataplane.models if ready or not request.ready else ():
            state, reason = ("READY", "") if ready else ("UNAVAILABLE", "draining")
            response.models.add(name=name, version=VERSION, state=state, reason=reason)
        return response

    def _statistics(self, model: ServedModel) -> messages.ModelStatistics:
        tally = self._metrics.tallies[model.name]
        return messages.ModelStatistics(
            name=model.name,
            version=VERSION,
            last_inference=tally.last_inference_ms,
            inference_count=tally.samples,
            execution_count=tally.successes,
            inference_stats=messages.InferStatistics(
                success=messages.StatisticDuration(count=tally.successes, ns=tally.success_ns),
                fail=messages.StatisticDuration(count=tally.failures, ns=tally.failure_ns),
                queue=messages.StatisticDuration(count=tally.successes, ns=tally.queue_ns),
                compute_infer=messages.StatisticDuration(count=tally.successes, ns=tally.compute_ns),
            ),
        )


def _sizes(spec: TensorSpec) -> list[int]:
    return [-1 if size is None else size for size in spec.shape]


def _type_name(spec: TensorSpec) -> str:
    return f"TYPE_{datatype_of(spec.dtype).name}"


def _tensor_metadata(spec: TensorSpec) -> messages.ModelMetadataResponse.TensorMetadata:
    return messages.ModelMetadataResponse.TensorMetadata(
        name=spec.name, datatype=datatype_of(spec.dtype).name, shape=_sizes(spec)
    )


def generic_handler(servicer: Servicer, limit: int) -> Any:
    """gRPC's handler for the methods above, with message classes from the private pool.

    limit: bytes that a request may have.
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
        "RepositoryIndex": servicer.repository_index,
    }
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(
            answered(method, getattr(messages, f"{name}Request"), limit),
            response_serializer=getattr(messages, f"{name}Response").SerializeToString,
        )
        for name, method in methods.items()
    }
    return grpc.method_handlers_generic_handler(messages.SERVICE_NAME, handlers)
