"""Joining: whether the requests of a served model may run together as one batch."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol

from nested_sparse.metadata import DEPENDENT, INDEPENDENT
from nested_sparse.tensor_spec import batch_is_free

from .row_check import Checkable, RowCheck, check_rows

MARKED_S = 0.5
"""Time to look whether a file's mark is right; it is believed where that does not do."""
UNMARKED_S = 2.0
"""Time to look at a file without one. A model that does not get through in that takes over 10 ms a sample, where a
batch saves no time any more (docs/decisions/020)."""

log = logging.getLogger(__name__)


class Marked(Checkable, Protocol):
    """A Session."""

    name: str
    rows: str | None


def may_join(session: Marked, clock: Callable[[], float] = time.perf_counter) -> bool:
    """Whether requests may run as one batch, each getting what it would get alone; where not, the log says why.

    What the file says is tried, shortly: it may have been written by anybody. A file that says nothing is checked in
    full, and its requests are not joined where that takes too long.
    """
    if not batch_is_free((*session.inputs, *session.outputs)):
        return False
    if session.rows == DEPENDENT:
        log.info("%s: its rows depend on one another, as its file says: each request runs alone", session.name)
        return False
    if session.rows == INDEPENDENT:
        found = check_rows(session, thorough=False, limit_s=MARKED_S, clock=clock)
        if found.independent is False:
            log.warning(
                "%s: its file says that its rows are independent, but %s: each request runs alone; export it again",
                session.name,
                found.reason,
            )
        return found.independent is not False
    return _found_independent(session, clock)


def _found_independent(session: Marked, clock: Callable[[], float]) -> bool:
    begun_s = clock()
    found = check_rows(session, limit_s=UNMARKED_S, clock=clock)
    log.info(
        "%s: its file does not say whether its rows are independent; looked for %.2f s: %s; to have it said, export it "
        "again or call nested_sparse.runtime.mark_rows",
        session.name,
        clock() - begun_s,
        _conclusion(found),
    )
    return found.independent is True


def _conclusion(found: RowCheck) -> str:
    if found.independent:
        return "they are, and requests may run together"
    return f"{found.reason}, so each request runs alone"
