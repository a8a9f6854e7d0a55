"""Diagnosis: the reason why an exported file disagrees with torch, where it lies in the model."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..model.forward_call import ForwardCall
from ..model.modes import module_stack, named
from ..model.preserved import preserved

ALIKE = 4.0
"""Largest ratio of the file's distance from float64 to that of torch's float32 for which the model is the reason."""

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Answers:
    """The outputs of both sides, by name, to `inputs` at one level. expected: torch's; got: the file's."""

    level: int
    inputs: Sequence[Tensor]
    expected: Arrays
    got: Arrays


def diagnosis(model: nn.Module, call: ForwardCall, answers: Answers, tolerance: float) -> str:
    """The trait of `model` that makes its file disagree, and the remedy, in words; "" where no such trait is found.

    Runs the model a few times at its current level: watched for random numbers, twice alike, and in float64.
    answers: of torch and of the file. tolerance: as of `export`.
    """
    tensors = answers.inputs
    with preserved(model) as state:
        with _watched(model) as seen:
            call.answer(model, tensors)
        if seen.random:
            return (
                f"the model is not deterministic: {seen.random} in eval mode, and a file draws other numbers than "
                "torch; draw only where self.training holds, or make the numbers an input"
            )
        state.restore()
        first = _arrays(call.answer(model, tensors))
        state.restore()
        moved = _largest(zip(first, _arrays(call.answer(model, tensors)), strict=True))
        if moved > tolerance:
            return (
                f"the model is not deterministic: two runs of torch on the same inputs differ by {moved:.3g} of the "
                "largest magnitude; make forward depend on its inputs alone"
            )
        state.restore()
        return _no_numbers(answers) or seen.narrow or _conditioning(model, call, answers)


def _no_numbers(answers: Answers) -> str:
    """The reason where torch has NaN or infinity in places in which the file has numbers; "" where it has not.

    The other way round no trait of the model is at fault.
    """
    pairs = [pair for pair in _pairs(answers.expected, answers.got) if _comparable(*pair)]
    if all((np.isfinite(torchs) | ~np.isfinite(files)).all() for torchs, files in pairs):
        return ""
    if all(bool(tensor.isfinite().all()) for tensor in answers.inputs):
        return (
            "the model's values on these inputs leave the range of float32, where the order of the operations decides "
            "between NaN, infinity and a number; give examples of a size that the model will meet"
        )
    return (
        "the inputs hold NaN or infinity: torch multiplies them by the zeros of dropped weights, which makes NaN, and "
        "the file leaves dropped weights out; give examples of finite numbers"
    )


def _comparable(first: NDArray[Any], second: NDArray[Any]) -> bool:
    return first.shape == second.shape and np.issubdtype(first.dtype, np.floating)


def _conditioning(model: nn.Module, call: ForwardCall, answers: Answers) -> str:
    expected = answers.expected
    try:
        double = copy.deepcopy(model).double()
        wide = [tensor.double() if tensor.is_floating_point() else tensor for tensor in answers.inputs]
        exact = dict(zip(expected, _arrays(call.answer(double, wide)), strict=True))
    except Exception:  # some models run in float32 only
        return ""
    torchs, files = _largest(_pairs(exact, expected)), _largest(_pairs(exact, answers.got))
    if not 0 < files <= ALIKE * torchs:
        return ""
    return (
        f"the model is badly conditioned: torch's own answer in float32 is {torchs:.3g} of the largest magnitude away "
        f"from its answer in float64, and the file's is {files:.3g} away; raise `tolerance` above both, or find the "
        "part of the model that amplifies rounding errors"
    )


def _pairs(first: Arrays, second: Arrays) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    return ((array, second[name]) for name, array in first.items())


def _largest(pairs: Any) -> float:
    """The largest difference of two arrays, as a share of the largest magnitude; of integers, the differing share."""
    largest = 0.0
    for first, second in pairs:
        if first.shape != second.shape or not first.size:
            continue
        if not np.issubdtype(first.dtype, np.floating):
            largest = max(largest, float((first != second).mean()))
            continue
        finite = np.isfinite(first) & np.isfinite(second)
        magnitude = float(np.abs(first[finite]).max(initial=0.0)) or 1.0
        error = float(np.abs(first[finite].astype(np.float64) - second[finite]).max(initial=0.0))
        largest = max(largest, error / magnitude)
    return largest


def _arrays(answer: Sequence[tuple[Any, Tensor]]) -> list[NDArray[Any]]:
    return [tensor.detach().cpu().numpy().copy() for _, tensor in answer]


@contextmanager
def _watched(model: nn.Module) -> Iterator[_Watch]:
    """Context whose operations of `model` are noted."""
    with module_stack(model) as active, _Watch(model, active) as watch:
        yield watch


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the first operation of `model` that draws random numbers, and the first one below float32, in words."""

    def __init__(self, model: nn.Module, active: Sequence[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._model, self._active = model, active
        self.random = self.narrow = ""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if not self.random and _draws(func, args, kwargs or {}):
            self.random = f"{self._where()} draws random numbers ({func})"
        made = result[0] if isinstance(result, tuple) and result else result
        if not self.narrow and isinstance(made, Tensor) and made.dtype in (torch.float16, torch.bfloat16):
            dtype = str(made.dtype).removeprefix("torch.")
            self.narrow = (
                f"{self._where()} computes in {dtype} ({func}), where torch and the file round at different places; "
                "compute in float32, or raise `tolerance`"
            )
        return result

    def _where(self) -> str:
        return named(self._model, self._active[-1] if self._active else "")


def _draws(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Whether an operation draws random numbers. Attention has torch's tag for its dropout, which it mostly lacks."""
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return False
    for place, each in enumerate(func._schema.arguments):
        if each.name == "dropout_p":
            given = args[place] if place < len(args) else each.default_value
            return bool(kwargs.get(each.name, given) > 0)
    return True
