"""Diagnosis: the reason why an exported file disagrees with torch, where it lies in the model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from nested_sparse.errors import ExportError

from ..model.forward_call import ForwardCall
from ..model.modes import module_stack, named
from ..model.preserved import preserved

ALIKE = 4.0
"""Largest ratio of the file's distance from float64 to that of torch's float32 for which the model is the reason."""

Arrays = Mapping[str, NDArray[Any]]


def diagnosis(
    model: nn.Module, call: ForwardCall, tensors: Sequence[Tensor], expected: Arrays, got: Arrays, tolerance: float
) -> str:
    """The trait of `model` that makes its file disagree, and the remedy, in words; "" where no such trait is found.

    Runs the model a few times at its current level: watched for random numbers, twice alike, and in float64.
    expected, got: answers of torch and of the file to `tensors`, by the outputs' names.
    tolerance: as of `export`.
    """
    with preserved(model) as state:
        with _watched(model) as seen:
            call.answer(model, tensors)
        if seen:
            return (
                f"the model is not deterministic: {seen[0]} in eval mode, and a file draws other numbers than torch; "
                "draw only where self.training holds, or make the numbers an input"
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
        return _conditioning(model, call, tensors, expected, got)


def _conditioning(model: nn.Module, call: ForwardCall, tensors: Sequence[Tensor], expected: Arrays, got: Arrays) -> str:
    try:
        double = copy.deepcopy(model).double()
        wide = [tensor.double() if tensor.is_floating_point() else tensor for tensor in tensors]
        exact = dict(zip(expected, _arrays(call.answer(double, wide)), strict=True))
    except Exception:  # some models run in float32 only
        return ""
    torchs, files = _largest(_pairs(exact, expected)), _largest(_pairs(exact, got))
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
def refused_autocast(model: nn.Module) -> Iterator[None]:
    """Context in which a forward of `model` that computes under autocast raises ExportError, which names the module."""
    with module_stack(model) as active, _Autocast(model, active):
        yield


class _Autocast(TorchFunctionMode):
    def __init__(self, model: nn.Module, active: Sequence[str]) -> None:
        super().__init__()
        self._model, self._active = model, active

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if any(torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda")):
            raise ExportError(
                f"{named(self._model, self._active[-1] if self._active else '')} computes under autocast, in less than "
                "float32, and a file computes in float32; leave autocast out of forward"
            )
        return func(*args, **(kwargs or {}))


@contextmanager
def _watched(model: nn.Module) -> Iterator[list[str]]:
    """Context that records, in words, each operation of `model` that draws random numbers."""
    with module_stack(model) as active, _Random(model, active) as random:
        yield random.found


class _Random(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, model: nn.Module, active: Sequence[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._model, self._active = model, active
        self.found: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags:
            where = named(self._model, self._active[-1] if self._active else "")
            self.found.append(f"{where} draws random numbers ({func})")
        return func(*args, **(kwargs or {}))
