"""AskedSize: a free dimension as `dynamic_shapes` asks for it, in torch's notation."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.export import Dim

from nested_sparse.argument import shown
from nested_sparse.errors import ExportError
from nested_sparse.free_size import FreeSize

from ..model.forward_call import ForwardCall
from ..model.structure import Path

EXPECTED = "expected a name, a torch.export.Dim, Dim.AUTO, Dim.DYNAMIC, Dim.STATIC, an int or None"


@dataclass(frozen=True, slots=True)
class AskedSize:
    """One dimension as the user asks for it.

    name: its name; "" where torch finds out which dimensions are equal. least, most: bounds; None: not given.
    multiple: number that divides its sizes. must: an error where the model takes its size as a constant.
    """

    name: str
    least: int | None = None
    most: int | None = None
    multiple: int = 1
    must: bool = True


AskedSizes = Mapping[int, AskedSize]
"""The wishes for one tensor, by axis; sizes of the other axes are those of the example."""


def asked_sizes(model: nn.Module, call: ForwardCall, dynamic_shapes: object) -> list[AskedSizes]:
    """The wishes of `dynamic_shapes`, in torch.export's notation, for each tensor of `call`. Raises ExportError."""
    parameters = list(inspect.signature(model.forward).parameters.values())
    if not isinstance(dynamic_shapes, Mapping | tuple | list):
        raise ExportError(
            "dynamic_shapes: expected a dict by forward's parameters, or a tuple with an entry for each argument, got "
            f"{shown(dynamic_shapes)}"
        )
    names = [each.name for each in parameters]
    if isinstance(dynamic_shapes, Mapping):
        unknown = [key for key in dynamic_shapes if key not in names and key not in call.keywords]
        if unknown:
            raise ExportError(
                f"dynamic_shapes: forward has no parameter {shown(unknown[0])}; its parameters are {', '.join(names)}"
            )
    elif len(dynamic_shapes) > len(call.arguments) + len(call.keywords):
        raise ExportError(
            f"dynamic_shapes: has {len(dynamic_shapes)} entries, example_inputs {len(call.arguments)} arguments"
        )
    entries = [_at(dynamic_shapes, parameters, path, call) for path in call.paths]
    asked = [_of_tensor(*each) for each in zip(entries, call.tensors, call.names, strict=True)]
    if _leaves(dynamic_shapes) > sum(map(_leaves, entries)):
        raise ExportError(
            f"dynamic_shapes: has entries that belong to no tensor of example_inputs, whose structure is {call.shapes} "
            f"at {', '.join(call.names)}"
        )
    _check_alike(asked, call.tensors)
    return asked


def _at(shapes: Any, parameters: Sequence[inspect.Parameter], path: Path, call: ForwardCall) -> Any:
    """The part of `shapes` that is about the tensor at `path` of the call."""
    kind, first, *inner = path
    keys: list[Any] = [first, *inner]
    if isinstance(shapes, Mapping):
        if kind == 0 and isinstance(first, int):
            fixed = [each for each in parameters if each.kind is not each.VAR_POSITIONAL]
            rest = next((each for each in parameters if each.kind is each.VAR_POSITIONAL), None)
            before = len(fixed) if rest is None else parameters.index(rest)
            if first < before:
                keys[0] = parameters[first].name
            elif rest is not None:
                keys[:1] = [rest.name, first - before]
        elif first not in shapes:
            keys = [next((each.name for each in parameters if each.kind is each.VAR_KEYWORD), first), *keys]
    elif kind == 1:
        keys[0] = len(call.arguments) + list(call.keywords).index(str(first))
    found = shapes
    for key in keys:
        if isinstance(found, Mapping):
            found = found.get(key)
        elif isinstance(found, tuple | list) and isinstance(key, int):
            found = found[key] if key < len(found) else None
        else:
            return None if found is None else _refused(found, path)
    return found


def _refused(found: object, path: Path) -> None:
    where = "/".join(map(str, path[1:]))
    raise ExportError(f"dynamic_shapes: expected the structure of example_inputs at {where}, got {shown(found)}")


def _leaves(entry: Any) -> int:
    """Number of dimensions that `entry` says something about."""
    if isinstance(entry, Mapping | tuple | list):
        return sum(map(_leaves, entry.values() if isinstance(entry, Mapping) else entry))
    return entry is not None


def _of_tensor(entry: Any, tensor: Tensor, name: str) -> AskedSizes:
    if entry is None:
        return {}
    if isinstance(entry, tuple | list):
        if len(entry) != tensor.dim():
            raise ExportError(
                f"dynamic_shapes: input {name!r} has {tensor.dim()} dimensions, got {len(entry)} entries for it"
            )
        entry = dict(enumerate(entry))
    if not isinstance(entry, Mapping):
        raise ExportError(
            f"dynamic_shapes: input {name!r}: expected a dict by dimension or a tuple, got {shown(entry)}"
        )
    found: dict[int, AskedSize] = {}
    for key, dim in entry.items():
        axis = key + tensor.dim() if isinstance(key, int) and key < 0 else key
        if isinstance(axis, bool) or not isinstance(axis, int) or not 0 <= axis < tensor.dim():
            raise ExportError(
                f"dynamic_shapes: input {name!r} has the dimensions 0 to {tensor.dim() - 1}, got {shown(key)}"
            )
        asked = _asked(dim, int(tensor.shape[axis]), f"input {name!r}, dimension {axis}")
        if asked is not None:
            found[axis] = asked
    return found


def _asked(dim: Any, size: int, where: str) -> AskedSize | None:
    """The wish of one entry; None for a fixed size."""
    if dim is None or dim is Dim.STATIC or getattr(dim, "type", None) == Dim.STATIC.type:
        return None
    if isinstance(dim, str) and dim:
        return AskedSize(dim)
    if isinstance(dim, int) and not isinstance(dim, bool):
        if dim != size:
            raise ExportError(f"dynamic_shapes: {where} is fixed at {dim}, but its example has {size}")
        return None
    if isinstance(dim, type(Dim.AUTO)):
        return AskedSize("", bound(dim.min), bound(dim.max), must=dim.type == Dim.DYNAMIC.type)
    if not hasattr(dim, "__name__") or not hasattr(dim, "max") or not hasattr(dim, "min"):
        raise ExportError(f"dynamic_shapes: {where}: {EXPECTED}, got {shown(dim)}")
    function = getattr(dim, "fn", None)
    if function is None:
        return AskedSize(dim.__name__, bound(dim.min), bound(dim.max))
    multiple = function(1) - function(0)
    if function(0) != 0 or multiple < 1:
        raise ExportError(
            f"dynamic_shapes: {where}: {dim.__name__} is no multiple of a size; give the dimension a name of its own"
        )
    return AskedSize(dim.__name__, bound(dim.min), bound(dim.max), multiple)


def bound(value: Any) -> int | None:
    """A bound of a Dim; None for torch's defaults, 0 and infinity."""
    try:
        number = int(value or 0)
    except (TypeError, ValueError, OverflowError, AttributeError):  # torch's infinity
        return None
    return number if 0 < number < 1 << 31 else None


def _check_alike(asked: Sequence[AskedSizes], tensors: Sequence[Tensor]) -> None:
    """Raise ExportError where dimensions of one name have examples of several sizes, or not one range."""
    known: dict[str, tuple[AskedSize, int]] = {}
    for dims, tensor in zip(asked, tensors, strict=True):
        for axis, each in dims.items():
            size = int(tensor.shape[axis])
            first, other = known.setdefault(each.name, (each, size)) if each.name else (each, size)
            if other != size:
                raise ExportError(f"dynamic_shapes: the examples have the sizes {other} and {size} of {each.name!r}")
            if first != each:
                raise ExportError(f"dynamic_shapes: {each.name!r} has two ranges; give it one torch.export.Dim")
            _check_example(each, size)


def _check_example(asked: AskedSize, size: int) -> None:
    least, most = asked.least or 1, asked.most
    if size < least or (most is not None and size > most) or size % asked.multiple:
        allowed = FreeSize(asked.name, least, most, asked.multiple).range_text
        raise ExportError(f"dynamic_shapes: {asked.name!r} may be {allowed}, but its example has {size}")
