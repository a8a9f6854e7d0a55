"""Coupling: the groups of layers that share channels, found by following values from layer to layer (torch.fx).

Norms, activations, pooling, dropout and depthwise convolutions pass channels on. A sum joins the channels of its terms
into one group. A flattened image has some consecutive features per channel. An unknown operation ends a group, and the
group's channels then stay whole. A mistake here can only cost accuracy or density: any choice of channels is a valid
mask, and the exported model is the trained one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import fx, nn

from nested_sparse.coupled import ChannelGroup

from .attention import ProjectedAttention
from .flow import Channels, Flow, operation, passed
from .layers import NestedLayer
from .norm import LevelBatchNorm
from .own_forward import OwnForward
from .stepped import Stepped


@dataclass(frozen=True, slots=True)
class Coupling:
    """The result of `couple`.

    groups: all groups of channels. alone: layers that are in no group, with the reason; their channels are chosen for
    each layer separately.
    """

    groups: tuple[ChannelGroup, ...]
    alone: dict[str, str]

    def lines(self) -> list[str]:
        """The groups that stay whole and the layers in no group, with the reasons, one line each."""
        whole = [group for group in self.groups if group.whole and group.producers]
        lines = [f"whole: {group.channels} channels of {', '.join(group.producers)}: {group.whole}" for group in whole]
        return lines + [f"channels not coupled: {name}: {reason}" for name, reason in self.alone.items()]


def couple(model: nn.Module) -> Coupling:
    """Find the groups of a nested model's layers, and set each layer's `writes` and `reads`.

    Dimension 0 of the model's inputs must be the batch. A layer that the trace does not reach is not changed; if the
    model cannot be traced, no layer is.
    """
    layers = {module.name: module for module in model.modules() if isinstance(module, NestedLayer)}
    root = nn.Sequential(model) if isinstance(model, NestedLayer) else model
    try:
        graph = _trace(root)
    except Exception as error:  # tracing runs the model's own code, which may raise anything
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return Coupling((), dict.fromkeys(layers, f"the model cannot be traced ({reason})"))
    walk = _Walk(root, layers.values())
    for node in graph.nodes:
        walk.visit(node)
    return walk.finish(layers.values())


def _trace(root: nn.Module) -> fx.Graph:
    """The graph of calls in `root`; it also looks into the user's modules without children, where that works."""
    try:
        return _Tracer(closed=False).trace(root)
    except Exception:  # as above
        return _Tracer(closed=True).trace(root)


class _Tracer(fx.Tracer):
    """Tracer of a nested model. closed: whether every module without children is one call."""

    def __init__(self, *, closed: bool) -> None:
        super().__init__()
        self._closed = closed

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether the module is a leaf: a nested layer, a level norm, attention, a stepped network, or of torch.nn."""
        ours = isinstance(m, NestedLayer | LevelBatchNorm | ProjectedAttention | Stepped)
        closed = self._closed and (isinstance(m, OwnForward) or not any(m.children()))
        return ours or closed or super().is_leaf_module(m, module_qualified_name)


class _Walk:
    """One pass over the graph. A node's value is a Flow, a text with the reason for having none, or None: no tensor."""

    def __init__(self, root: nn.Module, layers: Iterable[NestedLayer]) -> None:
        self._modules = dict(root.named_modules(remove_duplicate=False))
        self._values: dict[fx.Node, Flow | str | None] = {}
        self._rows: dict[int, Channels] = {}
        self._columns: dict[int, Flow] = {}
        for layer in layers:  # layers that share a weight share its rows
            rows = self._rows.setdefault(id(layer.values), Channels(layer.values.shape[0]))
            rows.producers[layer.name] = 1 if layer.dense else layer.layout.row_step

    def finish(self, layers: Iterable[NestedLayer]) -> Coupling:
        """Give each layer its groups."""
        found, alone = dict[ChannelGroup, None](), dict[str, str]()
        for layer in layers:
            columns = self._columns.get(id(layer.values))
            if columns is None:
                alone[layer.name] = "the trace does not reach it"
                continue
            layer.writes, layer.reads = self._rows[id(layer.values)].root.finished(), columns.group.root.finished()
            found |= {layer.writes: None, layer.reads: None}
        return Coupling(tuple(found), alone)

    def visit(self, node: fx.Node) -> None:
        """Compute the node's value."""
        inputs = [self._values[source] for source in node.all_input_nodes]
        tensors = [value for value in inputs if value is not None]
        if node.op == "call_module":
            self._values[node] = self._of_module(node, self._modules[str(node.target)], tensors)
        elif node.op == "placeholder":
            self._values[node] = "an input of the model"
        elif node.op == "get_attr":
            self._values[node] = "a parameter"
        elif node.op == "output":
            self._values[node] = _end(tensors, "an output of the model")
        elif _is_size(node) or not tensors:
            self._values[node] = None
        else:
            self._values[node] = _of_operation(node, None, tensors)

    def _of_module(self, node: fx.Node, module: nn.Module, tensors: list[Flow | str]) -> Flow | str:
        value = tensors[0] if len(tensors) == 1 else _end(tensors, "read together with others")
        if isinstance(module, NestedLayer):
            return self._of_layer(module, value) if module.groups == 1 else self._of_groups(module, value)
        if isinstance(module, LevelBatchNorm) and module.plain and isinstance(value, Flow):
            if not value.is_read_as(int(module.norms[0].num_features)):  # type: ignore[arg-type]
                return _end([value], f"norm {node.target!r} reads another dimension")
            value.group.root.norms[str(node.target)] = None
            return value
        return _of_operation(node, module.norms[0] if isinstance(module, LevelBatchNorm) else module, tensors)

    def _of_layer(self, layer: NestedLayer, value: Flow | str) -> Flow:
        """The flow of the layer's rows. The channels that the layer reads join the channels of `value`."""
        dim, features = layer.channel_dim, layer.values.shape[1]
        if isinstance(value, Flow) and value.dim == dim and value.is_read_as(features):
            read = value
        else:
            reason = _end([value], f"{layer.name} reads another dimension")
            read = Flow(Channels(features, reason), dim)
        before = self._columns.setdefault(id(layer.values), read)
        if before.channels == read.channels:
            before.group.join(read.group)
        else:
            _end([before, read], f"{layer.name} reads them in two ways")
        before.group.root.consumers[layer.name] = None
        return Flow(self._rows[id(layer.values)], dim)

    def _of_groups(self, conv: NestedLayer, value: Flow | str) -> Flow:
        """The flow of the rows of a convolution in groups.

        The rows are the channels of `value` if row i reads channel i; else both stay whole.
        """
        dim, rows = conv.channel_dim, self._rows[id(conv.values)]
        row_count, of_group = conv.values.shape[:2]
        own = Channels(of_group, "a convolution in groups")
        own.consumers[conv.name] = None
        self._columns.setdefault(id(conv.values), Flow(own, dim))
        depthwise = of_group == 1 and conv.groups == row_count
        if depthwise and isinstance(value, Flow) and (value.dim, value.channels) == (dim, row_count):
            rows.join(value.group)
        else:
            rows.keep_whole(f"{conv.name} is a convolution in groups")
            _end([value], f"{conv.name} is a convolution in groups")
        return Flow(rows, dim)


def _of_operation(node: fx.Node, module: nn.Module | None, tensors: list[Flow | str]) -> Flow | str:
    """The value of any other module, function or method."""
    flows = [value for value in tensors if isinstance(value, Flow)]
    found = passed(operation(node, module), node, module, flows) if flows and len(flows) == len(tensors) else None
    name = f"{type(module).__name__} {node.target}" if module else getattr(node.target, "__name__", node.target)
    return found or _end(tensors, f"{name} is not known to pass channels on")


def _end(values: Iterable[Flow | str], reason: str) -> str:
    """Keep the incoming groups whole; returns the reason why the result is not a Flow."""
    for value in values:
        if isinstance(value, Flow):
            value.group.keep_whole(reason)
    return next((value for value in values if isinstance(value, str)), reason)


def _is_size(node: fx.Node) -> bool:
    """Whether the node's value is a size, not a tensor."""
    asked = node.args[1] if node.target is getattr else node.target
    return asked in ("size", "shape", "dim", "ndim")
