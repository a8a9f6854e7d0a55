"""The dense side: a torch model as an ONNX file, and a session of ONNX Runtime over it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nested_sparse.errors import BenchError

if TYPE_CHECKING:
    from torch import Tensor, nn

_PLAIN_OPSET = 13
BATCH = "batch"
"""Name of the free batch in a dense file."""


def dense_session(path: Path, threads: int, profile_to: Path | None = None, *, batch: int | None = None) -> Any:
    """A session of ONNX Runtime with every optimisation, spinning while it runs.

    profile_to: folder of its profile. batch: size of a free batch, for which the session is then optimised.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    # its threads may spin while it runs, as by default, but not during the next contender's turn
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if batch is not None:
        options.add_free_dimension_override_by_name(BATCH, batch)
    if profile_to is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile_to / "dense")
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def export_dense(model: nn.Module, image: Tensor, path: Path, *, plain: bool = False) -> None:
    """Write `model`, in eval mode, for this one shape, as ONNX with input "input" and output "output".

    plain: with operators of opset 13, which every peer reads. torch's current exporter writes opset 20, which the
    `onnx` version of DeepSparse does not know.
    """
    names: dict[str, Any] = {"input_names": ["input"], "output_names": ["output"]}
    if plain:
        _export(model, (image,), path, dynamo=False, opset_version=_PLAIN_OPSET, **names)
    else:
        export_dense_fixed(model, (image,), path, **names)


def export_dense_fixed(model: nn.Module, examples: tuple[Tensor, ...], path: Path, **names: Any) -> None:
    """Write `model`, in eval mode, as ONNX for inputs of just these shapes. names: as torch.onnx.export takes them."""
    _export(model, examples, path, dynamo=True, verbose=False, **names)


def export_dense_free(model: nn.Module, examples: tuple[Tensor, ...], path: Path) -> None:
    """Write `model`, in eval mode, as ONNX with a free batch: dimension 0 of each of `examples`, at least 2.

    Raises BenchError: torch cannot export it.
    """
    import torch

    from nested_sparse.trainer.export.trace import reason

    free = {0: torch.export.Dim(BATCH)}
    try:
        _export(model, examples, path, dynamo=True, verbose=False, dynamic_shapes=tuple(free for _ in examples))
    except Exception as error:  # of any class, also the model's own
        raise BenchError(f"torch.onnx.export: {reason(error)}") from error


def _export(model: nn.Module, examples: tuple[Tensor, ...], path: Path, **how: Any) -> None:
    import torch

    from nested_sparse.trainer.export.trace import quiet_exporter

    with quiet_exporter():
        torch.onnx.export(model, examples, path, **how)
