"""Places: the parameters by which a tensor of a request names the shared memory of its values."""

from __future__ import annotations

from collections.abc import Mapping

from nested_sparse.errors import InputError
from nested_sparse.proto.messages import InferParameter

from ..shared_memory.region import Place
from ..shared_memory.regions import Regions

SHARED_MEMORY = "shared_memory_region"
BYTE_SIZE, OFFSET = "shared_memory_byte_size", "shared_memory_offset"
PLACE = (SHARED_MEMORY, BYTE_SIZE, OFFSET)
INTEGER_KINDS = ("int64_param", "uint64_param")


def read_place(parameters: Mapping[str, InferParameter], what: str, regions: Regions | None) -> Place | None:
    """The shared memory that the parameters of a tensor name; None where they name none.

    what: the tensor in words. regions: None where shared memory is not allowed. Raises InputError, NotFoundError.
    """
    if SHARED_MEMORY not in parameters:
        if stray := [name for name in (BYTE_SIZE, OFFSET) if name in parameters]:
            raise InputError(f"{what} has the parameter {stray[0]!r} without {SHARED_MEMORY!r}; expected both.")
        return None
    if regions is None:
        raise InputError(f"{what} is in shared memory, which this server does not allow; send the values raw.")
    name = parameters[SHARED_MEMORY]
    if name.WhichOneof("parameter_choice") != "string_param":
        raise InputError(f"{what}: parameter {SHARED_MEMORY!r} has the wrong type: expected a string.")
    nbytes = read_integer(parameters, BYTE_SIZE, what)
    if nbytes is None:
        raise InputError(f"{what} is in shared memory without {BYTE_SIZE!r}; expected its number of bytes.")
    return regions.place(name.string_param, read_integer(parameters, OFFSET, what) or 0, nbytes)


def placed_bytes(parameters: Mapping[str, InferParameter]) -> int:
    """Bytes of shared memory that the parameters of a tensor name; 0 where they name none."""
    if not parameters or BYTE_SIZE not in parameters:
        return 0
    return max(parameters[BYTE_SIZE].int64_param, parameters[BYTE_SIZE].uint64_param)


def placed_parameters(place: Place, nbytes: int) -> dict[str, InferParameter]:
    """The parameters of an output whose `nbytes` are at `place`."""
    return {
        SHARED_MEMORY: InferParameter(string_param=place.region.name),
        BYTE_SIZE: InferParameter(int64_param=nbytes),
        OFFSET: InferParameter(int64_param=place.offset),
    }


def read_integer(parameters: Mapping[str, InferParameter], name: str, what: str) -> int | None:
    """The integer in a parameter of a tensor; None where it has none of that name. Raises InputError."""
    if name not in parameters:  # looking a key up in a protobuf map would create it
        return None
    kind = parameters[name].WhichOneof("parameter_choice")
    if kind not in INTEGER_KINDS:
        raise InputError(f"{what}: parameter {name!r} has the wrong type: expected int64 or uint64.")
    value: int = getattr(parameters[name], kind)
    return value
