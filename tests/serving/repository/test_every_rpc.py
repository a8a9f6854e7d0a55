"""Every RPC, one by one: by tritonclient's two gRPC clients, and by a client that knows field numbers only."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

import grpc
import numpy as np
import pytest
from clients import InferenceServerException, X, tensor, triton
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from nested_sparse.serving.server import ServerConfig
from nested_sparse.serving.shared_memory.region import FOLDER

aio = pytest.importorskip("tritonclient.grpc.aio", reason="tritonclient is not installed")
KEY = f"/nested_sparse_{secrets.token_hex(8)}"


def names(answer: Any) -> list[str]:
    return [each.name for each in answer.models]


STEPS = [
    ("ServerLive", "is_server_live", (), lambda answer: answer is True),
    ("ServerReady", "is_server_ready", (), lambda answer: answer is True),
    ("ModelReady", "is_model_ready", ("net", "1"), lambda answer: answer is True),
    ("ServerMetadata", "get_server_metadata", (), lambda answer: answer.name == "nested-sparse"),
    ("ModelMetadata", "get_model_metadata", ("net",), lambda answer: list(answer.versions) == ["1"]),
    ("ModelConfig", "get_model_config", ("net",), lambda answer: answer.config.input[0].name == "x"),
    ("ModelInfer", "infer", ("net", [tensor()]), lambda answer: (answer.as_numpy("double") == 2 * X).all()),
    (
        "ModelStatistics",
        "get_inference_statistics",
        ("net",),
        lambda answer: answer.model_stats[0].inference_count == 2,
    ),
    ("RepositoryIndex", "get_model_repository_index", (), lambda answer: names(answer) == ["net"]),
    ("RepositoryModelUnload", "unload_model", ("net",), lambda answer: answer is None),
    ("ModelReady", "is_model_ready", ("net",), lambda answer: answer is False),
    ("RepositoryModelLoad", "load_model", ("net",), lambda answer: answer is None),
    ("ModelReady", "is_model_ready", ("net",), lambda answer: answer is True),
    ("SystemSharedMemoryRegister", "register_system_shared_memory", ("in", KEY, 32), lambda answer: answer is None),
    ("SystemSharedMemoryStatus", "get_system_shared_memory_status", (), lambda answer: list(answer.regions) == ["in"]),
    ("SystemSharedMemoryUnregister", "unregister_system_shared_memory", ("in",), lambda answer: answer is None),
    ("SystemSharedMemoryStatus", "get_system_shared_memory_status", (), lambda answer: not answer.regions),
    ("CudaSharedMemoryRegister", "register_cuda_shared_memory", ("in", b"AAAA", 0, 32), "UNIMPLEMENTED"),
    ("CudaSharedMemoryStatus", "get_cuda_shared_memory_status", (), lambda answer: not answer.regions),
    ("CudaSharedMemoryUnregister", "unregister_cuda_shared_memory", (), lambda answer: answer is None),
    ("TraceSetting", "get_trace_settings", (), lambda answer: list(answer.settings["trace_level"].value) == ["OFF"]),
    ("LogSettings", "get_log_settings", (), lambda answer: answer.settings["log_error"].bool_param),
    (
        "LogSettings",
        "update_log_settings",
        ({"log_info": True},),
        lambda answer: answer.settings["log_info"].bool_param,
    ),
]
"""The RPC, the method of both clients, its arguments, and a check of its answer, or the status that it ends with."""


@pytest.fixture
def address(put, open_repository, serve):
    """A server of a folder with one model, which allows shared memory."""
    put("net", 1)
    (FOLDER / KEY[1:]).write_bytes(X.tobytes())
    (FOLDER / KEY[1:]).chmod(0o600)
    config = ServerConfig(port=0, grace_s=5, allow_shared_memory=True)
    try:
        with serve([], config, repository=open_repository()) as server:
            yield server.address
    finally:
        (FOLDER / KEY[1:]).unlink()


def holds(check: Any, answer: Any, error: Any) -> bool:
    if isinstance(check, str):
        return error is not None and bool(error.status() == f"StatusCode.{check}")
    return error is None and bool(check(answer))


def test_every_rpc_has_a_step():
    """All that tritonclient was generated from, but the stream, which its own tests ask."""
    service = triton.service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    assert {rpc for rpc, *_ in STEPS} == {method.name for method in service.methods} - {"ModelStreamInfer"}


def test_each_by_tritonclient(address):
    """The synchronous client."""
    with triton.InferenceServerClient(address) as client:
        for rpc, method, given, check in STEPS:
            answer = error = None
            try:
                answer = getattr(client, method)(*given)
            except InferenceServerException as caught:
                error = caught
            assert holds(check, answer, error), (rpc, answer, error)


def test_each_by_tritonclients_asynchronous_client(address):
    """The same steps."""

    async def talk() -> None:
        async with aio.InferenceServerClient(address) as client:
            for rpc, method, given, check in STEPS:
                answer = error = None
                try:
                    answer = await getattr(client, method)(*given)
                except InferenceServerException as caught:
                    error = caught
                assert holds(check, answer, error), (rpc, answer, error)

    asyncio.run(talk())


NUMBERS = """
syntax = "proto3";
package by_number;
message Nothing {}
message Flag { bool f1 = 1; }
message Model { string f1 = 1; string f2 = 2; }
message About { string f1 = 1; string f2 = 2; repeated string f3 = 3; }
message Tensor { string f1 = 1; string f2 = 2; repeated int64 f3 = 3; }
message Metadata {
  string f1 = 1; repeated string f2 = 2; string f3 = 3; repeated Tensor f4 = 4; repeated Tensor f5 = 5;
}
message Value { oneof one { bool f1 = 1; int64 f2 = 2; string f3 = 3; double f4 = 4; uint64 f5 = 5; } }
message Contents { repeated float f6 = 6; }
message Input {
  string f1 = 1; string f2 = 2; repeated int64 f3 = 3; map<string, Value> f4 = 4; Contents f5 = 5;
}
message Output { string f1 = 1; map<string, Value> f2 = 2; }
message Request {
  string f1 = 1; string f2 = 2; string f3 = 3; map<string, Value> f4 = 4;
  repeated Input f5 = 5; repeated Output f6 = 6; repeated bytes f7 = 7;
}
message Response {
  string f1 = 1; string f2 = 2; string f3 = 3; map<string, Value> f4 = 4; repeated Input f5 = 5; repeated bytes f6 = 6;
}
"""
"""The messages of the public open_inference_grpc.proto (kserve/open-inference-protocol), with other names."""


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    """Message classes generated from NUMBERS."""
    protoc = pytest.importorskip("grpc_tools.protoc", reason="grpcio-tools, which brings protoc, is not installed")
    folder = tmp_path_factory.mktemp("by_number")
    (folder / "n.proto").write_text(NUMBERS)
    assert protoc.main(["protoc", f"-I{folder}", f"--descriptor_set_out={folder / 'n'}", "n.proto"]) == 0
    pool = DescriptorPool()
    (file,) = FileDescriptorSet.FromString((folder / "n").read_bytes()).file
    described = pool.AddSerializedFile(file.SerializeToString())
    return {name: GetMessageClass(message) for name, message in described.message_types_by_name.items()}


def test_each_by_field_numbers(address, numbers):
    """The six methods of the core protocol; typed values and raw ones."""
    with grpc.insecure_channel(address) as channel:

        def ask(method, answer, request=b""):
            data = request if isinstance(request, bytes) else request.SerializeToString()
            return numbers[answer].FromString(channel.unary_unary(f"/inference.GRPCInferenceService/{method}")(data))

        model = numbers["Model"](f1="net", f2="1")
        assert ask("ServerLive", "Flag").f1
        assert ask("ServerReady", "Flag").f1
        assert ask("ModelReady", "Flag", model).f1
        assert ask("ServerMetadata", "About").f1 == "nested-sparse"
        metadata = ask("ModelMetadata", "Metadata", model)
        assert (metadata.f1, metadata.f4[0].f1, metadata.f4[0].f2, list(metadata.f4[0].f3)) == (
            "net",
            "x",
            "FP32",
            [-1, 4],
        )
        request = numbers["Request"](f1="net", f3="seven", f4={"level": {"f2": 1}}, f6=[{"f1": "double"}])
        request.f5.add(f1="x", f2="FP32", f3=[2, 4], f5={"f6": X.ravel().tolist()})
        typed = ask("ModelInfer", "Response", request)
        request.f5[0].ClearField("f5")
        request.f7.append(X.tobytes())
        raw = ask("ModelInfer", "Response", request)
        for response in (typed, raw):
            assert (response.f1, response.f2, response.f3, response.f4["level"].f2) == ("net", "1", "seven", 1)
            assert (response.f5[0].f1, response.f5[0].f2, list(response.f5[0].f3)) == ("double", "FP32", [2, 4])
            np.testing.assert_array_equal(np.frombuffer(response.f6[0], np.float32).reshape(2, 4), 2 * X)
