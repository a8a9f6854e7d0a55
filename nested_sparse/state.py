"""State: the outputs of a model that are inputs of the next request of the same sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .excerpt import excerpt, excerpts
from .tensor_spec import TensorSpec

State = Mapping[str, str]
"""Name of an output -> name of the input that takes it at the next request. Empty: there is no state."""


def check_state(state: State, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    """Raise ValueError where an output of `state` cannot be its input, or no input is left to the client."""
    takes, gives = {spec.name: spec for spec in inputs}, {spec.name: spec for spec in outputs}
    for given, taken in state.items():
        for name, known, kind in ((given, gives, "output"), (taken, takes, "input")):
            if name not in known:
                raise ValueError(f"state: there is no {kind} '{excerpt(name)}'; expected {excerpts(known)}")
        if not _fits(gives[given], takes[taken]):
            raise ValueError(
                f"state: output '{excerpt(given)}', {_text(gives[given])}, cannot be input '{excerpt(taken)}', "
                f"{_text(takes[taken])}"
            )
    if len(set(state.values())) < len(state):
        raise ValueError("state: two outputs are given to one input")
    if state and len(state) == len(inputs):
        raise ValueError("state: every input is a state; expected one at least that each request brings")


def _fits(output: TensorSpec, taken: TensorSpec) -> bool:
    """Whether the output may fit the input. A size that is not fixed is checked at each request."""
    if output.dtype != taken.dtype or len(output.shape) != len(taken.shape):
        return False
    if output.batch_axis != taken.batch_axis and None not in (output.batch_axis, taken.batch_axis):
        return False
    pairs = zip(output.shape, taken.shape, strict=True)
    return all(got is None or wanted is None or got == wanted for got, wanted in pairs)


def _text(spec: TensorSpec) -> str:
    return f"{spec.dtype} {['any' if size is None else size for size in spec.shape]}".replace("'", "")
