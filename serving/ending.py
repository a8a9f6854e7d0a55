"""Ending: SIGTERM and SIGINT where a server cannot end in order, because it is not up yet or is ending already."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)
log = logging.getLogger(__name__)


def end_loading(number: int, frame: FrameType | None) -> None:
    """Handler of a signal during loading: logs one line and ends with the code that a shell gives for the signal."""
    log.warning("stopped by %s before the models were ready", signal.Signals(number).name)
    # an exception would not do: if a finalizer is running just now, Python drops what is raised inside it
    os._exit(128 + number)


def end_draining(number: int, frame: FrameType | None) -> None:
    """Handler of a second signal."""
    log.warning("stopped by a second %s, before all requests were answered", signal.Signals(number).name)
    os._exit(128 + number)


class EarlySignal:
    """Handler of a SIGHUP that comes before anything can be done about it. seen: whether one came."""

    seen = False

    def __call__(self, number: int, frame: FrameType | None) -> None:  # noqa: D102
        self.seen = True


def prepare() -> None:
    """Have the signals end this process from now on, even where it is process 1.

    A container runs its command as process 1. The system drops a signal to process 1 unless there is a handler, so this
    comes before everything that takes time. Verbs other than `serve` keep Python's own handling of SIGINT; they also
    keep that of SIGTERM, unless they are process 1. A SIGHUP does not end a `serve` that has a file to
    read again, or models to fetch.
    """
    if sys.argv[1:2] == ["serve"]:
        for number in SIGNALS:
            signal.signal(number, end_loading)
        if any(argument.lower().startswith(("--config", "http://", "https://")) for argument in sys.argv):
            signal.signal(signal.SIGHUP, EarlySignal())
    elif os.getpid() == 1:
        signal.signal(signal.SIGTERM, lambda number, frame: os._exit(128 + number))


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Have SIGTERM and SIGINT end the process at once while the body runs, until an event loop sets its handlers."""
    before = {number: signal.signal(number, end_loading) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
