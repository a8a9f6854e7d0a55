"""Activations: functions between two layers, of which the operator in front of them takes over the work.

A function is known by its values, not by its nodes: a user's own spelling of GELU, in a dozen nodes, is GELU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from nested_sparse.graph.contract import CONV, FUNCTION, FUNCTIONS, LINEAR, NORM, QUANTIZED_LINEAR

from .int8.tables import Function, functions_of
from .nodes import our_nodes

Values = NDArray[np.float64]
_OPERATORS = (CONV, LINEAR, NORM, QUANTIZED_LINEAR)
TOLERANCE = 1e-5
"""Largest relative difference to a function that is taken for it. 2 sqrt(2 / pi) in float32 moves the smallest values
of GELU by 3e-6, and the next function, GELU by tanh beside GELU by erf, differs by 1e-3."""


def fold_activations(model: ir.Model) -> None:
    """Let each layer of `model`, a fused graph, compute the known function that alone reads its output, in place."""
    for node in our_nodes(model, *_OPERATORS):
        for function in reversed(functions_of(node.outputs[0])):
            number = _number(function)
            if number is not None:
                node.attributes[FUNCTION] = ir.AttrInt64(FUNCTION, number)
                _take_over(node, function)
                break


def _take_over(node: ir.Node, function: Function) -> None:
    """Let `node` answer in place of the function's nodes, and remove these."""
    (answer,) = node.outputs
    result, graph = function.answer, node.graph
    assert graph is not None
    name, result.name = result.name, f"{result.name}.separate"
    ir.convenience.replace_all_uses_with(result, answer, replace_graph_outputs=True)
    for step in reversed(function.nodes):
        graph.remove(step, safe=True)
    answer.name = name


def _number(function: Function) -> int | None:
    """The place in FUNCTIONS of what `function` computes; None where it is none of them."""
    with np.errstate(all="ignore"):
        got = _computed(function)
        if got is None:
            return None
        for name in _KNOWN:
            expected = _expected(name)
            near = np.abs(got - expected) <= TOLERANCE * np.abs(expected) + _SLACK[name] * np.abs(_POINTS)
            # zeros must be zeros: a logarithm or a division may follow
            if np.all(near & ((expected != 0) | (got == 0))):
                return FUNCTIONS.index(name)
    return None


@cache
def _expected(name: str) -> Values:
    """The values of a known function at _POINTS."""
    return _KNOWN[name](_POINTS)


def _computed(function: Function) -> Values | None:
    """The function's values at _POINTS, in float64; None where a node is none of _STEPS."""
    values = {id(function.given): _POINTS}
    for node in function.nodes:
        step = _STEPS.get(node.op_type)
        if step is None:
            return None
        given = [None if value is None else _value(values, value) for value in node.inputs]
        values[id(node.outputs[0])] = step(node.attributes, *given)
    return values.get(id(function.answer))


def _value(values: Mapping[int, Values], value: ir.Value) -> Values:
    if value.const_value is None:
        return values[id(value)]
    return np.asarray(value.const_value.numpy(), np.float64).reshape(())


def _sigmoid(x: Values) -> Values:
    result: Values = 1 / (1 + np.exp(-x))
    return result


def _erf(x: Values) -> Values:
    return np.array([math.erf(value) for value in x.flat]).reshape(x.shape)


def _gelu(x: Values) -> Values:
    share: Values = np.array([math.erfc(-value / math.sqrt(2)) / 2 for value in x])
    return x * share


def _gelu_tanh(x: Values) -> Values:
    return x * _sigmoid(math.sqrt(8 / math.pi) * (x + 0.044715 * x**3))


def _hard_sigmoid(x: Values, alpha: float = 1 / 6, beta: float = 0.5) -> Values:
    result: Values = np.clip(alpha * x + beta, 0, 1)
    return result


def _clip(x: Values, low: Values | None = None, high: Values | None = None) -> Values:
    result: Values = np.clip(x, -np.inf if low is None else low, np.inf if high is None else high)
    return result


def _real(attributes: Mapping[str, ir.Attr], name: str, default: float) -> float:
    """A float32 attribute, as near to the number that it stands for as its decimal digits tell."""
    return float(str(np.float32(attributes[name].as_float()))) if name in attributes else default


def _gelu_node(attributes: Mapping[str, ir.Attr], x: Values) -> Values:
    approximate = attributes.get("approximate")
    return _gelu_tanh(x) if approximate is not None and approximate.as_string() == "tanh" else _gelu(x)


_STEPS: Mapping[str, Callable[..., Values]] = {
    "Add": lambda _, a, b: a + b,
    "Clip": lambda _, *given: _clip(*given),
    "Div": lambda _, a, b: a / b,
    "Erf": lambda _, x: _erf(x),
    "Exp": lambda _, x: np.exp(x),
    "Gelu": _gelu_node,
    "HardSigmoid": lambda attributes, x: _hard_sigmoid(
        x, _real(attributes, "alpha", 0.2), _real(attributes, "beta", 0.5)
    ),
    "HardSwish": lambda _, x: x * _hard_sigmoid(x),
    "Identity": lambda _, x: x,
    "Max": lambda _, a, b: np.maximum(a, b),
    "Min": lambda _, a, b: np.minimum(a, b),
    "Mul": lambda _, a, b: a * b,
    "Neg": lambda _, x: -x,
    "Pow": lambda _, a, b: a**b,
    "Reciprocal": lambda _, x: 1 / x,
    "Relu": lambda _, x: np.maximum(x, 0),
    "Sigmoid": lambda _, x: _sigmoid(x),
    "Sub": lambda _, a, b: a - b,
    "Swish": lambda attributes, x: x * _sigmoid(_real(attributes, "alpha", 1.0) * x),
    "Tanh": lambda _, x: np.tanh(x),
}

_LARGE = np.logspace(-37, 38, 751)
_POINTS: Values = np.concatenate([np.linspace(-30, 30, 2401), _LARGE, -_LARGE])
_KNOWN: Mapping[str, Callable[[Values], Values]] = {
    "sigmoid": _sigmoid,
    "silu": lambda x: x * _sigmoid(x),
    "quick_gelu": lambda x: x * _sigmoid(1.702 * x),
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "hard_sigmoid": _hard_sigmoid,
    "hard_swish": lambda x: x * _hard_sigmoid(x),
}
_SLACK = {"sigmoid": 0.0, "silu": 0.0, "quick_gelu": 0.0, "gelu": 1e-8, "gelu_tanh": 1e-8} | dict.fromkeys(
    ("hard_sigmoid", "hard_swish"), 1e-7
)
"""Largest difference beside TOLERANCE, as a share of |x|: what 1 + erf(x) or a slope of 1 / 6 in float32 loses."""
