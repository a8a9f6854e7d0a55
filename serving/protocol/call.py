"""Call: a request as it came over a transport."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

from nested_sparse.errors import InputError
from nested_sparse.excerpt import excerpt, excerpts
from nested_sparse.record import record
from nested_sparse.runtime.scheduling import Request
from nested_sparse.tensor_spec import TensorSpec

from ..shared_memory.region import Place


@record(frozen=True, slots=True)
class Call:
    """A request, and the fields that the transport needs for its answer.

    request: the request that the scheduler gets.
    outputs: names of the wanted outputs in the order wanted; none: all.
    id: text that the client finds again in the answer.
    places: the shared memory that takes an output, by its name; the values of the others are in the answer.
    classes: number of classes that are wanted in place of an output, by its name.
    """

    request: Request
    outputs: tuple[str, ...] = ()
    id: str = ""
    places: Mapping[str, Place] = field(default_factory=dict)
    classes: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_plain(self) -> bool:
        """Whether every output goes into the answer, as it is."""
        return not self.places and not self.classes


def wanted_outputs(names: tuple[str, ...], outputs: tuple[TensorSpec, ...]) -> tuple[str, ...]:
    """`names`, or all outputs where it is empty. Raises InputError for one that the model does not have."""
    if not names:
        return tuple([spec.name for spec in outputs])
    known = dict.fromkeys(spec.name for spec in outputs)
    for name in names:
        if name not in known:
            raise InputError(f"The model has no output '{excerpt(name)}'; expected {excerpts(known)}.")
    return names
