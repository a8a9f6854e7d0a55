"""End to end: the command line's server in a process, with the real runtime, asked by tritonclient."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

import grpc
import numpy as np
import pytest

from nested_sparse.layouts import Blocks
from nested_sparse.mask import block_scores, nested_first_level
from nested_sparse.proto import messages
from nested_sparse.tensor_spec import TensorSpec
from nested_sparse.weight import NestedWeight
from nested_sparse.writer import LayerRecord, LevelRecord, write_checkpoint

onnx = pytest.importorskip("onnx", reason="onnx, which the test's graph is built with, is not installed")
triton = pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")
InferenceServerException = pytest.importorskip(
    "tritonclient.utils", reason="tritonclient is not installed"
).InferenceServerException

SIZE = 1024
DENSITIES = (0.1, 0.5)
COMMAND = (sys.executable, "-m", "nested_sparse.serving.cli")
BIG_BATCH = 4000


def linear_graph(placements) -> bytes:
    """One NestedLinear from x to y."""
    from onnx import TensorProto, helper

    place = placements["fc"]
    segments = [f"__segment_{level}__" for level in range(len(DENSITIES))]
    node = helper.make_node(
        "NestedLinear",
        ["x", "__level__", "", *segments],
        ["y"],
        name="fc",
        domain="nested_sparse",
        layer="fc",
        rows=place.rows,
        columns=place.columns,
        block_rows=place.block_rows,
        index_bytes=place.index_bytes,
        blocks=list(place.blocks),
        offsets=list(place.offsets),
        permutation_offset=place.permutation_offset,
        clip_min=float("-inf"),
        clip_max=float("inf"),
    )
    graph = helper.make_graph(
        [node],
        "net",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", SIZE]),
            helper.make_tensor_value_info("__level__", TensorProto.INT64, []),
            *(helper.make_tensor_value_info(name, TensorProto.UINT8, [f"{name}n"]) for name in segments),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", SIZE])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("nested_sparse", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


@pytest.fixture(scope="module")
def weight():
    """One linear layer of two levels."""
    values = np.random.default_rng(0).standard_normal((SIZE, SIZE)).astype(np.float32)
    scores = block_scores(values, 4)
    return NestedWeight(
        "fc", values, nested_first_level(scores, [round(d * scores.size) for d in DENSITIES]), Blocks(4)
    )


@pytest.fixture(scope="module")
def checkpoint(weight, tmp_path_factory):
    """That layer as a file; scale 1 and shift 0 at each level."""
    path = tmp_path_factory.mktemp("end_to_end") / "net.safetensors"
    norms = np.stack([np.stack([np.ones(SIZE), np.zeros(SIZE)])] * len(DENSITIES)).astype(np.float32)
    write_checkpoint(
        path,
        graph_builder=linear_graph,
        layers=[LayerRecord(weight, norms, "linear", {})],
        levels=[LevelRecord(density, int(2 * density * SIZE**2), {"accuracy": density}) for density in DENSITIES],
        inputs=[TensorSpec("x", "float32", (None, SIZE), (1, SIZE))],
        outputs=[TensorSpec("y", "float32", (None, SIZE), (1, SIZE))],
    )
    return path


@contextmanager
def serving(*arguments):
    """The server's process and what it printed when ready; ended by SIGTERM, which must give exit code 0."""
    command = [*COMMAND, "serve", "--profile-cache", "off", "--slo-ms", "60000"]
    command += map(str, arguments)  # of an option given twice the last one counts
    command += ["--port", "0", "--threads", "1", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        ready = process.stdout.readline()
        assert ready, process.stderr.read()
        try:
            yield process, json.loads(ready)
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=180)
            assert process.returncode == 0, log
        finally:
            process.kill()


@pytest.fixture(scope="module")
def address(checkpoint):
    """Address of a server that serves the whole module."""
    with serving(checkpoint) as (_, facts):
        yield facts["address"]


@pytest.fixture
def client(address):
    """A client of that server."""
    with triton.InferenceServerClient(address) as it:
        yield it


def tensor(array):
    """An input called x."""
    it = triton.InferInput("x", list(array.shape), "FP32")
    it.set_data_from_numpy(array)
    return it


def failure(client, array, **parameters):
    """Status and message of a request that must fail."""
    with pytest.raises(InferenceServerException) as caught:
        client.infer("net", [tensor(array)], parameters=parameters)
    return caught.value.status().removeprefix("StatusCode."), caught.value.message()


X = np.random.default_rng(1).standard_normal((3, SIZE)).astype(np.float32)


@pytest.mark.parametrize(("asked", "level"), [(0, 0), (1, 1), (-1, 1)])
def test_each_level_computes_its_own_weights(client, weight, asked, level):
    """The wire, the scheduler and the kernels together agree with numpy."""
    result = client.infer("net", [tensor(X)], parameters={"level": asked})
    expected = X.astype(np.float64) @ weight.at(level).astype(np.float64).T
    # |error| of a float32 sum of k products: k · eps · Σ|w||x|
    bound = SIZE * np.finfo(np.float32).eps * (np.abs(X) @ np.abs(weight.at(level)).T)
    assert (np.abs(result.as_numpy("y") - expected) <= bound).all()
    parameters = result.get_response().parameters
    assert parameters["level"].int64_param == level
    assert parameters["accuracy"].double_param == DENSITIES[level]
    assert parameters["compute_us"].int64_param > 0


def test_min_accuracy_and_time_give_the_densest(client):
    """With a minute to spare nothing speaks for less."""
    result = client.infer("net", [tensor(X)], parameters={"min_accuracy": DENSITIES[1]})
    assert result.get_response().parameters["level"].int64_param == 1


@pytest.mark.parametrize(
    ("array", "parameters", "statuses", "message"),
    [
        (X, {"level": 2}, ("INVALID_ARGUMENT",), "0 to 1"),
        (X, {"min_accuracy": 0.99}, ("INVALID_ARGUMENT",), "0.99"),
        (X[:, :5].copy(), {}, ("INVALID_ARGUMENT",), "'x'"),
        (X, {"slo_ms": 0.001}, ("RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"), "ms"),
    ],
)
def test_errors_of_the_runtime_arrive_with_their_status(client, array, parameters, statuses, message):
    """The runtime's own errors arrive with the right status and their numbers."""
    status, text = failure(client, array, **parameters)
    assert status in statuses
    assert message in text


def wait_for(condition, seconds=120.0):
    """Whether `condition` becomes true soon; polls."""
    end = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < end:
        time.sleep(0.01)
    return bool(met)


def test_sigterm_finishes_the_running_requests(checkpoint):
    """A request under way when SIGTERM comes is answered, and the exit code is 0."""
    options = ("--slo-ms", "60000", "--max-batch", BIG_BATCH, "--metrics-port", "0")
    with serving(checkpoint, *options) as (process, facts):
        metrics = f"http://{facts['metrics_address']}/metrics"

        def under_way():
            lines = urllib.request.urlopen(metrics, timeout=120).read().decode().splitlines()
            return 'nested_sparse_running_requests{model="net"} 1.0' in lines or running.done()

        channel = grpc.insecure_channel(facts["address"], options=[("grpc.max_receive_message_length", -1)])
        infer = channel.unary_unary(
            f"/{messages.SERVICE_NAME}/ModelInfer",
            request_serializer=messages.ModelInferRequest.SerializeToString,
            response_deserializer=messages.ModelInferResponse.FromString,
        )
        request = messages.ModelInferRequest(model_name="net")
        request.inputs.add(name="x", datatype="FP32", shape=[BIG_BATCH, SIZE])
        request.raw_input_contents.append(np.ones((BIG_BATCH, SIZE), np.float32).tobytes())
        running = infer.future(request)
        assert wait_for(under_way)
        process.send_signal(signal.SIGTERM)
        answer = running.result(180)
        channel.close()
        process.wait(180)
        assert process.returncode == 0
    assert len(answer.raw_output_contents[0]) == BIG_BATCH * SIZE * 4


def test_port_in_use(address, checkpoint):
    """One line on stderr and exit code 1, before any model is loaded."""
    port = address.rsplit(":", 1)[1]
    done = subprocess.run([*COMMAND, "serve", checkpoint, "--port", port], capture_output=True, text=True, timeout=180)
    assert done.returncode == 1
    assert "Address already in use" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


def test_serve_announces_itself(checkpoint):
    """People read it on stderr, with the levels and the instruction set."""
    with (
        serving(checkpoint, "--level", "0") as (process, facts),
        triton.InferenceServerClient(facts["address"]) as client,
    ):
        assert facts["models"][0]["levels"] == 2
        for line in process.stderr:
            if "serving net on" in line:
                break
        assert facts["address"] in line
        assert "levels 0 to 1" in line
        result = client.infer("net", [tensor(X)])
        assert result.get_response().parameters["level"].int64_param == 0


def test_level_out_of_range_is_said_at_the_start(checkpoint):
    """The error comes at the start, not on the first request."""
    done = subprocess.run(
        [*COMMAND, "serve", checkpoint, "--port", "0", "--level", "7"], capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 1
    assert "level 7 is out of range" in done.stderr
    assert "Traceback" not in done.stderr


def test_profile_prints_latencies_and_kernels(checkpoint):
    """Latency per level, and the kernel of the layer."""
    command = [*COMMAND, "profile", checkpoint, "--threads", "1", "--repeats", "3", "--batch", "1", "--batch", "4"]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=180, check=True)
    facts = json.loads(done.stdout)
    assert [(entry["level"], entry["batch"]) for entry in facts["latency"]] == [(0, 1), (0, 4), (1, 1), (1, 4)]
    assert all(entry["median_ms"] > 0 for entry in facts["latency"])
    (layer,) = facts["layers"]
    assert layer["layer"] == "fc"
    assert facts["isa"] in layer["kernel"]
    table = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True).stdout
    assert "layers at level 1" in table
    assert layer["kernel"] in table


def test_a_kept_profile_spares_the_measuring(checkpoint, tmp_path):
    """The second start says that it checked; `off` keeps nothing; a folder that cannot be had is no reason to fail."""
    folder = tmp_path / "profiles"
    logs = {}
    for name, wanted in (("first", folder), ("second", folder), ("off", "off"), ("useless", "/dev/null/profiles")):
        with serving(checkpoint, "--profile-cache", wanted) as (process, _):
            process.send_signal(signal.SIGTERM)
            logs[name] = process.communicate(timeout=180)[1]
            assert process.returncode == 0
    assert len(list(folder.iterdir())) == 1
    assert "kept latency profile checked" in logs["second"]
    for name in ("first", "off", "useless"):
        assert "measuring 2 levels" in logs[name]
    assert "not kept" in logs["useless"]
