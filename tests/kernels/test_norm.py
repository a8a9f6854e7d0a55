"""NestedNorm: a norm on its own, planar and between tiled images, compared with numpy in float64."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sparse_node import ACTIVATIONS, Array, conv_node
from tiled_graph import Norm, Step, TiledGraph, compare, norm

pytestmark = pytest.mark.every_isa

ONE: dict[str, Any] = {"kernel": (1, 1), "pads": (0, 0, 0, 0)}
SHAPES = [(3, 5), (1, 4, 1), (2, 17, 33), (3, 16, 7, 9), (1, 40, 30, 31), (2, 3, 3, 5, 6), (1, 2, 1, 1, 2, 2)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("threads", [1, 2])
def test_planar_tensors_of_any_rank(shape: tuple[int, ...], threads: int) -> None:
    """With and without bounds and a function."""
    rng = np.random.default_rng(len(shape))
    for options in ({}, {"clip": (0.0, np.inf)}, {"clip": (-0.5, 0.75)}, {"activation": 2}):
        compare(TiledGraph([Step(norm(rng, shape[1], **options), "x")], "", threads), shape)


def steps_of(rng: np.random.Generator, spatial: int, **options: Any) -> Sequence[Step]:
    """A convolution, two norms that read its image, and a convolution behind one that adds the other."""
    first, last = conv_node(rng, 5, 19, 4, permuted=True), conv_node(rng, 19, 19, 2, residual=True, **ONE)
    before = norm(rng, 19, spatial=spatial, **options)
    after = norm(rng, 19, spatial=spatial, clip=(0.0, 6.0))
    return [Step(first, "x"), Step(before, "0"), Step(after, "0"), Step(last, "1", "2")]


@pytest.mark.parametrize("tiled", ["0", "1", "2", "0 1", "1 2", "0 1 2"])
@pytest.mark.parametrize("size", [(1, 1), (3, 2), (7, 7), (14, 15), (33, 34)])
def test_images_of_either_form(tiled: str, size: tuple[int, int]) -> None:
    """Tiled or not, at both ends of a norm."""
    steps = steps_of(np.random.default_rng(size[0]), 2)
    compare(TiledGraph(steps, tiled, threads=1), (2, 5, *size))


@pytest.mark.parametrize("activation", range(1, len(ACTIVATIONS)))
def test_functions_on_tiled_images(activation: int) -> None:
    """The function follows the bounds, on two threads."""
    rng = np.random.default_rng(activation)
    steps = steps_of(rng, 2, activation=activation, clip=(-1.0, 2.0))
    for tiled in ("", "1", "0 1"):
        compare(TiledGraph(steps, tiled, threads=2), (2, 5, 20, 21))


def test_lines_and_volumes() -> None:
    """One and three spatial dimensions, from a tiled image to a planar one and back."""
    rng = np.random.default_rng(5)
    line: dict[str, Any] = {"kernel": (1, 3), "stride": (1, 1), "pads": (0, 1, 0, 1), "dilation": (1, 1), "spatial": 1}
    first, last = conv_node(rng, 4, 9, 2, **line), conv_node(rng, 9, 6, 1, **line)
    chain = [Step(first, "x"), Step(norm(rng, 9, spatial=1), "0"), Step(norm(rng, 9, spatial=1), "1"), Step(last, "2")]
    for tiled in ("0", "2", "0 1", "1 2", "0 1 2"):
        for width in (1, 50, 500):
            compare(TiledGraph(chain, tiled), (2, 4, width))
    volume = [
        Step(norm(rng, 6, spatial=3), "x"),
        Step(norm(rng, 6, spatial=3), "0"),
        Step(norm(rng, 6, spatial=3), "1"),
    ]
    for tiled in ("0", "1", "0 1"):
        compare(TiledGraph(volume, tiled), (2, 6, 3, 7, 9))


def test_values_that_are_no_numbers() -> None:
    """A NaN stays a NaN, infinities go to the bounds, and their neighbours are untouched."""
    scales = np.ones((3, 2), np.float32)
    graph = TiledGraph([Step(Norm(scales, 0 * scales, clip=(-3.0, 3.0)), "x")], "")
    x = np.zeros((1, 2, 1, 5), np.float32)
    x[0, 1, 0, 1:4] = np.nan, np.inf, -np.inf
    y = graph.run(x, 1)
    np.testing.assert_array_equal(y[0, 1, 0], [0, np.nan, 3, -3, 0])
    np.testing.assert_array_equal(y[0, 0, 0], 0)


def test_every_size_up_to_some_vectors() -> None:
    """Rests of vectors, and batches that are cut into tasks within an image."""
    rng = np.random.default_rng(6)
    steps = steps_of(rng, 2)
    graphs = [TiledGraph(steps, tiled, threads=2) for tiled in ("", "0 1", "1")]
    for graph, width in itertools.product(graphs, range(1, 50, 3)):
        compare(graph, (3, 5, 3, width))


BAD: list[tuple[Norm, Array, int, str]] = [
    (Norm(*np.ones((2, 3, 4), np.float32)), np.ones((1, 5, 2, 2), np.float32), 0, "X must have 4 channels, got 5"),
    (Norm(*np.ones((2, 3, 4), np.float32)), np.ones(4, np.float32), 0, r"X must be \[N, C, ...\], got \[4\]"),
    (Norm(*np.ones((2, 3, 4), np.float32)), np.ones((1, 4, 2), np.float32), 3, "level must be 0 to 2, got 3"),
    (Norm(*np.ones((2, 3, 4), np.float32)), np.ones((1, 4, 2), np.float32), -1, "level must be 0 to 2, got -1"),
    (Norm(*np.ones((2, 4), np.float32)), np.ones((1, 4, 2), np.float32), 0, r"must be \[L, C\], got \[4\] and \[4\]"),
    (
        Norm(np.ones((3, 4), np.float32), np.ones((3, 5), np.float32)),
        np.ones((1, 4, 2), np.float32),
        0,
        r"must be \[L, C\], got \[3, 4\] and \[3, 5\]",
    ),
    (Norm(*np.ones((2, 0, 4), np.float32)), np.ones((1, 4, 2), np.float32), 0, "level must be 0 to -1, got 0"),
]


@pytest.mark.parametrize(("op", "x", "level", "message"), BAD)
def test_what_does_not_fit_is_refused(op: Norm, x: Array, level: int, message: str) -> None:
    """Each error says what was expected."""
    with pytest.raises(Exception, match=message):
        TiledGraph([Step(op, "x")], "").run(x, level)


def test_images_that_are_none_are_refused() -> None:
    """A planar tensor in place of a tiled one, and tensors that cannot become tiled."""
    op = norm(np.random.default_rng(7), 4)
    with pytest.raises(Exception, match="NestedNorm: X must be a tiled image"):
        TiledGraph([Step(op, "x")], "x").run(np.ones((1, 4, 2, 2), np.float32), 0)
    with pytest.raises(Exception, match=r"NestedNorm: X must be \[N, C, W\], .* got \[1, 4\]"):
        TiledGraph([Step(op, "x")], "0").run(np.ones((1, 4), np.float32), 0)
    with pytest.raises(Exception, match="attribute 'activation_function': expected 0 to 7, got 8"):
        TiledGraph([Step(replace(op, activation=8), "x")], "")
