"""LoadService: the server's load as a stream of reports, besides any request, by xds.service.orca.v3.OpenRcaService."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.duration_pb2 import DESCRIPTOR as DURATION
from google.protobuf.message_factory import GetMessageClass

from .load_report import PERIOD_S, LoadReport

SERVICE_NAME, METHOD = "xds.service.orca.v3.OpenRcaService", "StreamCoreMetrics"
DEFAULT_S, MOST_S = 1.0, 3600.0
"""Time between two reports for a client that names none, and the longest."""


class LoadService:
    """Sends a report at once, and then one each interval that the client asks for, but at most every PERIOD_S.

    Costs of requests (request_cost_names) are not measured: a report has none. Belongs to one event loop.
    """

    def __init__(self, load: LoadReport) -> None:
        self._load = load
        self._closed = asyncio.Event()

    def add_to(self, server: Any) -> None:
        """Have a grpc.aio server answer the service's one RPC."""
        handler = grpc.unary_stream_rpc_method_handler(self._stream, request_deserializer=_request_class().FromString)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE_NAME, {METHOD: handler}),))

    def close(self) -> None:
        """End all streams."""
        self._closed.set()

    async def _stream(self, request: Any, context: Any) -> None:
        asked_s = request.report_interval.seconds + request.report_interval.nanos / 1e9
        interval_s = min(max(asked_s, PERIOD_S), MOST_S) if asked_s else DEFAULT_S
        while not self._closed.is_set():
            await context.write(self._load.binary())
            try:
                await asyncio.wait_for(self._closed.wait(), interval_s)
            except asyncio.TimeoutError:
                continue
        await context.abort(grpc.StatusCode.UNAVAILABLE, "The server has stopped.")


def _request_class() -> type[Any]:
    """xds.service.orca.v3.OrcaLoadReportRequest, in a pool of its own: a program may know the public file."""
    file = FileDescriptorProto(name="orca.proto", package="xds.service.orca.v3", syntax="proto3")
    file.dependency.append(DURATION.name)
    message = file.message_type.add(name="OrcaLoadReportRequest")
    one, many = FieldDescriptorProto.LABEL_OPTIONAL, FieldDescriptorProto.LABEL_REPEATED
    kinds = FieldDescriptorProto.TYPE_MESSAGE, FieldDescriptorProto.TYPE_STRING
    message.field.add(name="report_interval", number=1, label=one, type=kinds[0], type_name=".google.protobuf.Duration")
    message.field.add(name="request_cost_names", number=2, label=many, type=kinds[1])
    pool = DescriptorPool()
    for each in (DURATION.serialized_pb, file.SerializeToString()):
        pool.AddSerializedFile(each)
    return GetMessageClass(pool.FindMessageTypeByName("xds.service.orca.v3.OrcaLoadReportRequest"))
