"""Clients: tritonclient, plain gRPC calls, and inputs of the fake model of tests/serving."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod

import numpy as np
import pytest

from nested_sparse.proto import messages

InferenceServerException = pytest.importorskip(
    "tritonclient.utils", reason="tritonclient is not installed"
).InferenceServerException
triton = pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")


X = np.arange(8, dtype=np.float32).reshape(2, 4)


def tensor(array=X, name="x", datatype="FP32", shape=None):
    """An input as tritonclient makes it; with `shape`, one that does not fit its bytes."""
    it = triton.InferInput(name, list(array.shape), datatype)
    it.set_data_from_numpy(array)
    return it if shape is None else it.set_shape(shape)


def infer_stub(channel):
    """ModelInfer by plain gRPC, for what tritonclient does not send or drops."""
    return channel.unary_unary(
        f"/{messages.SERVICE_NAME}/ModelInfer",
        request_serializer=messages.ModelInferRequest.SerializeToString,
        response_deserializer=messages.ModelInferResponse.FromString,
    )


def typed_request(model="net"):
    request = messages.ModelInferRequest(model_name=model, id="seven")
    request.inputs.add(name="x", datatype="FP32", shape=[2, 4]).contents.fp32_contents.extend(X.ravel().tolist())
    return request


def failure(client, **arguments):
    """The error of an inference that must fail: status name and message."""
    with pytest.raises(InferenceServerException) as caught:
        client.infer(**{"model_name": "net", "inputs": [tensor()], **arguments})
    return caught.value.status().removeprefix("StatusCode."), caught.value.message()


def wait_for(condition, seconds=120.0):
    """Whether `condition` becomes true soon; polls."""
    end = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < end:
        time.sleep(0.005)
    return bool(met)


class Askers(ABC):
    """Threads that each run `ask(number)` within the context, which ends it by `stop`."""

    def __init__(self, count=4):
        self.stop = threading.Event()
        self._threads = [threading.Thread(target=self.ask, args=(number,)) for number in range(count)]

    @abstractmethod
    def ask(self, number):
        """Run in each thread until `stop` is set."""

    def __enter__(self):
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for each in self._threads:
            each.join()
