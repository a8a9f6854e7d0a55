"""Descriptors: the committed ones are up to date, follow the protocol, and have a pool of their own."""

from __future__ import annotations

import subprocess
import sys
from importlib.resources import files

import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from nested_sparse.proto import messages
from nested_sparse.proto.build import DESCRIPTOR_NAME, PROTO_NAME, STUB_NAME, generate


def test_generated_files_are_current(tmp_path):
    """protoc makes exactly what is committed."""
    pytest.importorskip("grpc_tools", reason="grpcio-tools, which brings protoc, is not installed")
    folder = files("nested_sparse.proto")
    (tmp_path / PROTO_NAME).write_bytes((folder / PROTO_NAME).read_bytes())
    for name, content in generate(tmp_path).items():
        assert (folder / name).read_bytes() == content, f"run python -m nested_sparse.proto.build: {name} is stale"
    assert {DESCRIPTOR_NAME, STUB_NAME} == set(generate(tmp_path))


def test_a_wrong_proto_is_refused(tmp_path):
    """The generator does not write what protoc rejects."""
    pytest.importorskip("grpc_tools", reason="grpcio-tools, which brings protoc, is not installed")
    (tmp_path / PROTO_NAME).write_text("message {")
    with pytest.raises(RuntimeError, match="protoc refused"):
        generate(tmp_path)


def test_pool_is_private():
    """Package `inference` stays out of protobuf's default pool unless somebody else brings it."""
    script = (
        "from google.protobuf import descriptor_pool\n"
        "import nested_sparse.proto.messages\n"
        "try:\n    descriptor_pool.Default().FindMessageTypeByName('inference.ModelInferRequest')\n"
        "except KeyError:\n    print('absent')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "absent"
    assert messages.POOL is not descriptor_pool.Default()


@pytest.mark.parametrize("first", ["tritonclient.grpc", "nested_sparse.proto.messages"])
def test_tritonclient_shares_the_process(first):
    """Both import in one process, whichever comes first."""
    pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")
    second = {"tritonclient.grpc": "nested_sparse.proto.messages"}.get(first, "tritonclient.grpc")
    subprocess.run([sys.executable, "-c", f"import {first}, {second}"], capture_output=True, check=True)


def kind(field: FieldDescriptor) -> tuple[object, ...]:
    """The properties of a field that must be equal on both sides of a connection."""
    referred = field.message_type or field.enum_type
    oneof = field.containing_oneof.name if field.containing_oneof else None
    return field.number, field.type, field.is_repeated, referred.full_name if referred else None, oneof


def compare(ours: Descriptor, theirs: Descriptor) -> int:
    """Asserts that every field of ours is theirs; returns how many were compared."""
    for field in ours.fields:
        assert field.name in theirs.fields_by_name, f"{field.full_name} is not the protocol's"
        assert kind(field) == kind(theirs.fields_by_name[field.name]), field.full_name
    nested = [compare(inner, theirs.nested_types_by_name[inner.name]) for inner in ours.nested_types]
    return len(ours.fields) + sum(nested)


def test_fields_are_the_protocols():
    """Names, numbers, types and oneofs equal those tritonclient was generated from."""
    triton = pytest.importorskip("tritonclient.grpc.service_pb2", reason="tritonclient is not installed")
    compared = 0
    for name, message in messages.DESCRIPTOR.message_types_by_name.items():
        theirs = triton.DESCRIPTOR.pool.FindMessageTypeByName(f"inference.{name}")
        compared += compare(message, theirs)
    assert compared > 100
    for name, ours in messages.DESCRIPTOR.enum_types_by_name.items():
        theirs = triton.DESCRIPTOR.pool.FindEnumTypeByName(f"inference.{name}")
        assert ours.values_by_name.keys() == theirs.values_by_name.keys()
        assert all(theirs.values_by_name[value.name].number == value.number for value in ours.values)


CONFIGURATION = ("ModelConfig", "ModelInput", "ModelOutput", "ModelInstanceGroup", "ModelSequenceBatching")
"""Messages that hold only what this server can fill."""


def test_messages_are_complete():
    """No field of a message is left out, but those of the configuration."""
    triton = pytest.importorskip("tritonclient.grpc.service_pb2", reason="tritonclient is not installed")
    for name, theirs in triton.DESCRIPTOR.message_types_by_name.items():
        compare(theirs, messages.DESCRIPTOR.message_types_by_name[name])
    for name, ours in messages.DESCRIPTOR.message_types_by_name.items():
        if name not in CONFIGURATION:
            compare(triton.DESCRIPTOR.pool.FindMessageTypeByName(f"inference.{name}"), ours)


def test_methods_are_the_protocols():
    """Every method of the protocol is declared, with the same messages, and no other one."""
    triton = pytest.importorskip("tritonclient.grpc.service_pb2", reason="tritonclient is not installed")
    theirs = triton.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name
    service = messages.POOL.FindServiceByName(messages.SERVICE_NAME)
    assert {method.name for method in service.methods} == set(theirs)
    for method in service.methods:
        other = theirs[method.name]
        assert method.input_type.full_name == other.input_type.full_name
        assert method.output_type.full_name == other.output_type.full_name
        assert (method.client_streaming, method.server_streaming) == (other.client_streaming, other.server_streaming)
