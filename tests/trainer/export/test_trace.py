"""Tracing: names and shapes of inputs and outputs, and errors that name the faulty module."""

from __future__ import annotations

import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from nested_sparse.errors import ExportError
from nested_sparse.trainer import nest
from nested_sparse.trainer.export.trace import TracedGraph, trace
from nested_sparse.trainer.model.forward_call import ForwardCall, answered

OPTIONS = {"input_names": None, "output_names": None, "fixed_batch": False}


class Wrapped(nn.Module):
    """A linear layer, then another module, so that the faulty module has a dotted path."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(8, 8), inner)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class Lambda(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Several(nn.Module):
    """Two inputs, further positional inputs, and three outputs, one of which is an input."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, left: Tensor, *others: Tensor) -> dict[str, object]:
        total = self.fc(left)
        for other in others:
            total = total + other
        return {"total": total, "parts": [left, total]}


class Clashing(nn.Module):
    """Parameters with the names of the graph's input and output."""

    def __init__(self) -> None:
        super().__init__()
        self.input = nn.Parameter(torch.randn(4))
        self.output = nn.Parameter(torch.randn(4))
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x * self.input) * self.output


def traced(model: nn.Module, *examples: Tensor, **options: object) -> TracedGraph:
    net = nest(model, densities=(0.5, 1.0)).eval()
    call = ForwardCall(net.model, examples)
    with torch.no_grad():
        answer = call.answer(net.model, call.tensors)
    return trace(net.model, call, answer, **{**OPTIONS, **options})


def shapes(graph: TracedGraph) -> list[tuple]:
    return [(spec.name, spec.dtype, spec.shape, spec.example_shape) for spec in (*graph.inputs, *graph.outputs)]


def test_one_input_and_output_have_the_default_names_and_a_free_batch() -> None:
    """The names are `input` and `output`; dimension 0 is free, although the example has size 1."""
    graph = traced(Wrapped(nn.ReLU()), torch.randn(1, 8))
    assert shapes(graph) == [
        ("input", "float32", (None, 8), (1, 8)),
        ("output", "float32", (None, 8), (1, 8)),
    ]


def test_several_have_the_names_of_the_parameters() -> None:
    """Inputs have forward's parameter names, *args with numbers; outputs have their keys, then list positions."""
    graph = traced(Several(), *(torch.randn(3, 4) for _ in range(3)))
    assert [spec.name for spec in graph.inputs] == ["left", "others_0", "others_1"]
    assert [spec.name for spec in graph.outputs] == ["total", "parts_0", "parts_1"]


def test_given_names_are_used() -> None:
    """The caller's names replace the defaults."""
    graph = traced(Wrapped(nn.ReLU()), torch.randn(2, 8), input_names=("pixels",), output_names=["logits"])
    assert [value.name for value in graph.model.graph.inputs] == ["pixels"]
    assert [value.name for value in graph.model.graph.outputs] == ["logits"]


def test_parameters_called_like_inputs_and_outputs_make_way() -> None:
    """Every value has its own name."""
    graph = traced(Clashing(), torch.randn(2, 4)).model.graph
    names = [value.name for value in graph.inputs] + list(graph.initializers)
    names += [value.name for node in ir.traversal.RecursiveGraphIterator(graph) for value in node.outputs]
    assert len(names) == len(set(names))
    assert {"input", "output"} <= set(names)


def test_fixed_batch_fixes_every_size() -> None:
    """With fixed_batch no dimension is free."""
    graph = traced(Wrapped(nn.ReLU()), torch.randn(1, 8), fixed_batch=True)
    assert shapes(graph) == [("input", "float32", (1, 8), (1, 8)), ("output", "float32", (1, 8), (1, 8))]


def test_no_nested_weight_enters_the_graph() -> None:
    """The traced graph holds no initializer of a nested layer."""
    assert not traced(Wrapped(nn.ReLU()), torch.randn(1, 8)).model.graph.initializers


FAILURES = {
    "data dependent": (lambda x: x if x.sum() > 0 else -x, r"'block\.1' \(Lambda\).*control flow depends on the data"),
    "no translation": (lambda x: torch.linalg.svd(x.mean(0, keepdim=True) + x)[1], r"'block\.1' \(Lambda\).*svd"),
    "fixed batch": (lambda x: x.view(2, 8) + 1, r"fixed_batch=True"),
    "python number": (lambda x: x * float(x.sum()), r"'block\.1' \(Lambda\).*cannot be traced"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_errors_name_the_module_at_fault(name: str) -> None:
    """The error is one readable line with the module, its operation and the next step."""
    function, message = FAILURES[name]
    with pytest.raises(ExportError, match=message) as caught:
        traced(Wrapped(Lambda(function)), torch.randn(2, 8))
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_batch_of_one_spelled_out_asks_for_fixed_batch() -> None:
    """A model that takes only one sample at a time gets this advice, and works with fixed_batch."""
    model = Wrapped(Lambda(lambda x: x.view(1, 8) * 2))
    with pytest.raises(ExportError, match="fixed_batch=True"):
        traced(model, torch.randn(1, 8))
    assert traced(model, torch.randn(1, 8), fixed_batch=True).inputs[0].shape == (1, 8)


@pytest.mark.parametrize("examples", [(torch.randn(2, 4), torch.randn(3, 4)), (torch.randn(2, 4), torch.tensor(1.0))])
def test_inputs_must_share_their_batch(examples: tuple[Tensor, ...]) -> None:
    """Inputs of different batch sizes, or without one, need fixed_batch."""
    net = nest(Several(), densities=(0.5,)).eval()
    with pytest.raises(ExportError, match=r"dimension 0 of every input.*fixed_batch=True"):
        trace(net.model, ForwardCall(net.model, examples), [((), torch.zeros(1))], **OPTIONS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_names": ("a", "b")}, r"input_names: expected 1 names, got \('a', 'b'\)"),
        ({"output_names": "output"}, "output_names: expected 1 names, got 'output'"),
        ({"input_names": ("x",), "output_names": ("x",)}, "'x' names two"),
        ({"input_names": ("__level__",)}, "'__level__' cannot name"),
        ({"output_names": ("__segment_3__",)}, "'__segment_3__' cannot name"),
        ({"output_names": ("",)}, "'' cannot name"),
    ],
)
def test_bad_names_are_refused(options: dict[str, object], message: str) -> None:
    """Names must be as many as the tensors, distinct, and not reserved by the runtime."""
    with pytest.raises(ExportError, match=message):
        traced(Wrapped(nn.ReLU()), torch.randn(2, 8), **options)


@pytest.mark.parametrize("answer", [3, (torch.zeros(1), 3), (), {"a": "b"}])
def test_answers_that_are_no_tensors_are_refused(answer: object) -> None:
    """forward must return only tensors."""
    with pytest.raises(ExportError, match="tensor"):
        answered(answer)


def test_other_dtypes_are_refused() -> None:
    """Nested layers compute in float32."""
    with pytest.raises(ExportError, match=r"'block\.0': nested layers compute in float32, got torch.float64"):
        traced(Wrapped(nn.ReLU()).double(), torch.randn(2, 8, dtype=torch.float64))
