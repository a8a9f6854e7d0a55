"""ExampleRun: one run of the model on the example inputs, before it is traced."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from nested_sparse.errors import ExportError

from ..model.costs import Costs, counted_costs
from ..model.forward_call import ForwardCall, answered
from ..model.modes import module_stack, named
from ..model.nested_model import NestedModel
from ..model.preserved import Preserved
from ..model.structure import Path
from .trace import reason
from .verify import disagreement

Answer = Sequence[tuple[Path, Tensor]]
"""The output tensors of a model, each with its path in the structure that forward returns."""


@dataclass(frozen=True, slots=True)
class ExampleRun:
    """answer: the model's answer. costs: multiplications of the run. writes_inputs: whether it changed its inputs."""

    answer: Answer
    costs: Costs
    writes_inputs: bool


def run_example(net: NestedModel, call: ForwardCall, state: Preserved, tolerance: float) -> ExampleRun:
    """The run of `net` at its present level; afterwards the model is put back to `state`.

    tolerance: as of `export`. Raises ExportError, also where the answer depends on earlier calls.
    """
    given = [tensor.clone() for tensor in call.tensors]
    try:
        with counted_costs(net) as costs, _refused_autocast(net.model):
            answer = [(place, tensor.detach().clone()) for place, tensor in answered(call.run(net.model, given))]
        changed = state.changed()
        if changed and not _alike(answer, call.answer(net.model, call.tensors), tolerance):
            state.restore()
            if _alike(answer, call.answer(net.model, call.tensors), tolerance):
                raise ExportError(
                    f"forward keeps state between calls: it changes {', '.join(map(repr, changed))} and answers "
                    "differently the next time, but a file keeps no state; make the state an input and an output"
                )
    except ExportError:
        raise
    except Exception as error:  # a model can raise errors of any class
        raise ExportError(f"the model fails on the example inputs {call.shapes}: {reason(error)}") from error
    finally:
        state.restore()
    writes_inputs = not all(torch.equal(one, other) for one, other in zip(given, call.tensors, strict=True))
    return ExampleRun(answer, costs, writes_inputs)


def _alike(first: Answer, second: Answer, tolerance: float) -> bool:
    pairs = zip(first, second, strict=True)
    return not any(disagreement(one.cpu().numpy(), other.cpu().numpy(), tolerance) for (_, one), (_, other) in pairs)


@contextmanager
def _refused_autocast(model: nn.Module) -> Iterator[None]:
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
