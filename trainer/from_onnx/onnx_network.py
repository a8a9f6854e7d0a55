"""OnnxNetwork: an ONNX graph as a torch module, which holds a torch layer for each node with a weight of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from nested_sparse.errors import ExportError, InputError
from nested_sparse.graph.contract import LAYER_KINDS

from ..export.trace import OwnGraph, TracedGraph
from ..model.costs import CountsProducts
from ..model.dense_weight import DenseWeight
from ..model.layers import NestedLayer
from .convolutions import convolution
from .found import Found, fed_input
from .plan import Plan
from .products import product
from .products_left import flops_left
from .recurrent import recurrent
from .segments import Call, Value
from .taken import Taken
from .traced import traced_plan

FINDERS: Mapping[str, Any] = {
    "Conv": convolution,
    "ConvTranspose": convolution,
    "Gemm": product,
    "MatMul": product,
    "LSTM": recurrent,
    "GRU": recurrent,
}
"""By operator: (model, node, taken) to the layers that do the node's work, the reason why none do, or None."""
WHOLE_NUMBERS = ("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger")
"""Operators with weights that are whole numbers."""
WEIGHT_TYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)
PLAIN = nn.Module()
LEAST_WEIGHTS = 2
"""Sizes above 1 that a constant of the graph has to count as a weight."""


class OnnxNetwork(OwnGraph, CountsProducts):
    """The graph of an ONNX file. Its layers can be nested; it cannot be trained, as ONNX Runtime has no gradients.

    Where hooks watch the layers, they run one by one, and ONNX Runtime runs the segments between them.
    Else ONNX Runtime runs the whole graph as it is in the file, with the layers' weights of now: this is the reference
    that exports are compared with.

    runs: number of equal parts of the inputs, along dimension 0, that run apart: 1, but while samples are run through a
    graph with a fixed batch size.
    left_out: nodes and constants with weights that no module holds, and the reason.
    """

    def __init__(self, plan: Plan, modules: Mapping[str, nn.Module], left_out: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.plan = plan
        self.left_out = left_out or {}
        self.runs = 1
        self._products: Counter[str] | None = None
        for path, module in modules.items():
            *above, last = path.split(".")
            holder: nn.Module = self
            for part in above:
                holder = holder._modules.setdefault(part, nn.Module())  # type: ignore[assignment]
            holder._modules[last] = module
        self.eval()

    @staticmethod
    def of(model: ir.Model, batch: str, where: str) -> OnnxNetwork:
        """The network of a prepared graph, which becomes its own. batch, where: as of Plan."""
        inputs = len(model.graph.inputs)
        values = {value.name or "" for node in model.graph for value in node.outputs}
        taken = Taken(
            values | {*model.graph.initializers, *(each.name or "" for each in model.graph.inputs)}, _reserved
        )
        modules: dict[str, nn.Module] = {}
        found: list[Found] = []
        reasons: dict[str, str] = {}
        left_out: dict[str, str] = {}
        for node in list(model.graph):
            finder = FINDERS.get(node.op_type) if not node.domain else None
            each = None if finder is None else finder(model, node, taken)
            if isinstance(each, str):
                reasons |= {value.name or "": f"{node.op_type}: {each}" for value in node.inputs if value is not None}
            elif each is not None:
                found.append(each)
                modules |= each.modules
            elif node.op_type in WHOLE_NUMBERS and not node.domain:
                left_out[node.name or node.op_type] = (
                    f"{node.op_type} computes in whole numbers; quantise the model to QuantizeLinear and "
                    "DequantizeLinear (QDQ) in place of it, or nest the float32 model"
                )
        feeds = {name: feed for each in found for name, feed in each.feeds.items()}
        for name, value in list(model.graph.initializers.items()):
            if not value.uses():
                del model.graph.initializers[name]
            elif _is_weight(value):
                path, weight = _dense(value, reasons, taken)
                modules[path] = weight
                feeds |= {_fed(model, value, taken): lambda get, path=path: get(path).weight}  # type: ignore[misc]
            elif name in reasons:
                left_out[name] = reasons[name]
        return OnnxNetwork(Plan(model, found, feeds, inputs, batch, where), modules, left_out)

    @property
    def named_by(self) -> tuple[str, Sequence[str]]:
        """Its name in messages, and the nodes that can be nested."""
        return self.plan.where, [*FINDERS]

    @property
    def size_advice(self) -> str:
        """The next step where the graph fails on inputs of some sizes."""
        dims = [size for value in self.plan.inputs if value.shape is not None for size in value.shape.dims]
        names = [*dict.fromkeys(str(size) for size in dims if not isinstance(size, int))]
        if not names:
            return "export the model again"
        return (
            f"its inputs leave {', '.join(map(repr, names))} free, its graph perhaps does not; fix such a size with "
            f"the option sizes, e.g. sizes={{{names[0]!r}: 1}} (--size {names[0]}=1)"
        )

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The outputs in the order of the file, alone where it has one."""
        if torch.is_grad_enabled() and self.training:
            raise InputError(
                f"{self.plan.where}: a network from an ONNX file cannot be trained, as ONNX Runtime has no gradients; "
                "nest the torch model that it came from, or use nest_onnx"
            )
        if len(inputs) != len(self.plan.input_names):
            raise InputError(f"{self.plan.where}: expected {len(self.plan.input_names)} inputs, got {len(inputs)}")
        parts = [each.chunk(self.runs) if self.runs > 1 else (each,) for each in inputs]
        runs: list[dict[str, Value]] = [
            dict(zip(self.plan.input_names, self.given(each), strict=True)) for each in zip(*parts, strict=True)
        ]
        feeds = {name: feed(self.get_submodule) for name, feed in self.plan.feeds.items()}
        watched = any(_is_watched(self.get_submodule(path)) for each in self.plan.found for path in each.modules)
        with self.advised():
            answers = (
                self._by_layers(runs, feeds) if watched else [self.plan.whole.run({**run, **feeds}) for run in runs]
            )
        outputs = tuple(_joined([answer[name] for answer in answers], 0) for name in self.plan.output_names)
        return outputs[0] if len(outputs) == 1 else outputs

    def given(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The inputs of one run; those without dimensions may come with one, as rows of many runs."""
        values = zip(inputs, self.plan.inputs, strict=True)
        return tuple(
            each.reshape(()) if value.shape is not None and not value.shape.dims else each for each, value in values
        )

    @contextmanager
    def advised(self) -> Iterator[None]:
        """Context in which errors of ONNX Runtime name the file and the next step."""
        try:
            yield
        except ExportError as error:
            raise ExportError(f"{self.plan.where}: {error}; {self.size_advice}") from error

    def traced(self, examples: Sequence[Tensor], answer: Sequence[Tensor]) -> TracedGraph:
        """As of OwnGraph."""
        return traced_plan(self.plan, self, examples, answer)

    @contextmanager
    def counted(self, others: Counter[str]) -> Iterator[None]:
        """As of CountsProducts."""
        self._products = others
        try:
            yield
        finally:
            self._products = None

    def _count(self, product: ir.Node, values: Mapping[str, Value]) -> None:
        """Count the FLOPs of a node that multiplies in ONNX Runtime."""
        constants = self.plan.graph.graph.initializers

        def shape(value: ir.Value) -> Sequence[int]:
            name = value.name or ""
            found = values[name].shape if name in values else constants[name].shape
            return tuple(int(size) for size in found)  # type: ignore[union-attr, arg-type]

        inputs, outputs = (
            [shape(each) for each in part if each is not None and each.name]
            for part in (product.inputs, product.outputs)
        )
        assert self._products is not None
        self._products[product.name or product.op_type] += flops_left(product.op_type, inputs, outputs)

    def _by_layers(self, runs: list[dict[str, Value]], feeds: Mapping[str, Tensor]) -> list[dict[str, Value]]:
        held = [{**run, **feeds} for run in runs]
        for call in self.plan.calls:
            if call.segment is not None:
                for values in held:
                    values |= call.segment.run(values)
                    if call.product is not None and self._products is not None:
                        self._count(call.product, values)
            else:
                self._call_layer(call, held)
            for values in held:
                for name in call.gone:
                    values.pop(name, None)
        return held

    def _call_layer(self, call: Call, held: list[dict[str, Value]]) -> None:
        """One call of the layer for all runs, so that its hooks see all samples at once."""
        layer = self.get_submodule(call.path)
        given = [[values[name] for name in call.inputs] for values in held]
        kind = LAYER_KINDS.get(getattr(layer, "op", ""))
        recurs = kind is not None and kind.gates > 0
        dim = 1 if recurs else 0  # of the samples
        counts = [x.shape[dim] for x, *_ in given]
        alike = len({(x.shape[:dim], x.shape[dim + 1 :]) for x, *_ in given}) == 1 and given[0][0].ndim > 1
        if len(held) > 1 and alike:
            given = [[_joined(each, dim) for each in zip(*given, strict=True)]]
        answers = []
        for x, *state in given:
            answer = layer(x, *(half for each in state for half in each.unbind(0)))
            answers.append(answer if isinstance(answer, tuple) else (answer,))
        if len(answers) < len(held):  # of a recurrent layer, the second answer has no steps
            parts = [value.split(counts, dim if not place else 0) for place, value in enumerate(answers[0])]
            answers = list(zip(*parts, strict=True))
        for values, answer in zip(held, answers, strict=True):
            values |= zip(call.outputs, answer, strict=True)


def _reserved(name: str) -> bool:
    return hasattr(PLAIN, name) or name in vars(OnnxNetwork) or name in ("plan", "runs", "left_out")


def _is_watched(layer: nn.Module) -> bool:
    replaced = "forward" in layer.__dict__
    return bool(layer._forward_hooks or layer._forward_pre_hooks or replaced) or (
        isinstance(layer, NestedLayer) and layer.int8_ranges is not None
    )


def _is_weight(value: ir.Value) -> bool:
    tensor = value.const_value
    if tensor is None or tensor.dtype not in WEIGHT_TYPES:
        return False
    return sum(size > 1 for size in tensor.shape.numpy()) >= LEAST_WEIGHTS


def _dense(value: ir.Value, reasons: Mapping[str, str], taken: Taken) -> tuple[str, DenseWeight]:
    """A weight that stays as it is: its path and module."""
    node = next(iter(value.uses())).node
    why = reasons.get(value.name or "") or (
        f"{node.op_type} reads it in a branch or a loop; nodes of the main graph are nested"
        if node.graph is not value.graph
        else f"{node.op_type} reads it; {', '.join(FINDERS)} are nested"
    )
    assert value.const_value is not None
    return taken.path(node, value, by_weight=True), DenseWeight(
        torch.from_numpy(np.array(value.const_value.numpy())), why
    )


def _fed(model: ir.Model, value: ir.Value, taken: Taken) -> str:
    """Let an input take the place of a constant; its name."""
    name = value.name or ""
    assert value.const_value is not None
    tensor = value.const_value
    new = fed_input(model, taken.name(f"{name}.fed"), [*tensor.shape.numpy()], tensor.dtype)
    value.replace_all_uses_with(new)
    del model.graph.initializers[name]
    return new.name or ""


def _joined(values: Sequence[Value], dim: int) -> Value:
    return values[0] if len(values) == 1 or not values[0].ndim else torch.cat(list(values), dim)
