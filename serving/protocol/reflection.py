"""Reflection: the list of this server's services, by grpc.reflection v1 and v1alpha.

grpcio-reflection has v1alpha only. Version 1 has the same messages under another name.
"""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from nested_sparse.proto import messages

ALPHA, ONE = "grpc.reflection.v1alpha", "grpc.reflection.v1"
SERVICE = "ServerReflection"
METHOD = "ServerReflectionInfo"
SERVICE_NAMES = (f"{ONE}.{SERVICE}", f"{ALPHA}.{SERVICE}")


def add_reflection(server: Any, services: tuple[str, ...]) -> None:
    """Have a grpc.aio server list `services`, by their full names, and reflection itself."""
    servicer = reflection.aio.ReflectionServicer((*services, *SERVICE_NAMES), _pool())
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE_NAMES[0], {METHOD: handler}),))


def _pool() -> DescriptorPool:
    """The descriptors that are listed, in a pool of their own: the default pool may hold another `inference`."""
    pool = DescriptorPool()
    for descriptor in (messages.DESCRIPTOR, health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
        pool.AddSerializedFile(descriptor.serialized_pb)
    pool.AddSerializedFile(_version_one().SerializeToString())
    return pool


def _version_one() -> FileDescriptorProto:
    """The file of v1alpha, with the names of v1."""
    file = FileDescriptorProto.FromString(reflection_pb2.DESCRIPTOR.serialized_pb)
    file.name, file.package = "grpc/reflection/v1/reflection.proto", ONE
    file.ClearField("options")  # names of v1alpha in other languages
    for message in file.message_type:
        for field in message.field:
            if field.HasField("type_name"):  # setting it on a number would make it a message
                field.type_name = field.type_name.replace(f".{ALPHA}.", f".{ONE}.")
    for method in file.service[0].method:
        method.input_type = method.input_type.replace(f".{ALPHA}.", f".{ONE}.")
        method.output_type = method.output_type.replace(f".{ALPHA}.", f".{ONE}.")
    return file
