"""Whether the requests of a model may run together as one batch: whether the rows of its outputs are independent."""

from __future__ import annotations

from .joining import may_join
from .row_check import RowCheck, check_rows, mark_rows

__all__ = [
    "RowCheck",
    "check_rows",
    "mark_rows",
    "may_join",
]
