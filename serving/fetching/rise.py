"""Rise: has the first levels of a download served, while the rest is still coming."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from nested_sparse.errors import CheckpointError, FetchError, ServingError
from nested_sparse.excerpt import excerpt

from .fetch_counts import RefusedError, RoomError
from .partial import Partial

log = logging.getLogger(__name__)


class Rise:
    """A thread that has the first levels of a download served, always the most that there are, but not the last.

    serve: makes a version of so many levels, and has it take over. Raises FetchError, ServingError, OSError.
    levels: number of levels that are served already, or that it must not go below.
    waits_s: time until the next try where a version cannot be loaded just now: the first, and the longest.
    refusal: the error that says that this device does not take the model.
    """

    def __init__(
        self,
        serve: Callable[[Partial, int], None],
        partial: Partial,
        levels: int,
        waits_s: tuple[float, float],
    ) -> None:
        self._serve, self._partial, self._waits_s = serve, partial, waits_s
        self._served = levels
        self._ready = partial.levels
        self._changed = threading.Condition()
        self._ended = False
        self.refusal: RefusedError | None = None
        self._thread = threading.Thread(target=self._run, name="rise", daemon=True)
        self._thread.start()

    def notice(self, levels: int) -> None:
        """So many levels are verified now."""
        with self._changed:
            self._ready = levels
            self._changed.notify()

    def end(self) -> None:
        """Wait until a level that is being taken over is served."""
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        last = self._partial.manifest.level_count
        first_s, most_s = self._waits_s
        wait_s = first_s
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ended or self._served < self._ready < last)
                if self._ended:
                    return
                ready = self._ready
            try:
                self._serve(self._partial, ready)
                wait_s = first_s
            except RefusedError as error:
                self.refusal = error
            except RoomError as error:
                log.warning("levels 0 to %d are not served: %s", ready - 1, excerpt(error, 500))
            except (FetchError, CheckpointError, ServingError, OSError) as error:
                log.warning("levels 0 to %d are not served yet: %s", ready - 1, excerpt(error, 500))
                with self._changed:  # the rest of a slow link may take long
                    self._changed.wait_for(lambda: self._ended, wait_s)
                wait_s = min(most_s, 2 * wait_s)
                continue
            self._served = ready
