"""System: the system under test as LoadGen sees it, a server that is called over gRPC."""

from __future__ import annotations

import functools
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import grpc

from nested_sparse.proto import messages

LATE_FACTOR = 2.0
"""Bounds after its begin at which a query without an answer is told to be complete: late, whatever LoadGen adds."""
PATIENCE_S = 60.0


class System:
    """Sends LoadGen's queries, and tells LoadGen when each is answered.

    LoadGen knows no failed queries: one that is shed and told complete at once would count as a fast answer. So a query
    without an answer is told complete when the bound is over, and counts as late.

    requests: the samples, each as a request. complete: tells LoadGen that the query of an id is complete.

    statuses: queries by gRPC status. levels: answers by level; -1 where the server names none.
    """

    def __init__(
        self, channel: grpc.Channel, requests: Sequence[bytes], bound_s: float, complete: Callable[[int], None]
    ) -> None:
        self.statuses: Counter[str] = Counter()
        self.levels: Counter[int] = Counter()
        self._infer = channel.unary_unary(f"/{messages.SERVICE_NAME}/ModelInfer")
        self._requests = requests
        self._late_s = LATE_FACTOR * bound_s
        self._complete = complete
        self._lock = threading.Lock()
        self._failed: queue.Queue[tuple[float, int] | None] = queue.Queue()
        self._late = threading.Thread(target=self._tell_late, name="late", daemon=True)
        self._late.start()

    def issue(self, samples: Sequence[Any]) -> None:
        """Send queries. LoadGen issues from one thread, which does not wait here."""
        for sample in samples:
            call = self._infer.future(self._requests[sample.index], timeout=PATIENCE_S)
            call.add_done_callback(functools.partial(self._done, sample.id, time.monotonic()))

    def flush(self) -> None:
        """LoadGen's sign that it issues no more; nothing is held back here."""

    def close(self) -> None:
        """Wait for the late ones."""
        self._failed.put(None)
        self._late.join()

    def _done(self, query: int, begun_s: float, call: Any) -> None:
        status = call.code()
        if status is grpc.StatusCode.OK:
            self._complete(query)
        else:
            self._failed.put((begun_s + self._late_s, query))
        level = _level(call.result()) if status is grpc.StatusCode.OK else None
        with self._lock:
            self.statuses[status.name] += 1
            if level is not None:
                self.levels[level] += 1

    def _tell_late(self) -> None:
        while (entry := self._failed.get()) is not None:
            due_s, query = entry
            time.sleep(max(0.0, due_s - time.monotonic()))
            self._complete(query)


def _level(answer: bytes) -> int:
    parameters = messages.ModelInferResponse.FromString(answer).parameters
    return int(parameters["level"].int64_param) if "level" in parameters else -1
