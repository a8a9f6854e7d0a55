"""A random ResNet-50 at every level against dense ONNX Runtime, in one process.

Both sides start from the same torch model. Outputs are compared with torch before anything is timed; then the dense
session and each level take turns, so that drift of a shared machine hits all of them alike.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nested_sparse.errors import ExportError
from nested_sparse.kernels.library import kernel_for
from nested_sparse.runtime.session import Session

RELATIVE_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class Contender:
    """One line of the result. speedup: dense median / own median; max_error: relative to the largest output."""

    name: str
    density: float
    median_ms: float
    samples_ms: list[float]
    speedup: float
    max_error: float


def bench_resnet50(
    pattern: str,
    densities: Sequence[float],
    keep_dense: Sequence[str],
    threads: int,
    repeats: int,
    image_size: int = 224,
) -> tuple[list[Contender], dict[str, Any]]:
    """Export, verify, time; the lines, and what the JSON says beside them. Raises ExportError on disagreement."""
    import torch

    from nested_sparse.trainer import export, nest
    from nested_sparse.trainer.models import ResNet50
    from nested_sparse.trainer.recalibrate import recalibrate

    torch.manual_seed(0)
    model = ResNet50().eval()
    images = torch.randn(2, 3, image_size, image_size)
    net = nest(model, densities=densities, pattern=pattern, keep_dense=keep_dense)
    recalibrate(net, [(images, torch.zeros(len(images), dtype=torch.int64))])  # else activations die out at 5 % density
    image = images[:1]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "resnet50.safetensors"
        export(net.eval(), (image,), path)
        dense = _dense_session(model, image, Path(folder) / "dense.onnx", threads)
        with Session(path, threads=threads) as session:
            feed = {"input": image.numpy()}
            runs: dict[str, Callable[[], NDArray[Any]]] = {"dense": lambda: dense.run(None, feed)[0]}
            expected = {"dense": _torch_output(model, image)}
            for level in session.levels:
                name = f"level {level.index}"
                runs[name] = partial(_run_level, session, feed, level.index)
                net.set_level(level.index)
                expected[name] = _torch_output(net, image)
            errors = {name: _verified(name, run(), expected[name]) for name, run in runs.items()}
            samples = _interleaved(runs, repeats)
            density = {"dense": 1.0} | {f"level {level.index}": level.density for level in session.levels}
            weight = net.nested_weight("layer1.0.conv2")
            kernel = kernel_for("conv", weight.block_rows, banks=weight.pack.banks if weight.pack else 0)
            facts = {"isa": session.isa, "kernel": kernel, "file_nbytes": path.stat().st_size}
    medians = {name: statistics.median(times) for name, times in samples.items()}
    contenders = [
        Contender(name, density[name], medians[name], samples[name], medians["dense"] / medians[name], errors[name])
        for name in runs
    ]
    return contenders, facts


def _run_level(session: Session, feed: dict[str, NDArray[Any]], level: int) -> NDArray[Any]:
    return session.run(feed, level)["output"]


def _dense_session(model: Any, image: Any, path: Path, threads: int) -> Any:
    import onnxruntime as ort
    import torch

    from nested_sparse.trainer.graph import quiet_exporter

    with quiet_exporter():
        torch.onnx.export(
            model, (image,), path, dynamo=True, input_names=["input"], output_names=["output"], verbose=False
        )
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    # it may spin while it runs, as it does by default, but not into the next contender's turn
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _torch_output(model: Any, image: Any) -> NDArray[np.float32]:
    import torch

    with torch.inference_mode():
        output: NDArray[np.float32] = model(image).numpy()
    return output


def _verified(name: str, got: NDArray[Any], expected: NDArray[np.float32]) -> float:
    error = float(np.abs(got - expected).max() / np.abs(expected).max())
    if not error <= RELATIVE_TOLERANCE:
        raise ExportError(f"{name}: disagrees with torch by {error:.2e} of the largest output; nothing was timed")
    return error


def _interleaved(runs: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    samples: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 2):
        for name, run in runs.items():
            begin_s = time.perf_counter()
            run()
            if repeat >= 2:  # the first two rounds warm up
                samples[name].append(round(1000.0 * (time.perf_counter() - begin_s), 3))
    return samples
