"""SequenceStep: the sequence that a request belongs to, and its place there, as its parameters say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nested_sparse.errors import InputError
from nested_sparse.proto.messages import InferParameter

from ..protocol.parameters import INTEGER_KINDS, SEQUENCE, kind_of

ID, START, END = SEQUENCE
ID_KINDS = (*INTEGER_KINDS, "string_param", "double_param")
MOST_ID_BYTES = 128
"""Of an id that is a text, in UTF-8: as Triton's."""


@dataclass(frozen=True, slots=True)
class SequenceStep:
    """One request of a sequence. id: the client's name for it. starts, ends: it is the first, or the last."""

    id: int | str
    starts: bool = False
    ends: bool = False

    def __str__(self) -> str:
        return f"sequence {self.id!r}"


def read_step(parameters: Mapping[str, InferParameter]) -> SequenceStep | None:
    """The step that a request's parameters name; None for a request of no sequence, as with the id 0 or "".

    Raises InputError for a parameter of the wrong type, an id that is too long, and a start or end without an id.
    """
    if not parameters or not any(name in parameters for name in SEQUENCE):
        return None
    starts, ends = _flag(parameters, START), _flag(parameters, END)
    name: int | str = 0
    if ID in parameters:
        name = getattr(parameters[ID], kind_of(parameters, ID, (*INTEGER_KINDS, "string_param")))
    if isinstance(name, str) and len(name.encode(errors="replace")) > MOST_ID_BYTES:
        raise InputError(f"Parameter {ID!r} has {len(name)} characters; expected at most {MOST_ID_BYTES} bytes.")
    if name:
        return SequenceStep(name, starts, ends)
    if starts or ends:
        raise InputError(f"The request has {START if starts else END!r} without {ID!r}; expected a number or a text.")
    return None


def faulty_step(parameters: Mapping[str, InferParameter]) -> SequenceStep | None:
    """As much of the step as can be read of a request that read_step() or others refuse; None without a usable id."""
    name: int | str | float = 0
    if ID in parameters and (kind := parameters[ID].WhichOneof("parameter_choice")) in ID_KINDS:
        name = getattr(parameters[ID], kind)
    if isinstance(name, float):  # a number of the wrong type is still a name
        name = int(name) if name.is_integer() else 0
    return SequenceStep(name, START in parameters and parameters[START].bool_param) if name else None


def _flag(parameters: Mapping[str, InferParameter], name: str) -> bool:
    return name in parameters and bool(getattr(parameters[name], kind_of(parameters, name, ("bool_param",))))
