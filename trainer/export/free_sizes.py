"""FreeSizes: the free sizes of a traced model's inputs, as torch found them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim
from torch.utils._sympy.value_ranges import ValueRanges

from nested_sparse.errors import ExportError
from nested_sparse.free_size import FreeSize

from .asked_sizes import AskedSize, AskedSizes, bound

BATCH = "batch"
"""Name of the batch, where no other is given."""
Expr = Any
"""A size in terms of torch's symbols: an expression of sympy, which has no types."""


def traceable(tensors: Sequence[Tensor], asked: Sequence[AskedSizes]) -> list[tuple[Tensor, ...]]:
    """The examples with 2 in place of each free size of 1, which torch.export takes for a constant.

    Where another size is 1 more than a third, it may be the sum of both (the length of a mask over a cache and the
    token behind it), so first come examples in which it grows, too.
    """
    sizes = {
        each.name or f"{place}.{axis}": int(tensor.shape[axis])
        for place, (dims, tensor) in enumerate(zip(asked, tensors, strict=True))
        for axis, each in dims.items()
    }
    ones = {name for name, size in sizes.items() if size == 1}
    sums = {name for name, size in sizes.items() if size - 1 in sizes.values() and name not in ones} if ones else set()
    return [_longer(tensors, asked, ones | each) for each in ([sums, set()] if sums else [set()])]


def _longer(tensors: Sequence[Tensor], asked: Sequence[AskedSizes], names: Collection[str]) -> tuple[Tensor, ...]:
    longer = []
    for place, (tensor, dims) in enumerate(zip(tensors, asked, strict=True)):
        for axis, each in dims.items():
            if (each.name or f"{place}.{axis}") in names:
                tensor = torch.cat([tensor, tensor.narrow(axis, 0, 1)], axis)
        longer.append(tensor)
    return tuple(longer)


def torch_dims(asked: Sequence[AskedSizes]) -> tuple[dict[int, Any], ...]:
    """The same for torch.export, which finds the bounds and the equal dimensions by itself.

    Dims of torch's own were tried: it then refuses models for the sizes at which some inner size becomes 1.
    """
    return tuple({axis: Dim.DYNAMIC if each.must else Dim.AUTO for axis, each in dims.items()} for dims in asked)


@dataclass(frozen=True, slots=True)
class FreeSizes:
    """The free sizes of the traced inputs.

    of_inputs: for each input, the free size of each dimension, or None. names: name of each of torch's symbols.
    unsure: names whose least size is 1 unless the model does not work at it, then 2.
    """

    of_inputs: tuple[tuple[FreeSize | None, ...], ...]
    names: Mapping[str, str]
    unsure: frozenset[str] = frozenset()

    def of_output(self, dims: Sequence[object]) -> tuple[FreeSize | None, ...]:
        """The free sizes of an output that has these dimensions: numbers, or names; () where nothing is named."""
        by_name = {free.name: free for each in self.of_inputs for free in each if free is not None}
        return tuple(None if isinstance(dim, int) else by_name.get(str(dim)) for dim in dims) if by_name else ()


def found_sizes(
    program: torch.export.ExportedProgram, asked: Sequence[AskedSizes], tensors: Sequence[Tensor], inputs: Sequence[str]
) -> FreeSizes:
    """The sizes that torch made of the wanted dimensions. tensors: the examples. Raises ExportError."""
    uses: dict[Expr, list[tuple[AskedSize, str]]] = {}
    places: list[dict[int, Expr]] = []
    for dims, shape, name in zip(asked, _traced_shapes(program), inputs, strict=True):
        # Dim.AUTO may ask for a size that torch then took for a constant, an int
        places.append({axis: shape[axis].node.expr for axis in dims if not isinstance(shape[axis], int)})
        for axis, size in places[-1].items():
            uses.setdefault(size, []).append((dims[axis], f"{name}_{axis}"))
    names = {size: _name_of(each) for size, each in uses.items()}
    sizes: dict[str, FreeSize] = {}
    unsure = set()
    for size, each in uses.items():
        if size.is_Symbol:
            found, sure = _ranged(names[size], each[0][0], program.range_constraints[size])
            sizes[found.name] = _both(sizes.get(found.name, found), found)
            unsure |= set() if sure else {found.name}
    for size in uses:
        if not size.is_Symbol:
            sizes[names[size]] = _sum(names[size], size, names, uses[size][0][1])
    batch = _batch_of([{axis: names[size] for axis, size in dims.items()} for dims in places], sizes)
    if batch:
        sizes[batch] = replace(sizes[batch], batch=True)
    of_inputs = tuple(
        tuple(sizes[names[dims[axis]]] if axis in dims else None for axis in range(tensor.dim()))
        for dims, tensor in zip(places, tensors, strict=True)
    )
    first = all(free is None or (free.batch and not axis) for each in of_inputs for axis, free in enumerate(each))
    if first and all(size == FreeSize(size.name, batch=True) for size in sizes.values()):
        of_inputs = tuple(() for _ in tensors)  # nothing that older readers do not know
    return FreeSizes(of_inputs, {str(size): name for size, name in names.items()}, frozenset(unsure - {batch}))


def _traced_shapes(program: torch.export.ExportedProgram) -> Iterator[Sequence[Any]]:
    given = set(program.graph_signature.user_inputs)
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in given:
            yield node.meta["val"].shape


def _name_of(uses: Sequence[tuple[AskedSize, str]]) -> str:
    given = sorted({each.name for each, _ in uses if each.name})
    if len(given) > 1:
        raise ExportError(
            f"dynamic_shapes: the model needs {given[0]!r} and {given[1]!r} to be equal; give them one name"
        )
    return given[0] if given else uses[0][1]


def _ranged(name: str, asked: AskedSize, bounds: ValueRanges[Any]) -> tuple[FreeSize, bool]:
    """The range of one size, and whether its least was asked for or found; torch tells no least below 2."""
    lower, upper = int(bounds.lower), bound(bounds.upper)
    if asked.least is not None and asked.least < lower and lower > 2:
        raise ExportError(f"dynamic_shapes: {name!r} may be {asked.least}, but the model needs {lower} or more")
    if asked.most is not None and upper is not None and asked.most > upper:
        raise ExportError(f"dynamic_shapes: {name!r} may be {asked.most}, but the model takes at most {upper}")
    sure = asked.least is not None or lower > 2 or asked.multiple > 1
    least = asked.least if asked.least is not None else (lower if lower > 2 else 1)
    least = -(-least // asked.multiple) * asked.multiple
    return FreeSize(name, least, upper if asked.most is None else asked.most, asked.multiple), sure


def _both(one: FreeSize, other: FreeSize) -> FreeSize:
    """The sizes that both allow: the model may need more of one of two dimensions of one name."""
    most = min((each.most for each in (one, other) if each.most is not None), default=None)
    return replace(one, least=max(one.least, other.least), most=most)


def _sum(name: str, size: Expr, names: Mapping[Expr, str], place: str) -> FreeSize:
    """A size that follows from others. Raises ExportError where it is no sum of them."""
    terms = [each for each in size.as_ordered_terms() if each.is_Symbol]
    plus = size - sum(terms)
    if not plus.is_Integer or plus < 0 or any(each not in names for each in terms):
        raise ExportError(
            f"dynamic_shapes: the model needs the size of {place} to be {size}, where a file can hold free sizes and "
            "their sums; leave it fixed, or cut it inside forward"
        )
    return FreeSize(name, terms=tuple(names[each] for each in terms), plus=int(plus))


def _batch_of(dims: Sequence[Mapping[int, str]], sizes: Mapping[str, FreeSize]) -> str:
    """The name of the batch; "" without one.

    It is one dimension of every input, dimension 0 of one of them or called BATCH, and no part of a sum. Every number
    of samples up to its bound must be allowed.
    """
    terms = {term for size in sizes.values() for term in size.terms}
    named = [list(each.values()) for each in dims]
    found = {
        name
        for name in {BATCH, *(each.get(0, "") for each in dims)} & set(sizes) - terms
        if all(each.count(name) == 1 for each in named) and sizes[name] == FreeSize(name, most=sizes[name].most)
    }
    if BATCH in found:
        return BATCH
    return found.pop() if len(found) == 1 else ""
