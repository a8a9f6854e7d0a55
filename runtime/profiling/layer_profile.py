"""LayerTime: the time of each layer of a model."""

from __future__ import annotations

import json
import math
import os
import statistics
import tempfile
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nested_sparse.argument import whole
from nested_sparse.checkpoint import Checkpoint
from nested_sparse.graph.contract import ACTIVATIONS, FLOAT, LAYER_KINDS, LAYER_OPERATORS, layer_of_node
from nested_sparse.graph.nodes import graph_nodes
from nested_sparse.kernels import library
from nested_sparse.metadata import LayerEntry
from nested_sparse.value_type import FLOAT32

from ..session import Session, fixed_batch, random_inputs

_WARM_UP = 2
_EVENT = "_kernel_time"


@dataclass(frozen=True, slots=True)
class LayerTime:
    """One node of the graph.

    layer: name of the layer. kernel: name of the kernel that ran; of the operator, where ONNX Runtime ran it itself.
    ms: median time of a run.
    """

    layer: str
    kernel: str
    ms: float


def layer_profile(
    path: str | os.PathLike[str],
    level: int = -1,
    repeats: int = 15,
    *,
    threads: int | None = None,
    spin: bool = False,
    batch: int = 1,
) -> list[LayerTime]:
    """The time of every node at `level`, in the order of execution, on random inputs after a warm-up.

    It opens a session of its own with ONNX Runtime's profiler, which adds some microseconds to each node. A model of a
    fixed batch is measured at that batch. Raises the errors of Session.
    """
    repeats, batch = whole("repeats", repeats, 1), whole("batch", batch, 1)
    with Checkpoint.open(path, verify=False) as checkpoint:
        layers = {layer.name: layer for layer in checkpoint.layers}
        nodes = graph_nodes(checkpoint.graph())
    with tempfile.TemporaryDirectory(prefix="nested-sparse-") as folder:
        with Session(path, threads=threads, spin=spin, profile_to=Path(folder)) as session:
            inputs = random_inputs(session.inputs, fixed_batch(session.inputs) or batch)
            for _ in range(_WARM_UP + repeats):
                session.run(inputs, level)
        floats = {node.name for node in nodes if node.texts.get(ACTIVATIONS) == FLOAT.encode()}
        return _layer_times(read_profile(Path(folder), "layers"), layers, floats)


def read_profile(folder: Path, prefix: str) -> list[dict[str, Any]]:
    """The events of ONNX Runtime's profiles in `folder` that are called `prefix`…"""
    return [
        event
        for file in sorted(folder.glob(f"{prefix}*.json"))
        for event in json.loads(file.read_text(encoding="utf-8"))
    ]


def node_events(events: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Those of nodes, in the order they ran: "name" is the node's, "dur" in µs, "args" hold operator and shapes."""
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_EVENT):
            yield {**event, "name": event["name"].removesuffix(_EVENT)}


def layer_of(event: Mapping[str, Any], layers: Mapping[str, LayerEntry]) -> LayerEntry | None:
    """The layer that a node of our operators runs; None for a node of ONNX Runtime's own."""
    if event["args"]["op_name"] not in LAYER_OPERATORS:
        return None
    name = layer_of_node(str(event["name"]), layers)
    return None if name is None else layers[name]


def _layer_times(
    events: Iterable[Mapping[str, Any]], layers: Mapping[str, LayerEntry], floats: Container[str] = ()
) -> list[LayerTime]:
    """Medians of ONNX Runtime's events. floats: names of the nodes of int8 layers that take floats as they are."""
    spent_us: dict[tuple[str, str], list[float]] = {}
    for event in node_events(events):
        layer = layer_of(event, layers)
        kernel = str(event["args"]["op_name"]) if layer is None else _kernel(layer, event, floats)
        spent_us.setdefault((event["name"], kernel), []).append(float(event["dur"]))
    return [
        LayerTime(name, kernel, statistics.median(spent[_WARM_UP:]) / 1e3)
        for (name, kernel), spent in spent_us.items()
        if len(spent) > _WARM_UP
    ]


def _kernel(layer: LayerEntry, event: Mapping[str, Any], floats: Container[str]) -> str:
    """Name of the kernel that ran the layer on the event's input."""
    if _is_weighed(layer):
        return f"weigh_{library.isa()}"
    x_shape = next(iter(event["args"]["input_type_shape"][0].values()))
    kind = LAYER_KINDS[layer.op]
    rows = x_shape[1] if kind.gates else math.prod(x_shape[:-1])  # a recurrent layer takes one step at a time
    return library.kernel_for(
        kind.kernels,
        layer.block_rows,
        layer.shape.index_bytes,
        rows=rows,
        banks=layer.layout.banks,
        value_type=layer.value_type,
        floats=event["name"] in floats,
    )


def _is_weighed(layer: LayerEntry) -> bool:
    """Whether it is a depthwise layer that has all its taps at level 0: the operator multiplies those as they lie."""
    groups, taps = layer.attributes.get("groups", [1])[0], math.prod(layer.attributes.get("kernel_shape", [1]))
    whole = layer.columns == taps > 1 and layer.nnz[0] == layer.rows * layer.columns
    return groups == layer.rows > 1 and whole and layer.block_rows == 1 and layer.value_type is FLOAT32
