"""OwnFunction: a user's function that a recipe names. Its exceptions become messages with the function's name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from nested_sparse.errors import NestedSparseError, TrainingError

from ..entry import described
from ..stage import LossFunction, one_number


@contextmanager
def errors_named(name: str) -> Iterator[None]:
    """A context in which exceptions of other packages become TrainingError "`name` raised …", with their cause."""
    try:
        yield
    except NestedSparseError:
        raise
    except Exception as error:
        raise TrainingError(f"{name} raised {described(error)}") from error


def named_source(name: str, function: Callable[..., Iterable[Any]]) -> Callable[..., Iterable[Any]]:
    """`function`, which returns batches, with `errors_named` around the call and around each batch."""

    def called(*arguments: Any) -> Iterable[Any]:
        with errors_named(name):
            made = function(*arguments)
            if not isinstance(made, Iterable) and not hasattr(made, "__getitem__"):
                raise TrainingError(f"{name} returned {type(made).__name__}: expected batches, each (inputs, targets)")
        return _SizedBatches(name, made) if isinstance(made, Sized) else _Batches(name, made)

    return called


def named_loss(name: str, function: Callable[..., Any]) -> LossFunction:
    """`function`, a loss, with `errors_named` around it and a check that its result is a tensor of one number."""

    def called(outputs: Any, targets: Any) -> Tensor:
        with errors_named(name):
            return one_number(name, function(outputs, targets))

    return called


class _Batches:
    """Batches with `errors_named` around their iteration."""

    def __init__(self, name: str, batches: Iterable[Any]) -> None:
        self.name, self.batches = name, batches

    def __iter__(self) -> Iterator[Any]:
        with errors_named(self.name):
            yield from self.batches


class _SizedBatches(_Batches):
    """Batches with a length."""

    def __len__(self) -> int:
        return len(self.batches)  # type: ignore[arg-type]
