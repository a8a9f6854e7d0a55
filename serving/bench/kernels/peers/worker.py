"""One peer in its own environment: reads JSON lines, answers each with one. Run by the peer's python, not imported.

{"do": "load", "model": an ONNX file, "threads": n, "input": a .npy file}  ->  {"peer": its name and version}
{"do": "run", "count": n}  ->  {"samples_ms": [...], "output": [...], "shape": [...]}, the output of the last run

Any failure is answered by {"error": text}. The worker ends with its stdin. It needs numpy and the peer, not this
package.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

Infer = Callable[[], Any]
"""One inference on the input given at load; returns its first output as an array."""


def load_deepsparse(model: str, threads: int, image: Any) -> tuple[str, Infer]:
    """DeepSparse by its public Python interface."""
    import deepsparse

    engine = deepsparse.compile_model(model, batch_size=image.shape[0], num_cores=threads)
    return f"DeepSparse {version('deepsparse')}", lambda: engine.run([image])[0]


def load_mnn(model: str, threads: int, image: Any) -> tuple[str, Infer]:
    """MNN: converted with its search for sparse weights on, then by its session interface, in float32."""
    import MNN

    converted = str(Path(model).with_suffix(".mnn"))
    convert = str(Path(sys.executable).with_name("mnnconvert"))
    options = ["--bizCode", "bench", "--detectSparseSpeedUp", "1"]
    command = [convert, "-f", "ONNX", "--modelFile", model, "--MNNModel", converted, *options]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    if done.returncode or not Path(converted).is_file():
        raise RuntimeError(f"mnnconvert failed: {(done.stdout + done.stderr).strip()[-300:]}")
    net = MNN.Interpreter(converted)
    session = net.createSession({"backend": "CPU", "numThread": threads, "precision": "high"})
    target = net.getSessionInput(session)
    net.resizeTensor(target, tuple(image.shape))
    net.resizeSession(session)
    given = MNN.Tensor(tuple(image.shape), MNN.Halide_Type_Float, image, MNN.Tensor_DimensionType_Caffe)

    def infer() -> Any:
        target.copyFrom(given)
        net.runSession(session)
        output = net.getSessionOutput(session)
        host = MNN.Tensor(
            output.getShape(),
            MNN.Halide_Type_Float,
            np.zeros(output.getShape(), np.float32),
            MNN.Tensor_DimensionType_Caffe,
        )
        output.copyToHostTensor(host)
        return np.asarray(host.getData(), np.float32).reshape(output.getShape())

    return f"MNN {version('MNN')}, detectSparseSpeedUp", infer


def load_openvino(model: str, threads: int, image: Any) -> tuple[str, Infer]:
    """OpenVINO on the CPU, one stream, float32 throughout."""
    import openvino

    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": str(threads),
        "INFERENCE_PRECISION_HINT": "f32",
    }
    compiled = openvino.Core().compile_model(model, "CPU", options)
    request = compiled.create_infer_request()
    return f"OpenVINO {version('openvino')} dense", lambda: request.infer([image])[0]


LOADERS = {"deepsparse": load_deepsparse, "mnn": load_mnn, "openvino": load_openvino}


def answer(request: dict[str, Any], state: dict[str, Infer], loader: Callable[..., tuple[str, Infer]]) -> Any:
    """The answer to a request; `state` keeps the loaded model between requests."""
    if request["do"] == "load":
        image = np.load(request["input"])
        name, state["infer"] = loader(request["model"], request["threads"], image)
        return {"peer": name}
    samples = []
    for _ in range(request["count"]):
        begin = time.perf_counter()
        output = state["infer"]()
        samples.append(round(1000.0 * (time.perf_counter() - begin), 4))
    array = np.asarray(output, np.float32)
    return {"samples_ms": samples, "output": array.ravel().tolist(), "shape": list(array.shape)}


def main() -> None:
    """Serve the peer named by the first argument until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # the peer's own prints on stdout must not mix with the answers
    state: dict[str, Infer] = {}
    for line in sys.stdin:
        try:
            said = answer(json.loads(line), state, LOADERS[sys.argv[1]])
        except Exception as error:  # any failure of the peer is the parent's to report
            said = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(said) + "\n")


if __name__ == "__main__":
    main()
