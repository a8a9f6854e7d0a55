"""OwnFunction: a function of the user's that a recipe names; what it raises is said in a line that names it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from nested_sparse.errors import NestedSparseError, TrainingError

from ..entry import described
from ..stage import LossFunction, one_number


@contextmanager
def said_of(name: str) -> Iterator[None]:
    """Within, an exception that is none of this package's becomes a TrainingError: `name` raised it; its cause kept."""
    try:
        yield
    except NestedSparseError:
        raise
    except Exception as error:
        raise TrainingError(f"{name} raised {described(error)}") from error


def named_source(name: str, function: Callable[..., Iterable[Any]]) -> Callable[..., Iterable[Any]]:
    """`function`, which makes batches, with `said_of` around the call and around each batch."""

    def called(*arguments: Any) -> Iterable[Any]:
        with said_of(name):
            made = function(*arguments)
            if not isinstance(made, Iterable) and not hasattr(made, "__getitem__"):
                raise TrainingError(f"{name} returned {type(made).__name__}: expected batches, each (inputs, targets)")
        return _SizedBatches(name, made) if isinstance(made, Sized) else _Batches(name, made)

    return called


def named_loss(name: str, function: Callable[..., Any]) -> LossFunction:
    """`function`, a loss, with `said_of` around it and its result checked: a tensor of one number."""

    def called(outputs: Any, targets: Any) -> Tensor:
        with said_of(name):
            return one_number(name, function(outputs, targets))

    return called


class _Batches:
    """Batches whose source is named where it raises."""

    def __init__(self, name: str, batches: Iterable[Any]) -> None:
        self.name, self.batches = name, batches

    def __iter__(self) -> Iterator[Any]:
        with said_of(self.name):
            yield from self.batches


class _SizedBatches(_Batches):
    """With the length that they have."""

    def __len__(self) -> int:
        return len(self.batches)  # type: ignore[arg-type]
