"""rewrite: a plan carried out on its graph: nodes that compute in bytes, and conversions where float32 meets bytes."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from nested_sparse.graph import contract
from nested_sparse.graph.contract import CLIP_MAX, CLIP_MIN, DOMAIN, DOMAIN_VERSION, LEVEL

from ..nodes import pool_window, rank_of
from .byte_range import ByteRange
from .margins import set_margins
from .plan import Plan, Step, is_global_pool
from .ranges import Ranges

_POOLS = {"MaxPool": contract.QUANTIZED_MAX_POOL, "AveragePool": contract.QUANTIZED_AVERAGE_POOL}


def rewrite(model: ir.Model, plan: Plan, ranges: Ranges, activations: str) -> None:
    """Carry out `plan` in place. activations: form of the inputs of linear layers; their ranges are used if static."""
    _Rewriter(model, plan, ranges).run()
    for node in plan.linear:
        node.op_type = contract.QUANTIZED_LINEAR
        node.attributes[contract.ACTIVATIONS] = ir.AttrString(contract.ACTIVATIONS, activations)
        if activations == contract.STATIC:
            x = node.inputs[contract.X_INPUT]
            assert x is not None
            _set_range(node, contract.X_SCALE, contract.X_ZERO, ranges[x])


class _Rewriter:
    def __init__(self, model: ir.Model, plan: Plan, ranges: Ranges) -> None:
        self._model, self._plan, self._ranges = model, plan, ranges
        self._level = next(value for value in model.graph.inputs if value.name == LEVEL.name)
        self._twins: dict[int, ir.Value] = {}  # of a float32 value, its bytes
        self._replaced: list[Step] = []
        self._pooled: list[tuple[Step, ir.Value]] = []  # global means, and what is read in their place

    def run(self) -> None:
        for node in list(self._model.graph):
            step = self._plan.steps.get(id(node))
            if step is not None:
                self._replace(step)
        for step, mean in self._pooled:  # once all are replaced: later steps know the old value
            _take_over(step.answer, mean)
            self._model.graph.remove(step.node, safe=True)
        self._remove_replaced()
        set_margins(self._model, self._twins.values())

    def _replace(self, step: Step) -> None:
        last = step.folded[-1]  # what it reads beside images stands before it
        images = [self._twin(value, last) for value in step.images]
        if is_global_pool(step.node):
            self._global_pool(step, images[0])
            return
        new = self._made(step, images)
        self._model.graph.insert_before(last, new)
        self._twins[id(step.answer)] = new.outputs[0]
        self._replaced.append(step)

    def _twin(self, value: ir.Value, before: ir.Node) -> ir.Value:
        """The bytes of `value`; the node that makes them of floats stands before `before` where there are none yet."""
        if id(value) not in self._twins:
            node = self._node(contract.QUANTIZE, [value, self._level], value, f"{value.name}.quantize")
            _set_range(node, contract.Y_SCALE, contract.Y_ZERO, self._ranges[self._plan.ranged(value)])
            self._model.graph.insert_before(before, node)
            self._twins[id(value)] = node.outputs[0]
        return self._twins[id(value)]

    def _node(self, operator: str, inputs: Sequence[ir.Value | None], like: ir.Value, name: str) -> ir.Node:
        """A node that makes the bytes of `like`."""
        node = ir.node(operator, inputs, domain=DOMAIN, version=DOMAIN_VERSION, name=name)
        (y,) = node.outputs
        y.name, y.shape, y.type = f"{like.name}.u8", like.shape, ir.TensorType(ir.DataType.UINT8)
        return node

    def _made(self, step: Step, images: list[ir.Value]) -> ir.Node:
        old = step.node
        if old.op_type in _POOLS:
            return self._pool(step, images)
        if old.op_type == contract.CONV:
            return self._conv(step, images)
        name = old.name or str(step.answer.name)
        if old.op_type == "Add":
            node = self._node(contract.QUANTIZED_ADD, [*images, self._level], step.answer, name)
        else:
            factor = next(value for value in old.inputs if value is not step.images[0])
            node = self._node(contract.QUANTIZED_MULTIPLY, [images[0], factor, self._level], step.answer, name)
        for key, limit in zip((CLIP_MIN, CLIP_MAX), step.limits, strict=True):
            node.attributes[key] = ir.AttrFloat32(key, limit)
        _set_range(node, contract.Y_SCALE, contract.Y_ZERO, self._ranges[step.answer])
        return node

    def _conv(self, step: Step, images: list[ir.Value]) -> ir.Node:
        old = step.node
        twins = dict(zip(map(id, step.images), images, strict=True))
        inputs = [
            twins[id(value)] if value is not None and place in (contract.X_INPUT, contract.RESIDUAL_INPUT) else value
            for place, value in enumerate(old.inputs)
        ]
        node = self._node(contract.QUANTIZED_CONV, inputs, step.answer, str(old.name))
        for key, attribute in old.attributes.items():
            node.attributes[key] = attribute
        _set_range(node, contract.Y_SCALE, contract.Y_ZERO, self._ranges[step.answer])
        if step.function is not None:
            sums = self._ranges[old.outputs[0]]
            _set_range(node, contract.SUM_SCALE, contract.SUM_ZERO, sums)
            table = step.function.table(sums, self._ranges[step.answer])
            node.attributes[contract.TABLE] = ir.Attr(contract.TABLE, ir.AttributeType.STRING, table)
        return node

    def _pool(self, step: Step, images: list[ir.Value]) -> ir.Node:
        old = step.node
        node = self._node(_POOLS[old.op_type], images, step.answer, old.name or str(step.answer.name))
        window = pool_window(old)
        assert window is not None  # or the plan would have no such step
        for name, values in window.items():
            if rank_of(step.answer) == 3:  # a line is an image of one row
                values = [0, values[0], 0, values[1]] if name == "pads" else [1, *values]
            node.attributes[name] = ir.AttrInt64s(name, values)
        if rank_of(step.answer) == 5:
            key = contract.SPATIAL_DIMENSIONS
            node.attributes[key] = ir.AttrInt64(key, contract.VOLUME)
        if old.op_type == "AveragePool":
            counts = old.attributes.get(contract.COUNT_INCLUDE_PAD)
            included = 0 if counts is None else counts.as_int()
            node.attributes[contract.COUNT_INCLUDE_PAD] = ir.AttrInt64(contract.COUNT_INCLUDE_PAD, included)
        return node

    def _global_pool(self, step: Step, image: ir.Value) -> None:
        """The mean in float32, in the shape that the old node gave it."""
        old, y = step.node, step.answer
        rank = rank_of(step.images[0]) or 4
        operator = contract.QUANTIZED_GLOBAL_AVERAGE_POOL
        pool = ir.node(operator, [image], domain=DOMAIN, version=DOMAIN_VERSION, name=old.name or str(y.name))
        key = contract.SPATIAL_DIMENSIONS
        pool.attributes[key] = ir.AttrInt64(key, rank - 2)
        new = [pool]
        if rank_of(y) != rank:
            axes = ir.tensor(list(range(2, rank)), dtype=ir.DataType.INT64, name=f"{y.name}.axes")
            value = ir.Value(
                name=axes.name, const_value=axes, shape=ir.Shape([rank - 2]), type=ir.TensorType(axes.dtype)
            )
            self._model.graph.register_initializer(value)
            new.append(ir.node("Squeeze", [pool.outputs[0], value], name=f"{pool.name}.squeeze"))
            pool.outputs[0].name = f"{y.name}.pooled"
            pool.outputs[0].type = y.type
        self._model.graph.insert_before(old, new)
        self._pooled.append((step, new[-1].outputs[0]))

    def _remove_replaced(self) -> None:
        """Remove the nodes of all steps; where floats are still read, they are made of the bytes."""
        gone = {id(node) for step in self._replaced for node in step.folded}
        for step in self._replaced:
            y = step.answer
            if y.is_graph_output() or any(id(use.node) not in gone for use in y.uses()):
                self._floats_of(y)
        for step in reversed(self._replaced):
            for node in reversed(step.folded):
                self._model.graph.remove(node, safe=True)

    def _floats_of(self, y: ir.Value) -> None:
        twin = self._twins[id(y)]
        maker = twin.producer()
        assert maker is not None
        node = ir.node(contract.DEQUANTIZE, [twin], domain=DOMAIN, version=DOMAIN_VERSION, name=f"{y.name}.dequantize")
        key = contract.SPATIAL_DIMENSIONS
        node.attributes[key] = ir.AttrInt64(key, (rank_of(y) or 4) - 2)
        self._model.graph.insert_after(maker, node)
        _take_over(y, node.outputs[0])


def _take_over(old: ir.Value, new: ir.Value) -> None:
    """Let `new` be read in place of `old`, under its name."""
    name = old.name
    new.shape, new.type = old.shape, old.type
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    old.name, new.name = f"{name}.float", name


def _set_range(node: ir.Node, scale: str, zero: str, levels: Sequence[ByteRange]) -> None:
    node.attributes[scale] = ir.AttrFloat32s(scale, [each.scale for each in levels])
    node.attributes[zero] = ir.AttrInt64s(zero, [each.zero for each in levels])
