"""Gate: every RPC of a real server, called without a token and with tokens of each right."""

from __future__ import annotations

import http.client
import logging
import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from clients import X, infer_stub, tensor, triton, typed_request, wait_for
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.utils import InferenceServerException

from nested_sparse.proto import messages
from nested_sparse.serving.rights.right import RIGHTS, Right
from nested_sparse.serving.security import SecurityConfig
from nested_sparse.serving.server import ServerConfig

TOKENS = {right: f"{right.value}-0123456789abcdef" for right in Right}
REFUSED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    lines = [f"{right.value}-client {right.value} {token}" for right, token in TOKENS.items()]
    (tmp_path / "tokens").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path / "tokens"


@pytest.fixture
def closed(model: Any, serve: Any, token_file: Path) -> Iterator[Any]:
    """A server that takes tokens."""
    with serve([model], ServerConfig(port=0, metrics_port=0, security=SecurityConfig(token_file=token_file))) as it:
        yield it


@pytest.fixture
def channel(closed: Any) -> Iterator[Any]:
    with grpc.insecure_channel(closed.address) as it:
        yield it


def status(channel: Any, path: str, metadata: Any = ()) -> grpc.StatusCode:
    """The status of a call with an empty message; streams are half-closed after it."""
    call = channel.stream_stream(path)(iter([b""]), metadata=metadata, timeout=20)
    try:
        for _ in call:
            break
        else:
            return call.code()
    except grpc.RpcError as error:
        return error.code()
    call.cancel()
    return grpc.StatusCode.OK


@pytest.mark.parametrize("path", RIGHTS)
def test_each_rpc_takes_its_right_and_no_other(channel: Any, path: str) -> None:
    """An RPC that the server lacks is refused likewise: it would be open else on the day it comes."""
    needed = RIGHTS[path]
    if needed is None:
        assert status(channel, path) not in REFUSED
        return
    assert status(channel, path) is grpc.StatusCode.UNAUTHENTICATED
    assert status(channel, path, bearer("x" * 30)) is grpc.StatusCode.UNAUTHENTICATED
    for right, token in TOKENS.items():
        got = status(channel, path, bearer(token))
        assert (got in REFUSED) == (right is not needed), (right, got)
        assert right is needed or got is grpc.StatusCode.PERMISSION_DENIED


def test_unmodified_clients_send_tokens_as_headers(closed: Any) -> None:
    with triton.InferenceServerClient(closed.address) as client:
        headers = {"authorization": f"Bearer {TOKENS[Right.INFERENCE]}"}
        np.testing.assert_array_equal(client.infer("net", [tensor()], headers=headers).as_numpy("double"), 2 * X)
        assert client.is_server_live()
        with pytest.raises(triton.InferenceServerException, match="this server answers calls with a token only"):
            client.infer("net", [tensor()])
        with pytest.raises(triton.InferenceServerException, match="is good for inference; this call takes reading"):
            client.get_server_metadata(headers=headers)


def test_a_client_is_known_to_the_queue_by_its_token_else_by_its_address(
    closed: Any, channel: Any, model: Any, serve: Any
) -> None:
    infer_stub(channel)(typed_request(), metadata=bearer(TOKENS[Right.INFERENCE]))
    with serve([model]) as server, grpc.insecure_channel(server.address) as open_channel:
        infer_stub(open_channel)(typed_request())
    assert [request.client for request in model.engine.requests] == ["inference-client", "ipv4:127.0.0.1"]


def test_equal_requests_of_two_clients_keep_their_names(channel: Any, model: Any, token_file: Path) -> None:
    """The server remembers the headers of requests; the name of their client is none of them."""
    with token_file.open("a", encoding="utf-8") as file:
        file.write("\nother inference other-0123456789abcdef\n")
    infer, request = infer_stub(channel), messages.ModelInferRequest(model_name="net")
    request.inputs.add(name="x", datatype="FP32", shape=X.shape)
    request.raw_input_contents.append(X.tobytes())

    def answered(token: str) -> bool:
        return infer.future(request, metadata=bearer(token), timeout=20).code() is grpc.StatusCode.OK

    assert wait_for(lambda: answered("other-0123456789abcdef"), 20)
    model.engine.requests.clear()
    for _ in range(4):
        assert answered("other-0123456789abcdef")
        assert answered(TOKENS[Right.INFERENCE])
    assert [each.client for each in model.engine.requests] == ["other", "inference-client"] * 4


def test_a_call_with_two_tokens_is_refused(channel: Any) -> None:
    path = f"/{messages.SERVICE_NAME}/ServerMetadata"
    assert status(channel, path, bearer(TOKENS[Right.READING]) * 2) is grpc.StatusCode.UNAUTHENTICATED


def test_health_needs_no_token(channel: Any) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    assert health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING


def test_an_unknown_rpc_is_refused(channel: Any) -> None:
    assert status(channel, "/inference.GRPCInferenceService/Future") is grpc.StatusCode.UNAUTHENTICATED
    assert (
        status(channel, "/other.Service/Method", bearer(TOKENS[Right.INFERENCE])) is grpc.StatusCode.PERMISSION_DENIED
    )


def test_tokens_are_rotated_without_a_restart(closed: Any, channel: Any, token_file: Path) -> None:
    """No call of a client whose tokens overlap fails."""
    old, new = TOKENS[Right.INFERENCE], "a-new-token-0123456789"
    infer = infer_stub(channel)
    lines = token_file.read_text(encoding="utf-8")

    def rewrite(text: str) -> None:
        token_file.with_suffix(".new").write_text(text, encoding="utf-8")
        token_file.with_suffix(".new").rename(token_file)

    def code(token: str) -> grpc.StatusCode:
        call = infer.future(typed_request(), metadata=bearer(token), timeout=20)
        return call.code()

    rewrite(f"{lines}\ncamera inference {new}\n")
    assert wait_for(lambda: code(new) is grpc.StatusCode.OK, 20)
    assert code(old) is grpc.StatusCode.OK
    rewrite(f"camera inference {new}\n")
    assert wait_for(lambda: code(old) is grpc.StatusCode.UNAUTHENTICATED, 20)
    assert code(new) is grpc.StatusCode.OK
    rewrite("")
    assert not wait_for(lambda: code(new) is not grpc.StatusCode.OK, 2), "an empty file has locked clients out"


def test_a_stream_ends_with_the_token_that_opened_it(closed: Any, channel: Any, token_file: Path) -> None:
    """The next request of the stream is refused with the status of a unary call."""
    requests: queue.Queue[bytes] = queue.Queue()
    stream = channel.stream_stream(f"/{messages.SERVICE_NAME}/ModelStreamInfer")
    call = stream(iter(requests.get, b""), metadata=bearer(TOKENS[Right.INFERENCE]), timeout=60)
    data = typed_request().SerializeToString()
    requests.put(data)
    assert not messages.ModelStreamInferResponse.FromString(next(call)).error_message
    token_file.with_suffix(".new").write_text("camera inference a-new-token-0123456789\n", encoding="utf-8")
    token_file.with_suffix(".new").rename(token_file)

    def refused() -> bool:
        requests.put(data)
        return next(call, None) is None

    with pytest.raises(grpc.RpcError) as caught:
        wait_for(refused, 20)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    requests.put(b"")


def test_refusals_are_counted_and_logged_at_most_once_in_a_while(
    closed: Any, channel: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(20):
            status(channel, f"/{messages.SERVICE_NAME}/ModelInfer", bearer("a-wrong-token-0123456789"))
    labels = {"model": "", "level": "", "outcome": "unauthenticated"}
    assert closed._metrics.registry.get_sample_value("nested_sparse_requests_total", labels) == 20
    assert caplog.text.count("refused") == 1
    assert "a-wrong-token" not in caplog.text


def test_a_refused_call_is_not_read(closed: Any, channel: Any) -> None:
    """The body of a stranger's request takes no memory: it is refused before the body comes."""
    over = threading.Event()

    def late() -> Iterator[bytes]:
        over.wait(60)
        yield b""

    begun = channel.stream_unary(f"/{messages.SERVICE_NAME}/ModelInfer").future(late(), timeout=60)
    refused = begun.code()
    over.set()
    assert refused is grpc.StatusCode.UNAUTHENTICATED
    assert not closed._servicer.calls.taken_bytes


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "evil.example", "localhost.evil.example", "", "["])
def test_a_page_whose_name_leads_here_administers_nothing(serve: Any, model: Any, host: str) -> None:
    """DNS rebinding: the browser takes the page for one of this server, and no header says otherwise but Host."""
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    with serve([model], ServerConfig(port=0, http_port=0)) as server:
        name, port = server.http_address.rsplit(":", 1)
        connection = http.client.HTTPConnection(name, int(port), timeout=20)
        statuses = {}
        for path in ("v2/repository/models/net/unload", "v2/repository/index"):
            connection.request("POST", f"/{path}", headers={"Host": f"{host}:{port}", "Content-Length": "0"})
            answer = connection.getresponse()
            answer.read()
            statuses[path] = answer.status
        connection.close()
    trusted = host in ("127.0.0.1", "localhost", "[::1]")
    assert (statuses["v2/repository/models/net/unload"] == 403) == (not trusted)


@pytest.mark.parametrize("priority", [1, 4, 5, 10])
def test_only_administration_goes_before_other_clients(model: Any, serve: Any, tmp_path: Path, priority: int) -> None:
    """A priority beats the shares of clients, so it takes a right where it is above the default; again when known."""
    lines = (
        f"{name} {rights} {name}-0123456789abcdef"
        for name, rights in (("camera", "inference"), ("owner", "inference,administration"))
    )
    (tmp_path / "tokens").write_text("\n".join(lines), encoding="utf-8")
    security = SecurityConfig(token_file=tmp_path / "tokens")
    with (
        serve([model], ServerConfig(port=0, security=security)) as server,
        triton.InferenceServerClient(server.address) as client,
    ):
        for name, allowed in (("owner", True), ("camera", priority >= 5)) * 3:
            headers = {"authorization": f"Bearer {name}-0123456789abcdef"}
            if allowed:
                client.infer("net", [tensor()], priority=priority, headers=headers)
                continue
            with pytest.raises(InferenceServerException, match="takes the right of administration") as refused:
                client.infer("net", [tensor()], priority=priority, headers=headers)
            assert refused.value.status() == "StatusCode.PERMISSION_DENIED"


def test_without_tokens_nobody_goes_before_others_over_the_network(model: Any, serve: Any) -> None:
    """The server leaves administration to the loopback address of its own machine, and cannot tell callers apart."""
    exposed = ServerConfig(host="0.0.0.0", port=0, security=SecurityConfig(insecure=True))
    with serve([model], exposed) as server:
        address = server.address.replace("0.0.0.0", "127.0.0.1")
        with triton.InferenceServerClient(address) as client:
            client.infer("net", [tensor()], priority=5)
            with pytest.raises(InferenceServerException, match="takes the right of administration"):
                client.infer("net", [tensor()], priority=4)
    with serve([model], ServerConfig(port=0)) as server, triton.InferenceServerClient(server.address) as client:
        client.infer("net", [tensor()], priority=1)
