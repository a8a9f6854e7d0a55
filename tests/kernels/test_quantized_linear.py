"""QuantizedLinear: the operator in ONNX Runtime gives the bits of the integer reference, on every instruction set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from integer_reference import Linear, Range
from numpy.typing import NDArray
from onnx import TensorProto, helper
from quantized_node import LEVELS, QuantizedWeight, place, random_range, weight_fields
from sparse_node import ACTIVATIONS, Placed, session_of

from nested_sparse.kernels import library

Array = NDArray[np.float32]
BLOCK_ROWS = (1, 2, 4, 8, 16)
BYTES = ("static", "dynamic")


@dataclass(frozen=True, kw_only=True)
class LinearNode(QuantizedWeight):
    """A QuantizedLinear. ranges: of its input at each level, where `activations` is "static"."""

    activations: str
    ranges: Sequence[Range] = ()

    def reference(self, level: int) -> Linear:
        """The same layer in Python integers."""
        held = self.ranges[level] if self.ranges else None
        return Linear(self.at(level), self.scales, self.norms[level], held, self.clip)

    def floats(self, level: int, x: Array, residual: Array | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The layer with float activations in float64, and a bound of the float32 error of each output."""
        weight = self.at(level) * self.scales[:, None].astype(np.float64)
        scale, shift = self.norms[level].astype(np.float64)
        added = 0 if residual is None else residual
        y = np.clip(x @ weight.T * scale + shift + added, *self.clip)
        magnitude = np.abs(x).astype(np.float64) @ np.abs(weight.T) * np.abs(scale) + np.abs(shift) + np.abs(added)
        return y, np.finfo(np.float32).eps * (weight.shape[1] + 8) * magnitude

    def attributes(self, layer: str) -> dict[str, Any]:
        """All of the node but those that say where its arrays lie."""
        held = {"x_scale": [float(each.scale) for each in self.ranges], "x_zero": [each.zero for each in self.ranges]}
        return {**super().attributes(layer), "activations": self.activations, **(held if self.ranges else {})}


def linear_node(
    rng: np.random.Generator, columns: int, rows: int, block_rows: int, activations: str, **options: Any
) -> LinearNode:
    """A random layer; options: densities, permuted, and the fields of LinearNode."""
    about_weight = {key: options.pop(key) for key in ("densities", "permuted") if key in options}
    fields = weight_fields(rng, rows, columns, block_rows, **about_weight)
    ranges = [random_range(rng, 0.02) for _ in range(LEVELS)] if activations == "static" else []
    return LinearNode(**{**fields, "activations": activations, "ranges": ranges, **options})


class LinearModel:
    """The node in an ONNX Runtime session."""

    def __init__(self, node: LinearNode, placed: Placed | None = None, threads: int = 1) -> None:
        self.placed = placed or place([node])
        segments = [f"segment{level}" for level in range(LEVELS)]
        residual = "residual" if node.adds else ""
        (attributes,) = self.placed.attributes
        proto = helper.make_node("QuantizedLinear", ["x", "level", residual, *segments], ["y"],
                                 domain="nested_sparse", **attributes)  # fmt: skip
        floats = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", residual) if name]
        level = helper.make_tensor_value_info("level", TensorProto.INT64, [])
        stored = [helper.make_tensor_value_info(name, TensorProto.UINT8, [None]) for name in segments]
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
        self.session = session_of(helper.make_graph([proto], "linear", [*floats, level, *stored], [y]), threads)
        self.segments = dict(zip(segments, self.placed.segments, strict=True))

    def run(self, level: int, x: Array, residual: Array | None = None) -> Array:
        """Y at a level."""
        feeds: dict[str, Any] = {"level": np.array(level, np.int64), "x": x, **self.segments}
        if residual is not None:
            feeds["residual"] = residual
        values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in feeds.items()}
        answer: Array = self.session.run_with_ort_values(None, values)[0].numpy()
        return answer


def check(node: LinearNode, x: Array, threads: int = 1, seed: int = 0) -> None:
    """Every level of the node: the reference's bits, or with float activations a float64 product."""
    model = LinearModel(node, threads=threads)
    rng = np.random.default_rng(seed)
    for level in range(LEVELS):
        shape = (*x.shape[:-1], node.rows)
        residual = rng.standard_normal(shape).astype(np.float32) if node.adds else None
        y = model.run(level, x, residual)
        assert y.shape == shape
        if node.activations == "float32":
            expected, bound = node.floats(level, x, residual)
            assert (np.abs(y - expected) <= bound).all()
        else:
            np.testing.assert_array_equal(y, node.reference(level)(x, residual))


def random_rows(rng: np.random.Generator, *shape: int) -> Array:
    """Values of about 1, each row around a mean of its own, one in ten zero."""
    x = rng.normal(0, 1, shape) + rng.normal(0, 1, (*shape[:-1], 1))
    x[rng.random(shape) < 0.1] = 0
    return x.astype(np.float32)


@pytest.mark.every_isa
@pytest.mark.parametrize("activations", [*BYTES, "float32"])
@pytest.mark.parametrize("block_rows", BLOCK_ROWS)
def test_every_block_height_and_count_of_rows(block_rows: int, activations: str) -> None:
    """No row, one row to several tiles, odd sizes; with and without permutation, residual and clip."""
    rng = np.random.default_rng(block_rows)
    for count in (0, 1, 2, 3, 4, 5, 16, 17, 64, 65, 130):
        check(linear_node(rng, 77, 37, block_rows, activations), random_rows(rng, count, 77))
        options: dict[str, Any] = {"permuted": True, "adds": True, "clip": (-0.5, 2.0)}
        check(linear_node(rng, 50, 21, block_rows, activations, **options), random_rows(rng, count, 50), threads=2)


@pytest.mark.parametrize("activations", [*BYTES, "float32"])
@pytest.mark.parametrize("shape", [(24,), (3, 24), (2, 3, 24), (2, 1, 5, 24), (2, 0, 24)])
def test_every_rank(shape: tuple[int, ...], activations: str) -> None:
    """The last axis is the layer's; the others pass through."""
    rng = np.random.default_rng(1)
    check(linear_node(rng, 24, 10, 4, activations), random_rows(rng, *shape))


@pytest.mark.parametrize("activations", [*BYTES, "float32"])
@pytest.mark.parametrize("columns", [1, 2, 3, 5, 8, 31, 64, 1000, 32768])
def test_every_count_of_columns(columns: int, activations: str) -> None:
    """From one column to the most that int8 layers have, in quads that padding fills."""
    rng = np.random.default_rng(columns)
    for count in (1, 6):
        check(linear_node(rng, columns, 9, 4, activations, densities=(0.3, 0.3, 1.0)), random_rows(rng, count, columns))


@pytest.mark.parametrize("activations", [*BYTES, "float32"])
@pytest.mark.parametrize("block_rows", [1, 2, 16])
def test_large_layer_is_cut_into_tasks(block_rows: int, activations: str) -> None:
    """Enough work for several tasks, by rows of x and by row groups, on two threads."""
    rng = np.random.default_rng(block_rows)
    node = linear_node(rng, 700, 600, block_rows, activations, permuted=block_rows == 2)
    for count in (3, 70):
        check(node, random_rows(rng, count, 700), threads=2)


@pytest.mark.every_isa
@pytest.mark.parametrize("activations", BYTES)
@pytest.mark.parametrize("block_rows", BLOCK_ROWS)
def test_rows_of_extreme_values(block_rows: int, activations: str) -> None:
    """Constant rows, rows of zeros, large and small ones, NaN and infinities: defined, and the reference's bits."""
    rng = np.random.default_rng(block_rows)
    special = np.zeros((14, 40), np.float32)
    special[1], special[2] = 3.5, -2.25
    special[3:5] = rng.standard_normal((2, 40)) * np.float32(1e30)
    special[5] = rng.standard_normal(40) * np.float32(1e-30)
    special[6] = rng.uniform(1, 2, 40)
    special[7] = rng.uniform(-2, -1, 40)
    special[8] = np.nan
    special[9:] = rng.standard_normal((5, 40))
    special[9, ::3], special[10, 5], special[11, 7] = np.nan, np.inf, -np.inf
    special[12, [0, 39]], special[13, 20:] = (np.inf, -np.inf), np.finfo(np.float32).max
    special[13, 3] = -np.finfo(np.float32).max
    node = linear_node(rng, 40, 24, block_rows, activations)
    check(node, special)
    for row in special:
        check(node, row)


@pytest.mark.every_isa
@pytest.mark.parametrize("activations", BYTES)
@pytest.mark.parametrize("block_rows", BLOCK_ROWS)
@pytest.mark.parametrize("weight", [127, -127])
def test_sums_do_not_saturate(block_rows: int, weight: int, activations: str) -> None:
    """All weights 127 or -127 and all bytes 255 or 0, over as many columns as a layer may have."""
    columns = 32768
    rng = np.random.default_rng(block_rows)
    node = linear_node(rng, columns, 16, block_rows, activations, densities=(1.0, 1.0, 1.0))
    ranges = [Range(np.float32(0.5), zero) for zero in (0, 255, 3)] if activations == "static" else ()
    node = replace(node, weight=np.full_like(node.weight, weight), ranges=ranges)
    x = np.full((5, columns), 1e3, np.float32)
    x[1] = -1e3
    x[2, 1::2], x[3, ::2] = 0, 0
    check(node, x)
    check(node, x[:1])
    check(node, x[1:2])


@pytest.mark.every_isa
@pytest.mark.parametrize("activations", [*BYTES, "float32"])
@pytest.mark.parametrize("block_rows", BLOCK_ROWS)
def test_empty_groups_give_the_shift(block_rows: int, activations: str) -> None:
    """Row groups that one level, or none, keeps; and levels that add nothing."""
    rng = np.random.default_rng(3)
    node = linear_node(rng, 30, 40, block_rows, activations, adds=True)
    node.first_level[0] = 255
    node.first_level[1] = 2
    node.first_level[node.first_level == 1] = 2
    for count in (1, 7):
        check(node, random_rows(rng, count, 30))


@pytest.mark.parametrize("activations", BYTES)
def test_rows_do_not_depend_on_their_neighbours(activations: str) -> None:
    """A row alone has the bits that it has in a batch."""
    rng = np.random.default_rng(4)
    model = LinearModel(linear_node(rng, 70, 33, 4, activations))
    x = random_rows(rng, 66, 70)
    together = model.run(2, x)
    for row in (0, 1, 63, 64, 65):
        np.testing.assert_array_equal(model.run(2, x[row : row + 1])[0], together[row])


@pytest.mark.parametrize("activations", [*BYTES, "float32"])
def test_functions_of_the_outputs(activations: str) -> None:
    """Of one row and many: numpy's function of what the node answers without it."""
    rng = np.random.default_rng(6)
    node = linear_node(rng, 30, 21, 4, activations, permuted=True)
    plain, placed = LinearModel(node), place([node])
    for number, function in enumerate(ACTIVATIONS):
        placed.attributes[0]["activation_function"] = number
        model = LinearModel(node, placed)
        for count in (1, 3, 70):
            x = random_rows(rng, count, 30)
            y = plain.run(1, x).astype(np.float64)
            np.testing.assert_allclose(model.run(1, x), function(y), rtol=0, atol=3e-7 * np.abs(y).max() + 1e-7)


def test_a_run_like_an_earlier_one_allocates_nothing() -> None:
    """Nor does a switch between levels that have run."""
    rng = np.random.default_rng(5)
    for activations in (*BYTES, "float32"):
        model = LinearModel(linear_node(rng, 200, 90, 4, activations))
        inputs = [random_rows(rng, count, 200) for count in (1, 3, 70)]
        for level in range(LEVELS):
            for x in inputs:
                model.run(level, x)
        before = library.scratch_allocations()
        for level in (2, 0, 1):
            for x in inputs:
                model.run(level, x)
        assert library.scratch_allocations() == before


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"activations": "int4"}, "activations.*static, dynamic or float32, got 'int4'"),
        ({"x_scale": [0.1, 0.1]}, "x_scale.*expected 3 numbers, got 2"),
        ({"x_scale": [0.1, 0.1, 0.0]}, "x_scale"),
        ({"x_scale": [0.1, float("nan"), 0.1]}, "x_scale"),
        ({"x_zero": [0, 0, 256]}, "x_zero"),
        ({"value_bytes": 4}, "value_bytes must be 1"),
        ({"columns": 32769}, "columns must be at most 32768"),
    ],
)
def test_bad_attributes_are_refused(changed: dict[str, Any], message: str) -> None:
    """When the session is made, with the attribute's name and what was expected."""
    node = linear_node(np.random.default_rng(6), 20, 8, 4, "static")
    placed = place([node])
    placed.attributes[0].update(changed)
    with pytest.raises(Exception, match=message):
        LinearModel(node, placed)


def test_wrong_shapes_are_refused() -> None:
    """X of other columns, a residual of another shape: an error that names the layer."""
    rng = np.random.default_rng(7)
    model = LinearModel(linear_node(rng, 20, 8, 4, "dynamic", adds=True))
    with pytest.raises(Exception, match=r"layer 'layer0'.*X must be \[\.\.\., 20\]"):
        model.run(0, random_rows(rng, 2, 21), random_rows(rng, 2, 8))
    with pytest.raises(Exception, match=r"layer 'layer0'.*residual must have the output's shape"):
        model.run(0, random_rows(rng, 2, 20), random_rows(rng, 2, 7))
