"""Tiled graphs: convolutions, pools and norms that pass images on tiled (kernels/tiling.h), and the same in numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnxruntime as ort
from layer_reference import ACTIVATIONS, windows
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from sparse_node import Array, Placed, SparseNode, place, session_of

Images = NDArray[np.float64]


@dataclass(frozen=True)
class Pool:
    """A TiledMaxPool."""

    window: Mapping[str, list[int]]

    @property
    def attributes(self) -> dict[str, Any]:
        """Those of the node."""
        spatial = len(self.window["kernel_shape"])
        return {**self.window, **({"spatial_dimensions": spatial} if spatial != 2 else {})}

    def dense(self, x: Images) -> Images:
        """The largest under each window; nothing is outside the image."""
        taps = windows(x, self.window, outside=-np.inf)
        result: Images = taps.max(axis=tuple(range(x.ndim, taps.ndim)))
        return result


@dataclass(frozen=True)
class Norm:
    """A NestedNorm. scale, shift: (L, C)."""

    scale: NDArray[np.float32]
    shift: NDArray[np.float32]
    clip: tuple[float, float] = (-np.inf, np.inf)
    activation: int = 0
    spatial: int = 2

    @property
    def attributes(self) -> dict[str, Any]:
        """Those of the node, but for the forms of images."""
        found: dict[str, Any] = {"clip_min": self.clip[0], "clip_max": self.clip[1]}
        found |= {"activation_function": self.activation} if self.activation else {}
        return found | ({"spatial_dimensions": self.spatial} if self.spatial != 2 else {})

    def dense(self, x: Images, level: int) -> Images:
        """The same in float64."""
        scale, shift = (
            part[level].astype(np.float64).reshape(-1, *[1] * (x.ndim - 2)) for part in (self.scale, self.shift)
        )
        return np.asarray(ACTIVATIONS[self.activation](np.clip(x * scale + shift, *self.clip)))


def norm(rng: np.random.Generator, channels: int, **options: Any) -> Norm:
    """A norm of three levels."""
    return Norm(*rng.standard_normal((2, 3, channels)).astype(np.float32), **options)


@dataclass(frozen=True)
class Step:
    """An operator of a graph, called by its position; the image it reads and the one it adds: "x", or a position."""

    op: SparseNode | Pool | Norm
    reads: str
    adds: str = ""


def pool(size: int, stride: int, pads: tuple[int, ...], dilation: int = 1) -> Pool:
    """A pool over squares, or over cubes where there are six `pads`."""
    axes = len(pads) // 2
    window = {"kernel_shape": [size] * axes, "strides": [stride] * axes, "pads": list(pads)}
    return Pool({**window, "dilations": [dilation] * axes})


class TiledGraph:
    """Steps in a session; images named in `tiled` are handed over tiled, the last step's is the answer."""

    def __init__(self, steps: Sequence[Step], tiled: str, threads: int = 1) -> None:
        self.steps = [
            replace(step, op=self._told(step, str(index), tiled)) if isinstance(step.op, SparseNode) else step
            for index, step in enumerate(steps)
        ]
        nodes = [step.op for step in self.steps if isinstance(step.op, SparseNode)]
        placed = place(nodes) if nodes else Placed([], [])
        segments = [f"segment{level}" for level in range(len(placed.segments))]
        attributes = iter(placed.attributes)
        protos, tables = [], []
        for index, step in enumerate(self.steps):
            if isinstance(step.op, SparseNode):
                operator, given = step.op.op, next(attributes)
                names = [step.reads, "level", step.adds, *segments]
            elif isinstance(step.op, Norm):
                ends = {"x_tiled": step.reads, "y_tiled": str(index)}
                forms = {end: 1 for end, image in ends.items() if image in tiled.split()}
                operator, given = "NestedNorm", {**step.op.attributes, **forms}
                names = [step.reads, "level", f"scale{index}", f"shift{index}"]
                tables += [numpy_helper.from_array(step.op.scale, names[2])]
                tables += [numpy_helper.from_array(step.op.shift, names[3])]
            else:
                operator, given, names = "TiledMaxPool", step.op.attributes, [step.reads]
            protos.append(helper.make_node(operator, names, [str(index)], domain="nested_sparse", **given))
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)]
        inputs += [helper.make_tensor_value_info("level", TensorProto.INT64, [])]
        inputs += [helper.make_tensor_value_info(name, TensorProto.UINT8, [None]) for name in segments]
        output = helper.make_tensor_value_info(str(len(protos) - 1), TensorProto.FLOAT, None)
        self.session = session_of(helper.make_graph(protos, "tiled", inputs, [output], tables), threads)
        self.segments = dict(zip(segments, placed.segments, strict=True))

    @staticmethod
    def _told(step: Step, name: str, tiled: str) -> SparseNode:
        assert isinstance(step.op, SparseNode)
        images = {"x": step.reads, "y": name, "residual": step.adds}
        return replace(step.op, tiled=[role for role, image in images.items() if image in tiled.split()])

    def run(self, x: Array, level: int) -> Array:
        """The last step's output."""
        feeds = {"x": x, "level": np.array(level, np.int64), **self.segments}
        values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in feeds.items()}
        answer: Array = self.session.run_with_ort_values(None, values)[0].numpy()
        return answer

    def dense(self, x: Array, level: int) -> Images:
        """The same in float64."""
        images: dict[str, Any] = {"x": x.astype(np.float64)}
        for index, step in enumerate(self.steps):
            image = images[step.reads]
            if isinstance(step.op, SparseNode):
                images[str(index)] = step.op.dense(image, level, images.get(step.adds))
            else:
                images[str(index)] = step.op.dense(image, level) if isinstance(step.op, Norm) else step.op.dense(image)
        answer: Images = images[str(len(self.steps) - 1)]
        return answer


def compare(graph: TiledGraph, shape: tuple[int, ...]) -> None:
    """Each level, to a part in 10^4 of the largest value: what clips hide was larger, a wrong pixel is far off."""
    rng = np.random.default_rng(shape[-1])
    for level in range(3):
        x = rng.standard_normal(shape).astype(np.float32)
        expected = graph.dense(x, level)
        y = graph.run(x, level)
        assert y.shape == expected.shape
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-4 * max(1.0, float(np.abs(expected).max())))
