"""Trivial: a model whose run takes next to nothing, a request for it, and the check of its answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nested_sparse.errors import BenchError
from nested_sparse.proto import messages
from nested_sparse.runtime.session import Session

SMALL_SHAPE, LARGE_SHAPE = (1, 1024), (1, 3, 224, 224)
"""4 kB and 602 kB of float32."""
DENSITIES = (0.25, 0.5)
"""Two levels, so that the server has to choose."""
TOLERANCE = 1e-4


def make_trivial(path: Path, shape: tuple[int, ...]) -> None:
    """Write the checkpoint of a model for inputs of `shape`: the mean of each channel of an image, then one layer."""
    import torch
    from torch import nn

    from nested_sparse.trainer import export, nest

    torch.manual_seed(0)
    images = len(shape) == 4
    layer = nn.Linear(shape[1], 16)
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), layer) if images else nn.Sequential(layer)
    export(nest(model, densities=DENSITIES).eval(), (torch.randn(shape),), path)


@dataclass(frozen=True, slots=True)
class Trivial:
    """The input of one model and its expected outputs.

    session: of the model, open here. array: the input. outputs: the expected output of each level.
    """

    session: Session
    input_name: str
    array: NDArray[np.float32]
    outputs: tuple[NDArray[Any], ...]

    @classmethod
    def of(cls, session: Session) -> Trivial:
        """That of an open checkpoint."""
        (spec,), (output,) = session.inputs, session.outputs
        array = np.random.default_rng(0).standard_normal(spec.example_shape).astype(np.float32)
        outputs = tuple(session.run({spec.name: array}, level.index)[output.name] for level in session.levels)
        return cls(session, spec.name, array, outputs)

    def run(self) -> None:
        """Run the model here, as the server does for each request."""
        self.session.run({self.input_name: self.array})

    def request(self) -> messages.ModelInferRequest:
        """The request without its values."""
        request = messages.ModelInferRequest(model_name=self.session.name)
        request.inputs.add(name=self.input_name, datatype="FP32", shape=self.array.shape)
        return request

    def raw_request(self) -> bytes:
        """The bytes of the request with its values, as tritonclient sends them."""
        request = self.request()
        request.raw_input_contents.append(self.array.tobytes())
        data: bytes = request.SerializeToString()
        return data

    def shared_request(self, region: str) -> bytes:
        """The bytes of the request whose values are in the shared memory that is registered as `region`."""
        request = self.request()
        parameters = request.inputs[0].parameters
        parameters["shared_memory_region"].string_param = region
        parameters["shared_memory_byte_size"].int64_param = self.array.nbytes
        data: bytes = request.SerializeToString()
        return data

    def check(self, answer: bytes) -> None:
        """Raise BenchError unless `answer` is the output of the level that it names."""
        response = messages.ModelInferResponse.FromString(answer)
        level = response.parameters["level"].int64_param
        expected = self.outputs[level]
        got = np.frombuffer(response.raw_output_contents[0], np.float32)
        if got.size != expected.size or not np.abs(got - expected.ravel()).max() <= TOLERANCE * np.abs(expected).max():
            raise BenchError(
                f"{self.session.name}: the server's answer is not the output of level {level}, which it names"
            )
