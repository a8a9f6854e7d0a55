"""Sparse nodes: ONNX models of our operators alone, and the same arithmetic in numpy for comparison."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from layer_reference import ACTIVATIONS, correlate, logistic, transposed
from numpy.typing import NDArray
from onnx import TensorProto, helper

from nested_sparse.kernels import library
from nested_sparse.packing import pack_level
from nested_sparse.value_type import FLOAT32, ValueType
from nested_sparse.weight import NestedWeight
from support import random_weight

Array = NDArray[np.float32]
DENSITIES = (0.2, 0.5, 0.9)
OPEN = (-np.inf, np.inf)


@dataclass(frozen=True)
class SparseNode:
    """One operator: weight, (L, 2, O) norms in output order, window attributes, clip, whether it adds a residual.

    A recurrent layer's attribute is in `window`, too; its residual is the initial state.

    A convolution's groups, and its spatial dimensions: 1 to 3. tiled: which of x, y and residual are tiled images.
    activation: number of the function of its outputs.
    input_norm: scale and shift (K,) and epsilon of the norm of a linear layer's inputs.
    """

    op: str
    weight: NestedWeight
    norms: Array
    window: Mapping[str, Any] = field(default_factory=dict)
    clip: tuple[float, float] = OPEN
    residual: bool = False
    value_type: ValueType = FLOAT32
    groups: int = 1
    spatial: int = 2
    tiled: Sequence[str] = ()
    activation: int = 0
    input_norm: tuple[Array, Array, float] | None = None

    def dense(self, x: Array, level: int, residual: Array | None = None) -> NDArray[np.float64]:
        """The operator's output in float64."""
        weight, (scale, shift) = self.weight.at(level).astype(np.float64), self.norms[level].astype(np.float64)
        if self.is_recurrent:
            return self.steps(x, level, residual)[0]
        if self.op == "NestedConvTranspose":
            y = transposed(x.astype(np.float64), weight, self.window)
            ones = (1,) * (y.ndim - 2)
            y = y * scale.reshape(-1, *ones) + shift.reshape(-1, *ones)
        elif self.op == "NestedLinear":
            y = self.normalised(x) @ weight.T * scale + shift
        else:
            images = x.astype(np.float64)[..., None, :] if self.spatial == 1 else x.astype(np.float64)
            parts = zip(np.split(images, self.groups, axis=1), np.split(weight, self.groups), strict=True)
            y = np.concatenate([correlate(part, rows, self.window) for part, rows in parts], axis=1)
            ones = (1,) * (y.ndim - 2)
            y = y * scale.reshape(-1, *ones) + shift.reshape(-1, *ones)
            y = y[..., 0, :] if self.spatial == 1 else y
        if residual is not None:
            y = y + residual
        return ACTIVATIONS[self.activation](np.clip(y, *self.clip))

    def normalised(self, x: Array) -> NDArray[np.float64]:
        """The inputs in float64, behind the norm."""
        values = x.astype(np.float64)
        if self.input_norm is None:
            return values
        scale, shift, epsilon = self.input_norm
        mean, variance = values.mean(axis=-1, keepdims=True), values.var(axis=-1, keepdims=True)
        return (values - mean) / np.sqrt(variance + epsilon) * scale + shift

    @property
    def is_recurrent(self) -> bool:
        """Whether it is an LSTM or a GRU."""
        return self.op in ("NestedLSTM", "NestedGRU")

    def steps(self, x: Array, level: int, state: Array | None = None) -> tuple[NDArray[np.float64], ...]:
        """Hidden states (T, N, H), and of an LSTM the last cells (N, H), in float64, as torch's manual has them."""
        weight, (scale, shift) = self.weight.at(level).astype(np.float64), self.norms[level].astype(np.float64)
        zeros = np.zeros((2, x.shape[1], weight.shape[1]))
        hidden, *rest = zeros if state is None else state.astype(np.float64)
        cells = rest[0] if rest else zeros[0]
        y = np.zeros((*x.shape[:2], weight.shape[1]))
        for t in reversed(range(len(x))) if self.window.get("reverse") else range(len(x)):
            sums = hidden @ weight.T * scale + shift
            if self.op == "NestedLSTM":
                i, f, g, o = np.split(x[t] + sums, 4, axis=1)
                cells = logistic(f) * cells + logistic(i) * np.tanh(g)
                hidden = logistic(o) * np.tanh(cells)
            else:
                (x_r, x_z, x_n), (r, z, n) = np.split(x[t].astype(np.float64), 3, axis=1), np.split(sums, 3, axis=1)
                keep = logistic(x_z + z)
                hidden = (1 - keep) * np.tanh(x_n + logistic(x_r + r) * n) + keep * hidden
            y[t] = hidden
        return (y, cells) if self.op == "NestedLSTM" else (y,)


def transposed_node(
    rng: np.random.Generator, channels: int, rows: int, block_rows: int = 4, **options: Any
) -> SparseNode:
    """A random transposed convolution; options as for conv_node, and `more`, its output padding."""
    kernel = list(options.pop("kernel", (3, 3)))
    ones = (1,) * len(kernel)
    names = {"strides": "stride", "pads": "pads", "dilations": "dilation", "output_padding": "more"}
    absent = {"strides": ones, "pads": (0,) * 2 * len(kernel), "dilations": ones, "output_padding": (0,) * len(kernel)}
    window = {name: list(options.pop(key, absent[name])) for name, key in names.items()}
    if len(kernel) == 3:
        options["spatial"] = 3
    columns = channels * math.prod(kernel)
    return _node(rng, "NestedConvTranspose", rows, columns, block_rows, {"kernel_shape": kernel, **window}, **options)


def conv_node(rng: np.random.Generator, channels: int, rows: int, block_rows: int = 4, **options: Any) -> SparseNode:
    """A random convolution; options: kernel, stride, pads, dilation, and those of `random_weight` and SparseNode.

    A permutation keeps the rows of each group together, as it must.
    """
    kernel = list(options.pop("kernel", (3, 3)))
    window = {
        "kernel_shape": kernel,
        "strides": list(options.pop("stride", (1,) * len(kernel))),
        "pads": list(options.pop("pads", (1,) * 2 * len(kernel))),
        "dilations": list(options.pop("dilation", (1,) * len(kernel))),
    }
    columns = channels // options.get("groups", 1) * math.prod(kernel)
    if len(kernel) == 3:
        options["spatial"] = 3
    return _node(rng, "NestedConv", rows, columns, block_rows, window, **options)


def linear_node(rng: np.random.Generator, columns: int, rows: int, block_rows: int = 4, **options: Any) -> SparseNode:
    """A random linear layer; options as for `random_weight` and SparseNode."""
    return _node(rng, "NestedLinear", rows, columns, block_rows, {}, **options)


def recurrent_node(rng: np.random.Generator, op: str, size: int, block_rows: int = 4, **options: Any) -> SparseNode:
    """A random NestedLSTM or NestedGRU of `size` hidden states; options: reverse, and as for a linear layer.

    Rounding errors shrink from step to step: a row's weights add up to less than 1.
    """
    window = {"reverse": 1} if options.pop("reverse", False) else {}
    node = _node(rng, op, (4 if op == "NestedLSTM" else 3) * size, size, block_rows, window, **options)
    node.norms[:, 0] /= 4 * np.abs(node.weight.at(len(node.norms) - 1)).sum(axis=1).max()
    return node


def _node(
    rng: np.random.Generator,
    op: str,
    rows: int,
    columns: int,
    block_rows: int,
    window: dict[str, Any],
    **options: Any,
) -> SparseNode:
    about_weight = {key: options.pop(key) for key in ("name", "densities", "permuted", "layout") if key in options}
    if about_weight.pop("permuted", False):
        groups = options.get("groups", 1)
        order = [rng.permutation(rows // groups) + first for first in range(0, rows, rows // groups)]
        about_weight["permutation"] = np.concatenate(order).astype(np.int32)
    weight = random_weight(rng, rows=rows, columns=columns, block_rows=block_rows, **about_weight)
    levels = len(about_weight.get("densities", DENSITIES))
    weight.values[...] = options.get("value_type", FLOAT32).rounded(weight.values)
    norms = rng.standard_normal((levels, 2, rows)).astype(np.float32)
    return SparseNode(op, weight, norms, window, **options)


@dataclass
class Placed:
    """The segments of a list of nodes, and each node's placement attributes, by hand so that tests can spoil them."""

    segments: list[NDArray[np.uint8]]
    attributes: list[dict[str, Any]]


def place(nodes: Sequence[SparseNode]) -> Placed:
    """Lay out the packed arrays of `nodes` as the checkpoint does (FORMAT.md)."""
    levels = len(nodes[0].norms)
    parts: list[list[NDArray[Any]]] = [[] for _ in range(levels)]
    attributes = []
    for index, node in enumerate(nodes):
        weight, offsets, blocks, permutation_offset = node.weight, [], [], -1
        for level in range(levels):
            added = pack_level(weight, level)
            blocks.append(len(added.val))
            arrays: list[NDArray[Any]] = [
                added.ptr,
                added.col,
                node.value_type.stored(added.val),
                packed_norm(node, level),
            ]
            offsets += [_append(parts[level], array) for array in arrays]
            if level == 0 and weight.permutation is not None:
                permutation_offset = _append(parts[0], packed_permutation(weight))
        attributes.append(
            {
                "layer": f"layer{index}",
                "rows": weight.rows,
                "columns": weight.columns,
                "block_rows": weight.layout.block_rows,
                "index_bytes": 2 if weight.columns <= 65536 else 4,
                "blocks": blocks,
                "offsets": offsets,
                "permutation_offset": permutation_offset,
                **({} if node.value_type is FLOAT32 else {"value_bytes": node.value_type.nbytes}),
                **{key: size for key in ("banks", "per_row") if (size := getattr(weight.layout, key))},
                "clip_min": float(node.clip[0]),
                "clip_max": float(node.clip[1]),
                **node.window,
                **({"groups": node.groups} if node.groups != 1 else {}),
                **({"spatial_dimensions": node.spatial} if node.spatial != 2 else {}),
                **{f"{name}_tiled": 1 for name in node.tiled},
                **({"activation_function": node.activation} if node.activation else {}),
                **_input_norm(node),
            }
        )
    return Placed([aligned(b"".join(_padded(array) for array in arrays)) for arrays in parts], attributes)


def _input_norm(node: SparseNode) -> dict[str, Any]:
    if node.input_norm is None:
        return {}
    scale, shift, epsilon = node.input_norm
    return {"norm_scale": scale.tolist(), "norm_shift": shift.tolist(), "norm_epsilon": epsilon}


def packed_norm(node: SparseNode, level: int) -> Array:
    """(2, G·V) scale and shift in packed row order."""
    weight = node.weight
    norm = np.zeros((2, weight.packed_rows), np.float32)
    order = np.arange(weight.rows) if weight.permutation is None else weight.permutation
    norm[:, : weight.rows] = node.norms[level][:, order]
    return norm


def packed_permutation(weight: NestedWeight) -> NDArray[np.int32]:
    """(G·V,) output of each packed row, -1 for padding."""
    perm = np.full(weight.packed_rows, -1, np.int32)
    perm[: weight.rows] = np.arange(weight.rows) if weight.permutation is None else weight.permutation
    return perm


def aligned(raw: bytes) -> NDArray[np.uint8]:
    """`raw` as a writable array that begins on a cache line."""
    buffer = np.zeros(len(raw) + 64, np.uint8)
    begin = -buffer.ctypes.data % 64
    buffer[begin : begin + len(raw)] = np.frombuffer(raw, np.uint8)
    return buffer[begin : begin + len(raw)]


def _padded(array: NDArray[Any]) -> bytes:
    raw = array.tobytes()
    return raw + bytes(-len(raw) % 64)


def _append(arrays: list[NDArray[Any]], array: NDArray[Any]) -> int:
    offset = sum(len(_padded(earlier)) for earlier in arrays)
    arrays.append(array)
    return offset


def session_of(graph: onnx.GraphProto, threads: int = 1) -> ort.InferenceSession:
    """A session of a graph that may hold our operators."""
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("nested_sparse", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.enable_cpu_mem_arena = False  # each tensor an allocation of its own, whose ends the sanitizers watch
    library.register(options)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


class SparseModel:
    """A chain of nodes in an ONNX Runtime session: X, residual_i, the level cell and the segments in, Y out."""

    def __init__(self, nodes: Sequence[SparseNode], placed: Placed | None = None, threads: int = 1) -> None:
        self.nodes = list(nodes)
        self.placed = placed or place(nodes)
        self.level = np.array(0, np.int64)
        self.session = session_of(self.graph(), threads)

    def graph(self) -> onnx.GraphProto:
        """The chain, with every input that a session needs."""
        rank = 2 + self.nodes[0].spatial if self.nodes[0].op.startswith("NestedConv") else None
        shape = None if rank is None else [f"d{axis}" for axis in range(rank)]
        segments = [f"__segment_{level}__" for level in range(len(self.placed.segments))]
        inputs = [helper.make_tensor_value_info("X0", TensorProto.FLOAT, shape)]
        inputs += [helper.make_tensor_value_info("__level__", TensorProto.INT64, [])]
        inputs += [helper.make_tensor_value_info(name, TensorProto.UINT8, [f"{name}n"]) for name in segments]
        protos = []
        for index, (node, attributes) in enumerate(zip(self.nodes, self.placed.attributes, strict=True)):
            residual = f"residual{index}" if node.residual else ""
            if residual:
                inputs.append(helper.make_tensor_value_info(residual, TensorProto.FLOAT, shape))
            names = [f"X{index}", "__level__", residual, *segments]
            made = [f"X{index + 1}", *([f"cells{index}"] if node.op == "NestedLSTM" else [])]
            protos.append(helper.make_node(node.op, names, made, domain="nested_sparse", **attributes))
        outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in protos[-1].output]
        return helper.make_graph(protos, "chain", inputs, outputs)

    def run(self, x: Array, level: int, residuals: Sequence[Array] = ()) -> Array:
        """One run at `level`; residuals for the nodes that add one, in order."""
        return self.run_all(x, level, residuals)[0]

    def run_all(self, x: Array, level: int, residuals: Sequence[Array] = ()) -> list[Array]:
        """The same; all outputs of the last node."""
        self.level[...] = level
        feeds = {"X0": ort.OrtValue.ortvalue_from_numpy(x), "__level__": ort.OrtValue.ortvalue_from_numpy(self.level)}
        for index, segment in enumerate(self.placed.segments):
            feeds[f"__segment_{index}__"] = ort.OrtValue.ortvalue_from_numpy(segment)
        waiting = iter(residuals)
        for index, node in enumerate(self.nodes):
            if node.residual:
                feeds[f"residual{index}"] = ort.OrtValue.ortvalue_from_numpy(next(waiting))
        return [value.numpy() for value in self.session.run_with_ort_values(None, feeds)]


def tolerance(node: SparseNode, level: int, x: Array) -> float:
    """Bound of the float32 error of one output: (terms + 8) roundings of the sum of the terms' magnitudes."""
    row_sum = np.abs(node.weight.at(level)).astype(np.float64).sum(axis=1).max()
    terms = int(node.weight.mask(level).sum(axis=1).max())
    scale, shift = np.abs(node.norms[level]).max(axis=1)
    magnitude = float(row_sum * np.abs(node.normalised(x)).max(initial=0) * scale + shift + 8)
    terms += 0 if node.input_norm is None else 32  # roundings of the norm itself, where the mean is not large
    slope = 1.2  # of the steepest activation
    return slope * float(np.finfo(np.float32).eps) * (terms + 8) * magnitude


def check_levels(node: SparseNode, shape: tuple[int, ...], threads: int = 1, levels: range | None = None) -> None:
    """Every level of `node`, or some, on a random tensor of `shape` gives what numpy gives."""
    rng = np.random.default_rng(sum(shape))
    model = SparseModel([node], threads=threads)
    x = rng.standard_normal(shape).astype(np.float32)
    for level in range(len(node.norms)) if levels is None else levels:
        expected = node.dense(x, level)
        residuals = []
        if node.residual:
            residuals = [rng.standard_normal(expected.shape).astype(np.float32)]
            expected = node.dense(x, level, residuals[0])
        y = model.run(x, level, residuals)
        assert y.shape == expected.shape
        assert np.abs(y - expected).max(initial=0) <= tolerance(node, level, x), (node.window, level)
