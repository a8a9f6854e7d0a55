"""Runner: a session as a scheduler runs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from nested_sparse.tensor_spec import TensorSpec

from ..profiling import Profilable
from ..session import Array, Arrays, Guard


class Runner(Profilable, Protocol):
    """The part of a Session that a scheduler needs."""

    @property
    def outputs(self) -> Sequence[TensorSpec]: ...  # noqa: D102 -- as in Session

    @property
    def rows(self) -> str | None: ...  # noqa: D102

    def run(self, inputs: Arrays, level: int, guard: Guard | None = None) -> dict[str, Array]: ...  # noqa: D102

    def stop_run(self, thread: int, begun_before_s: float) -> None: ...  # noqa: D102
