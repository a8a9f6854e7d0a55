"""REST: unmodified clients, the same answers as over gRPC, and a clear status for every bad request."""

from __future__ import annotations

import gzip
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from nested_sparse.errors import DeadlineError, OverloadedError, StuckError, TooLargeError
from nested_sparse.proto import messages
from nested_sparse.runtime.scheduling.request import Response, rank_of
from nested_sparse.serving.connections.front import waited_s
from nested_sparse.serving.http import http_server
from nested_sparse.serving.http.routes import ROUTES
from nested_sparse.serving.security import SecurityConfig
from nested_sparse.serving.served_model import ServedModel
from nested_sparse.serving.server import Server, ServerConfig
from nested_sparse.serving.servicer import Servicer
from nested_sparse.serving.top.source import CountsSource
from nested_sparse.tensor_spec import TensorSpec

pytest.importorskip("aiohttp", reason="the extra [http] is not installed")
triton = pytest.importorskip("tritonclient.http", reason="tritonclient[http] is not installed")
grpc_triton = pytest.importorskip("tritonclient.grpc", reason="tritonclient[grpc] is not installed")
shared_memory = pytest.importorskip("tritonclient.utils.shared_memory", reason="tritonclient is not installed")

X = np.arange(8, dtype=np.float32).reshape(2, 4) / 3
PLAIN = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}


@pytest.fixture
def rest(model: ServedModel, half_model: ServedModel, integer_model: ServedModel, serve: Any) -> Iterator[Server]:
    """A server with a REST port and three models."""
    with serve([model, half_model, integer_model], ServerConfig(port=0, http_port=0, grace_s=5)) as server:
        yield server


@pytest.fixture
def client(rest: Server) -> Iterator[Any]:
    """tritonclient, connected to the REST port."""
    with triton.InferenceServerClient(rest.http_address) as it:
        yield it


def ask(
    server: Server, path: str, body: Any = None, method: str | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of one answer. body: bytes, or what is sent as JSON."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(f"http://{server.http_address}{path}", data, names, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, dict(response.headers), response.read()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read()


def infer(server: Server, body: Any, model: str = "net", **headers: str) -> tuple[int, Any]:
    status, _, answer = ask(server, f"/v2/models/{model}/infer", body, **headers)
    return status, json.loads(answer)


def x_input(values: np.ndarray = X, datatype: str = "FP32", *, binary: bool = True) -> Any:
    tensor = triton.InferInput("x", list(values.shape), datatype)
    tensor.set_data_from_numpy(values, binary_data=binary)
    return tensor


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_an_unmodified_client_gets_the_answer(client, binary_in, binary_out, compression):
    """Bit for bit, in each form, compressed or not."""
    wanted = [triton.InferRequestedOutput(name, binary_data=binary_out) for name in ("double", "sum")]
    answer = client.infer(
        "net",
        [x_input(binary=binary_in)],
        outputs=wanted,
        request_id="seven",
        parameters={"slo_ms": 500.0, "level": 1},
        request_compression_algorithm=compression,
        response_compression_algorithm=compression,
    )
    np.testing.assert_array_equal(answer.as_numpy("double"), 2 * X)
    np.testing.assert_array_equal(answer.as_numpy("sum"), X.sum(axis=1, keepdims=True))
    shown = answer.get_response()
    assert (shown["id"], shown["parameters"]["level"], shown["parameters"]["accuracy"]) == ("seven", 1, 0.95)
    assert [each["name"] for each in shown["outputs"]] == ["double", "sum"]


def test_both_transports_say_the_same(rest, client):
    """Metadata, configuration, statistics and index, from one handler."""
    client.infer("net", [x_input()])
    with grpc_triton.InferenceServerClient(rest.address) as over_grpc:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("net")
        assert client.is_model_ready("net", "1")
        assert not client.is_model_ready("other")
        assert client.get_server_metadata() == over_grpc.get_server_metadata(as_json=True)
        assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
        shown, known = client.get_model_metadata("net", "1"), over_grpc.get_model_metadata("net", as_json=True)
        assert [each["name"] for each in shown["inputs"]] == [each["name"] for each in known["inputs"]]
        assert shown["inputs"][0]["shape"] == [-1, 4]
        config = over_grpc.get_model_config("net").config
        given = client.get_model_config("net")
        assert given["max_batch_size"] == config.max_batch_size
        assert [each["dims"] for each in given["input"]] == [list(each.dims) for each in config.input]
        counted = over_grpc.get_inference_statistics("net").model_stats[0]
        for stats in (client.get_inference_statistics(), client.get_inference_statistics("net")):
            [own] = [each for each in stats["model_stats"] if each["name"] == "net"]
            assert own["inference_count"] == counted.inference_count == 2
            assert own["inference_stats"]["success"]["ns"] == counted.inference_stats.success.ns
        index = over_grpc.get_model_repository_index().models
        assert [(each["name"], each["state"]) for each in client.get_model_repository_index()] == [
            (each.name, each.state) for each in index
        ]


def test_json_of_every_number_is_exact(rest):
    """Whole numbers of 64 bits, halves, and numbers that JSON has no sign for."""
    big = [2**62 + 1, -(2**62) - 1, 0, 1]
    body = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "INT64", "data": [big]}]}
    status, answer = infer(rest, body, "integer")
    assert status == 200
    assert answer["outputs"][0]["data"] == [sum(big)]
    body = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP16", "data": [0.5, 1.5, -2, 3e-5]}]}
    status, answer = infer(rest, body, "half")
    assert answer["outputs"][1]["data"] == (2 * np.array([0.5, 1.5, -2, 3e-5], np.float16)).tolist()
    text = json.dumps(PLAIN).replace("1, 2,", "NaN, Infinity,").encode()
    status, answer = infer(rest, text)
    assert np.isnan(answer["outputs"][1]["data"][0])
    assert answer["outputs"][1]["data"][1:] == [np.inf, 6.0, 8.0]


def test_bf16_goes_both_ways(model, serve):
    """JSON has its values as numbers; raw they are two bytes each."""
    spec = TensorSpec("x", "bfloat16", (None, 4), (1, 4))
    engine = type(model.engine)((spec,))
    engine.response = lambda arrays, level, limit_ms: Response(
        {"y": arrays["x"]}, model.levels[level], 1, 1, "", limit_ms
    )
    brain = replace(model, inputs=(spec,), outputs=(replace(spec, name="y"),), engine=engine)
    values = [1.5, -2.0, 0.0, 2.0**127]
    body = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "BF16", "data": values}]}
    with serve([brain], ServerConfig(port=0, http_port=0, grace_s=5)) as server:
        assert infer(server, body)[1]["outputs"][0]["data"] == values
        _, headers, answer = ask(server, "/v2/models/net/infer", {**body, "parameters": {"binary_data_output": True}})
        assert answer[int(headers["Inference-Header-Content-Length"]) :] == bytes.fromhex("c03f 00c0 0000 007f")


def test_a_large_body_of_json_is_answered(rest):
    """Some 2 MB of numbers, cut out and parsed in pieces."""
    rows = 25_000
    values = np.random.default_rng(0).standard_normal((rows, 4)).astype(np.float32)
    body = {"inputs": [{"name": "x", "shape": [rows, 4], "datatype": "FP32", "data": values.tolist()}]}
    status, answer = infer(rest, body)
    assert status == 200
    double = np.array(answer["outputs"][1]["data"], np.float32).reshape(rows, 4)
    np.testing.assert_array_equal(double, 2 * values)


def edited(**changes: Any) -> dict[str, Any]:
    return {"inputs": [{**PLAIN["inputs"][0], **changes}]}


BAD = {
    "no JSON": (b"{", "not JSON"),
    "nothing": (b"", "expected a JSON object"),
    "a list": ([], "expected a JSON object"),
    "deep": (b"[" * 100_000, "not JSON"),
    "unknown key": ({**PLAIN, "input": []}, "unknown key 'input'"),
    "unknown key of an input": (edited(dtype="FP32"), "unknown key 'dtype'"),
    "no inputs": ({}, "no inputs"),
    "inputs of another kind": ({"inputs": 7}, "expected 'inputs', a list"),
    "no name": ({"inputs": [{"shape": [1]}]}, "expected 'name'"),
    "no data": ({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32"}]}, "expected one of 'data'"),
    "negative size": (edited(shape=[-1, 4]), "sizes of 1 or more"),
    "huge size": (edited(shape=[2**70, 4]), "sizes of 1 or more"),
    "fraction of a size": (edited(shape=[1.0, 4]), "whole numbers"),
    "too few": (edited(data=[1, 2, 3]), "takes 4 elements, got 3"),
    "ragged": (edited(data=[[1, 2], [3, 4]]), "flat, or nested"),
    "adjacent lists": (json.dumps(PLAIN).replace("[1, 2, 3, 4]", "[1, 2][3, 4, 5]").encode(), "flat, or nested"),
    "comma at the end": (json.dumps(PLAIN).replace("3, 4]", "3, ]").encode(), "no array of numbers"),
    "boolean for a number": (edited(data=[True, 2, 3, 4]), "expected numbers"),
    "string for a number": (edited(data=["1", "2", "3", "4"]), "expected an array"),
    "too large for the type": (edited(data=[1e39, 2, 3, 4]), "cannot hold"),
    "long number": (json.dumps(PLAIN).replace("1, 2", "1" * 5000 + ", 2").encode(), "no array of numbers"),
    "unknown type": (edited(datatype="FP8"), "FP8"),
    "data twice": (json.dumps(PLAIN).replace('"data"', '"data": [1], "data"').encode(), "'data' twice"),
    "data elsewhere": ({**PLAIN, "parameters": {"data": [1, 2]}}, "outside of the inputs"),
    "surrogate": (json.dumps(edited(name="\ud800")).encode(), "surrogate"),
    "unknown input": (edited(name="y"), "y"),
    "list as a parameter": ({**PLAIN, "parameters": {"level": [1]}}, "no value that it can have"),
    "flag of another kind": ({**PLAIN, "parameters": {"binary_data_output": 1}}, "true or false"),
    "unknown output": ({**PLAIN, "outputs": [{"name": "z"}]}, "no output 'z'"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_body_is_refused_with_its_reason(rest, case):
    body, reason = BAD[case]
    status, answer = infer(rest, body)
    assert status == 400, answer
    assert reason in answer["error"]
    assert infer(rest, PLAIN)[0] == 200


@pytest.mark.parametrize(
    ("length", "sizes", "tail", "reason"),
    [
        ("x", {"binary_data_size": 16}, b"", "expected a number"),
        ("99999", {"binary_data_size": 16}, b"", "the body has"),
        (None, {"binary_data_size": 16}, b"1234", "left for it"),
        (None, {"binary_data_size": 16}, b"1" * 20, "behind its tensors"),
        (None, {"binary_data_size": -1}, b"", "number of bytes"),
        (None, {"binary_data_size": 12}, b"1" * 12, "wrong size"),
    ],
)
def test_bad_binary_data_is_refused(rest, length, sizes, tail, reason):
    head = json.dumps({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "parameters": sizes}]}).encode()
    status, answer = infer(rest, head + tail, Inference_Header_Content_Length=length or str(len(head)))
    assert status == 400
    assert reason in answer["error"]


@pytest.mark.parametrize(
    ("error", "status", "retry"),
    [
        (OverloadedError("full", 1500.0), 429, "2"),
        (OverloadedError("hopeless", None), 429, None),
        (DeadlineError("late"), 504, None),
        (StuckError("stuck"), 503, None),
        (TooLargeError("big"), 429, None),
        (ValueError("secret"), 500, None),
    ],
)
def test_statuses_follow_the_one_table(rest, model, error, status, retry):
    """A shed request says when to come back; an unforeseen error tells nothing of itself."""
    model.engine.error = error
    got, headers, body = ask(rest, "/v2/models/net/infer", PLAIN)
    assert (got, headers.get("Retry-After")) == (status, retry)
    assert "secret" not in json.loads(body)["error"]


def test_each_rpc_but_the_stream_has_a_path():
    methods = {method.name for method in messages.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods}
    assert {route.rpc for route in ROUTES} == methods - {"ModelStreamInfer"}
    assert len({(route.method, route.path) for route in ROUTES}) == len(ROUTES)


def test_paths_and_methods(rest):
    assert ask(rest, "/v2/other")[0] == 404
    assert ask(rest, "/v2/models/nope")[0] == 404
    assert ask(rest, "/v2/models/net/versions/9", None)[0] == 404
    status, headers, _ = ask(rest, "/v2/models/net/infer")
    assert (status, headers["Allow"]) == (405, "POST")
    assert ask(rest, "/v2/models/net", b"{}")[0] == 405
    assert ask(rest, "/v2/models/other/ready")[0] == 400
    assert ask(rest, "/v2/repository/index", {"ready": True, "other": 1})[0] == 400
    assert ask(rest, "/v2/repository/index", b"x" * 100_000)[0] == 413
    assert ask(rest, "/metrics")[2].startswith(b"# HELP")


def test_a_page_of_another_site_cannot_use_a_browser(rest):
    """A browser sends such requests to 127.0.0.1, too."""
    own = f"http://{rest.http_address}"
    assert ask(rest, "/v2/models/net/infer", PLAIN, Origin=own)[0] == 200
    assert ask(rest, "/v2/models/net/infer", PLAIN, Origin="http://evil.example")[0] == 403
    assert ask(rest, "/metrics", Origin="null")[0] == 403


def test_a_page_cannot_give_its_own_name_the_servers_address(rest, model, serve, tmp_path):
    """DNS rebinding: to the browser, page and server are of one site then."""
    for host in ("localhost", "127.0.0.1:80", "[::1]:80", "it.localhost"):
        assert ask(rest, "/v2", Host=host)[0] == 200
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil.example"):
        for path in ("/", "/v2", "/metrics", "/dashboard/points"):
            assert ask(rest, path, Host=host, Origin=f"http://{host}")[0] == 403
    (tmp_path / "tokens").write_text("it reading 0123456789abcdef0123456789", encoding="utf-8")
    security = SecurityConfig(token_file=tmp_path / "tokens")
    with serve([model], ServerConfig(port=0, http_port=0, grace_s=5, security=security)) as server:
        bearer = "Bearer 0123456789abcdef0123456789"  # a page has none; a proxy with a name of its own passes it on
        assert ask(server, "/v2", Host="proxy.example", Authorization=bearer)[0] == 200


def test_a_compressed_body_that_grows_too_much_is_refused(rest):
    bomb = gzip.compress(b" " * (300 << 20), 9)
    status, _, _ = ask(rest, "/v2/models/net/infer", bomb, Content_Encoding="gzip")
    assert status == 413
    assert ask(rest, "/v2/models/net/infer", gzip.compress(b"{}")[:-4], Content_Encoding="gzip")[0] == 400
    assert ask(rest, "/v2/models/net/infer", b"{}", Content_Encoding="br")[0] == 400


def test_what_a_client_sends_is_obeyed_or_refused(rest, client, model):
    """Priority and timeout are obeyed; a misspelt parameter and those of sequences are not."""
    client.infer("net", [x_input()], priority=2, timeout=300_000)
    request = model.engine.requests[-1]
    assert request.timeout_ms == 300.0
    assert rank_of(request) == rank_of(replace(request, priority=2)) != rank_of(replace(request, priority=1))
    for parameters in ({"slo": 5.0}, {"binary_data_size": 5}):
        with pytest.raises(triton.InferenceServerException, match=next(iter(parameters))) as caught:
            client.infer("net", [x_input()], parameters=parameters)
        assert caught.value.status() == "400"
    with pytest.raises(triton.InferenceServerException, match="sequence"):
        client.infer("net", [x_input()], sequence_id=7, sequence_start=True)


@pytest.mark.parametrize("binary", [True, False])
def test_classes_in_place_of_values(client, binary):
    wanted = triton.InferRequestedOutput("double", binary_data=binary, class_count=2)
    answer = client.infer("net", [x_input()], outputs=[wanted])
    rows = [[text.decode() if isinstance(text, bytes) else text for text in row] for row in answer.as_numpy("double")]
    assert [[text.split(":")[1] for text in row] for row in rows] == [["3", "2"], ["3", "2"]]


def test_tensors_in_shared_memory(model, serve):
    """Registered, read, written, listed and forgotten, all over REST; refused where it was not allowed."""
    config = ServerConfig(port=0, http_port=0, grace_s=5, allow_shared_memory=True)
    with serve([model], config) as server, triton.InferenceServerClient(server.http_address) as client:
        memory = shared_memory.create_shared_memory_region("both", f"/nested-sparse-{os.getpid()}", 2 * X.nbytes)
        try:
            shared_memory.set_shared_memory_region(memory, [X])
            client.register_system_shared_memory("both", f"/nested-sparse-{os.getpid()}", 2 * X.nbytes)
            [region] = client.get_system_shared_memory_status()
            assert (region["name"], region["byte_size"]) == ("both", 2 * X.nbytes)
            tensor = triton.InferInput("x", list(X.shape), "FP32")
            tensor.set_shared_memory("both", X.nbytes)
            wanted = triton.InferRequestedOutput("double", binary_data=True)
            wanted.set_shared_memory("both", X.nbytes, offset=X.nbytes)
            answer = client.infer("net", [tensor], outputs=[wanted])
            assert "data" not in answer.get_output("double")
            assert answer.get_output("double")["parameters"]["shared_memory_region"] == "both"
            got = shared_memory.get_contents_as_numpy(memory, np.float32, list(X.shape), offset=X.nbytes)
            np.testing.assert_array_equal(got, 2 * X)
            client.unregister_system_shared_memory("both")
            assert client.get_system_shared_memory_status() == []
        finally:
            shared_memory.destroy_shared_memory_region(memory)


def test_the_conversion_counts_against_the_time_of_its_request(rest, monkeypatch):
    """JSON takes its time, and may wait for other JSON."""
    waits: list[float] = []
    convert, arrived = http_server.read_infer_body, Servicer.arrived

    def slow(*arguments: Any) -> Any:
        time.sleep(0.2)
        return convert(*arguments)

    def spied(servicer: Servicer) -> None:
        waits.append(waited_s.get())
        arrived(servicer)

    monkeypatch.setattr(http_server, "read_infer_body", slow)
    monkeypatch.setattr(Servicer, "arrived", spied)
    assert infer(rest, PLAIN)[0] == 200
    assert waits[0] >= 0.2


def test_a_load_report_is_a_header_for_those_who_ask(rest):
    _, headers, _ = ask(rest, "/v2/models/net/infer", PLAIN, endpoint_load_metrics_format="json")
    assert headers["endpoint-load-metrics"].startswith("JSON {")
    assert "endpoint-load-metrics" not in ask(rest, "/v2/models/net/infer", PLAIN)[1]


def test_top_reads_the_metrics_of_the_http_port(rest, client):
    """It finds the port by itself."""
    client.infer("net", [x_input()])
    source = CountsSource(rest.address)
    try:
        counts = source.read()
    finally:
        source.close()
    assert counts.note == ""
    assert {each.name: each.answered for each in counts.models}["net"] == 1


def test_requests_are_counted_as_those_of_grpc(rest, client):
    client.infer("net", [x_input()])
    infer(rest, PLAIN, "nobody")
    for unreadable in (b"{", edited(name="\ud800")):
        infer(rest, unreadable)
    text = ask(rest, "/metrics")[2].decode()
    assert 'nested_sparse_requests_total{level="2",model="net",outcome="ok"} 1.0' in text
    assert 'nested_sparse_requests_total{level="",model="",outcome="not_found"} 1.0' in text
    assert 'nested_sparse_requests_total{level="",model="",outcome="invalid"} 2.0' in text
