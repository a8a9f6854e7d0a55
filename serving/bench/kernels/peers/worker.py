"""One peer in its own environment: reads JSON lines, answers each with one. Run by the peer's python, not imported.

{"do": "load", "model": an ONNX file, "threads": n, "input": a .npy file, "calibration": a .npy file of more inputs}
    ->  {"peer": its name and version}
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
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

Infer = Callable[[], Any]
"""One inference on the input given at load; returns its first output as an array."""


@dataclass(frozen=True)
class Load:
    """The model to load: an ONNX file, for `threads`, for the input `image`; calibration: inputs, along dimension 0."""

    model: str
    threads: int
    image: Any
    calibration: Any


def load_deepsparse(load: Load) -> tuple[str, Infer]:
    """DeepSparse by its public Python interface."""
    import deepsparse

    engine = deepsparse.compile_model(load.model, batch_size=load.image.shape[0], num_cores=load.threads)
    return f"DeepSparse {version('deepsparse')}", lambda: engine.run([load.image])[0]


def load_deepsparse_int8(load: Load) -> tuple[str, Infer]:
    """DeepSparse on a pruned and quantised model. Fails where it does not run that by its own sparse kernels.

    It hands what it does not support to the ONNX Runtime inside it, without a word.
    """
    import deepsparse

    name, infer = load_deepsparse(load)
    found = deepsparse.model_debug_analysis(
        load.model, inp=[load.image], batch_size=load.image.shape[0], num_cores=load.threads, num_iterations=1
    )
    layers = [each["name"] for each in found["layer_info"] if each["required_flops"] > 0 and each["kernel_dims"]]
    sparse = [each for each in layers if each.startswith("ks_gemm_q")]
    if len(sparse) < len(layers) / 2:
        raise RuntimeError(f"only {len(sparse)} of {len(layers)} layers ran on sparse quantised kernels: {layers}")
    return f"{name} int8, {len(sparse)} layers on sparse quantised kernels, one scale per tensor", infer


def load_mnn(load: Load) -> tuple[str, Infer]:
    """MNN: converted with its search for sparse weights on, then by its session interface, in float32."""
    converted = _mnn_converted(load.model, "--detectSparseSpeedUp", "1")
    return f"MNN {version('MNN')}, detectSparseSpeedUp", _mnn_infer(converted, load)


def load_mnn_int8(load: Load) -> tuple[str, Infer]:
    """MNN, quantised by its own tool (KL, weights by their maximum) from the calibration inputs."""
    converted = _mnn_converted(load.model)
    folder = Path(load.model).with_suffix(".calibration")
    for index, image in enumerate(load.calibration):
        sample = folder / str(index)
        sample.mkdir(parents=True, exist_ok=True)
        np.savetxt(sample / "input.txt", image.ravel(), fmt="%.8g")
        about = {"inputs": [{"name": "input", "shape": list(image.shape)}], "outputs": ["output"]}
        (sample / "input.json").write_text(json.dumps(about))
    settings = {
        "format": "RGB",
        "path": str(folder),
        "input_type": "sequence",
        "used_sample_num": len(load.calibration),
        "feature_quantize_method": "KL",
        "weight_quantize_method": "MAX_ABS",
    }
    described = folder.with_suffix(".json")
    described.write_text(json.dumps(settings))
    quantised = str(Path(load.model).with_suffix(".int8.mnn"))
    _mnn_tool("mnnquant", converted, quantised, str(described), made=quantised)
    return f"MNN {version('MNN')} int8", _mnn_infer(quantised, load)


def _mnn_converted(model: str, *options: str) -> str:
    converted = str(Path(model).with_suffix(".mnn"))
    words = ["-f", "ONNX", "--modelFile", model, "--MNNModel", converted, "--bizCode", "bench", *options]
    _mnn_tool("mnnconvert", *words, made=converted)
    return converted


def _mnn_tool(tool: str, *arguments: str, made: str) -> None:
    """Run the function behind a tool of MNN's, in a process of its own, since it ends its process when it fails.

    The tools' commands also send usage records, and to be able to, install packages by the first pip on the PATH.
    """
    code = f"import sys, _tools; _tools.{tool}(sys.argv)"
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    if done.returncode or not Path(made).is_file():
        raise RuntimeError(f"{tool} failed: {(done.stdout + done.stderr).strip()[-300:]}")


def _mnn_infer(path: str, load: Load) -> Infer:
    import MNN

    net = MNN.Interpreter(path)
    session = net.createSession({"backend": "CPU", "numThread": load.threads, "precision": "high"})
    target = net.getSessionInput(session)
    shape = tuple(load.image.shape)
    net.resizeTensor(target, shape)
    net.resizeSession(session)
    given = MNN.Tensor(shape, MNN.Halide_Type_Float, load.image, MNN.Tensor_DimensionType_Caffe)

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

    return infer


def load_openvino(load: Load) -> tuple[str, Infer]:
    """OpenVINO on the CPU, one stream; float32 where the model has no QDQ nodes."""
    import openvino

    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": str(load.threads),
        "INFERENCE_PRECISION_HINT": "f32",
    }
    compiled = openvino.Core().compile_model(load.model, "CPU", options)
    request = compiled.create_infer_request()
    facts = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    kernels = Counter(_text(each["primitiveType"]) for each in facts if "Conv" in _text(each["layerType"]))
    most = kernels.most_common(1)[0][0] if kernels else "no convolution"
    return f"OpenVINO {version('openvino')} dense, mostly {most}", lambda: request.infer([load.image])[0]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(value.astype(str))


def load_onnxruntime(load: Load) -> tuple[str, Infer]:
    """ONNX Runtime on a QDQ model, with every optimisation; its threads do not spin in the others' turns."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = load.threads
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = ort.InferenceSession(load.model, options, providers=["CPUExecutionProvider"])
    return f"ONNX Runtime {version('onnxruntime')} dense int8", lambda: session.run(None, {"input": load.image})[0]


LOADERS = {
    "deepsparse": load_deepsparse,
    "deepsparse-int8": load_deepsparse_int8,
    "mnn": load_mnn,
    "mnn-int8": load_mnn_int8,
    "openvino": load_openvino,
    "openvino-int8": load_openvino,
    "onnxruntime-int8": load_onnxruntime,
}


def answer(request: dict[str, Any], state: dict[str, Infer], peer: str) -> Any:
    """The answer to a request; `state` keeps the loaded model between requests."""
    if request["do"] == "load":
        image, calibration = np.load(request["input"]), np.load(request["calibration"])
        name, state["infer"] = LOADERS[peer](Load(request["model"], request["threads"], image, calibration))
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
            said = answer(json.loads(line), state, sys.argv[1])
        except Exception as error:  # any failure of the peer is the parent's to report
            said = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(said) + "\n")


if __name__ == "__main__":
    main()
