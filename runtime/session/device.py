"""Device: the place where a session computes, the CPU by ONNX Runtime or an NVIDIA GPU by torch."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, Protocol

from nested_sparse.bfloat16 import NAME
from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import CheckpointError, InputError, KernelError
from nested_sparse.excerpt import excerpt
from nested_sparse.graph.check import GraphFacts, check_graph

from .level_cell import LevelCell
from .tensors import Array

CPU = "cpu"
DTYPES = ("float16", "bfloat16", "float32")
"""Types in which a GPU computes; the first is the default. float32 is slow, because tensor cores do not take it."""


class Engine(Protocol):
    """A graph with its weights, ready to run at any level."""

    names: list[str]

    def run(self, arrays: Mapping[str, Array], cell: LevelCell, options: Any) -> list[Array]:
        """The outputs in order, new arrays, at the level of `cell`."""

    def close(self) -> None:
        """Free what the engine holds; no run is under way."""


class GpuEngine(Engine, Protocol):
    """One on a GPU. level_nbytes: bytes of the GPU's memory that each level adds."""

    level_nbytes: tuple[int, ...]


def checked_device(device: object, dtype: object) -> tuple[str, str | None]:
    """Device and dtype of a session: "cpu" and None, or "cuda", "cuda:1", … and one of DTYPES. Raises InputError."""
    if device == CPU:
        if dtype is not None:
            raise InputError(f"dtype: leave it out, a CPU computes in the file's types; got {excerpt(repr(dtype))}")
        return CPU, None
    if not isinstance(device, str) or not re.fullmatch(r"cuda(:\d{1,3})?", device):
        raise InputError(f"device: expected 'cpu', 'cuda' or 'cuda:' and a number, got {excerpt(repr(device))}")
    if dtype is not None and dtype not in DTYPES:
        raise InputError(f"dtype: expected one of {', '.join(DTYPES)}, got {excerpt(repr(dtype))}")
    return device, str(dtype or DTYPES[0])


def open_on_gpu(checkpoint: Checkpoint, device: str, dtype: str) -> tuple[GpuEngine, GraphFacts]:
    """The checkpoint's graph on a GPU. Where Triton's interpreter is on (TRITON_INTERPRET=1), the CPU stands for it.

    Raises KernelError (torch, Triton, onnx or the device is missing), CheckpointError (the graph, or a node or
    layer that does not run there).
    """
    where = excerpt(checkpoint.path.name)
    facts = check_graph(checkpoint, checkpoint.graph())
    if any(spec.dtype == NAME for spec in (*checkpoint.inputs, *checkpoint.outputs)):
        raise CheckpointError(f"{where}: has tensors of {NAME}, which a session on a GPU does not exchange; use a CPU")
    try:
        import torch

        from ..cuda import TorchGraph
    except ImportError as error:
        raise KernelError(
            f"{where}: device={device!r} needs the extra [gpu]: pip install 'nested-sparse[gpu]' ({error})"
        ) from error
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if not interpreted and not torch.cuda.is_available():
        raise KernelError(
            f"{where}: device={device!r}: torch {torch.__version__} finds no CUDA device; check nvidia-smi and that "
            "torch is a CUDA build, or take device='cpu'"
        )
    if not interpreted and torch.device(device).index not in (None, *range(torch.cuda.device_count())):
        raise KernelError(f"{where}: device={device!r}: there are {torch.cuda.device_count()} CUDA devices")
    return TorchGraph(checkpoint, torch.device(CPU if interpreted else device), getattr(torch, dtype)), facts
