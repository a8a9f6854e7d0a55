"""FetchCounts: the facts about one fetched model, for its metrics."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from nested_sparse.errors import FetchError, NestedSparseError

from .manifest import ManifestError
from .partial import WrongBytesError


class RoomError(FetchError):
    """A model would take more of the disk than it may."""


class RefusedError(FetchError):
    """This device does not take the published version; the log has the reason already."""


REASONS = {
    RefusedError: "refused",
    WrongBytesError: "wrong_bytes",
    ManifestError: "manifest",
    RoomError: "disk",
    FetchError: "server",
    NestedSparseError: "load",
    OSError: "disk",
}
"""Kinds of failures, the narrower class before the wider one; all others are INTERNAL."""
INTERNAL = "internal"


@dataclass(slots=True)
class FetchCounts:
    """Counted by a Follower, and read from other threads.

    failures: number of tries that ended without the published version, by reason.
    published_serial, published_levels: of the manifest that came last.
    served_serial, served_levels: of the version that was put to use last.
    looked_s: Unix time of the last look after which all that is published was here. None: there was none yet.
    """

    clock: Callable[[], float] = time.time
    failures: Counter[str] = field(default_factory=Counter)
    published_serial: int | None = None
    published_levels: int | None = None
    served_serial: int | None = None
    served_levels: int | None = None
    looked_s: float | None = None

    def failed(self, error: Exception) -> None:
        """Count a failure."""
        self.failures[reason_of(error)] += 1

    def in_step(self) -> None:
        """Note a look that succeeded."""
        self.looked_s = self.clock()


def reason_of(error: Exception) -> str:
    """The kind of a failure, one of the values of REASONS, or INTERNAL."""
    return next((reason for kind, reason in REASONS.items() if isinstance(error, kind)), INTERNAL)
