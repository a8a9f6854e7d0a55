"""Plan: the nodes of a float32 graph that can compute in bytes, and the tensors of which that needs the ranges."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from nested_sparse.graph.contract import (
    CLIP_MAX,
    CLIP_MIN,
    CONV,
    LAYER,
    LINEAR,
    RESIDUAL_INPUT,
    X_INPUT,
)

from ..nodes import OPEN, clamp_behind, is_ours, pool_window, rank_of, same_shape
from .tables import Function, functions_of

_RANKS = (3, 4, 5)
"""Dimensions of lines, images and volumes."""


@dataclass(frozen=True, slots=True)
class Step:
    """One node that computes in bytes, with what is folded into it.

    answer: the value that it makes, after what is folded. images: the values that it reads as bytes.
    function: activation function between the node's own output and `answer`, for a convolution.
    clamp: the Relu or Clip between both, for an addition, with its limits.
    passes: whether it leaves the range of its input as it is.
    """

    node: ir.Node
    answer: ir.Value
    images: tuple[ir.Value, ...]
    function: Function | None = None
    clamp: ir.Node | None = None
    limits: tuple[float, float] = OPEN
    passes: bool = False

    @property
    def folded(self) -> tuple[ir.Node, ...]:
        """Nodes that go with the step's own."""
        return (self.node, *(self.function.nodes if self.function else ()), *((self.clamp,) if self.clamp else ()))


@dataclass(slots=True)
class Plan:
    """steps: in the order of the graph, by the node. linear: the linear layers' nodes.

    source: for each value in bytes, the value that has its range; another one where a pool passes it on.
    """

    steps: dict[int, Step] = field(default_factory=dict)
    linear: list[ir.Node] = field(default_factory=list)
    source: dict[int, ir.Value] = field(default_factory=dict)

    def ranged(self, value: ir.Value) -> ir.Value:
        """The value whose range the bytes of `value` have."""
        return self.source.get(id(value), value)

    def wanted(self, *, static: bool) -> dict[str, ir.Value]:
        """The tensors to calibrate, by name: those held as bytes, and what linear layers take and make.

        static: whether linear layers take bytes; else those of known shapes are enough.
        """
        found: dict[str, ir.Value] = {}
        for step in self.steps.values():
            values = [self.ranged(value) for value in step.images]
            if not step.passes and not is_global_pool(step.node):
                values += [step.answer, step.node.outputs[0]]
            found |= {str(value.name): value for value in values}
            if step.node.op_type == "Mul":
                found |= {str(value.name): value for value in step.node.inputs if value is not None}
        for node in self.linear:
            x, y = node.inputs[X_INPUT], node.outputs[0]
            found |= {str(value.name): value for value in (x, y) if value is not None and value.shape is not None}
            if static and x is not None:
                found[str(x.name)] = x
        return found

    @property
    def sums(self) -> Iterator[ir.Value]:
        """The images to which a step adds another image."""
        for step in self.steps.values():
            conv = is_ours(step.node, CONV)
            if step.node.inputs[RESIDUAL_INPUT] is not None if conv else step.node.op_type == "Add":
                yield step.node.outputs[0] if step.function else step.answer


def plan(model: ir.Model, layers: Collection[str]) -> Plan:
    """The steps of `model`, a fused graph that is not tiled, of which `layers` are the layers that become int8.

    A pool, a sum or a product of images takes bytes where what it reads has been made by such a step.
    """
    found = Plan()
    for node in model.graph:
        if is_ours(node, LINEAR) and node.attributes[LAYER].as_string() in layers:
            found.linear.append(node)
        step = _step(node, layers, found.source)
        if step is None:
            continue
        found.steps[id(node)] = step
        if step.passes:
            found.source[id(step.answer)] = found.ranged(step.images[0])
        elif not is_global_pool(node):
            found.source[id(step.answer)] = step.answer
    return found


def _step(node: ir.Node, layers: Collection[str], made: Mapping[int, ir.Value]) -> Step | None:
    if is_ours(node, CONV):
        return _conv(node) if node.attributes[LAYER].as_string() in layers else None
    if node.domain not in ("", "ai.onnx") or not node.outputs:
        return None
    given = [value for value in node.inputs if value is not None]
    images = tuple(value for value in given if id(value) in made)
    if not images:
        return None
    if node.op_type in ("MaxPool", "AveragePool"):
        images_out = rank_of(node.outputs[0]) in (_RANKS if node.op_type == "MaxPool" else _RANKS[:2])
        return Step(node, node.outputs[0], images, passes=True) if images_out and pool_window(node) else None
    if is_global_pool(node):
        return Step(node, node.outputs[0], images[:1])
    if node.op_type == "Add" and len(images) == 2 and same_shape(*images):
        clamp, limits = clamp_behind(node)
        return Step(node, clamp.outputs[0] if clamp else node.outputs[0], images, clamp=clamp, limits=limits)
    if node.op_type == "Mul" and len(given) == 2:
        return _product(node, given, images)
    return None


def _conv(node: ir.Node) -> Step:
    (y,) = node.outputs
    images = tuple(value for place in (X_INPUT, RESIDUAL_INPUT) if (value := node.inputs[place]) is not None)
    clamped = not all(math.isinf(node.attributes[name].as_float()) for name in (CLIP_MIN, CLIP_MAX))
    functions = [] if clamped else functions_of(y)
    function = functions[-1] if functions else None
    return Step(node, y if function is None else function.answer, images, function=function)


def _product(node: ir.Node, given: list[ir.Value], images: tuple[ir.Value, ...]) -> Step | None:
    """An image times a number for each of its channels."""
    for x, factor in (given, given[::-1]):
        if any(x is image for image in images) and x is not factor and _one_per_channel(factor, x):
            return Step(node, node.outputs[0], (x,))
    return None


def _one_per_channel(factor: ir.Value, x: ir.Value) -> bool:
    if factor.shape is None or x.shape is None or factor.dtype != ir.DataType.FLOAT:
        return False
    rank = x.shape.rank()
    ones = factor.shape.rank() == rank and all(size == 1 for size in factor.shape.dims[2:])
    return ones and rank in _RANKS and factor.shape.dims[:2] == x.shape.dims[:2] and factor.shape.dims != x.shape.dims


def is_global_pool(node: ir.Node) -> bool:
    """Whether the node is the mean over all pixels."""
    if node.op_type == "GlobalAveragePool":
        return True
    if node.op_type != "ReduceMean" or node.inputs[0] is None:
        return False
    rank = rank_of(node.inputs[0])
    axes = node.inputs[1].const_value if len(node.inputs) > 1 and node.inputs[1] is not None else None
    if rank not in _RANKS or axes is None:
        return False
    return sorted(int(axis) % rank for axis in axes.numpy().reshape(-1)) == list(range(2, rank))
