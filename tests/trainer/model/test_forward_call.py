"""Forward calls: inputs and outputs that are missing, nested, keywords, dicts, named tuples, dataclasses."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nested_sparse.errors import ExportError
from nested_sparse.runtime import Session
from nested_sparse.trainer import NestedModel, export, nest
from nested_sparse.trainer.model.forward_call import ForwardCall, answered
from nested_sparse.trainer.model.structure import output_names, tensors_in, with_tensors

CACHE = ((torch.ones(2, 3), torch.zeros(2, 3)), (torch.full((2, 3), 2.0), torch.full((2, 3), 3.0)))


@dataclass
class Answer:
    """As a forward of today answers: a dataclass that torch's pytrees know nothing of."""

    logits: Tensor
    loss: Tensor | None = None
    past_key_values: Any = None


@dataclass
class ModelOutput(OrderedDict):  # type: ignore[type-arg]
    """As Hugging Face's: a dict and a dataclass at once, without the fields that are None."""

    logits: Tensor | None = None
    past_key_values: Any = None

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) is not None:
                self[field.name] = getattr(self, field.name)


class Pair(NamedTuple):
    best: Tensor
    rest: Tensor | None


class Decoder(nn.Module):
    """Optional inputs, some skipped, a nested cache, and an answer by name."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(
        self,
        hidden: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        *,
        scale: float = 1.0,
        return_dict: bool = True,
    ) -> Any:
        y = self.fc(hidden) * scale
        if attention_mask is not None:
            y = y * attention_mask
        cache = None
        if past_key_values is not None:
            cache = tuple((key + y, value - y) for key, value in past_key_values)
        return ModelOutput(y, cache) if return_dict else (y, cache)


class Answers(nn.Module):
    """A model that answers with `make` of a layer's output."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self.fc, self.make = nn.Linear(4, 3), make

    def forward(self, x: Tensor) -> Any:
        return self.make(self.fc(x))


def session_of(net: NestedModel, examples: tuple[Any, ...], folder: Path, **options: Any) -> Session:
    return Session(export(net, examples, folder / "net.safetensors", **options), threads=1)


HIDDEN = torch.linspace(-1, 1, 8).reshape(2, 4)


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda y: (y, None), ["output"]),
        (lambda y: (y, None, (y + 1, None)), ["output_0", "output_1"]),
        (lambda y: {"logits": y, "aux": None, "parts": [y + 1, y + 2]}, ["logits", "parts_0", "parts_1"]),
        (lambda y: Pair(y, None), ["best"]),
        (lambda y: Pair(y, y + 1), ["best", "rest"]),
        (
            lambda y: Answer(y, past_key_values=((y + 1, y + 2),)),
            ["logits", "past_key_values_0_0", "past_key_values_0_1"],
        ),
        (lambda y: ModelOutput(y), ["logits"]),
        (lambda y: [{"boxes": y}, {"boxes": y + 1}], ["output_0_boxes", "output_1_boxes"]),
        (lambda y: {0: y, 1: y + 1}, ["output_0", "output_1"]),
    ],
)
def test_answers_of_every_kind_are_exported(make: Any, names: list[str], tmp_path: Path) -> None:
    """None is left out, keys and fields are names; the file answers as torch does."""
    net = nest(Answers(make), densities=(0.5, 1.0)).eval()
    with session_of(net, (HIDDEN,), tmp_path) as session, torch.no_grad():
        assert [spec.name for spec in session.outputs] == names
        expected = [tensor for _, tensor in tensors_in(net(HIDDEN))]
        for array, tensor in zip(session.run({"input": HIDDEN.numpy()}).values(), expected, strict=True):
            np.testing.assert_allclose(array, tensor, atol=1e-6)


def test_skipped_and_nested_inputs_have_names(tmp_path: Path) -> None:
    """A None among the examples is left out; a nested cache is named by forward's parameter and the way into it."""
    net = nest(Decoder(), densities=(0.5, 1.0)).eval()
    inside = ["past_key_values_0_0", "past_key_values_0_1", "past_key_values_1_0", "past_key_values_1_1"]
    with session_of(net, (HIDDEN, None, CACHE), tmp_path) as session, torch.no_grad():
        assert [spec.name for spec in session.inputs] == ["hidden", *inside]
        assert [spec.name for spec in session.outputs] == ["logits", *(f"output_{name}" for name in inside)]
        feeds = {"hidden": HIDDEN.numpy()}
        feeds |= {name: tensor.numpy() for name, (_, tensor) in zip(inside, tensors_in(CACHE), strict=True)}
        expected = [tensor for _, tensor in tensors_in(net(HIDDEN, None, CACHE))]
        for array, tensor in zip(session.run(feeds).values(), expected, strict=True):
            np.testing.assert_allclose(array, tensor, atol=1e-6)


def test_keyword_inputs_are_a_dict_at_the_end(tmp_path: Path) -> None:
    """As torch.onnx.export has it; numbers and flags among them are part of the graph."""
    net = nest(Decoder(), densities=(0.5, 1.0)).eval()
    mask = torch.tensor([[1.0], [0.0]])
    examples = (HIDDEN, {"attention_mask": mask, "scale": 2.0, "return_dict": False})
    with session_of(net, examples, tmp_path, output_names=("scores",)) as session, torch.no_grad():
        assert [spec.name for spec in session.inputs] == ["hidden", "attention_mask"]
        got = session.run({"hidden": HIDDEN.numpy(), "attention_mask": mask.numpy()})
        np.testing.assert_allclose(got["scores"], net(HIDDEN, mask, scale=2.0).logits, atol=1e-6)


def test_a_dict_that_forward_takes_is_told_from_keywords() -> None:
    """By its keys; an empty dict behind settles it."""

    class Takes(nn.Module):
        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            return batch["x"]

    model, x = Takes(), torch.ones(2, 3)
    assert ForwardCall(model, ({"x": x},)).names == ["batch_x"]
    assert ForwardCall(model, ({"batch": {"x": x}},)).names == ["batch_x"]
    assert ForwardCall(model, ({"batch": x}, {})).names == ["batch_batch"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda y: torch.complex(y, y), r"returns a complex tensor \(torch\.complex64\).*view_as_real"),
        (lambda y: {"spectrum": torch.complex(y, y)}, r"complex tensor 'spectrum'"),
        (lambda y: {"y": y, "n": 3}, r"got int at 'n'"),
        (lambda y: None, "returns no tensor"),
    ],
)
def test_answers_that_no_file_holds_are_refused_before_writing(make: Any, message: str, tmp_path: Path) -> None:
    """By name, and with nothing written."""
    net = nest(Answers(make), densities=(0.5, 1.0)).eval()
    with pytest.raises(ExportError, match=message):
        export(net, (HIDDEN,), tmp_path / "net.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ((None,), "holds no tensor"),
        ((torch.ones(2, 3, dtype=torch.complex64),), r"example_inputs\[0\] is torch\.complex64.*view_as_real"),
        (
            (torch.ones(2, 3), {"scale": [np.ones(2)]}),
            r"example_inputs\[1\]\['scale'\]\[0\] must be a tensor, got ndarray",
        ),
        ((torch.ones(2, 3).to_sparse(),), "not a dense tensor"),
        ((torch.ones(2, 3, device="meta"),), "'meta'"),
    ],
)
def test_bad_arguments_are_named(examples: tuple[Any, ...], message: str) -> None:
    """Where in the examples it sits, and what to do."""
    with pytest.raises(ExportError, match=message):
        ForwardCall(Decoder(), examples)


def test_structures_are_rebuilt_with_other_tensors() -> None:
    """Every container keeps its kind, every other value its place; the original is untouched."""
    value = {"a": (torch.ones(1), [None, 3]), "b": Pair(torch.ones(2), None), "c": Answer(torch.ones(3))}
    doubled = with_tensors(value, lambda tensor: 2 * tensor)
    assert [float(tensor.sum()) for _, tensor in tensors_in(doubled, beside=(int,))] == [2, 4, 6]
    assert [float(tensor.sum()) for _, tensor in tensors_in(value, beside=(int,))] == [1, 2, 3]
    assert (type(doubled["b"]), type(doubled["c"]), doubled["a"][1]) == (Pair, Answer, [None, 3])


def test_names_that_an_input_has_make_way() -> None:
    """An output called as an input gets a name of its own; without keys they are numbered."""
    assert output_names([("x",), ("y",)], taken=["x"]) == ["output_x", "y"]
    assert output_names([(0,), (1, 0), (1, 1)], taken=[]) == ["output_0", "output_1", "output_2"]
    assert [path for path, _ in answered((torch.ones(1), {"k": torch.ones(1)}))] == [(0,), (1, "k")]
