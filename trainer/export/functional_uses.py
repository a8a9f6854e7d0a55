"""Functional uses: calls in a traced program that compute the same as an operator of ours, from values of a level.

F.linear(x, layer.weight, layer.bias) is the layer; batch_norm with the tensors of a level norm is that norm. For any
other operation on a level's weight there is no sparse operator: it is refused, with its name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from nested_sparse.errors import ExportError
from nested_sparse.graph.contract import LINEAR

from .placeholder import LEVEL_NORM, LEVEL_VALUE, LEVEL_WEIGHT, LevelValues, bias_name

_SYMBOLIC = "onnx_symbolic._symbolic.default"  # torch.onnx.ops.symbolic calls it
_FLOAT = 1  # ONNX's number of float32
_ATEN = torch.ops.aten


def recognise(program: torch.export.ExportedProgram, values: LevelValues, epsilons: Mapping[str, float]) -> None:
    """Put LINEAR and LEVEL_NORM nodes in place of such calls, in `program`.

    values: every level's tensors, by name. epsilons: epsilon of each level norm, by dotted path. Raises ExportError.
    """
    graph = program.graph
    for node in list(graph.nodes):
        if node.target is _ATEN.linear.default and _is_leaf(node.args[1], LEVEL_WEIGHT):
            _replace(program, node, _linear(graph, node, values))
        elif node.target is _ATEN.batch_norm.default:
            path = _norm_of(node, values, epsilons)
            if path is not None:
                _replace(program, node, _ours(graph, node, LEVEL_NORM, path, node.args[3]))
    graph.eliminate_dead_code()
    for node in graph.nodes:
        if _is_leaf(node, LEVEL_WEIGHT):
            _refuse(node)
    program.graph_module.recompile()


def _is_leaf(node: Any, operator: str) -> bool:
    return isinstance(node, fx.Node) and str(node.target) == _SYMBOLIC and node.args[1] == operator and not node.args[0]


def _name(node: fx.Node) -> str:
    """The attribute `layer` of one of our nodes."""
    names: Any = node.kwargs["attr_strs"]
    return str(names[0])


def _norm_of(node: fx.Node, values: LevelValues, epsilons: Mapping[str, float]) -> str | None:
    """Dotted path of the level norm whose tensors a batch_norm reads, each in its place; None where no norm fits."""
    x, *tensors, training, _, eps, _ = node.args
    given: dict[str, Any] = dict(zip(("weight", "bias", "running_mean", "running_var"), tensors, strict=True))
    if training or not _is_leaf(given["running_mean"], LEVEL_VALUE):
        return None
    path = _name(given["running_mean"]).removesuffix(".running_mean")
    for key, value in given.items():
        expected = f"{path}.{key}" if f"{path}.{key}" in values else None
        if (_name(value) if _is_leaf(value, LEVEL_VALUE) else value) != expected:
            return None
    assert isinstance(x, fx.Node)
    return path if eps == epsilons.get(path) and x.meta["val"].dtype == torch.float32 else None


def _linear(graph: fx.Graph, node: fx.Node, values: LevelValues) -> fx.Node:
    """The layer. Where F.linear adds another bias than the layer's own, that bias takes the place of its own.

    The operator always adds the layer's own bias, so it is subtracted again.
    """
    weight, bias = node.args[1], (*node.args, None)[2]
    assert isinstance(weight, fx.Node)
    layer = _name(weight)
    own = bias_name(layer) if bias_name(layer) in values else None
    answer = _ours(graph, node, LINEAR, layer, weight)
    if own == (_name(bias) if _is_leaf(bias, LEVEL_VALUE) else bias):  # type: ignore[arg-type]
        return answer
    with graph.inserting_before(node):
        if own is not None:
            leaf = graph.call_function(
                _function(weight), ([], LEVEL_VALUE, _FLOAT), _named(weight, own, [values[own].shape[1]])
            )
            leaf.meta["val"] = weight.meta["val"][:, 0]
            answer = _elementwise(graph, node, _ATEN.sub.Tensor, answer, leaf)
        return answer if bias is None else _elementwise(graph, node, _ATEN.add.Tensor, answer, bias)


def _function(node: fx.Node) -> Callable[..., Any]:
    assert callable(node.target)
    return node.target


def _elementwise(graph: fx.Graph, like: fx.Node, target: Any, *args: Any) -> fx.Node:
    node = graph.call_function(target, args)
    node.meta = dict(like.meta)
    return node


def _ours(graph: fx.Graph, node: fx.Node, operator: str, name: str, leaf: fx.Node) -> fx.Node:
    """A node of one of our operators before `node`, with its first input and the shape of its output."""
    x = node.args[0]
    assert isinstance(x, fx.Node)
    with graph.inserting_before(node):
        shape = [
            size if isinstance(size, int) else _size(graph, x, axis) for axis, size in enumerate(node.meta["val"].shape)
        ]
        ours = graph.call_function(_function(leaf), ([x], operator, _FLOAT), _named(leaf, name, shape))
    ours.meta = dict(node.meta)
    return ours


def _size(graph: fx.Graph, x: fx.Node, axis: int) -> fx.Node:
    size = graph.call_function(_ATEN.sym_size.int, (x, axis))
    size.meta["val"] = x.meta["val"].shape[axis]
    return size


def _named(leaf: fx.Node, name: str, shape: Sequence[Any]) -> dict[str, Any]:
    """Keywords of a node with the one attribute `layer`, as those of `leaf`."""
    return {**leaf.kwargs, "shape": list(shape), "attr_strs": [name]}


def _replace(program: torch.export.ExportedProgram, old: fx.Node, new: fx.Node) -> None:
    old.replace_all_uses_with(new)
    program.graph_signature.replace_all_uses(old.name, new.name)
    program.graph.erase_node(old)


def _refuse(weight: fx.Node) -> None:
    """Raise ExportError for operations on a sparse weight that no sparse operator can do."""
    layer, readers = _name(weight), list(_readers(weight))
    raise ExportError(
        f"layer {layer!r} is nested, but forward reads its weight past the layer, in {', '.join(readers)}; sparse "
        "operators exist only for calls of the layer, and for F.linear with its unchanged weight; call the layer, or "
        f"nest with keep_dense=({layer!r},)"
    )


def _readers(weight: fx.Node) -> Iterator[str]:
    """Each operation that reads the weight, and its module, in words."""
    for user in weight.users:
        stack = list((user.meta.get("nn_module_stack") or {}).values())
        where = stack[-1][0] if stack and stack[-1][0] else "the model"
        yield f"{getattr(user.target, '_overloadpacket', user.target)} of {where}"
