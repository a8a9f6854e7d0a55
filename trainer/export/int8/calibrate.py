"""Calibration: the values of the tensors of a float32 graph at each level, counted over batches of real inputs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from nested_sparse.errors import ExportError, InputError, LevelError, TrainingError
from nested_sparse.tensor_spec import TensorSpec
from nested_sparse.writer import LayerRecord, LevelRecord, write_checkpoint

from ...batch import pairs
from ...model.forward_call import ForwardCall
from ...model.nested_model import NestedModel
from ..fuse import FusedGraph
from .histogram import Histogram

MICRO_BATCH_NBYTES = 256 << 20
"""Bytes of intermediate tensors of one run, about: batches are cut so that no run holds more."""

MOST_ROWS = 8
"""Samples that are kept for the check of the written file."""

Feeds = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Calibration:
    """Histograms of tensors. seen: (L) one for each level, by the tensor's name. samples: rows that were run.

    first: the first of them, at most MOST_ROWS unless the batch is fixed, as arrays by the input's name.
    """

    seen: Mapping[str, Sequence[Histogram]]
    samples: int
    first: Feeds


def calibrate(
    net: NestedModel,
    fused: FusedGraph,
    tensors: Sequence[str],
    layers: Sequence[LayerRecord],
    inputs: Sequence[TensorSpec],
    batches: Iterable[Any],
    *,
    samples: int,
    fixed_batch: bool,
) -> Calibration:
    """Run the float32 graph `fused` at every level over `batches`, and count the values of `tensors`, named in it.

    batches: (inputs, targets) as for training, read until at least `samples` samples are seen. Raises ExportError,
    which names the batch at fault.
    """
    # as in verify: the trainer runs the file that it exports
    from nested_sparse.runtime import Session

    wanted = _open_outputs(fused, tensors)
    seen = {name: [Histogram() for _ in range(net.level_count)] for name in tensors}
    done = 0
    first: Feeds = {}
    with tempfile.TemporaryDirectory(prefix="nested-sparse-") as folder:
        path = Path(folder) / "calibration.safetensors"
        level = LevelRecord(density=1.0, flops=0, metrics={})
        write_checkpoint(
            path,
            graph_builder=wanted.graph.to_bytes,
            layers=layers,
            levels=[level] * net.level_count,
            inputs=inputs,
            outputs=wanted.outputs,
        )
        with Session(path, threads=1) as session:
            for index, given in enumerate(_listed(batches)):
                feeds = _feeds(net, given, inputs, f"calibration: batch {index}")
                done += _rows(feeds, inputs)
                first = first or _cut(feeds, inputs, slice(MOST_ROWS))
                for part in _parts(feeds, inputs, wanted.row_nbytes, fixed_batch):
                    for at in range(net.level_count):
                        _count(session, part, at, seen, f"calibration: batch {index}")
                if done >= samples:
                    break
    if not done:
        raise ExportError(
            "calibration: expected at least one batch, got none; pass a list of batches, or a generator that has not "
            "been used yet"
        )
    return Calibration(seen, done, first)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The graph with the wanted tensors as its outputs. row_nbytes: bytes of all of them for one row of the batch."""

    graph: FusedGraph
    outputs: list[TensorSpec]
    row_nbytes: int


def _open_outputs(fused: FusedGraph, tensors: Sequence[str]) -> _Wanted:
    model = ir.from_proto(ir.to_proto(fused.model))
    values = {value.name: value for value in model.graph.inputs}
    values |= {value.name: value for node in model.graph for value in node.outputs}
    model.graph.outputs.clear()
    specs, row_nbytes = [], 0
    for name in tensors:
        value = values[name]
        dims = value.shape.dims if value.shape is not None else ()
        shape = tuple(size if isinstance(size, int) else None for size in dims)
        example = tuple(size or 1 for size in shape)
        row_nbytes += 4 * int(np.prod(example[1:], dtype=np.int64))
        if value in model.graph.inputs:  # an output must be computed
            node = ir.node("Identity", [value])
            node.outputs[0].name, node.outputs[0].shape = f"{name}.calibrated", value.shape
            node.outputs[0].type = value.type
            model.graph.append(node)
            value = node.outputs[0]
        model.graph.outputs.append(value)
        specs.append(TensorSpec(str(value.name), "float32", shape, example))
    return _Wanted(FusedGraph(model, fused.norm_of, fused.pads), specs, row_nbytes)


def _listed(batches: Iterable[Any]) -> Iterator[Any]:
    """The inputs of each batch."""
    try:
        yield from (given for given, _ in pairs(batches, "calibration"))
    except TrainingError as error:
        raise ExportError(str(error)) from None


def _feeds(net: NestedModel, given: Any, inputs: Sequence[TensorSpec], where: str) -> dict[str, NDArray[Any]]:
    arguments = tuple(given) if isinstance(given, tuple | list) else (given,)
    try:
        call = ForwardCall(net.model, arguments)
    except ExportError as error:
        raise ExportError(f"{where}: {str(error).replace('example_inputs', 'inputs')}") from None
    if len(call.tensors) != len(inputs):
        raise ExportError(f"{where} holds {len(call.tensors)} tensors, the model takes {len(inputs)}")
    feeds = {}
    for spec, tensor in zip(inputs, call.tensors, strict=True):
        array: NDArray[Any] = tensor.detach().cpu().numpy()
        fits = array.ndim == len(spec.shape) and all(
            wanted in (None, size) for size, wanted in zip(array.shape, spec.shape, strict=True)
        )
        if not fits or array.dtype != np.dtype(spec.dtype):
            raise ExportError(
                f"{where}: input {spec.name!r}: expected {spec.dtype} of shape "
                f"{['batch' if size is None else size for size in spec.shape]}, got {array.dtype} {list(array.shape)}"
            )
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            raise ExportError(f"{where}: input {spec.name!r} holds NaN or infinity; leave such samples out")
        feeds[spec.name] = array
    return feeds


def _rows(feeds: Feeds, inputs: Sequence[TensorSpec]) -> int:
    first = feeds[inputs[0].name]
    return int(first.shape[inputs[0].batch_axis or 0]) if first.ndim else 1


def _cut(feeds: Feeds, inputs: Sequence[TensorSpec], rows: slice) -> Feeds:
    """Those samples of each input that has a batch."""
    every = slice(None)
    return {
        spec.name: feeds[spec.name]
        if spec.batch_axis is None
        else np.ascontiguousarray(feeds[spec.name][(*[every] * spec.batch_axis, rows)])
        for spec in inputs
    }


def _parts(feeds: Feeds, inputs: Sequence[TensorSpec], row_nbytes: int, fixed_batch: bool) -> Iterator[Feeds]:
    if fixed_batch:
        yield feeds
        return
    step = max(MICRO_BATCH_NBYTES // max(row_nbytes, 1), 1)
    for first in range(0, _rows(feeds, inputs), step):
        yield _cut(feeds, inputs, slice(first, first + step))


def _count(session: Any, feeds: Feeds, level: int, seen: Mapping[str, Sequence[Histogram]], where: str) -> None:
    try:
        answers = session.run(feeds, level=level)
    except (InputError, LevelError) as error:
        raise ExportError(f"{where}: {error}") from None
    for (name, histograms), values in zip(seen.items(), answers.values(), strict=True):
        if not np.isfinite(values).all():
            raise ExportError(
                f"{where}: at level {level}, tensor {name!r} of the graph is not finite; leave such samples out, or "
                "train the model again"
            )
        histograms[level].add(values)
