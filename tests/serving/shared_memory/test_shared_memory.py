"""Shared memory: tritonclient's regions for inputs and outputs, and what clients may do wrong with them."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import grpc
import numpy as np
import pytest
from clients import X, failure, infer_stub, tensor, triton

from nested_sparse.proto import messages
from nested_sparse.serving.server import LEAST_MESSAGE_BYTES, ServerConfig
from nested_sparse.serving.shared_memory.region import FOLDER
from nested_sparse.serving.shared_memory.regions import MOST_REGIONS

shm = pytest.importorskip("tritonclient.utils.shared_memory", reason="tritonclient is not installed")
InferenceServerException = pytest.importorskip(
    "tritonclient.utils", reason="tritonclient is not installed"
).InferenceServerException
pytestmark = pytest.mark.skipif(not os.access(FOLDER, os.W_OK), reason="this system shows no shared memory")

SUM = X.sum(axis=1, keepdims=True)


@pytest.fixture
def client(model, serve):
    """tritonclient of a server that allows shared memory."""
    with (
        serve([model], ServerConfig(port=0, grace_s=5, allow_shared_memory=True)) as server,
        triton.InferenceServerClient(server.address) as it,
    ):
        it.address = server.address
        yield it


@pytest.fixture
def key():
    """The key of an object that is removed at the end."""
    it = f"/nested_sparse_{secrets.token_hex(8)}"
    yield it
    path_of(it).unlink(missing_ok=True)


def path_of(key: str) -> Path:
    return FOLDER / key.removeprefix("/")


def make(key: str, values: bytes, mode: int = 0o600) -> None:
    path_of(key).write_bytes(values)
    path_of(key).chmod(mode)


def placed(name="in", nbytes=X.nbytes, offset=0, shape=(2, 4), datatype="FP32"):
    it = triton.InferInput("x", list(shape), datatype)
    it.set_shared_memory(name, nbytes, offset)
    return it


def wanted(output="double", region="out", nbytes=X.nbytes, offset=0):
    it = triton.InferRequestedOutput(output)
    it.set_shared_memory(region, nbytes, offset)
    return it


def error_of(call, *arguments):
    with pytest.raises(InferenceServerException) as caught:
        call(*arguments)
    return caught.value.status().removeprefix("StatusCode."), caught.value.message()


def test_tritonclients_own_example(client, key):
    """Inputs and outputs in regions that tritonclient makes, at offsets, as its examples do it."""
    inside, outside = shm.create_shared_memory_region("in", key, 64), None
    try:
        outside = shm.create_shared_memory_region("out", key + "_out", 96)
        shm.set_shared_memory_region(inside, [X], offset=16)
        client.register_system_shared_memory("in", key, 64)
        client.register_system_shared_memory("out", key + "_out", 64, offset=32)
        status = client.get_system_shared_memory_status(as_json=True)["regions"]
        assert (status["in"]["key"], status["out"]["offset"], status["out"]["byte_size"]) == (key, "32", "64")
        result = client.infer(
            "net", [placed(offset=16)], outputs=[wanted("sum", offset=8, nbytes=8), wanted(offset=32)]
        )
        np.testing.assert_array_equal(shm.get_contents_as_numpy(outside, np.float32, [2, 1], offset=40), SUM)
        np.testing.assert_array_equal(shm.get_contents_as_numpy(outside, np.float32, [2, 4], offset=64), 2 * X)
        double = result.get_output("double")
        assert double.parameters["shared_memory_region"].string_param == "out"
        assert double.parameters["shared_memory_offset"].int64_param == 32
        assert double.parameters["shared_memory_byte_size"].int64_param == X.nbytes
        assert list(result.get_response().raw_output_contents) == [b"", b""]
        client.unregister_system_shared_memory("in")
        assert list(client.get_system_shared_memory_status().regions) == ["out"]
        client.unregister_system_shared_memory()
        assert not client.get_system_shared_memory_status().regions
    finally:
        for each in filter(None, (inside, outside)):
            shm.destroy_shared_memory_region(each)


def test_some_outputs_there_and_some_in_the_answer(client, key):
    """A raw value belongs to each output, an empty one to those that are elsewhere."""
    make(key, X.tobytes())
    client.register_system_shared_memory("both", key, X.nbytes)
    result = client.infer(
        "net", [placed("both")], outputs=[wanted("double", "both"), triton.InferRequestedOutput("sum")]
    )
    np.testing.assert_array_equal(result.as_numpy("sum"), SUM)
    np.testing.assert_array_equal(np.frombuffer(path_of(key).read_bytes(), np.float32), 2 * X.ravel())


def test_large_values_go_through_shared_memory(client, key):
    """Values that are copied beside the event loop are the same ones."""
    many = np.arange(480_000, dtype=np.float32).reshape(-1, 4)
    make(key, many.tobytes())
    client.register_system_shared_memory("big", key, many.nbytes)
    place = placed("big", many.nbytes, shape=many.shape)
    result = client.infer("net", [place], outputs=[wanted("double", "big", many.nbytes)])
    assert len(result.get_response().raw_output_contents[0]) == 0
    np.testing.assert_array_equal(np.frombuffer(path_of(key).read_bytes(), np.float32), 2 * many.ravel())


def test_it_is_off_unless_it_is_allowed(model, serve, key):
    """Neither a region nor a request gets through, and the metadata does not promise it."""
    make(key, X.tobytes())
    with serve([model]) as server, triton.InferenceServerClient(server.address) as client:
        assert error_of(client.register_system_shared_memory, "in", key, 32)[0] == "UNIMPLEMENTED"
        assert "--allow-shared-memory" in error_of(client.get_system_shared_memory_status)[1]
        assert "does not allow" in failure(client, inputs=[placed()])[1]
        assert "system_shared_memory" not in client.get_server_metadata().extensions


def test_metadata_names_the_extension(client):
    """Clients look there before they use it."""
    assert "system_shared_memory" in client.get_server_metadata().extensions


@pytest.mark.parametrize("bad", ["", "/", "..", "/..", "../passwd", "/a/b", "a\0b", "n" * 300])
def test_keys_that_name_no_object_are_refused(client, bad):
    """A key cannot leave the folder of shared memory."""
    assert error_of(client.register_system_shared_memory, "in", bad, 8)[0] == "INVALID_ARGUMENT"


def test_objects_that_are_not_the_servers_are_refused(client, key, tmp_path):
    """Links, pipes, folders, objects that others may write to, and ones that belong to others."""
    make(key, X.tobytes(), mode=0o666)
    assert "other users may write" in error_of(client.register_system_shared_memory, "in", key, 32)[1]
    path_of(key).unlink()
    (tmp_path / "target").write_bytes(X.tobytes())
    path_of(key).symlink_to(tmp_path / "target")
    assert "cannot be opened" in error_of(client.register_system_shared_memory, "in", key, 32)[1]
    path_of(key).unlink()
    os.mkfifo(path_of(key), 0o600)
    assert "no shared memory" in error_of(client.register_system_shared_memory, "in", key, 32)[1]
    path_of(key).unlink()
    assert error_of(client.register_system_shared_memory, "in", key, 32)[0] == "NOT_FOUND"
    if os.geteuid() == 0:
        make(key, X.tobytes())
        os.chown(path_of(key), 12345, 12345)
        assert "belongs to user 12345" in error_of(client.register_system_shared_memory, "in", key, 32)[1]


def test_an_object_that_is_given_away_is_used_no_more(client, key):
    """Owner and mode are looked at in each request; an object that is the server's again serves again."""
    make(key, X.tobytes())
    client.register_system_shared_memory("in", key, X.nbytes)
    client.infer("net", [placed()])
    path_of(key).chmod(0o666)
    assert "other users may write" in failure(client, inputs=[placed()])[1]
    assert "other users may write" in failure(client, outputs=[wanted(region="in")])[1]
    path_of(key).chmod(0o600)
    client.infer("net", [placed()])
    if os.geteuid() == 0:
        os.chown(path_of(key), 12345, 12345)
        assert "belongs to user 12345" in failure(client, inputs=[placed()])[1]


def test_bounds_of_regions_and_places(client, key):
    """Nothing outside of a region is read or written, and nothing outside of the object registered."""
    make(key, X.tobytes() + bytes(32))
    assert "64 bytes" in error_of(client.register_system_shared_memory, "in", key, 65)[1]
    assert "64 bytes" in error_of(client.register_system_shared_memory, "in", key, 32, 33)[1]
    assert error_of(client.register_system_shared_memory, "in", key, 2**64 - 1, 2**64 - 1)[0] == "INVALID_ARGUMENT"
    assert "1 or more" in error_of(client.register_system_shared_memory, "in", key, 0)[1]
    client.register_system_shared_memory("in", key, 40)
    assert error_of(client.register_system_shared_memory, "in", key, 8)[0] == "ALREADY_EXISTS"
    for nbytes, offset in ((48, 0), (32, 9), (32, -1), (32, 2**62), (0, 0), (-32, 32)):
        place = placed(nbytes=nbytes, offset=offset)
        assert failure(client, inputs=[place])[0] == "INVALID_ARGUMENT", (nbytes, offset)
    assert "takes 32 bytes, got 16" in failure(client, inputs=[placed(nbytes=16)])[1]
    assert failure(client, outputs=[wanted(region="in", nbytes=64)])[0] == "INVALID_ARGUMENT"
    assert "has 32 bytes" in failure(client, outputs=[wanted(region="in", nbytes=16)])[1]
    assert failure(client, inputs=[placed("other")])[0] == "NOT_FOUND"
    assert failure(client, outputs=[wanted(region="other")])[0] == "NOT_FOUND"
    assert error_of(client.get_system_shared_memory_status, "other")[0] == "NOT_FOUND"
    client.unregister_system_shared_memory("other")
    client.infer("net", [placed()])
    assert path_of(key).read_bytes()[40:] == bytes(24)


def test_objects_that_shrink_or_vanish_are_errors(client, key):
    """The server goes on; a new object of the same key is never taken for the old one."""
    make(key, X.tobytes())
    client.register_system_shared_memory("in", key, X.nbytes)
    client.infer("net", [placed()])
    os.truncate(path_of(key), 8)
    assert "has 8 bytes" in failure(client, inputs=[placed()])[1]
    assert "has 8 bytes" in failure(client, outputs=[wanted(region="in")])[1]
    assert path_of(key).stat().st_size == 8
    path_of(key).write_bytes(X.tobytes())
    client.infer("net", [placed()])
    path_of(key).unlink()
    make(key, bytes(X.nbytes))
    assert "was removed" in failure(client, inputs=[placed()])[1]
    assert "was removed" in failure(client, outputs=[wanted(region="in")])[1]
    client.unregister_system_shared_memory("in")
    client.register_system_shared_memory("in", key, X.nbytes)
    assert not client.infer("net", [placed()]).as_numpy("double").any()


def test_a_request_may_name_as_many_bytes_as_it_may_have(client, key):
    """Else a small message could fill the server's memory."""
    make(key, b"")
    os.truncate(path_of(key), LEAST_MESSAGE_BYTES + 16)
    client.register_system_shared_memory("in", key, LEAST_MESSAGE_BYTES + 16)
    place = placed(nbytes=LEAST_MESSAGE_BYTES + 16, shape=(LEAST_MESSAGE_BYTES // 16 + 1, 4))
    status, message = failure(client, inputs=[place])
    assert (status, f"at most {LEAST_MESSAGE_BYTES}" in message) == ("RESOURCE_EXHAUSTED", True)


def test_the_number_of_regions_is_bounded(client, key):
    """And each is closed when it is unregistered."""
    make(key, X.tobytes())
    before = len(os.listdir("/proc/self/fd"))
    for index in range(MOST_REGIONS):
        client.register_system_shared_memory(f"r{index}", key, X.nbytes)
    assert error_of(client.register_system_shared_memory, "more", key, 8)[0] == "RESOURCE_EXHAUSTED"
    client.unregister_system_shared_memory()
    assert len(os.listdir("/proc/self/fd")) < before + MOST_REGIONS // 2
    assert error_of(client.register_system_shared_memory, "n" * 257, key, 8)[0] == "INVALID_ARGUMENT"


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"shared_memory_byte_size": {"int64_param": 8}}, "without 'shared_memory_region'"),
        ({"shared_memory_region": {"int64_param": 8}}, "expected a string"),
        ({"shared_memory_region": {"string_param": "in"}}, "without 'shared_memory_byte_size'"),
        (
            {"shared_memory_region": {"string_param": "in"}, "shared_memory_byte_size": {"string_param": "8"}},
            "expected int64 or uint64",
        ),
    ],
)
def test_parameters_of_wrong_kinds_are_refused(client, parameters, text):
    """By plain gRPC: tritonclient sends none of them."""
    request = messages.ModelInferRequest(model_name="net")
    request.inputs.add(name="x", datatype="FP32", shape=[2, 4], parameters=parameters)
    with grpc.insecure_channel(client.address) as channel, pytest.raises(grpc.RpcError) as caught:
        infer_stub(channel)(request)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert text in caught.value.details()


def test_values_twice_are_refused(client, key):
    """Raw values beyond the inputs that are not in shared memory, and typed ones beside it."""
    make(key, X.tobytes())
    client.register_system_shared_memory("in", key, X.nbytes)
    request = messages.ModelInferRequest(model_name="net")
    place = {"shared_memory_region": {"string_param": "in"}, "shared_memory_byte_size": {"int64_param": X.nbytes}}
    request.inputs.add(name="x", datatype="FP32", shape=[2, 4], parameters=place)
    request.raw_input_contents.append(X.tobytes())
    with grpc.insecure_channel(client.address) as channel:
        with pytest.raises(grpc.RpcError, match="1 raw_input_contents for 0 inputs"):
            infer_stub(channel)(request)
        request.ClearField("raw_input_contents")
        request.inputs[0].contents.fp32_contents.extend(X.ravel())
        with pytest.raises(grpc.RpcError, match="both contents and values in shared memory"):
            infer_stub(channel)(request)


def test_memory_of_a_gpu_is_refused(client):
    """There is none; asking for the list and forgetting it are no errors."""
    assert error_of(client.register_cuda_shared_memory, "gpu", b"AAAA", 0, 8)[0] == "UNIMPLEMENTED"
    assert not client.get_cuda_shared_memory_status().regions
    client.unregister_cuda_shared_memory()
    assert client.infer("net", [tensor()]) is not None
