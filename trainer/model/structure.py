"""Structure: the places of tensors in a forward's arguments or answer: in tuples, dicts, dataclasses, or alone."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

from torch import Tensor

Path = tuple[int | str, ...]
"""Keys, fields and positions that lead to a tensor, outermost first."""

CONSTANTS = (bool, int, float, complex, str, bytes)
"""Types of arguments, beside tensors, that become constants of the graph."""


def tensors_in(value: Any, path: Path = (), *, beside: tuple[type, ...] = ()) -> Iterator[tuple[Path, Tensor]]:
    """Every tensor in `value`, in order, with its path. None and values of a type in `beside` are left out.

    The function looks into tuples, lists, named tuples, mappings and dataclasses, so also into the outputs of Hugging
    Face's models. Raises TypeError, with the place, for any other value.
    """
    if isinstance(value, Tensor):
        yield path, value
    elif value is not None and not isinstance(value, beside):
        parts = parts_of(value)
        if parts is None:
            raise TypeError(f"{type(value).__name__}{f' at {written(path)!r}' if path else ''}")
        for key, part in parts:
            yield from tensors_in(part, (*path, key), beside=beside)


def parts_of(value: Any) -> list[tuple[int | str, Any]] | None:
    """The parts of `value`, by key, field or position; None if it is not a container."""
    if isinstance(value, Mapping):
        return [(key if isinstance(key, int) else str(key), part) for key, part in value.items()]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(zip(value._fields, value, strict=True))
    if isinstance(value, tuple | list):
        return list(enumerate(value))
    return None


def with_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A copy of `value` with `change(tensor)` in place of each tensor, called in the order of `tensors_in`.

    Every container keeps its class, but a mapping that cannot be changed becomes a dict.
    """
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, MutableMapping):
        changed = copy.copy(value)
        for key, part in value.items():
            changed[key] = with_tensors(part, change)
        return changed
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: with_tensors(getattr(value, field.name), change) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **fields)
    if isinstance(value, Mapping):
        return {key: with_tensors(part, change) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return sequence_like(value, [with_tensors(part, change) for part in value])
    return value


def sequence_like(pattern: tuple[Any, ...] | list[Any], items: list[Any]) -> tuple[Any, ...] | list[Any]:
    """`items` as a list, a tuple, or a named tuple of the class of `pattern`, whichever `pattern` is."""
    if isinstance(pattern, tuple) and hasattr(pattern, "_fields"):
        return type(pattern)(*items)
    return items if isinstance(pattern, list) else tuple(items)


def written(path: Path) -> str:
    """The path joined with "_", e.g. `past_key_values_0_1`."""
    return "_".join(str(key) for key in path)


def output_names(paths: Sequence[Path], taken: Sequence[str]) -> list[str]:
    """Names of a forward's outputs: their keys, fields and positions joined with "_".

    Without any key they are `output`, or output_0, output_1, …, also for nested tuples. A name that begins with a
    position, or equals the name of an input (`taken`), gets the prefix "output_".
    """
    if not any(isinstance(key, str) for path in paths for key in path):
        return ["output"] if len(paths) == 1 else [f"output_{index}" for index in range(len(paths))]
    used = set(taken)
    return [
        f"output_{written(path)}" if not isinstance(path[0], str) or written(path) in used else written(path)
        for path in paths
    ]
