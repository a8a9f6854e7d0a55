"""Kept: the facts of a model on this device that a start asks a store for, and measures where they are not kept."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from nested_sparse.errors import InputError
from nested_sparse.runtime.joining import may_join
from nested_sparse.runtime.profiling import MOST_BATCH, ProfileKey, ProfileStore
from nested_sparse.runtime.rerouting import RouteTable
from nested_sparse.runtime.session import Session

ROUTES_S = 2.0
"""Time limit for measuring the operators, in seconds."""
log = logging.getLogger(__name__)


class Kept:
    """The facts of one session. store: None keeps none. max_batch: the largest batch of its profile.

    They hold for the content of the file, the library, the processor and the number of threads (ProfileStore.key).
    """

    def __init__(self, session: Session, store: ProfileStore | None, max_batch: int) -> None:
        self._session = session
        self._store = store
        self._max_batch = min(max_batch, MOST_BATCH)

    @property
    def key(self) -> ProfileKey | None:
        """The key of the session's profile with its present number of threads; None without a store."""
        return None if self._store is None else self._store.key(self._session, self._max_batch)

    def joins(self) -> bool:
        """As may_join()."""
        name = f"joins, file says {self._session.rows}"
        kept = self._get(name)
        if isinstance(kept, bool):
            log.info(
                "%s: requests run %s, as found before", self._session.name, "together" if kept else "each by itself"
            )
            return kept
        return bool(self._keep(name, may_join(self._session)))

    def routes(self) -> RouteTable:
        """As RouteTable.measure()."""
        kept = self._get("routes")
        try:
            shares = np.array(kept["shares"], np.float64)
            return RouteTable.of_shares(self._session, [str(layer) for layer in kept["layers"]], shares)
        except (InputError, TypeError, ValueError, KeyError, IndexError):  # not kept, or not by us
            table = RouteTable.measure(self._session, limit_s=ROUTES_S)
        self._keep("routes", {"layers": table.layers, "shares": table.remaining_share.tolist()})
        return table

    def _get(self, name: str) -> Any:
        key = self.key
        return None if self._store is None or key is None else self._store.fact(key, name)

    def _keep(self, name: str, value: Any) -> Any:
        key = self.key
        if self._store is not None and key is not None:
            self._store.keep(key, name, value)
        return value
