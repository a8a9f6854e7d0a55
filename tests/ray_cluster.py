"""Ray cluster: one of this machine's cores, with the application of `nested_sparse.serving.cluster`, and load on it."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import psutil

from nested_sparse.proto import messages
from support import EXAMPLE

REPLICA_KEY = "nested-sparse-replica"
START_S = 300.0


@contextmanager
def cluster(cores: int = 2) -> Iterator[str]:
    """The address of the ingress of an empty cluster; ended in any case.

    Ray gives its processes a lower priority than this one, which a busy machine lets starve.
    """
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    import ray
    from ray import serve
    from ray.serve.config import gRPCOptions

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    ray.init(num_cpus=cores, include_dashboard=False, log_to_driver=False, object_store_memory=100 << 20)
    try:
        functions = ["nested_sparse.serving.cluster.ray_serve:add_to_ingress"]
        options = gRPCOptions(port=port, grpc_servicer_functions=functions, enable_reflection=False)
        serve.start(grpc_options=options, proxy_location="HeadOnly")
        yield f"127.0.0.1:{port}"
    finally:
        serve.shutdown()
        ray.shutdown()


def deploy(models: dict[str, Any], **options: Any) -> None:
    """Run the application with these settings of its models, and options of the deployment, until it is ready."""
    from ray import serve

    from nested_sparse.serving.cluster.ray_serve import APPLICATION, REPLICA

    tables = {
        "models": {"files": [str(EXAMPLE)], "profile_cache": "off", **models},
        "security": {"insecure": True},
    }
    serve.run(REPLICA.options(**options).bind(tables), name=APPLICATION, route_prefix=None)


def request(samples: int = 1, **parameters: float) -> messages.ModelInferRequest:
    """An inference of the example's model; a parameter is a number, whole ones stay whole."""
    image = np.random.default_rng(0).standard_normal((samples, 1, 28, 28)).astype(np.float32)
    message = messages.ModelInferRequest(model_name=EXAMPLE.stem)
    message.inputs.add(name="input", datatype="FP32", shape=list(image.shape))
    message.raw_input_contents.append(image.tobytes())
    for key, value in parameters.items():
        kind = "int64_param" if isinstance(value, int) else "double_param"
        message.parameters[key].CopyFrom(messages.InferParameter(**{kind: value}))
    return message


def infer_stub(channel: grpc.Channel) -> Any:
    """ModelInfer by plain gRPC, which shows the trailing metadata."""
    return channel.unary_unary(
        f"/{messages.SERVICE_NAME}/ModelInfer",
        request_serializer=messages.ModelInferRequest.SerializeToString,
        response_deserializer=messages.ModelInferResponse.FromString,
    )


def replica_of(call: Any) -> str:
    """The replica that answered a call of plain gRPC; "" where it does not say."""
    return next((str(value) for key, value in call.trailing_metadata() or () if key == REPLICA_KEY), "")


def replica_processes() -> list[psutil.Process]:
    """The processes of the replicas, children of this one's Ray."""
    return [each for each in psutil.process_iter(["name"]) if each.info["name"].startswith("ray::ServeRep")]


class Load:
    """Clients that call in a closed loop while the body runs; `outcomes` has (end, replica, level, error) of each call.

    end: by the monotonic clock. error: None, or the status and its details.
    """

    def __init__(self, address: str, message: messages.ModelInferRequest, clients: int, timeout_s: float) -> None:
        self.outcomes: list[tuple[float, str, int, str | None]] = []
        self._address, self._message, self._timeout_s = address, message, timeout_s
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(clients)]

    def __enter__(self) -> Load:
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for each in self._threads:
            each.join()

    def _call(self) -> None:
        with grpc.insecure_channel(self._address) as channel:
            stub = infer_stub(channel)
            while not self._stop.is_set():
                try:
                    response, call = stub.with_call(self._message, timeout=self._timeout_s)
                    level = response.parameters["level"].int64_param
                    self.outcomes.append((time.monotonic(), replica_of(call), level, None))
                except grpc.RpcError as error:
                    self.outcomes.append((time.monotonic(), "", -1, f"{error.code().name}: {error.details()}"))

    def replicas_since(self, begin_s: float) -> set[str]:
        """The replicas that have answered since then."""
        return {replica for end_s, replica, _, error in list(self.outcomes) if error is None and end_s >= begin_s}


def wait_until(condition: Callable[[], bool], limit_s: float = START_S) -> bool:
    """Whether `condition` becomes true in time; polls."""
    end_s = time.monotonic() + limit_s
    while not (met := condition()) and time.monotonic() < end_s:
        time.sleep(0.05)
    return met
