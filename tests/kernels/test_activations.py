"""Activations: functions that layers apply to their outputs, compared with numpy in float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sparse_node import ACTIVATIONS, SparseModel, SparseNode, conv_node, linear_node
from sparse_node import check_levels as check
from tiled_graph import Step, TiledGraph

from nested_sparse.layouts import GatherScatter
from nested_sparse.value_type import FLOAT16

EVERY = range(1, len(ACTIVATIONS))
ONE: dict[str, Any] = {"kernel": (1, 1), "pads": (0, 0, 0, 0)}


@pytest.mark.parametrize("activation", EVERY)
def test_values_over_the_range_of_floats(activation: int) -> None:
    """One input and one weight a row, so that outputs are known to the last bit: to 3e-7 of the larger of x and y."""
    rng = np.random.default_rng(0)
    ends = np.concatenate([np.linspace(-95, 95, 4001), np.logspace(-30, 37, 400), -np.logspace(-30, 37, 400)])
    node = linear_node(rng, 1, len(ends), 1, densities=(1.0,), activation=activation)
    node.weight.values[...] = ends[:, None]
    node.norms[:] = np.array([1.0, 0.0], np.float32)[None, :, None]
    x = np.ones((1, 1), np.float32)
    y, values = SparseModel([node]).run(x, 0)[0], ends.astype(np.float32).astype(np.float64)
    with np.errstate(over="ignore"):
        expected = ACTIVATIONS[activation](values)
    bound = np.maximum(np.abs(values), np.abs(expected))
    assert np.isfinite(y).all()
    assert (np.abs(y - expected) <= 3e-7 * bound + 1e-37).all()
    if activation == 1:  # a logarithm may follow, so small values are right, too; below 1e-37 they count as zero
        assert (np.abs(y - expected) <= 3e-7 * expected + 1e-37).all()


@pytest.mark.parametrize("activation", EVERY)
def test_a_nan_stays_a_nan(activation: int) -> None:
    """And leaves its neighbours alone."""
    node = linear_node(np.random.default_rng(1), 8, 6, 1, activation=activation)
    x = np.ones((3, 8), np.float32)
    x[1] = np.nan
    y = SparseModel([node]).run(x, 2)
    assert np.isfinite(y[[0, 2]]).all()
    assert np.isnan(y[1]).any()


@pytest.mark.parametrize("activation", EVERY)
def test_linear(activation: int) -> None:
    """One row and many, odd sizes, a permutation, a residual and a clip before the function; float16; gather groups."""
    rng = np.random.default_rng(activation)
    options: dict[str, Any] = {"permuted": True, "residual": True, "clip": (-1.0, 2.0), "activation": activation}
    for count in (1, 3, 5, 130):
        check(linear_node(rng, 50, 21, 4, **options), (count, 50), threads=2)
        check(linear_node(rng, 50, 21, 16, value_type=FLOAT16, activation=activation), (count, 50))
        check(linear_node(rng, 50, 21, 1, layout=GatherScatter(16, 4), **options), (count, 50))
    check(linear_node(rng, 70, 2000, 8, activation=activation), (40, 70), threads=2)


@pytest.mark.parametrize("block_rows", [1, 4, 16])
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (7, 7), (15, 14)])
def test_convolutions(block_rows: int, size: tuple[int, int]) -> None:
    """Windows and single pixels, whole rows of blocks and not, permuted and not, in groups, many rows; float16."""
    rng = np.random.default_rng(block_rows)
    for permuted, activation in ((False, 2), (True, 4), (True, 7)):
        options: dict[str, Any] = {"permuted": permuted, "activation": activation}
        check(conv_node(rng, 8, 37, block_rows, residual=True, **options), (3, 8, *size), threads=2)
        check(conv_node(rng, 8, 37, block_rows, **ONE, **options), (2, 8, *size))
        check(conv_node(rng, 8, 700, block_rows, **ONE, value_type=FLOAT16, **options), (1, 8, *size), threads=2)
        check(conv_node(rng, 8, 2 * 16, block_rows, groups=2, **options), (2, 8, *size))
    check(conv_node(rng, 6, 6, 1, groups=6, activation=2), (2, 6, *size))
    check(conv_node(rng, 5, 9, 1, layout=GatherScatter(8, 2), permuted=True, activation=2), (2, 5, *size))
    check(conv_node(rng, 400, 9, block_rows, activation=2, densities=(0.1, 0.2, 0.3)), (1, 400, *size))  # in ranges


@pytest.mark.parametrize("block_rows", [32, 128])
@pytest.mark.parametrize("size", [(3, 5), (15, 14), (40, 41)])
def test_parts_that_are_padding_alone(block_rows: int, size: tuple[int, int]) -> None:
    """Of a last block of 32 rows or more, whole parts of 16 rows may have no outputs; many pixels and few."""
    rng = np.random.default_rng(block_rows)
    for permuted in (False, True):
        for rows in (3, 33, 37):
            options: dict[str, Any] = {"permuted": permuted, "activation": 2}
            check(conv_node(rng, 8, rows, block_rows, **ONE, **options), (1, 8, *size), threads=2)
            check(conv_node(rng, 8, rows, block_rows, **ONE, residual=True, **options), (2, 8, *size))
            check(linear_node(rng, 8, rows, block_rows, **options), (size[0], 8), threads=2)
    check(conv_node(rng, 400, 37, block_rows, activation=2, densities=(0.1, 0.2, 0.3)), (1, 400, *size))  # in ranges


def test_lines() -> None:
    """One spatial dimension."""
    rng = np.random.default_rng(3)
    check(conv_node(rng, 5, 9, 2, spatial=1, kernel=(1, 3), pads=(0, 1, 0, 1), activation=2), (2, 5, 37))


@pytest.mark.parametrize("size", [(1, 1), (7, 7), (14, 15)])
def test_tiled_images(size: tuple[int, int]) -> None:
    """A convolution hands over a tiled image that is right, and finite behind its last pixel."""
    rng = np.random.default_rng(4)
    first = conv_node(rng, 5, 9, 4, permuted=True, activation=2)
    for permuted in (True, False):
        second = conv_node(rng, 9, 6, 2, permuted=permuted, activation=4)
        third = conv_node(rng, 6, 8, 4, activation=5)
        graph = TiledGraph([Step(first, "x"), Step(second, "0"), Step(third, "1")], "0 1")
        x = rng.standard_normal((2, 5, *size)).astype(np.float32)
        for level in range(3):
            expected = graph.dense(x, level)
            np.testing.assert_allclose(graph.run(x, level), expected, atol=1e-4 * max(1.0, np.abs(expected).max()))


@pytest.mark.parametrize(
    "node", [linear_node(np.random.default_rng(0), 8, 4), conv_node(np.random.default_rng(0), 8, 4)]
)
@pytest.mark.parametrize("number", [-1, len(ACTIVATIONS), 2**40])
def test_an_unknown_function_is_refused(node: SparseNode, number: int) -> None:
    """By name, when the session is made."""
    with pytest.raises(Exception, match=f"activation_function.*expected 0 to {len(ACTIVATIONS) - 1}, got {number}"):
        SparseModel([replace(node, activation=number)])
