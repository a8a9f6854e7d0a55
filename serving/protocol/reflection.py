"""Reflection: what this server offers, as grpc.reflection v1 and v1alpha tell it.

grpcio-reflection has v1alpha only. Version 1 is the same messages under another name.
"""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from nested_sparse.proto import messages

ALPHA, ONE = "grpc.reflection.v1alpha", "grpc.reflection.v1"
SERVICE = "ServerReflection"
METHOD = "ServerReflectionInfo"
SERVICE_NAMES = (f"{ONE}.{SERVICE}", f"{ALPHA}.{SERVICE}")


def add_reflection(server: Any, services: tuple[str, ...]) -> None:
    """Have a grpc.aio server tell of `services`, their full names, and of reflection itself."""
    names, pool = (*services, *SERVICE_NAMES), _pool()
    reflection.enable_server_reflection(names, server, pool=pool)
    servicer = reflection.aio.ReflectionServicer(names, pool)
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE_NAMES[0], {METHOD: handler}),))


def _pool() -> DescriptorPool:
    """What is told. A pool of its own: `inference` may be another package's in the default pool."""
    pool = DescriptorPool()
    for descriptor in (messages.DESCRIPTOR, health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
        pool.AddSerializedFile(descriptor.serialized_pb)
    pool.AddSerializedFile(_version_one().SerializeToString())
    return pool


def _version_one() -> FileDescriptorProto:
    """The file of v1alpha in the names of v1."""
    file = FileDescriptorProto.FromString(reflection_pb2.DESCRIPTOR.serialized_pb)
    file.name, file.package = "grpc/reflection/v1/reflection.proto", ONE
    file.ClearField("options")  # names of v1alpha in other languages
    for message in file.message_type:
        for field in message.field:
            if field.HasField("type_name"):  # to set it at all would make a number a message
                field.type_name = field.type_name.replace(f".{ALPHA}.", f".{ONE}.")
    for method in file.service[0].method:
        method.input_type = method.input_type.replace(f".{ALPHA}.", f".{ONE}.")
        method.output_type = method.output_type.replace(f".{ALPHA}.", f".{ONE}.")
    return file
