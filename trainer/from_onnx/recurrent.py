"""recurrent: LSTM and GRU as two layers for each direction, one for the inputs and one for the hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nested_sparse.graph.contract import LAYER_KINDS

from ..export.nodes import constant_of
from ..model.layers.recurrent import GRURecurrence, LSTMRecurrence, Projection
from .found import (
    Feed,
    Found,
    Layers,
    Make,
    answer_by,
    constant_in,
    fed_input,
    in_front,
    number,
    removed,
    text,
    weight_of,
)
from .taken import Taken

_ORDER = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2)}
"""Places, in ONNX's order of the gates, of torch's gates: i, f, g, o of an LSTM, r, z, n of a GRU."""
_ACTIVATIONS = {"LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"]}
_X, _W, _R, _B, _LENGTHS, _HIDDEN, _CELLS, _PEEPHOLES = range(8)
_HALVES = ("ih", "hh")


class Recurrent(Found):
    """An LSTM or a GRU. directions: "" and "_reverse", those that it has."""

    directions: Sequence[str]
    path: str

    def place(self, node: ir.Node, make: Make) -> None:
        """The layers, their initial states, and the outputs in ONNX's shapes."""
        x = node.inputs[0]
        assert x is not None
        states = LAYER_KINDS[node.op_type.lower()].states
        parts: list[list[ir.Value]] = [[], [], []]
        for index, direction in enumerate(self.directions):
            ih, hh = (f"{self.path}.{half}{direction}" for half in _HALVES)
            (projected,) = make(ih, [x], 1)
            initial = self._initial(node, index)
            output, *cells = make(hh, [projected, *initial], states)
            last = 0 if direction else -1
            parts[0].append(_step(node, "Unsqueeze", [output, _ints(node, [1])]))
            parts[1].append(_step(node, "Gather", [output, _ints(node, [last])], axis=0))
            parts[2] += [_step(node, "Unsqueeze", [each, _ints(node, [0])]) for each in cells]
        for old, values, axis in zip(node.outputs, parts, (1, 0, 0), strict=False):
            new = values[0] if len(values) == 1 else _step(node, "Concat", values, axis=axis)
            if old.uses() or old.is_graph_output():
                answer_by(node, old, new)
        removed(node)

    def _initial(self, node: ir.Node, direction: int) -> list[ir.Value]:
        """The initial state of a direction, [states, N, H]; none for zeros."""
        given = [each for each in [*node.inputs, None, None][_HIDDEN : _CELLS + 1] if each is not None]
        picked = [_step(node, "Gather", [each, _ints(node, [direction])], axis=0) for each in given]
        return [_step(node, "Concat", picked, axis=0)] if len(picked) > 1 else picked


def _ints(node: ir.Node, values: Sequence[int]) -> ir.Value:
    assert isinstance(node.graph, ir.Graph)
    count = len(node.graph.initializers)
    return constant_in(node, f"{node.name}.constant{count}", np.array(values, np.int64))


def _step(node: ir.Node, operator: str, inputs: Sequence[ir.Value], axis: int | None = None) -> ir.Value:
    """A float32 node in front of `node`; its output."""
    made = ir.node(operator, inputs, {} if axis is None else {"axis": axis})
    in_front(node, made)
    made.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    made.outputs[0].name = f"{node.name}.{operator.lower()}{sum(1 for _ in node.graph or ())}"
    made.name = made.outputs[0].name
    return made.outputs[0]


def recurrent(model: ir.Model, node: ir.Node, taken: Taken) -> Found | str | None:
    """The layers of an LSTM or GRU; the reason why it has none."""
    arrays = [constant_of(each) for each in [*node.inputs, None, None][_W : _B + 1]]
    weights, recurrence, biases = arrays
    computed = biases is None and len(node.inputs) > _B and node.inputs[_B] is not None
    if weights is None or recurrence is None or computed:
        return "its weights are computed in the graph"
    if weights.dtype != np.float32:
        return f"it computes in {weights.dtype}; layers compute in float32: convert the model to float32"
    reason = _why_dense(node)
    if reason:
        return reason
    order = _ORDER[node.op_type]
    gates, (count, rows, _) = len(order), weights.shape
    hidden = rows // gates
    if biases is None:
        biases = np.zeros((count, 2 * rows), np.float32)
    given = node.inputs[_W]
    assert given is not None
    reverse = text(node, "direction", "forward") == "reverse"
    directions = ("", "_reverse") if count == 2 else ("_reverse",) if reverse else ("",)
    path = taken.path(node, given)
    found = Recurrent(node.name or "", {})
    found.directions, found.path = directions, path

    def torchs(array: NDArray[Any]) -> nn.Parameter:
        return weight_of(array.reshape(gates, hidden, *array.shape[1:])[[*order]].reshape(array.shape))

    kind = LSTMRecurrence if node.op_type == "LSTM" else GRURecurrence
    for index, direction in enumerate(directions):
        halves = biases[index, :rows], biases[index, rows:]
        found.modules[f"{path}.ih{direction}"] = Projection(torchs(weights[index]), torchs(halves[0]), gates)
        found.modules[f"{path}.hh{direction}"] = kind(torchs(recurrence[index]), torchs(halves[1]), bool(direction))
    node.resize_inputs(max(len(node.inputs), _B + 1))
    back = [order.index(place) for place in range(gates)]
    feeds = {_W: _fed_weights(path, "ih", directions, back), _R: _fed_weights(path, "hh", directions, back)}
    feeds[_B] = _fed_biases(path, directions, back)
    for place, array in ((_W, weights), (_R, recurrence), (_B, biases)):
        value = fed_input(model, taken.name(f"{path}.{'wrb'[place - 1]}"), array.shape)
        node.replace_input_with(place, value)
        found.feeds[value.name or ""] = feeds[place]
    return found


def _why_dense(node: ir.Node) -> str:
    """The trait that the layers do not have; "" where there is none."""
    named = node.attributes.get("activations")
    said = [] if named is None else [each.lower() for each in named.as_strings()]
    usual = _ACTIVATIONS[node.op_type]
    inputs = [*node.inputs, *[None] * 8]
    lengths, steps = constant_of(inputs[_LENGTHS]), node.inputs[0].shape if node.inputs[0] is not None else None
    whole = (
        lengths is not None and steps is not None and isinstance(steps[0], int) and bool((lengths == steps[0]).all())
    )
    if said and said != usual * (len(said) // len(usual)):
        return f"its activations are {', '.join(said)}, expected {', '.join(usual)}"
    if number(node, "clip", 0) or "clip" in node.attributes:
        return "it clips its gates"
    if number(node, "layout", 0):
        return "its batch is dimension 0 (layout 1); export it with layout 0"
    if number(node, "input_forget", 0) or inputs[_PEEPHOLES] is not None:
        return "it couples its gates, or has peepholes"
    if node.op_type == "GRU" and not number(node, "linear_before_reset", 0):
        return "it resets the hidden state before the product (linear_before_reset 0; in Keras reset_after=False)"
    if inputs[_LENGTHS] is not None and not whole:
        return "its sequences have lengths of their own (sequence_lens)"
    if node.op_type == "LSTM" and (inputs[_HIDDEN] is None) != (inputs[_CELLS] is None):
        return "one of its two initial states is given, the other is not"
    return ""


def _fed_weights(path: str, half: str, directions: Sequence[str], back: Sequence[int]) -> Feed:
    def feed(get: Layers) -> Tensor:
        return torch.stack([_reordered(get(f"{path}.{half}{each}").weight, back) for each in directions])

    return feed


def _fed_biases(path: str, directions: Sequence[str], back: Sequence[int]) -> Feed:
    def feed(get: Layers) -> Tensor:
        halves = [[_reordered(get(f"{path}.{half}{each}").bias, back) for half in _HALVES] for each in directions]
        return torch.stack([torch.cat(each) for each in halves])

    return feed


def _reordered(rows: Tensor, order: Sequence[int]) -> Tensor:
    """Rows whose gates stand in another order."""
    parts = rows.detach().chunk(len(order))
    return torch.cat([parts[place] for place in order])
