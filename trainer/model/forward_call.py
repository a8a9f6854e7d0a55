"""ForwardCall: a call of a model's forward as a function from tensors to tensors."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nested_sparse.errors import ExportError

from .structure import CONSTANTS, Path, parts_of, tensors_in, with_tensors, written


class ForwardCall:
    """The arguments of a forward: their tensors, and the containers and constants around them.

    examples: a tuple of forward's arguments: tensors, None, numbers, strings, and tuples, lists, dicts and dataclasses
        of these. A last dict whose keys are forward's parameters holds keyword arguments, as in torch.onnx.export; an
        empty dict after it makes it a positional argument.
    tensors: copies of the examples' tensors. names: a name for each: forward's parameter and the path inside it;
        `input` for a single argument. paths: place of each: 0 and its position, or 1 and its keyword, then the path
        inside the argument.
    Raises ExportError.
    """

    def __init__(self, model: nn.Module, examples: object) -> None:
        if not isinstance(examples, tuple | list) or not examples:
            raise ExportError(f"example_inputs must be a tuple of tensors, e.g. (x,), got {type(examples).__name__}")
        for index, example in enumerate(examples):
            _check_argument(example, f"example_inputs[{index}]")
        self.arguments, self.keywords = _split(model, tuple(examples))
        found = list(tensors_in((self.arguments, self.keywords), beside=CONSTANTS))
        if not found:
            raise ExportError("example_inputs holds no tensor: expected at least one, because a file needs an input")
        self.tensors = tuple(tensor.detach().clone() for _, tensor in found)
        self.paths = [path for path, _ in found]
        self.names = _names(model, self.paths)

    @property
    def shapes(self) -> list[list[int]]:
        """Shapes of the tensors."""
        return [list(tensor.shape) for tensor in self.tensors]

    def run(self, model: nn.Module, tensors: Sequence[Tensor]) -> Any:
        """The answer of `model` to the call with `tensors`; the model may change them."""
        rest = iter(tensors)
        arguments, keywords = with_tensors((self.arguments, self.keywords), lambda _: next(rest))
        return model(*arguments, **keywords)

    def answer(self, model: nn.Module, tensors: Sequence[Tensor]) -> list[tuple[Path, Tensor]]:
        """The tensors of the model's answer, with their paths; `tensors` are not changed. Raises ExportError."""
        return answered(self.run(model, [tensor.clone() for tensor in tensors]))

    def flat(self, model: nn.Module, *, copied: bool) -> nn.Module:
        """A module from the call's tensors to a tuple of tensors; its only child is `model`.

        copied: whether the model gets copies of its inputs, because it writes into them.
        """
        return _Flat(self, model, copied)


class _Flat(nn.Module):
    def __init__(self, call: ForwardCall, model: nn.Module, copied: bool) -> None:
        super().__init__()
        self.model = model
        self._call, self._copied = call, copied
        self.training = model.training

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        given = [tensor.clone() for tensor in tensors] if self._copied else tensors
        return tuple(tensor for _, tensor in answered(self._call.run(self.model, given)))


def answered(answer: Any) -> list[tuple[Path, Tensor]]:
    """The tensors of a forward's answer, with their paths, without None. Raises ExportError for other values."""
    try:
        found = list(tensors_in(answer))
    except TypeError as error:
        raise ExportError(
            f"forward must return tensors (alone, or in tuples, lists, dicts, dataclasses), got {error}"
        ) from None
    if not found:
        raise ExportError("forward returns no tensor")
    for path, tensor in found:
        if tensor.is_complex():
            where = f" {written(path)!r}" if path else ""
            raise ExportError(
                f"forward returns a complex tensor{where} ({tensor.dtype}), which a file cannot hold; return "
                "torch.view_as_real of it, or its real and imaginary part"
            )
    return found


def _check_argument(value: Any, place: str) -> None:
    if isinstance(value, Tensor):
        if value.numel() == 0:
            raise ExportError(f"{place} is empty: {list(value.shape)}")
        if value.is_complex() or value.dtype == torch.bfloat16:
            how = "torch.view_as_real of it" if value.is_complex() else "it as .float()"
            raise ExportError(f"{place} is {value.dtype}, which a file's inputs cannot be; pass {how}")
        if value.layout != torch.strided or value.is_quantized or value.is_nested:
            raise ExportError(f"{place} is not a dense tensor ({value.layout}); pass a dense one")
        if value.device.type == "meta":
            raise ExportError(f"{place} is on the device 'meta' and has no values; pass a tensor with values")
        return
    parts = parts_of(value)
    if parts is not None:
        for key, part in parts:
            _check_argument(part, f"{place}[{key!r}]")
    elif value is not None and not isinstance(value, CONSTANTS):
        raise ExportError(f"{place} must be a tensor, got {type(value).__name__}")


def _split(model: nn.Module, examples: tuple[Any, ...]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of `examples`."""
    last = examples[-1]
    if not isinstance(last, Mapping) or not all(isinstance(key, str) for key in last):
        return examples, {}
    parameters = inspect.signature(model.forward).parameters.values()
    by_name = {each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)}
    free = any(each.kind is each.VAR_KEYWORD for each in parameters)
    if set(last) <= by_name or (free and last.keys() & by_name):
        return examples[:-1], dict(last)
    return examples, {}


def _names(model: nn.Module, paths: Sequence[Path]) -> list[str]:
    """`input` for a single argument, else forward's parameters, followed by keys and positions inside them."""
    if len(paths) == 1 and len(paths[0]) == 2 and paths[0][0] == 0:
        return ["input"]
    parameters = list(inspect.signature(model.forward).parameters.values())
    positional = [each for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    rest = next((each.name for each in parameters if each.kind is each.VAR_POSITIONAL), "input")
    names = []
    for kind, first, *inner in paths:
        if kind == 0 and isinstance(first, int):
            position = first - len(positional)
            named: Path = (positional[first].name,) if position < 0 else (rest, position)
        else:
            named = (first,)
        names.append(written((*named, *inner)))
    return names
