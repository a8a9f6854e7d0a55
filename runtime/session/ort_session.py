"""open_ort: ONNX Runtime's session for the graph of a checkpoint, made only of a graph that was checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import CheckpointError
from nested_sparse.excerpt import excerpt, excerpts
from nested_sparse.graph.check import GraphFacts, check_graph
from nested_sparse.graph.contract import runtime_inputs, segment_input
from nested_sparse.kernels import library
from nested_sparse.kernels.denormals import denormals_flushed

from ..resources import usable_cores
from .arena import ARENA
from .runs import CLOCKWORK

LOAD_LIMIT_S = 300.0
"""Longest time that ONNX Runtime's optimisers may take, where its version can end them. ResNet-50 loads in 0.25 s."""
MESSAGE_CHARACTERS = 600
"""Most characters of an error message of ONNX Runtime that are repeated: it may hold long names from the file."""
_LOG_NOTHING = 4  # ONNX Runtime's severity "fatal": errors are raised, and need not be printed too
_ASLEEP = {
    # Threads that spin between the layers take the core that a co-runner, or our other thread, needs. Measured with 16
    # layers and 2 threads on 2 cores shared with other work, median (p95) ms: 10.4 (15.0) asleep, 14.7 (24.5) spinning;
    # beside two busy loops 18.7 (26.7) and 26.6 (42.7). "session.force_spinning_stop" was never better than sleeping.
    "session.intra_op.allow_spinning": "0",
}
_SPINNING = {
    "session.intra_op.allow_spinning": "1",
    "session.intra_op.spin_duration_us": "200",  # from 50 to 500 alike; versions without it spin as long as they like
    "session.force_spinning_stop": "1",  # not between two runs
}
_CONFIG = {
    "session.load_model_format": "ONNX",  # else ONNX Runtime also takes its own format, which is not checked
    # This sets the threads of the pool; run() sets the caller's. A dense convolution of denormals takes 500 times as
    # long as one of other numbers.
    "session.set_denormal_as_zero": "1",
}


def open_ort(
    checkpoint: Checkpoint, threads: int, profile_to: Path | None, *, spin: bool = False
) -> tuple[Any, GraphFacts]:
    """An InferenceSession with our operators, and the facts of its graph.

    spin: threads wait awake for the next layer. profile_to: a folder for ONNX Runtime's profile.

    Raises CheckpointError, and KernelError where the operator library is absent or does not fit.
    """
    graph = checkpoint.graph()
    facts = check_graph(checkpoint, graph)
    options = _options(threads, profile_to, spin)
    # ONNX Runtime computes results of constants while it loads. It bounds neither their time nor, in older versions,
    # their memory; in a run both are bounded.
    disabled = None if facts.foldable else ["ConstantFolding"]
    where = checkpoint.path.name
    load = _Load(options)
    CLOCKWORK.begin(load, LOAD_LIMIT_S)
    try:
        with denormals_flushed():  # set_denormal_as_zero also sets the mode of this thread; this puts the mode back
            session = ort.InferenceSession(
                graph, options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled
            )
        return session, facts
    except Exception as error:  # ONNX Runtime's errors have no common base
        said = f"it took more than {LOAD_LIMIT_S:.0f} s" if load.stopped else excerpt(error, MESSAGE_CHARACTERS)
        raise CheckpointError(f"{where}: ONNX Runtime cannot load its graph: {said}") from error
    finally:
        CLOCKWORK.end(load)


def segment_feeds(checkpoint: Checkpoint, built: Any) -> dict[str, Any]:
    """The weights as inputs of the graph: views of the mapped file; empty arrays for levels that a slice lost.

    Raises CheckpointError where the graph has other inputs.
    """
    graph_inputs = {each.name for each in built.get_inputs()}
    feeds: dict[str, Any] = {}
    while (name := segment_input(len(feeds)).name) in graph_inputs:
        level = len(feeds)
        array = checkpoint.segment(level) if level < len(checkpoint.levels) else np.zeros(0, np.uint8)
        feeds[name] = ort.OrtValue.ortvalue_from_numpy(array)
    bound = runtime_inputs(max(len(feeds), len(checkpoint.levels)))
    expected = {*(spec.name for spec in checkpoint.inputs), *(each.name for each in bound)}
    if graph_inputs != expected:
        raise CheckpointError(
            f"{checkpoint.path.name}: with {len(checkpoint.levels)} levels its graph must have the inputs "
            f"{excerpts(sorted(expected))}, got {excerpts(sorted(graph_inputs))}; export it again"
        )
    return feeds


def open_plain(graph: bytes, threads: int | None, *, spin: bool = False) -> Any:
    """An InferenceSession, with the options of a checkpoint's, for a graph that this process has made itself."""
    with denormals_flushed():
        options = _options(usable_cores() if threads is None else threads, None, spin)
        return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


class _Load:
    """A load that is under way and can be stopped."""

    def __init__(self, options: Any) -> None:
        self._options = options
        self.stopped = False

    def stop(self) -> None:
        if hasattr(self._options, "set_load_cancellation_flag"):
            self.stopped = True
            self._options.set_load_cancellation_flag(True)


def _options(threads: int, profile_to: Path | None, spin: bool) -> Any:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _LOG_NOTHING
    for key, value in {**_CONFIG, **(_SPINNING if spin else _ASLEEP)}.items():
        options.add_session_config_entry(key, value)
    if profile_to is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile_to / "layers")
    ARENA.join(options)
    library.register(options)
    return options
