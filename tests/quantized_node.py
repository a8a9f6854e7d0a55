"""Quantized nodes: ONNX models of int8 convolutions alone, and the same arithmetic by the integer reference."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
from byte_images import Bytes, Layout
from integer_reference import OPEN, Convolution, Image, Range, Table, Window
from numpy.typing import NDArray
from onnx import TensorProto, helper
from sparse_node import Placed, aligned, session_of

LEVELS = 3
DENSITIES = (0.2, 0.5, 0.9)
PLAIN = Layout()


@dataclass(frozen=True, kw_only=True)
class QuantizedWeight:
    """An int8 weight (O, K), the level from which each block (G, K) is kept, norms (L, 2, O).

    scales: of rows (O,). order: packed row i is output order[i]; None keeps them. adds: whether it adds a residual.
    """

    weight: NDArray[np.int8]
    first_level: NDArray[np.uint8]
    block_rows: int
    scales: NDArray[np.float32]
    norms: NDArray[np.float32]
    order: NDArray[np.int32] | None = None
    clip: tuple[float, float] = OPEN
    adds: bool = False

    @property
    def rows(self) -> int:
        """O."""
        return len(self.weight)

    @property
    def packed(self) -> NDArray[np.int32]:
        """(G · V,) output of each packed row, -1 for padding."""
        packed = np.full(len(self.first_level) * self.block_rows, -1, np.int32)
        packed[: self.rows] = np.arange(self.rows) if self.order is None else self.order
        return packed

    def at(self, level: int) -> NDArray[np.int8]:
        """(O, K) weights of a level."""
        kept = np.repeat(self.first_level <= level, self.block_rows, axis=0)[: self.rows]
        weight = np.zeros_like(self.weight)
        weight[self.packed[: self.rows]] = np.where(kept, self.weight[self.packed[: self.rows]], 0)
        return weight

    def quads(self, level: int) -> tuple[NDArray[np.uint32], NDArray[np.uint16], NDArray[np.int8]]:
        """Arrays ptr, col, val of what a level adds (FORMAT.md, "Quads")."""
        packed, ptr = self.packed, [0]
        weight = np.where(packed[:, None] < 0, 0, self.weight[packed]).astype(np.int8)
        col: list[NDArray[Any]] = [np.zeros((0, 4), np.uint16)]
        val: list[NDArray[Any]] = [np.zeros((0, self.block_rows, 4), np.int8)]
        for group, first in enumerate(self.first_level):
            columns = np.flatnonzero(first == level)
            quads = -(-len(columns) // 4)
            padded = np.pad(columns, (0, 4 * quads - len(columns)), mode="edge") if quads else columns
            rows = weight[group * self.block_rows : (group + 1) * self.block_rows, padded]
            rows[:, len(columns) :] = 0
            col.append(padded.reshape(-1, 4).astype(np.uint16))
            val.append(rows.reshape(self.block_rows, -1, 4).swapaxes(0, 1))
            ptr.append(ptr[-1] + quads)
        return np.array(ptr, np.uint32), np.concatenate(col), np.concatenate(val)

    def of_rows(self, values: NDArray[np.float32], padding: float) -> NDArray[np.float32]:
        """Values (..., O) in the order of packed rows."""
        padded = np.full((*values.shape[:-1], len(self.packed)), padding, np.float32)
        padded[..., : self.rows] = values[..., self.packed[: self.rows]]
        return padded

    def attributes(self, layer: str) -> dict[str, Any]:
        """All of the node but those that say where its arrays lie."""
        return {
            "layer": layer,
            "rows": self.rows,
            "columns": self.weight.shape[1],
            "block_rows": self.block_rows,
            "index_bytes": 2,
            "value_bytes": 1,
            "clip_min": float(self.clip[0]),
            "clip_max": float(self.clip[1]),
        }


@dataclass(frozen=True, kw_only=True)
class QuantizedNode(QuantizedWeight):
    """A QuantizedConv.

    ranges: of the output at each level. tables: one for each level, or none.
    """

    window: Mapping[str, list[int]]
    ranges: Sequence[Range]
    layout: Layout = PLAIN
    groups: int = 1
    spatial: int = 2
    tables: Sequence[Table] = ()

    def reference(self, level: int) -> Convolution:
        """The same convolution in Python integers."""
        window = Window(*(self.window[name] for name in ("kernel_shape", "strides", "pads", "dilations")))
        table = self.tables[level] if self.tables else None
        return Convolution(self.at(level), self.scales, self.norms[level], window, self.ranges[level], self.groups,
                           self.clip, table)  # fmt: skip

    def attributes(self, layer: str) -> dict[str, Any]:
        """All of the node but those that say where its arrays lie."""
        held = {"y": self.ranges, "sum": [table.sums for table in self.tables]}
        return {
            **super().attributes(layer),
            **self.window,
            **({"groups": self.groups} if self.groups != 1 else {}),
            **({"spatial_dimensions": self.spatial} if self.spatial != 2 else {}),
            **{f"{name}_scale": [float(each.scale) for each in ranges] for name, ranges in held.items() if ranges},
            **{f"{name}_zero": [each.zero for each in ranges] for name, ranges in held.items() if ranges},
            **({"table": b"".join(table.entries.tobytes() for table in self.tables)} if self.tables else {}),
            "y_border": self.layout.border,
            "y_gap": self.layout.gap,
        }


def random_range(rng: np.random.Generator, scale: float = 0.05) -> Range:
    """A range of about this scale."""
    return Range(np.float32(scale * rng.uniform(0.7, 1.4)), int(rng.integers(0, 256)))


def weight_fields(
    rng: np.random.Generator,
    rows: int,
    columns: int,
    block_rows: int,
    *,
    groups: int = 1,
    densities: Sequence[float] = DENSITIES,
    permuted: bool = False,
) -> dict[str, Any]:
    """Fields of a random QuantizedWeight. A permutation keeps the rows of each group together, as it must."""
    chance = rng.random((-(-rows // block_rows), columns))
    norms = np.stack([rng.uniform(0.5, 1.5, (LEVELS, rows)), rng.normal(0, 1, (LEVELS, rows))], axis=1)
    norms[:, 0, ::3] *= -1
    order = [rng.permutation(rows // groups) + first for first in range(0, rows, rows // groups)]
    return {
        "weight": rng.integers(-127, 128, (rows, columns)).astype(np.int8),
        "first_level": (chance[..., None] >= np.array(densities)).sum(axis=-1).astype(np.uint8),
        "block_rows": block_rows,
        "scales": (rng.uniform(0.5, 2, rows) / 127 / np.sqrt(columns)).astype(np.float32),
        "norms": norms.astype(np.float32),
        "order": np.concatenate(order).astype(np.int32) if permuted else None,
    }


def random_image(rng: np.random.Generator, *shape: int, scale: float = 0.05) -> Image:
    """Random bytes, the extreme ones often."""
    data = rng.integers(0, 256, shape).astype(np.uint8)
    data[rng.random(shape) < 0.1] = 255
    return Image(data, random_range(rng, scale))


def quantized_node(
    rng: np.random.Generator, channels: int, rows: int, block_rows: int = 4, **options: Any
) -> QuantizedNode:
    """A random convolution whose outputs spread over their range.

    options: kernel, stride, pads, dilation, densities, permuted (within groups), and those of QuantizedNode.
    """
    kernel = list(options.pop("kernel", (3, 3)))
    window = {
        "kernel_shape": kernel,
        "strides": list(options.pop("stride", (1, 1))),
        "pads": list(options.pop("pads", (1, 1, 1, 1))),
        "dilations": list(options.pop("dilation", (1, 1))),
    }
    groups = options.get("groups", 1)
    about_weight = {key: options.pop(key) for key in ("densities", "permuted") if key in options}
    columns = channels // groups * math.prod(kernel)
    fields = weight_fields(rng, rows, columns, block_rows, groups=groups, **about_weight)
    ranges = [random_range(rng) for _ in range(LEVELS)]
    return QuantizedNode(**{**fields, "window": window, "ranges": ranges, **options})


def place(nodes: Sequence[QuantizedWeight]) -> Placed:
    """Lay out the packed arrays of `nodes` as the checkpoint does (FORMAT.md)."""
    segments, attributes = [b""] * LEVELS, []

    def put(level: int, array: NDArray[Any]) -> int:
        offset = len(segments[level])
        segments[level] += array.tobytes() + bytes(-array.nbytes % 64)
        return offset

    for index, node in enumerate(nodes):
        given = node.attributes(f"layer{index}") | {"blocks": [], "offsets": [], "permutation_offset": -1}
        for level in range(LEVELS):
            ptr, col, val = node.quads(level)
            given["blocks"].append(len(col))
            given["offsets"] += [put(level, array) for array in (ptr, col, val, node.of_rows(node.norms[level], 0))]
        given["scale_offset"] = put(0, node.of_rows(node.scales, 1))
        if node.order is not None:
            given["permutation_offset"] = put(0, node.packed)
        attributes.append(given)
    return Placed([aligned(raw) for raw in segments], attributes)


@dataclass(frozen=True)
class Step:
    """A node of a graph, called by its position; the images that it reads and adds: "x", "r", or a position."""

    node: QuantizedNode
    reads: str = "x"
    adds: str = ""


class QuantizedGraph:
    """Steps in an ONNX Runtime session. The last step's image is the answer.

    shapes: names of the dimension of an image, by its name; images of equal names may share memory.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        placed: Placed | None = None,
        threads: int = 1,
        shapes: Mapping[str, str] | None = None,
    ) -> None:
        self.placed = placed or place([step.node for step in steps])
        segments = [f"segment{level}" for level in range(len(self.placed.segments))]
        protos = [
            helper.make_node("QuantizedConv", [step.reads, "level", step.adds, *segments], [str(index)],
                             domain="nested_sparse", **attributes)
            for index, (step, attributes) in enumerate(zip(steps, self.placed.attributes, strict=True))
        ]  # fmt: skip
        given = dict.fromkeys(name for step in steps for name in (step.reads, step.adds) if name and not name.isdigit())
        inputs = [helper.make_tensor_value_info("level", TensorProto.INT64, [])]
        inputs += [helper.make_tensor_value_info(name, TensorProto.UINT8, None) for name in given]
        inputs += [helper.make_tensor_value_info(name, TensorProto.UINT8, [None]) for name in segments]
        output = helper.make_tensor_value_info(str(len(steps) - 1), TensorProto.UINT8, None)
        named = [helper.make_tensor_value_info(name, TensorProto.UINT8, [dim]) for name, dim in (shapes or {}).items()]
        self.session = session_of(helper.make_graph(protos, "steps", inputs, [output], value_info=named), threads)
        self.segments = dict(zip(segments, self.placed.segments, strict=True))

    def run(self, level: int, **images: Bytes) -> Bytes:
        """The last step's image."""
        feeds = {"level": np.array(level, np.int64), **images, **self.segments}
        values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in feeds.items()}
        answer: Bytes = self.session.run_with_ort_values(None, values)[0].numpy()
        return answer
