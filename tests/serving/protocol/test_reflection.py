"""Reflection: grpc.reflection.v1 beside v1alpha, by raw calls, because grpcurl and others try v1 first."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha import reflection_pb2

from nested_sparse.proto import messages

VERSIONS = ("grpc.reflection.v1", "grpc.reflection.v1alpha")


def ask(address: str, version: str, **question):
    """One question, one answer, as bytes of v1alpha, whose messages are those of v1."""
    with grpc.insecure_channel(address) as channel:
        stream = channel.stream_stream(
            f"/{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        (answer,) = stream(iter([reflection_pb2.ServerReflectionRequest(**question)]), timeout=30)
    return answer


@pytest.mark.parametrize("version", VERSIONS)
def test_reflection_lists_and_describes_the_services(server, version):
    answer = ask(server.address, version, list_services="")
    names = {service.name for service in answer.list_services_response.service}
    ours = {messages.SERVICE_NAME, "grpc.health.v1.Health", *(f"{each}.ServerReflection" for each in VERSIONS)}
    assert names == ours
    for name in names:
        described = ask(server.address, version, file_containing_symbol=name).file_descriptor_response
        files = [FileDescriptorProto.FromString(data) for data in described.file_descriptor_proto]
        assert any(f"{file.package}.{service.name}" == name for file in files for service in file.service)


def test_version_one_describes_itself(server):
    """Its own messages, by the names of v1, which can read what it says."""
    answer = ask(server.address, VERSIONS[0], file_containing_symbol=f"{VERSIONS[0]}.ServerReflection")
    (data,) = answer.file_descriptor_response.file_descriptor_proto
    pool = DescriptorPool()
    pool.AddSerializedFile(data)
    method = pool.FindServiceByName(f"{VERSIONS[0]}.ServerReflection").methods_by_name["ServerReflectionInfo"]
    assert method.output_type.full_name == f"{VERSIONS[0]}.ServerReflectionResponse"
    read = GetMessageClass(method.output_type).FromString(answer.SerializeToString())
    assert read.file_descriptor_response.file_descriptor_proto[0] == data
    assert b"v1alpha" not in data


@pytest.mark.parametrize("version", VERSIONS)
def test_reflection_of_unknown_names_is_an_error(server, version):
    answer = ask(server.address, version, file_containing_symbol="no.such.Service")
    assert answer.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
