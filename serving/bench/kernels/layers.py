"""Layer rates: arithmetic rates of convolutions, layer by layer, from ONNX Runtime's profiler on both sides."""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import BenchError
from nested_sparse.graph.contract import LAYER_KINDS, LAYER_OPERATORS, RESIDUAL_INPUT, X_INPUT, untiled_shape
from nested_sparse.metadata import LayerEntry
from nested_sparse.runtime.profiling import layer_of, node_events, read_profile
from nested_sparse.runtime.session import Session

from .contenders import dense_output, kernels_that_ran, our_run
from .dense import dense_session
from .model_cache import Built, Dense, ModelCache
from .row import Row, Spec
from .turns import WARM_UP, interleaved, timed, verified

RATE_NOTE = "layers kept dense left out on both sides; samples: those layers together, profiled"


@dataclass(frozen=True, slots=True, order=True)
class ConvKind:
    """A kind of convolution, whose layers cost the same.

    side: pixels of a side of the output. added: whether a tensor is added to the output.
    """

    side: int
    kernel: int
    stride: int
    channels: int
    rows: int
    added: bool

    def __str__(self) -> str:
        window = f"{self.kernel}×{self.kernel}" + (f"/{self.stride}" if self.stride > 1 else "")
        return f"{window} {self.channels} → {self.rows} at {self.side}²{' + add' if self.added else ''}"


@dataclass(slots=True)
class ConvTimes:
    """The runs of one node. flop: of the kept weights; dense_flop: of all weights; ms: one entry for each run."""

    kind: ConvKind
    flop: int
    dense_flop: int
    ms: list[float] = field(default_factory=list)


def measure_conv_rate(specs: Sequence[Spec], built: Built, cache: ModelCache, rounds: int) -> list[Row]:
    """The rows of `specs`, which share a setting and the model `built`. Raises BenchError."""
    return [_rate_row(spec, built, cache.dense(spec.network), rounds) for spec in specs]


def _rate_row(spec: Spec, built: Built, twin: Dense, rounds: int) -> Row:
    with Checkpoint.open(built.path, verify=False) as checkpoint:
        layers = {layer.name: layer for layer in checkpoint.layers}
        kinds = conv_kinds(checkpoint.graph())
    with tempfile.TemporaryDirectory(prefix="nested-sparse-") as name:
        folder = Path(name)
        dense = dense_session(twin.path, spec.threads, profile_to=folder)
        dense_run = partial(dense_output, dense, built)
        with Session(built.path, threads=spec.threads, spin=True, profile_to=folder) as session:
            ours_run = our_run(session, built, spec.level)
            dense_error = verified("dense", dense_run(), twin.expected)
            error = verified(spec.name, ours_run(), built.expected[spec.level])
            interleaved({"ours": timed(ours_run), "dense": timed(dense_run)}, rounds)
            isa = session.isa
        dense.end_profiling()
        ours = our_convolutions(node_events(read_profile(folder, "layers")), layers, kinds, spec.level)
        theirs = dense_convolutions(node_events(read_profile(folder, "dense")))
    table = layer_table(ours, theirs)
    ours, theirs = _pruned(ours, theirs)
    return Row(
        spec,
        against=f"ONNX Runtime dense float32 on the same layers, {spec.threads} thread(s)",
        measured=rate(ours) / rate(theirs),
        ours_ms=_summed(ours),
        reference_ms=_summed(theirs),
        kernel=kernels_that_ran(built.path, spec),
        isa=isa,
        max_error=error,
        reference_error=dense_error,
        note=f"{RATE_NOTE}; GFLOP/s: ours {rate(ours):.1f}, dense {rate(theirs):.1f}",
        layers=table,
    )


def conv_kinds(graph: bytes) -> dict[str, tuple[ConvKind, int]]:
    """Kind and number of output positions of our convolutions, by node name, from the graph of a file.

    The profiler's events do not tell them: most images are tiled or of bytes there, and have one dimension.
    """
    import onnx

    model = onnx.load_from_string(graph)
    shapes = {
        value.name: untiled_shape([size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim])
        for value in (*model.graph.input, *model.graph.value_info, *model.graph.output)
    }
    kinds = {}
    for node in model.graph.node:
        if LAYER_OPERATORS.get(node.op_type) is not LAYER_KINDS["conv"]:
            continue
        window = {attribute.name: attribute.ints for attribute in node.attribute}
        x, y = shapes[node.input[X_INPUT]], shapes[node.output[0]]
        channels, rows, height, width = (int(size) for size in (x[1], *y[1:]))
        kind = ConvKind(
            side=height,
            kernel=window["kernel_shape"][0],
            stride=window["strides"][0],
            channels=channels,
            rows=rows,
            added=bool(node.input[RESIDUAL_INPUT]),
        )
        kinds[node.name] = kind, height * width
    return kinds


def our_convolutions(
    events: Iterable[Mapping[str, Any]],
    layers: Mapping[str, LayerEntry],
    kinds: Mapping[str, tuple[ConvKind, int]],
    level: int,
) -> list[ConvTimes]:
    """The times of each node of our convolution operator, with the FLOPs that `level` keeps, for a batch of one."""
    nodes: dict[str, ConvTimes] = {}
    for event in events:
        layer = layer_of(event, layers)
        if layer is None or layer.op != "conv":
            continue
        name = str(event["name"])
        if name not in nodes:
            kind, positions = kinds[name]
            nodes[name] = ConvTimes(kind, 2 * layer.nnz[level] * positions, 2 * layer.rows * layer.columns * positions)
        nodes[name].ms.append(event["dur"] / 1e3)
    return _counted(nodes)


def dense_convolutions(events: Iterable[Mapping[str, Any]]) -> list[ConvTimes]:
    """The times of each convolution that ONNX Runtime ran itself, with all that it fused into it."""
    nodes: dict[str, ConvTimes] = {}
    for event in events:
        if event["args"]["op_name"] not in ("Conv", "FusedConv"):
            continue
        name = str(event["name"])
        if name not in nodes:
            x, weight, *others, y = _shapes(event)
            kind = ConvKind(
                side=y[2], kernel=weight[2], stride=round(x[2] / y[2]), channels=x[1], rows=y[1], added=y in others
            )
            flop = 2 * math.prod(weight) * y[0] * y[2] * y[3]
            nodes[name] = ConvTimes(kind, flop, flop)
        nodes[name].ms.append(event["dur"] / 1e3)
    return _counted(nodes)


def rate(nodes: Sequence[ConvTimes]) -> float:
    """GFLOP/s of the kept weights over all nodes, by the median time of a run. Raises BenchError for none."""
    if not nodes:
        raise BenchError("the profile of one side holds no convolution, so there is nothing to compare")
    return sum(node.flop for node in nodes) / statistics.median(_summed(nodes)) / 1e6


def layer_table(ours: Sequence[ConvTimes], dense: Sequence[ConvTimes]) -> list[dict[str, Any]]:
    """One line per kind of layer: their number, and median ms and GFLOP/s of the kept weights on both sides."""
    lines = []
    for kind in dict.fromkeys(node.kind for node in ours):
        line: dict[str, Any] = {"layer": str(kind), **asdict(kind), "count": sum(node.kind == kind for node in ours)}
        for side, nodes in (("ours", ours), ("dense", dense)):
            alike = [node for node in nodes if node.kind == kind]
            line[f"{side}_ms"] = statistics.median(_summed(alike)) if alike else None
            line[f"{side}_gflops"] = rate(alike) if alike else None
        lines.append(line)
    return lines


def _pruned(ours: Sequence[ConvTimes], dense: Sequence[ConvTimes]) -> tuple[list[ConvTimes], list[ConvTimes]]:
    """Both sides without the kinds of layer that are kept dense."""
    whole = {node.kind for node in ours if node.flop == node.dense_flop}
    left, right = ([node for node in nodes if node.kind not in whole] for nodes in (ours, dense))
    if sum(node.dense_flop for node in left) != sum(node.dense_flop for node in right):
        raise BenchError(
            "the two profiles do not show the same convolutions: expected equal FLOP of all weights on both sides, got "
            f"{sum(node.dense_flop for node in left)} and {sum(node.dense_flop for node in right)}"
        )
    return left, right


def _summed(nodes: Sequence[ConvTimes]) -> list[float]:
    """Milliseconds of all nodes together, run by run."""
    return [sum(times) for times in zip(*(node.ms for node in nodes), strict=True)]


def _counted(nodes: Mapping[str, ConvTimes]) -> list[ConvTimes]:
    """Without the verifying run and the warm-up."""
    return [ConvTimes(node.kind, node.flop, node.dense_flop, node.ms[1 + WARM_UP :]) for node in nodes.values()]


def _shapes(event: Mapping[str, Any]) -> list[list[int]]:
    """The event's tensors of four dimensions: inputs, then the output."""
    arguments = event["args"]
    tensors = [*arguments["input_type_shape"], *arguments["output_type_shape"]]
    shapes = [next(iter(tensor.values())) for tensor in tensors]
    return [shape for shape in shapes if len(shape) == 4]
