"""record: dataclasses that are frozen for the type checker alone, of which a server makes many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

__all__ = ["record"]

if TYPE_CHECKING:
    from dataclasses import dataclass as record
else:

    def record(*, frozen: bool, **options: Any) -> Any:
        """`dataclasses.dataclass`, which type checkers take it for, but an object's fields can be set while it runs.

        A frozen dataclass sets each field by a call of `object.__setattr__`, and so takes longer to make: those of one
        call took 8 of its 110 µs (decision 031). They have a frozen one's hash. Use it as
        `@record(frozen=True, ...)`.
        """
        return dataclass(unsafe_hash=options.get("eq", True), **options)
