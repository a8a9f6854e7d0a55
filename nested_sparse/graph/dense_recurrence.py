"""DenseRecurrence: ONNX's own nodes for a layer of an LSTM or GRU, which is two layers of ours in each direction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from .contract import CLIP_MAX, CLIP_MIN, FUNCTION, GRU, LAYER, LINEAR, LSTM, RESIDUAL_INPUT, REVERSE, X_INPUT
from .dense_nodes import DenseLayer, Names, ReadNode, input_of
from .encoding import Value, node
from .input_norm import has_input_norm

OPERATORS = {LSTM: "LSTM", GRU: "GRU"}
"""ONNX's operators for those of ours that multiply hidden states. They multiply the inputs, too."""
_FROM_TORCH = {LSTM: (0, 3, 1, 2), GRU: (1, 0, 2)}
"""Places, in torch's order, of ONNX's gates: i, o, f, c of an LSTM, z, r, h of a GRU."""


def projections(nodes: Sequence[ReadNode], reads: Counter[str], kept: Collection[str]) -> dict[str, ReadNode]:
    """The nodes that multiply the inputs of recurrent layers, by the value that each of them writes.

    Nothing but the recurrence reads that value, and the node only multiplies and adds a bias.
    reads: how often each value is read, in all the graph. kept: the graph's outputs.
    """
    made = {each["output"][0]: each for each in nodes if each["op_type"] == LINEAR and _only_multiplies(each)}
    passed = [each["input"][X_INPUT] for each in nodes if each["op_type"] in OPERATORS]
    return {value: made[value] for value in passed if value in made and reads[value] == 1 and value not in kept}


def _only_multiplies(read: ReadNode) -> bool:
    values = read["values"]
    unbounded = np.isneginf(values[CLIP_MIN]) and np.isposinf(values[CLIP_MAX])
    plain = not values.get(FUNCTION) and not has_input_norm(values)
    return bool(unbounded and plain and not input_of(read, RESIDUAL_INPUT))


class DenseRecurrence:
    """ONNX's nodes for the two nodes of ours of one layer and direction.

    projection, recurrence: the nodes. halves: the weights of both, (G * H, K) and (G * H, H), rows of one gate after
    the other's in torch's order. Their norms are the same at all levels.
    """

    def __init__(self, names: Names, projection: ReadNode, recurrence: ReadNode, halves: Sequence[DenseLayer]) -> None:
        self._names, self._read = names, recurrence
        self._x = projection["input"][X_INPUT]
        self._layer = str(recurrence["values"][LAYER])
        self._weights = [half.values * half.norms[-1, 0][:, None] for half in halves]
        self._biases = [half.norms[-1, 1] for half in halves]
        self._nodes: list[bytes | memoryview] = []

    def nodes(self) -> list[bytes | memoryview]:
        """They write the same outputs as the recurrence: hidden states (T, N, H), and an LSTM's last cells (N, H)."""
        kind = self._read["op_type"]
        attributes: dict[str, Value] = {
            "hidden_size": self._weights[1].shape[1],
            "direction": "reverse" if self._read["values"].get(REVERSE) else "forward",
            **({"linear_before_reset": 1} if kind == GRU else {}),
        }
        weights = [self._constant(f"weight{place}", self._ordered(each)) for place, each in enumerate(self._weights)]
        bias = self._constant("bias", np.concatenate([self._ordered(each) for each in self._biases]))
        hidden, *cells = filter(None, self._read["output"])
        made = [self._names.name(self._layer, "y") for _ in self._read["output"]]
        inputs = [self._x, *weights, bias, "", *self._initial()]
        self._add(OPERATORS[kind], inputs, [made[0], *(["", made[1]] if cells else [])], attributes)
        self._add("Squeeze", [made[0], self._axis(1)], [hidden])
        if cells:
            self._add("Squeeze", [made[1], self._axis(0)], cells)
        return self._nodes

    def _initial(self) -> list[str]:
        """The hidden states and, of an LSTM, the cells before the first step; nothing for zeros."""
        state = input_of(self._read, RESIDUAL_INPUT)
        if not state or self._read["op_type"] == GRU:
            return [state] if state else []
        parts = [self._names.name(self._layer, "state") for _ in range(2)]
        for place, part in enumerate(parts):
            self._add("Gather", [state, self._axis(place)], [part], {"axis": 0})
        return parts

    def _ordered(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Rows in ONNX's order of the gates."""
        order = _FROM_TORCH[self._read["op_type"]]
        gates = np.split(rows, len(order))
        return np.concatenate([gates[place] for place in order])

    def _constant(self, part: str, values: NDArray[np.float32]) -> str:
        return self._names.initializer(f"{self._layer}.{part}", values[None])  # of one direction

    def _axis(self, axis: int) -> str:
        return self._names.initializer(f"axis {axis}", np.array([axis], np.int64))

    def _add(
        self, operator: str, inputs: list[str], outputs: list[str], attributes: Mapping[str, Value] | None = None
    ) -> None:
        name = self._names.name(self._layer, operator)
        self._nodes.append(node(operator, inputs, outputs, name, attributes or {}))
